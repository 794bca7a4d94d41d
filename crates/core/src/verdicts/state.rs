//! The state of one target, computed from the results of its attempts. Here, a *response* is a 2xx, 401, 403 or 429.
//! All other results are failures. A *run* is a series of failures without a response in between. A *fall* is the
//! change of a well or failing target to [`Phase::Down`], and a *rise* lasts from the next response until the target is
//! [`Phase::Well`] again or fails.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{Failure, Moment, Reply, Thresholds};
use crate::model::words::words;

/// The number of failures in a row after which a target is suspected.
pub(super) const SUSPECTED_AFTER: u32 = 2;
/// How long a fall is remembered. Each remembered fall, except the first, doubles the duration of the next rise.
pub(super) const RELAPSE_MEMORY: Duration = Duration::from_secs(600);
/// The longest rise that relapses cause. A configured rise can be longer.
const MAX_RISE: Duration = Duration::from_secs(60);
/// The maximum number of doublings, which prevents an overflow.
const MAX_DOUBLINGS: u32 = 16;

words! {
    /// The phase of a target. Metrics use its word as a label value.
    Phase {
        /// It has not responded since it was listed. A target in this phase never becomes down, so that an endpoint
        /// that never worked is not taken out.
        New => "new",
        /// It responds, and no rise is in progress.
        Well => "well",
        /// It was well, and its latest attempts failed, but fewer than the threshold requires.
        Failing => "failing",
        /// It was well and then failed as many times in a row as the threshold requires, or it failed during a rise.
        Down => "down",
        /// It was down and answers again, but not yet as often and as long as the thresholds require.
        Rising => "rising",
    }
}

/// The phase of a target that was just listed.
impl Default for Phase {
    fn default() -> Self {
        Self::New
    }
}

/// An attempt that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub begun: Moment,
    pub ended: Moment,
}

/// The state of one target since it was listed.
#[derive(Clone, Debug)]
pub struct TargetState {
    pub(super) phase: Phase,
    /// When the first counted success of a rise arrived, and the number of counted successes.
    rise: (Moment, u32),
    pub(super) listed_since: Moment,
    /// When the newest 2xx arrived.
    pub(super) last_success: Option<Moment>,
    /// How long its responses usually take: the longest recent time, reduced by an eighth with each quicker response.
    pub(super) usual: Duration,
    /// When the newest attempt that got a response began.
    pub(super) answered: Option<Moment>,
    /// The latest result that counted.
    pub(super) latest: Option<Reply>,
    /// When the first failure after the latest response arrived. This failure begins a run.
    pub(super) first_failure: Option<Moment>,
    /// When the last failure of that run arrived.
    pub(super) last_failure: Option<Moment>,
    /// When the newest attempt of that run began.
    pub(super) last_failed: Option<Moment>,
    /// When that run made the target suspected.
    pub(super) suspected_since: Option<Moment>,
    /// When the first failure arrived since the target was well or, if it never was, since it was listed. Unlike
    /// `first_failure`, it stays during a rise.
    pub(super) unhealthy_since: Option<Moment>,
    /// The failure to report. It does not change while a target is down, nor after the second failure of a new target,
    /// because a server can fail in a different way each time.
    pub(super) what: Option<Failure>,
    /// How many attempts in a row had failed when `what` was set.
    pub(super) failures: u32,
    /// For each other address with the same port and family: when it first returned 2xx to an attempt that began after
    /// the first failure of the run.
    pub(super) answers_since: BTreeMap<IpAddr, Moment>,
    /// When the attempts without a result began.
    pub(super) unanswered: BTreeSet<Moment>,
}

impl TargetState {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            phase: Phase::New,
            rise: (now, 0),
            listed_since: now,
            last_success: None,
            usual: Duration::ZERO,
            answered: None,
            latest: None,
            first_failure: None,
            last_failure: None,
            last_failed: None,
            suspected_since: None,
            unhealthy_since: None,
            what: None,
            failures: 0,
            answers_since: BTreeMap::new(),
            unanswered: BTreeSet::new(),
        }
    }

    /// Whether the latest result is 2xx.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.latest == Some(Reply::Success)
    }

    /// Counts a response. `counts` says whether the response is a success of a rise; `relapses` is the number of recent
    /// relapses.
    pub(super) fn answer(
        &mut self,
        attempt: Attempt,
        reply: Reply,
        counts: bool,
        relapses: u32,
        thresholds: &Thresholds,
    ) {
        if reply == Reply::Success {
            self.last_success = self.last_success.max(Some(attempt.ended));
        }
        self.usual = attempt.ended.since(attempt.begun).max(self.usual * 7 / 8);
        self.answered = self.answered.max(Some(attempt.begun));
        self.latest = Some(reply);
        (self.first_failure, self.last_failure, self.last_failed) = (None, None, None);
        self.suspected_since = None;
        self.answers_since.clear();
        let (since, successes) = match self.phase {
            Phase::New | Phase::Failing | Phase::Well => return self.become_well(),
            Phase::Rising if self.rise.1 > 0 => self.rise,
            Phase::Down | Phase::Rising => (attempt.ended, 0),
        };
        let successes = successes + u32::from(counts);
        let doubled = 2_u32.pow(relapses.min(MAX_DOUBLINGS));
        let rise = thresholds.rise.saturating_mul(doubled);
        // A longer rise that the user configured is not shortened.
        let rise = rise.min(MAX_RISE.max(thresholds.rise));
        if successes >= thresholds.successes && attempt.ended.since(since) >= rise {
            self.become_well();
        } else {
            (self.phase, self.rise) = (Phase::Rising, (since, successes));
        }
    }

    fn become_well(&mut self) {
        self.phase = Phase::Well;
        (self.unhealthy_since, self.what, self.failures) = (None, None, 0);
    }

    /// Counts a failure, unless the server has answered a newer attempt. Returns `true` if the failure is the first of
    /// a run.
    pub(super) fn fail(&mut self, attempt: Attempt, failure: Failure, thresholds: &Thresholds) -> bool {
        // The server has answered a newer attempt, so this failure came from the network, or from a problem that is
        // over.
        if self.answered.is_some_and(|answered| attempt.begun <= answered) {
            return false;
        }
        let first = self.first_failure.is_none();
        self.first_failure.get_or_insert(attempt.ended);
        self.last_failure = self.last_failure.max(Some(attempt.ended));
        self.last_failed = self.last_failed.max(Some(attempt.begun));
        self.unhealthy_since.get_or_insert(attempt.ended);
        self.latest = Some(Reply::Failure(failure.clone()));
        let failures = match self.phase {
            Phase::Rising => 1,
            _ => self.failures.saturating_add(1),
        };
        let is_settled = match self.phase {
            Phase::New => failures > SUSPECTED_AFTER,
            Phase::Down => true,
            Phase::Well | Phase::Failing | Phase::Rising => false,
        };
        if !is_settled {
            (self.what, self.failures) = (Some(failure), failures);
        }
        self.phase = match self.phase {
            Phase::New => Phase::New,
            Phase::Well | Phase::Failing if failures < thresholds.failures => Phase::Failing,
            _ => Phase::Down,
        };
        if failures >= SUSPECTED_AFTER || self.phase == Phase::Down {
            self.suspected_since.get_or_insert(attempt.ended);
        }
        first
    }
}
