//! The thresholds for a change of a verdict.

use std::time::Duration;

/// The number of results, and the time, that it takes to change a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// The number of failures in a row until a target that was well is down.
    pub failures: u32,
    /// The number of successes until a target that was down is well.
    pub successes: u32,
    /// The minimum time that these successes take. Each recent relapse doubles it, up to 60 s.
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
