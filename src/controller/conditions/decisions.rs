//! Decides when the condition of a Service is written: soon after a transition, and at most once a minute if others
//! keep changing it.
//!
//! This module is pure: the current time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use endpoint_copier_core::index::KnownCondition;
use endpoint_copier_core::model::{Condition, ConditionStatus, ServiceKey};

/// A usually short-lived condition is written only after it has lasted this long.
const MIN_CONDITION_AGE: Duration = Duration::from_secs(10);

/// The pause between a write and the write of a different condition. It doubles with each write.
const CONDITION_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between a write and the write of a different condition, and the time between two writes of the
/// same condition if somebody else keeps changing it.
const MAX_CONDITION_PAUSE: Duration = Duration::from_secs(60);

/// After this time without a write, the pause is [`CONDITION_PAUSE`] again. This time is longer than any pause.
const CONDITION_QUIET: Duration = Duration::from_secs(120);

/// The conditions that Services should have, and the last writes.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    wanted: HashMap<ServiceKey, Wanted>,
    written: HashMap<ServiceKey, LastConditionWrite>,
}

#[derive(Debug)]
struct Wanted {
    condition: Condition,
    /// When the condition was decided or, if several usually short-lived conditions followed one another, when the
    /// first of them was decided.
    since: Instant,
}

/// The last write of a condition.
#[derive(Debug)]
struct LastConditionWrite {
    /// The UID of the Service, or `None` if it was not managed.
    managed: Option<String>,
    condition: Option<Condition>,
    /// Whether the write was made in this term. Only then does a different condition in the status mean that somebody
    /// else has changed it.
    is_of_term: bool,
    at: Instant,
    /// The pause before a write of another condition.
    pause: Duration,
}

/// The next step for the condition of a Service.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Nothing,
    Later(Instant),
    Write(ConditionWrite),
}

/// A write of a condition.
#[derive(Debug, PartialEq)]
pub(super) struct ConditionWrite {
    pub seen: KnownCondition,
    /// The condition to write. `None` removes it.
    pub to: Option<Condition>,
}

impl ConditionWrite {
    /// Whether the status changes, not only the reason or the message.
    pub fn is_transition(&self) -> bool {
        let status = |condition: &Option<Condition>| -> Option<ConditionStatus> {
            condition.as_ref().map(|condition| condition.status)
        };
        status(&self.seen.condition) != status(&self.to)
    }
}

impl Decisions {
    /// Records the condition that a Service should have, or `None` if it is not managed. Returns whether this may
    /// require a write.
    pub fn decided(&mut self, key: &ServiceKey, condition: Option<Condition>, now: Instant) -> bool {
        let Some(condition) = condition else {
            self.wanted.remove(key);
            return true;
        };
        let known = self.wanted.get(key);
        if known.is_some_and(|known| known.condition == condition) {
            return false;
        }
        let keeps_passing = |known: &&Wanted| known.condition.is_passing() && condition.is_passing();
        let since = known.filter(keeps_passing).map_or(now, |known| known.since);
        self.wanted.insert(key.clone(), Wanted { condition, since });
        true
    }

    /// Returns the Services with a decision.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.wanted.keys()
    }

    /// Returns the next step for a Service whose status has the condition `seen`.
    pub fn next(&self, key: &ServiceKey, seen: KnownCondition, now: Instant) -> Next {
        let wanted = self.wanted.get(key);
        let to = match wanted.filter(|_| seen.managed.is_some()) {
            // No sync has decided in this term.
            None if seen.managed.is_some() => return Next::Nothing,
            None => None,
            Some(wanted) if wanted.condition.is_passing() && now < wanted.since + MIN_CONDITION_AGE => {
                return Next::Later(wanted.since + MIN_CONDITION_AGE);
            }
            Some(wanted) => Some(wanted.condition.clone()),
        };
        if seen.condition == to {
            return Next::Nothing;
        }
        // A Service that was recreated does not wait.
        let last = self.written.get(key).filter(|last| last.managed == seen.managed);
        let due = last.map(|last| {
            let is_repair = last.is_of_term && last.condition == to;
            let pause = if is_repair {
                MAX_CONDITION_PAUSE
            } else {
                last.pause
            };
            last.at + pause
        });
        match due.filter(|due| now < *due) {
            Some(due) => Next::Later(due),
            None => Next::Write(ConditionWrite { seen, to }),
        }
    }

    /// Records a write.
    pub fn wrote(&mut self, key: &ServiceKey, change: ConditionWrite, now: Instant) {
        self.written.retain(|_, last| now < last.at + CONDITION_QUIET);
        let managed = change.seen.managed;
        let last = self.written.get(key).filter(|last| last.managed == managed);
        let pause = last.map_or(CONDITION_PAUSE, |last| (last.pause * 2).min(MAX_CONDITION_PAUSE));
        let written = LastConditionWrite {
            managed,
            condition: change.to,
            is_of_term: true,
            at: now,
            pause,
        };
        self.written.insert(key.clone(), written);
    }

    /// Forgets the decisions of a term. Keeps the writes, so that pauses outlast a term.
    pub fn forget(&mut self) {
        self.wanted.clear();
        for last in self.written.values_mut() {
            last.is_of_term = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use endpoint_copier_core::model::{Finding, Reason};

    use super::*;

    fn vip() -> ServiceKey {
        ServiceKey::new("default", "vip")
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn in_sync() -> Condition {
        Condition::decided(true, [])
    }

    fn not_written() -> Condition {
        Condition::decided(false, [])
    }

    fn refused(note: &str) -> Condition {
        Condition::decided(false, [&Finding::new(Reason::WriteRefused, note)])
    }

    fn shows(condition: Option<Condition>) -> KnownCondition {
        KnownCondition {
            managed: Some("uid".to_owned()),
            version: Some(7),
            condition,
        }
    }

    /// Writes the condition, and returns how long the write had to wait.
    fn written(decisions: &mut Decisions, shown: Option<Condition>, now: &mut Instant) -> Duration {
        let mut waited = Duration::ZERO;
        loop {
            match decisions.next(&vip(), shows(shown.clone()), *now) {
                Next::Write(change) => {
                    decisions.wrote(&vip(), change, *now);
                    return waited;
                }
                Next::Later(moment) => {
                    waited += moment - *now;
                    *now = moment;
                }
                Next::Nothing => panic!("nothing to write"),
            }
        }
    }

    /// Rule: 3.condition-writes
    #[test]
    fn first_transition_is_written_at_once_and_later_ones_wait() {
        let (mut decisions, mut now) = (Decisions::default(), Instant::now());
        let mut shown = None;
        for wait in [0, 1, 2, 4, 8, 16, 32, 60, 60] {
            let next = match shown {
                Some(shown) if shown == in_sync() => refused("no"),
                _ => in_sync(),
            };
            shown = (next == in_sync()).then(|| refused("no"));
            decisions.decided(&vip(), Some(next.clone()), now);
            assert_eq!(written(&mut decisions, shown, &mut now), seconds(wait));
            shown = Some(next);
        }
        now += CONDITION_QUIET;
        decisions.wrote(
            &ServiceKey::new("a", "b"),
            ConditionWrite {
                seen: shows(None),
                to: None,
            },
            now,
        );
        assert_eq!(
            decisions.written.len(),
            1,
            "the writes of quiet Services should be forgotten"
        );
        let (mut other, last) = (Decisions::default(), shown);
        other.decided(&vip(), last, now);
        assert!(
            matches!(other.next(&vip(), shows(None), now), Next::Write(_)),
            "another replica should not wait"
        );
    }

    /// Rule: 3.condition-writes
    #[test]
    fn changes_by_others_are_repaired_once_a_minute() {
        let (mut decisions, mut now) = (Decisions::default(), Instant::now());
        assert!(decisions.decided(&vip(), Some(in_sync()), now));
        assert_eq!(written(&mut decisions, None, &mut now), seconds(0));
        for changed in [None, Some(refused("theirs")), None] {
            assert_eq!(written(&mut decisions, changed, &mut now), seconds(60));
        }
        assert!(
            !decisions.decided(&vip(), Some(in_sync()), now),
            "a write for the same condition"
        );
        assert_eq!(decisions.next(&vip(), shows(Some(in_sync())), now), Next::Nothing);
        let mut recreated = shows(None);
        recreated.managed = Some("another".to_owned());
        assert!(matches!(decisions.next(&vip(), recreated, now), Next::Write(_)));
    }

    /// Rule: 3.condition-writes
    #[test]
    fn a_condition_of_another_leader_is_replaced_at_once() {
        let (mut decisions, mut now) = (Decisions::default(), Instant::now());
        decisions.decided(&vip(), Some(in_sync()), now);
        written(&mut decisions, None, &mut now);
        decisions.forget();
        now += seconds(20);
        decisions.decided(&vip(), Some(in_sync()), now);
        assert_eq!(written(&mut decisions, Some(refused("no")), &mut now), seconds(0));
    }

    /// Rule: 3.condition-passing
    #[test]
    fn a_condition_that_passes_within_10_s_is_not_written() {
        let (mut decisions, start) = (Decisions::default(), Instant::now());
        let next = |decisions: &Decisions, now| decisions.next(&vip(), shows(Some(in_sync())), now);
        decisions.decided(&vip(), Some(in_sync()), start);
        decisions.decided(&vip(), Some(not_written()), start + seconds(1));
        decisions.decided(&vip(), Some(Condition::undecided()), start + seconds(5));
        assert_eq!(
            next(&decisions, start + seconds(5)),
            Next::Later(start + seconds(11))
        );
        assert!(matches!(next(&decisions, start + seconds(11)), Next::Write(_)));
        decisions.decided(&vip(), Some(in_sync()), start + seconds(10));
        assert_eq!(next(&decisions, start + seconds(11)), Next::Nothing);
    }

    /// Rule: 3.condition-removed
    #[test]
    fn the_condition_of_an_unmanaged_service_is_removed() {
        let (mut decisions, now) = (Decisions::default(), Instant::now());
        let mut seen = shows(Some(in_sync()));
        assert_eq!(
            decisions.next(&vip(), seen.clone(), now),
            Next::Nothing,
            "not decided yet"
        );
        seen.managed = None;
        decisions.decided(&vip(), None, now);
        let removal = Next::Write(ConditionWrite {
            seen: seen.clone(),
            to: None,
        });
        assert_eq!(decisions.next(&vip(), seen, now), removal);
    }

    #[test]
    fn only_another_status_is_a_transition() {
        for (from, to, expected) in [
            (None, Some(in_sync()), true),
            (Some(in_sync()), Some(refused("a")), true),
            (Some(refused("a")), Some(refused("b")), false),
            (Some(not_written()), Some(Condition::undecided()), true),
        ] {
            let change = ConditionWrite {
                seen: shows(from),
                to,
            };
            assert_eq!(change.is_transition(), expected, "{change:?}");
        }
    }
}
