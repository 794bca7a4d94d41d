//! Detects a watch that does not show what a GET has shown. If the watch has not caught up a second later, its API
//! server is probably behind, and another server may be current.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::telemetry::failure_log::FailureLog;
use crate::telemetry::watch_health::{Cause, WatchHealth};
use crate::timing::EXPECTATION;
use endpoint_copier_core::model::WatchKind;

/// The minimum time between two restarts of a watch. Each restart costs a list, and does not help if all API servers
/// are behind.
const BETWEEN_RESTARTS: Duration = Duration::from_secs(10);

/// Detects whether one watch is late.
pub(super) struct LateWatch {
    watch: WatchKind,
    watch_health: WatchHealth,
    outage: FailureLog,
    state: Mutex<LateState>,
}

#[derive(Default)]
struct LateState {
    missing: Option<MissingVersion>,
    restarted: Option<Instant>,
}

struct MissingVersion {
    since: Instant,
    /// The resourceVersion at which the watch has caught up with the GET.
    version: u64,
}

impl LateWatch {
    pub fn new(watch: WatchKind, watch_health: WatchHealth) -> Self {
        Self {
            watch,
            watch_health,
            outage: FailureLog::new(format!("the watch of {watch}")),
            state: Mutex::default(),
        }
    }

    /// Records that a GET has shown a state that the watch does not show: an object at this version or, for `None`, no
    /// object. Ignores further states until [`LateWatch::check`] has dealt with the first one.
    pub fn missed(&self, version: Option<u64>) {
        let reached = self.reached();
        self.state.lock().missing.get_or_insert_with(|| MissingVersion {
            since: Instant::now(),
            // A deletion has a version too, but a GET does not return it.
            version: version.unwrap_or(reached + 1),
        });
    }

    /// Restarts the watch, at another API server if there is one, if it has not shown the state of the GET in time and
    /// was not restarted recently. Returns the time of the next check while the watch still has time to catch up.
    pub fn check(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        let missing = state.missing.as_ref()?;
        let (reached, now) = (self.reached(), Instant::now());
        let until = missing.since + EXPECTATION;
        if reached >= missing.version {
            state.missing = None;
            self.outage.recovered();
        } else if now < until {
            return Some(until);
        } else {
            state.missing = None;
            if state.restarted.is_none_or(|last| now >= last + BETWEEN_RESTARTS) {
                state.restarted = Some(now);
                self.outage
                    .failed("it does not show the result of a GET; restarting it, at another API server if there is one");
                self.watch_health.restart(self.watch, Cause::Behind);
            }
        }
        None
    }

    fn reached(&self) -> u64 {
        self.watch_health.version(&[self.watch])
    }
}
