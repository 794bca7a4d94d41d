//! One fault after each call, or at each event, of small scenarios: all ends are equal.

use std::sync::atomic::{AtomicUsize, Ordering};

use simulation::run;
use simulation::systematic::{Script, blind_leader, explore, scenarios};

#[test]
fn a_fault_after_any_call_or_at_any_event_changes_no_end() {
    let all = scenarios();
    let (next, failures) = (AtomicUsize::new(0), parking_lot::Mutex::new(Vec::new()));
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((name, schedule)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match explore(schedule) {
                        Ok(runs) => println!("{name}: {runs} runs"),
                        Err(why) => failures.lock().push(format!("{why}\n{name}")),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn a_leader_that_cannot_list_is_replaced_by_a_replica_that_can() {
    for seed in 0..20 {
        let outcome = run::schedule(seed, blind_leader(), Script::default());
        assert!(
            outcome.violations.is_empty(),
            "{seed}: {:?}\n{}",
            outcome.violations,
            outcome.story
        );
        let handed_on = outcome.coverage.of("term of another replica");
        assert_eq!(handed_on, 1, "{seed}\n{}", outcome.story);
        assert!(
            outcome.settled.as_secs() < 1,
            "{seed}: copies followed before the faults ended"
        );
    }
}
