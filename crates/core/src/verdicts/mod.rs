//! Decides from the probe results which endpoints of a copy are *out*: these stay in the copy, but are not ready.
//!
//! ```text
//!     attempts ──────> Targets ──┐
//!                                ├──> Report ──┐
//!     probe Lease ───> Hearing ──┘             ├──> judge ──> Judgment
//!     endpoints, and what the copy remembers ──┘
//! ```
//!
//! [`Targets`] holds the state of each *target*, which is an address and a port. The leader suspects a target that
//! fails repeatedly, and [`Hearing`] holds its suspicions and the objections of other replicas to them. A [`Report`]
//! combines [`Targets`] and [`Hearing`] at one moment, as facts that change only when a judgment can change. If a
//! report equals the previous one, nothing needs to be judged again. [`judge`] judges one family of one managed
//! Service.
//!
//! When in doubt, an endpoint is not taken out: a dead server that gets traffic costs some connections, but a live
//! server without traffic can cost all of them.

use std::ops::Add;
use std::time::Duration;

mod hearing;
mod judge;
mod report;
mod state;
mod target;
mod targets;
mod thresholds;

pub use hearing::{Hearing, Peer, SUSPECTED, objection_key, suspicions};
pub use judge::{Candidate, Judgment, Unreachable, judge};
pub use report::{Leadership, RECENT, Report, TargetFacts};
pub use state::{Phase, TargetState};
pub use target::{Failure, Reply, SUPERVISOR_PORT, Target};
pub use targets::{Targets, Unhealthy};
pub use thresholds::Thresholds;

/// A point in time, as the time since the replica's start. Moments of different replicas cannot be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The moment that is `since_start` after the replica's start.
    #[must_use]
    pub const fn new(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// The time since an earlier moment; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

#[cfg(test)]
mod tests;
