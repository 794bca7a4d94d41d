//! 800 random schedules, with a base that is fresh each time; and that a seed is the same schedule again.

use simulation::many::Many;
use simulation::run;

#[test]
fn whatever_happens_the_invariants_hold_and_the_copies_are_right_in_the_end() {
    match Many::new().run() {
        Ok(report) => println!("{report}"),
        Err(report) => panic!("{report}"),
    }
}

#[test]
fn a_seed_is_the_same_schedule_again_whatever_ran_before() {
    let seeds = [3, 1, 4, 15, 92, 65];
    let first = seeds.map(|seed| run::seed(seed).fingerprint);
    let again = std::thread::scope(|scope| {
        // Two at once, in another order.
        let runs = seeds.map(|seed| scope.spawn(move || run::seed(seed).fingerprint));
        runs.map(|run| run.join().expect("no panic"))
    });
    assert_eq!(first, again);
    assert_ne!(first[0], first[1]);
}
