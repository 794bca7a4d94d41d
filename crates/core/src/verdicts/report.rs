//! The facts that one replica knows about all targets. A judgment based on them needs no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::hearing::HEARD_AFTER;
use super::{Failure, Hearing, Moment, Phase, Reply, Target, TargetState, Targets};

/// The minimum time from another target's 2xx to a failure that contrasts with it. After this time, a short disturbance
/// that affected both targets is over.
const CONTRAST_AFTER: Duration = Duration::from_millis(300);
/// The same minimum if the failures might be due to an etcd stall that is over: an API server can notice a stall up to
/// 2 s later than another API server, and the end of the stall up to 1 s later than the leader.
const CONTRAST_AFTER_STALL: Duration = Duration::from_secs(3);
/// If storing a suspicion in the Lease takes longer than this, etcd might be stalled.
const STORED_WITHIN: Duration = Duration::from_millis(150);
/// How long a success counts as recent after an attempt has failed. A family without a recent success is blind, unless
/// all its targets were listed less than this time ago.
pub const RECENT: Duration = Duration::from_secs(3);
/// A target that has been in [`Phase::New`] for this long is silent.
const SILENT_AFTER: Duration = Duration::from_secs(60);

/// What a judgment needs to know about the leadership of the replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Whether the replica has a valid term whose last renewal is at most 1.5 renewal intervals old. Without leader
    /// election, the age does not matter.
    pub may_take_out: bool,
    /// Whether its term began less than 5 s ago.
    pub is_new: bool,
}

/// All facts on which a judgment is based. Two reports differ only if a judgment can differ, because a moment in a
/// report does not change as long as the state that it describes lasts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether the replica may take endpoints out, and whether its term is new.
    pub leadership: Leadership,
    /// The facts of each listed target.
    pub targets: BTreeMap<Target, TargetFacts>,
}

/// The facts of one target. The default is a target that was just listed.
#[expect(
    clippy::struct_excessive_bools,
    reason = "the facts are independent of each other"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetFacts {
    /// The phase of the target.
    pub phase: Phase,
    /// Whether an attempt has had any result since the target was listed.
    pub is_known: bool,
    /// Whether the latest result is 2xx.
    pub answers: bool,
    /// Whether the latest result is 401 or 403.
    pub is_unauthorized: bool,
    /// Whether it returned 2xx within the last 3 s, or its latest result is 2xx. An older 2xx is still the latest
    /// result only if this replica was suspended and has made no attempt since then.
    pub is_recent: bool,
    /// Whether it was listed at least 3 s ago, and so has had time to answer.
    pub had_time: bool,
    /// Whether it has been new for a minute.
    pub is_silent: bool,
    /// When it first failed since it was well or, if it was never well, since it was listed. `None` while it is well or
    /// no attempt has failed.
    pub since: Option<Moment>,
    /// When it last returned 2xx, while it is failing or down.
    pub last_success: Option<Moment>,
    /// Other addresses of the family that work on this port while the target fails: each returned 2xx to an attempt
    /// that began after the first failure of the target's current run, and has not failed since. The last failure of
    /// the run came at least 300 ms after the first such response of the address, or 3 s if the failures might be due
    /// to an etcd stall.
    pub contrasts: BTreeSet<IpAddr>,
    /// Whether another replica objects to the suspicion, because the target answers the probes of that replica.
    pub has_objection: bool,
    /// Whether the other replicas have had time to object.
    pub had_time_to_object: bool,
    /// The failure to report. `None` while `since` is `None`.
    pub what: Option<Failure>,
    /// How many attempts in a row had failed when `what` was recorded.
    pub failures: u32,
}

impl Targets {
    /// The facts at one moment.
    #[must_use]
    pub fn report(&self, now: Moment, hearing: &Hearing, leadership: Leadership) -> Report {
        let facts = |(target, state): (Target, &TargetState)| {
            let mut facts = state.facts(now, hearing.stored_since(target));
            facts.has_objection = hearing.has_objection(target, now);
            facts.had_time_to_object = hearing.had_time_to_object(target, now);
            (target, facts)
        };
        Report {
            leadership,
            targets: self.iter().map(facts).collect(),
        }
    }
}

impl TargetState {
    /// Whether the failures might be due to an etcd stall that is over. While etcd stalls, the suspicion cannot be
    /// stored, so the target must fail again after the suspicion is stored. If storing took long, the new failed
    /// attempt must have begun after the other replicas had time to object.
    fn may_have_stalled(&self, stored: Moment) -> bool {
        let Some(suspected) = self.suspected_since.filter(|since| *since <= stored) else {
            // The Lease still has the suspicion of an earlier run.
            return true;
        };
        if stored.since(suspected) > STORED_WITHIN {
            self.last_failed.is_none_or(|begun| begun <= stored + HEARD_AFTER)
        } else {
            self.last_failure.is_none_or(|failed| failed <= stored)
        }
    }

    /// The facts at one moment. `stored` is when the API server confirmed that the Lease has the suspicion.
    fn facts(&self, now: Moment, stored: Option<Moment>) -> TargetFacts {
        let phase = self.phase;
        let contrast_after = if stored.is_some_and(|stored| self.may_have_stalled(stored)) {
            CONTRAST_AFTER_STALL
        } else {
            CONTRAST_AFTER
        };
        let contrasts = |answered: Moment| {
            self.last_failure
                .is_some_and(|failed| failed >= answered + contrast_after)
        };
        TargetFacts {
            phase,
            is_known: self.latest.is_some(),
            answers: self.answers(),
            is_unauthorized: matches!(self.latest, Some(Reply::Alive(401 | 403))),
            is_recent: self.answers()
                || self
                    .last_success
                    .is_some_and(|success| now.since(success) < RECENT),
            had_time: now.since(self.listed_since) >= RECENT,
            is_silent: phase == Phase::New && now.since(self.listed_since) >= SILENT_AFTER,
            since: self.unhealthy_since,
            last_success: self
                .last_success
                .filter(|_| matches!(phase, Phase::Failing | Phase::Down)),
            contrasts: self
                .answers_since
                .iter()
                .filter(|(_, answered)| contrasts(**answered))
                .map(|(address, _)| *address)
                .collect(),
            has_objection: false,
            had_time_to_object: false,
            what: self.what.clone(),
            failures: self.failures,
        }
    }
}
