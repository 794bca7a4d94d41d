//! Small scenarios, each repeated with one fault after each call and at each event. All runs of a scenario end in the
//! same state.

use std::sync::atomic::{AtomicUsize, Ordering};

use simulation::systematic::{explore, scenarios};

#[test]
fn a_fault_after_any_call_or_at_any_event_changes_no_result() {
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
