//! 800 random schedules, with a base that is fresh each time; and that a seed is the same schedule again.

use std::path::Path;

use simulation::many::Many;
use simulation::run;

const PROGRAM: &str = env!("CARGO_BIN_EXE_simulation");

#[test]
fn whatever_happens_the_invariants_hold_and_the_copies_are_right_in_the_end() {
    match Many::new(PROGRAM).run() {
        Ok(report) => println!("{report}"),
        Err(report) => panic!("{report}"),
    }
}

#[test]
fn a_seed_is_the_same_schedule_again() {
    let seeds = [3, 1, 4, 15, 92, 65];
    let fingerprint = |seed| {
        let outcome = run::in_process(Path::new(PROGRAM), seed).expect("an outcome");
        outcome.fingerprint
    };
    let first = seeds.map(fingerprint);
    let again = std::thread::scope(|scope| {
        // All at once, for another order of everything that is not ours.
        let runs = seeds.map(|seed| scope.spawn(move || fingerprint(seed)));
        runs.map(|run| run.join().expect("no panic"))
    });
    assert_eq!(first, again);
    assert_ne!(first[0], first[1]);
}
