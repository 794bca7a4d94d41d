//! Random schedules in which replicas also write the conditions of Services.

use simulation::run::held;
use simulation::schedule::Schedule;

#[test]
fn conditions_become_right_and_are_then_not_written() {
    for seed in 0..30 {
        let schedule = Schedule {
            conditions: true,
            ..Schedule::of(seed)
        };
        held(seed, schedule);
    }
}
