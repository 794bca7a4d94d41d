//! Limits the log of repeated failures: one line at the first failure, one for each other cause up to a limit, one a
//! minute with a count while the outage lasts, and one at the end.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How often a line is logged during an outage, even if its cause was already logged.
const REPEAT_PAUSE: Duration = Duration::from_secs(60);

/// The maximum number of causes that are logged within one [`REPEAT_PAUSE`].
const MAX_CAUSES: usize = 8;

/// The log of one operation that may fail, with its current outage if there is one. Clones share the outage.
#[derive(Clone, Debug)]
pub struct FailureLog {
    what: Arc<str>,
    outage: Arc<Mutex<Option<Outage>>>,
}

#[derive(Debug)]
struct Outage {
    began: Instant,
    /// The time at which the outage began, or at which the last repeated line was logged.
    last_repeat: Instant,
    /// The causes logged since `last_repeat`.
    causes: Vec<String>,
    failures: u64,
}

impl FailureLog {
    /// Creates a log without an outage. `what` names the operation, and starts each line.
    #[must_use]
    pub fn new(what: impl Into<Arc<str>>) -> Self {
        Self {
            what: what.into(),
            outage: Arc::default(),
        }
    }

    /// Records a failure. Errors that differ only in numbers have the same cause.
    pub fn failed(&self, error: &str) {
        let cause: String = error.chars().filter(|c| !c.is_ascii_digit()).collect();
        self.failed_by(cause, error);
    }

    /// Records a failure. Failures with the same `cause` count as one cause, even if their `error` differs.
    pub fn failed_by(&self, cause: String, error: &str) {
        let what = &self.what;
        let mut current = self.outage.lock();
        let now = Instant::now();
        let outage = current.get_or_insert(Outage {
            began: now,
            last_repeat: now,
            causes: Vec::new(),
            failures: 0,
        });
        outage.failures += 1;
        let is_new = !outage.causes.contains(&cause) && outage.causes.len() < MAX_CAUSES;
        if outage.failures == 1 {
            warn!(error, "{what} failed; trying again");
            outage.causes.push(cause);
        } else if now >= outage.last_repeat + REPEAT_PAUSE {
            let (failures, seconds) = (outage.failures, outage.began.elapsed().as_secs());
            warn!(error, failures, seconds, "{what} still fails");
            outage.last_repeat = now;
            outage.causes = vec![cause];
        } else if is_new {
            warn!(error, "{what} failed in another way");
            outage.causes.push(cause);
        } else {
            debug!(error, "{what} failed again");
        }
    }

    /// Records a success.
    pub fn recovered(&self) {
        if let Some(outage) = self.outage.lock().take() {
            let (failures, seconds) = (outage.failures, outage.began.elapsed().as_secs());
            info!(failures, seconds, "{} works again", self.what);
        }
    }

    /// Forgets the outage, because there will be no more attempts.
    pub fn forget(&self) {
        *self.outage.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::telemetry::testing::logged;

    #[tokio::test(start_paused = true)]
    async fn each_cause_of_an_outage_is_one_line_a_minute() {
        let (log, _guard) = logged();
        let outage = FailureLog::new("the watch of services");
        for attempt in 0..300_u64 {
            outage.failed(["refused", "403 Forbidden", "no response"][usize::try_from(attempt % 3).unwrap()]);
            advance(Duration::from_millis(150)).await;
        }
        assert_eq!(log.lines().len(), 3, "{:?}", log.lines());
        for number in 0..=u8::MAX {
            outage.failed(&"x".repeat(number.into()));
        }
        assert_eq!(
            log.lines().len(),
            MAX_CAUSES,
            "the number of lines differs from the limit"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn outage_is_logged_at_once_each_minute_and_at_its_end() {
        let (log, _guard) = logged();
        let outage = FailureLog::new("the watch of services");
        outage.recovered();
        for attempt in 0..1000_u64 {
            // A text that differs only in numbers is not a new cause.
            outage.failed(&format!("no response within {attempt} ms"));
            advance(Duration::from_millis(150)).await;
        }
        outage.recovered();
        outage.recovered();
        outage.failed("refused");
        let lines = log.lines();
        let expected = [
            "WARN the watch of services failed; trying again error=\"no response within 0 ms\"",
            "WARN the watch of services still fails error=\"no response within 400 ms\" failures=401 seconds=60",
            "WARN the watch of services still fails error=\"no response within 800 ms\" failures=801 seconds=120",
            "INFO the watch of services works again failures=1000 seconds=150",
            "WARN the watch of services failed; trying again error=\"refused\"",
        ];
        assert_eq!(lines, expected);
    }
}
