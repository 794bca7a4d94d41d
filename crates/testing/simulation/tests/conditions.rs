//! Random schedules in which replicas also write conditions of Services.

use simulation::run::held;
use simulation::schedule::Schedule;

#[test]
fn conditions_are_right_in_the_end_and_come_to_rest() {
    for seed in 0..30 {
        let schedule = Schedule {
            conditions: true,
            ..Schedule::of(seed)
        };
        held(seed, schedule);
    }
}
