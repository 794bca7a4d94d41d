//! What one replica knows about all targets, as facts without a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::model::words::words;

use super::{Failure, Hearing, Moment, Phase, Reply, Target, TargetState, Targets};

/// A failure contrasts with an answer of another target when it came this long after it, so that a short disturbance
/// hits both.
const CONTRAST_AFTER: Duration = Duration::from_millis(300);
/// A success counts as recent for this long; without one a family is blind.
const RECENT: Duration = Duration::from_secs(3);
/// A target that is new for this long does not answer at all.
const SILENT_AFTER: Duration = Duration::from_secs(60);

/// What the replica may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// It has a valid Term, whose last renewal was answered within 1.5 renewal intervals.
    pub may_take_out: bool,
    /// Its Term began less than 5 s ago.
    pub is_new: bool,
}

/// All facts that a judgement rests on. Two reports are equal unless a judgement may differ: a moment in it stays the
/// same as long as the state that it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What the replica may do.
    pub leadership: Leadership,
    /// The facts of each listed target.
    pub targets: BTreeMap<Target, Facts>,
}

words! {
    /// A [`Phase`] without its counters. The word is a label of metrics.
    Condition {
        /// Never seen well.
        New => "new",
        /// It answers.
        Well => "well",
        /// It was well, and the last attempts failed.
        Failing => "failing",
        /// It was well, and failed too often.
        Down => "down",
        /// It was down, and answers again.
        Rising => "rising",
    }
}

/// That of a target that was just listed.
impl Default for Condition {
    fn default() -> Self {
        Self::New
    }
}

/// The facts of one target. The default is a target that was just listed.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each fact is a yes or no of its own"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Where it stands.
    pub condition: Condition,
    /// An attempt has ended since it was listed, whatever the result.
    pub is_known: bool,
    /// The latest result is 2xx.
    pub answers: bool,
    /// The latest result is 401 or 403.
    pub is_unauthorized: bool,
    /// It answered 2xx within the last 3 s.
    pub is_recent: bool,
    /// It was listed at least 3 s ago, so it had its time to answer.
    pub had_time: bool,
    /// It has been new for a minute.
    pub is_silent: bool,
    /// First failure since it was well. `None` while it is well or nothing failed.
    pub since: Option<Moment>,
    /// Last 2xx, while it is failing or down.
    pub last_success: Option<Moment>,
    /// Addresses that answered 2xx on this port to an attempt begun after this target's first failure, and at least
    /// 300 ms before its last failure.
    pub contrasts: BTreeSet<IpAddr>,
    /// Another replica sees it well.
    pub is_objected: bool,
    /// The other replicas had their time to object.
    pub is_heard: bool,
    /// What failed, while it is not well.
    pub what: Option<Failure>,
    /// How many attempts in a row had failed when that was noted.
    pub failures: u32,
}

impl Targets {
    /// The facts at one moment.
    #[must_use]
    pub fn report(&self, now: Moment, hearing: &Hearing, leadership: Leadership) -> Report {
        let facts = |(target, state): (Target, &TargetState)| {
            let mut facts = state.facts(now);
            facts.is_objected = hearing.is_objected(target, now);
            facts.is_heard = hearing.is_heard(target, now);
            (target, facts)
        };
        Report {
            leadership,
            targets: self.iter().map(facts).collect(),
        }
    }
}

impl TargetState {
    fn facts(&self, now: Moment) -> Facts {
        let condition = self.condition();
        let contrasts = |answered: Moment| {
            self.last_failure
                .is_some_and(|failed| failed >= answered + CONTRAST_AFTER)
        };
        Facts {
            condition,
            is_known: self.latest.is_some(),
            answers: self.answers(),
            is_unauthorized: matches!(self.latest, Some(Reply::Alive(401 | 403))),
            is_recent: self
                .last_success
                .is_some_and(|success| now.since(success) < RECENT),
            had_time: now.since(self.listed_since) >= RECENT,
            is_silent: condition == Condition::New && now.since(self.listed_since) >= SILENT_AFTER,
            since: self.unhealthy_since,
            last_success: self
                .last_success
                .filter(|_| matches!(condition, Condition::Failing | Condition::Down)),
            contrasts: self
                .answers_since
                .iter()
                .filter(|(_, answered)| contrasts(**answered))
                .map(|(address, _)| *address)
                .collect(),
            is_objected: false,
            is_heard: false,
            what: self.what.clone(),
            failures: self.failures,
        }
    }

    fn condition(&self) -> Condition {
        match self.phase {
            Phase::New { .. } => Condition::New,
            Phase::Well => Condition::Well,
            Phase::Failing(_) => Condition::Failing,
            Phase::Down => Condition::Down,
            Phase::Rising { .. } => Condition::Rising,
        }
    }
}
