//! The thresholds at which a target changes its phase.

use std::time::Duration;

/// How many results and how much time it takes until a target is down, or is well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// The number of failures in a row after which a target that was well is down.
    pub failures: u32,
    /// The minimum number of successes after which a target that was down is well.
    pub successes: u32,
    /// The minimum time from the first to the last of these successes. Each relapse within 10 minutes doubles this
    /// time, up to 60 s.
    pub rise: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            failures: 3,
            successes: 3,
            rise: Duration::from_secs(3),
        }
    }
}
