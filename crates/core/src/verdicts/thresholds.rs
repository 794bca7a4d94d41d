//! What it takes to change a verdict.

use std::time::Duration;

/// How many results, and how much time, it takes to change a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures in a row until a target that was well is down.
    pub failures: u32,
    /// Successes until a target that was down is well.
    pub successes: u32,
    /// The minimum time that these successes take. Each relapse doubles it.
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
