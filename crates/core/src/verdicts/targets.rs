//! The states of all targets that this replica probes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::state::{Attempt, RELAPSE_MEMORY, SUSPECTED_AFTER};
use super::{Moment, Phase, Reply, SUPERVISOR_PORT, Target, TargetState, Thresholds};

/// A target is in doubt when an unanswered attempt has lasted this much longer than responses usually take.
const DOUBT_AFTER: Duration = Duration::from_millis(250);

/// All targets, by address and port.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    thresholds: Thresholds,
    states: BTreeMap<Target, TargetState>,
    /// The times at which targets became down, not counting failures during a rise. They are kept even when a target is
    /// no longer listed.
    falls: BTreeMap<Target, Vec<Moment>>,
    /// The addresses that copies show as taken out.
    taken_out: BTreeSet<IpAddr>,
}

/// Why the operator's own requests avoid an API server while another API server is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unhealthy {
    /// The server is suspected, or is rising. It gets no new requests. For example, a leader must not send its
    /// suspicion to the server that it suspects, which might have lost its etcd.
    Suspected,
    /// The operator also closes its connections to the server. The server is down or, if this replica has never seen it
    /// well, fails after another leader took it out.
    Down,
}

impl Targets {
    /// Creates an empty set of targets.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            ..Self::default()
        }
    }

    /// Sets the listed targets. All other targets are forgotten, and are new if they are listed again.
    pub fn list(&mut self, listed: &BTreeSet<Target>, now: Moment) {
        self.states.retain(|target, _| listed.contains(target));
        for target in listed {
            self.states
                .entry(*target)
                .or_insert_with(|| TargetState::new(now));
        }
        self.forget_falls(now);
    }

    /// Sets the addresses that copies show as taken out, for [`Targets::suspects`].
    pub fn set_taken_out(&mut self, addresses: BTreeSet<IpAddr>) {
        self.taken_out = addresses;
    }

    /// Records that an attempt begins. `now` must differ from the start of every other attempt at this target. The
    /// attempt is unanswered until the caller passes the same moment to [`Targets::end`] or [`Targets::discard`].
    pub fn begin(&mut self, target: Target, now: Moment) {
        if let Some(state) = self.states.get_mut(&target) {
            state.unanswered.insert(now);
        }
    }

    /// Counts the result of an attempt. Returns `true` if the result is the first failure of a run. In that case, the
    /// caller immediately probes all other targets that are not failing. An attempt that was discarded, or that began
    /// before the target was removed from the list and added back, has no effect.
    pub fn end(&mut self, target: Target, begun: Moment, ended: Moment, reply: Reply) -> bool {
        let another_answers = self.others(target).any(|(_, state)| state.answers());
        let relapses = self.relapses(target, ended);
        let Some(state) = self.states.get_mut(&target) else {
            return false;
        };
        if !state.unanswered.remove(&begun) {
            return false;
        }
        let attempt = Attempt { begun, ended };
        match reply {
            Reply::Failure(failure) => {
                let could_fall = matches!(state.phase, Phase::Well | Phase::Failing);
                let is_first = state.fail(attempt, failure, &self.thresholds);
                let (is_failing, phase) = (state.first_failure.is_some(), state.phase);
                if could_fall && phase == Phase::Down {
                    self.forget_falls(ended);
                    self.falls.entry(target).or_default().push(ended);
                }
                if is_failing {
                    self.end_contrast(target);
                }
                is_first
            }
            Reply::Success => {
                state.answer(attempt, reply, true, relapses, &self.thresholds);
                self.note_contrast(target, attempt);
                false
            }
            Reply::Alive(_) => {
                state.answer(attempt, reply, !another_answers, relapses, &self.thresholds);
                false
            }
        }
    }

    /// Forgets an attempt whose result is ignored. Either its timer fired late, which says more about this replica than
    /// about the target, or a response to a newer attempt arrived first.
    pub fn discard(&mut self, target: Target, begun: Moment) {
        if let Some(state) = self.states.get_mut(&target) {
            state.unanswered.remove(&begun);
        }
    }

    /// The state of one target, or `None` if it is not listed.
    #[must_use]
    pub fn get(&self, target: Target) -> Option<&TargetState> {
        self.states.get(&target)
    }

    /// All targets and their states.
    pub fn iter(&self) -> impl Iterator<Item = (Target, &TargetState)> {
        self.states.iter().map(|(target, state)| (*target, state))
    }

    /// Whether this replica can object to the suspicion of a target: the target is well, and none of this replica's
    /// attempts at it hangs. If responses are usually slow, an attempt does not hang just because its response is slow.
    /// Otherwise, the replica would object and withdraw its objection with each attempt.
    #[must_use]
    pub fn is_clearly_well(&self, target: Target, now: Moment) -> bool {
        self.states.get(&target).is_some_and(|state| {
            let oldest = state.unanswered.first();
            let hangs = oldest.is_some_and(|begun| now.since(*begun) > state.usual + DOUBT_AFTER);
            state.phase == Phase::Well && !hangs
        })
    }

    /// The targets that a leader asks the other replicas about. A target that a previous leader took out is included
    /// after two failures, even if this replica has never seen it well. Otherwise, a leader that is the only replica
    /// that cannot reach the target would keep the target out for its whole term.
    #[must_use]
    pub fn suspects(&self) -> BTreeSet<Target> {
        let is_suspected = |target: Target, state: &TargetState| match state.phase {
            Phase::New => state.failures >= SUSPECTED_AFTER && self.taken_out.contains(&target.address()),
            Phase::Failing => state.failures >= SUSPECTED_AFTER,
            Phase::Down => true,
            Phase::Well | Phase::Rising => false,
        };
        self.iter()
            .filter(|(target, state)| is_suspected(*target, state))
            .map(|(target, _)| target)
            .collect()
    }

    /// The API servers that the operator's own requests avoid. Empty if no API server is well.
    #[must_use]
    pub fn unhealthy(&self) -> BTreeMap<Target, Unhealthy> {
        let servers = || self.iter().filter(|(target, _)| target.port() != SUPERVISOR_PORT);
        if !servers().any(|(_, state)| state.phase == Phase::Well) {
            return BTreeMap::new();
        }
        let suspects = self.suspects();
        let unhealthy = |(target, state): (Target, &TargetState)| match state.phase {
            Phase::Rising => Some((target, Unhealthy::Suspected)),
            _ if !suspects.contains(&target) => None,
            Phase::Failing => Some((target, Unhealthy::Suspected)),
            _ => Some((target, Unhealthy::Down)),
        };
        servers().filter_map(unhealthy).collect()
    }

    /// The other addresses on the same port and of the same family.
    fn others(&self, target: Target) -> impl Iterator<Item = (Target, &TargetState)> {
        self.iter().filter(move |(other, _)| is_other(target, *other))
    }

    fn forget_falls(&mut self, now: Moment) {
        self.falls.retain(|_, falls| {
            falls.retain(|fall| now.since(*fall) < RELAPSE_MEMORY);
            !falls.is_empty()
        });
    }

    fn relapses(&self, target: Target, now: Moment) -> u32 {
        let falls = self.falls.get(&target).into_iter().flatten();
        let recent = falls.filter(|fall| now.since(**fall) < RELAPSE_MEMORY).count();
        u32::try_from(recent.saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// A failing target contrasts with no other target until it answers again, because a disturbance that affects all
    /// targets does not begin and end at the same moment for each of them.
    fn end_contrast(&mut self, target: Target) {
        let others = self.states.iter_mut();
        for (_, state) in others.filter(|(other, _)| is_other(target, **other)) {
            state.answers_since.remove(&target.address());
        }
    }

    /// Records a 2xx in the state of each other target with the same port and family whose current run of failures
    /// began before the attempt.
    fn note_contrast(&mut self, target: Target, attempt: Attempt) {
        let others = self.states.iter_mut();
        for (_, state) in others.filter(|(other, _)| is_other(target, **other)) {
            if state.first_failure.is_some_and(|first| attempt.begun > first) {
                state
                    .answers_since
                    .entry(target.address())
                    .or_insert(attempt.ended);
            }
        }
    }
}

/// Whether the other target is a different address with the same port and family.
fn is_other(target: Target, other: Target) -> bool {
    other.port() == target.port() && other.family() == target.family() && other.address() != target.address()
}
