//! 800 random schedules, different for each commit, and a test that a seed always gives the same schedule.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::path::Path;
use std::process::Command;

use simulation::many::Many;
use simulation::run;

const PROGRAM: &str = env!("CARGO_BIN_EXE_simulation");

/// A base that is derived from the commit, so that a failure on a commit can be repeated on any machine.
fn base_of_commit() -> Option<u64> {
    let git = Command::new("git")
        .args(["rev-parse", "--verify", "HEAD"])
        .output()
        .ok()?;
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    git.status.success().then(|| hasher.hash_one(git.stdout) >> 16)
}

#[test]
fn invariants_hold_and_copies_are_right_in_the_end() {
    let mut many = Many::new(PROGRAM);
    if let Some(base) = base_of_commit() {
        many.base = base;
    }
    match many.run() {
        Ok(report) => println!("{report}"),
        Err(report) => panic!("{report}"),
    }
}

#[test]
fn a_seed_always_gives_the_same_schedule() {
    let seeds = [3, 1, 4, 15, 92, 65];
    let fingerprint = |seed| {
        let outcome = run::in_process(Path::new(PROGRAM), seed).expect("an outcome");
        outcome.fingerprint
    };
    let first = seeds.map(fingerprint);
    let again = std::thread::scope(|scope| {
        // The runs are parallel, so that the order of everything outside the simulation differs.
        let runs = seeds.map(|seed| scope.spawn(move || fingerprint(seed)));
        runs.map(|run| run.join().expect("no panic"))
    });
    assert_eq!(first, again);
    assert_ne!(first[0], first[1]);
}
