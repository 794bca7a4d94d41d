//! The exchange of suspicions and objections between replicas, in the annotations of the probe Lease.
//!
//! The leader lists the targets that it suspects, each with a round number. Another replica objects to a suspicion if
//! it finds the target clearly well ([`super::Targets::is_clearly_well`]): it writes the target and the round under its
//! own key. Text that cannot be parsed is treated as absent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{Moment, Target};
use crate::model::short_hash;

/// The annotation in which the leader lists the targets that it suspects: `192.0.2.12:6443=17,192.0.2.12:9345=18`.
pub const SUSPECTED: &str = "endpoint-copier/suspected";
/// The prefix of the annotation keys of objections.
const OBJECTION: &str = "objection.endpoint-copier/";
/// The maximum number of entries that are read from one annotation: two families of 16 addresses, with two ports each.
const MAX_ENTRIES: usize = 64;
/// How far a round may exceed the highest round that a replica knows. The replica ignores higher rounds, because only a
/// forged round is that high, and it would leave too few numbers for later suspicions.
const MAX_ROUND_LEAD: u64 = 1 << 32;
/// How long the leader waits for objections from the other replicas.
pub(super) const HEARD_AFTER: Duration = Duration::from_millis(300);
/// How long an objection is valid after the leader first saw it.
const OBJECTION_LASTS: Duration = Duration::from_secs(10);
/// How often a replica repeats its objection.
const REPEAT_AFTER: Duration = Duration::from_secs(5);
/// The leader removes an objection that has not changed for longer than this.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// The annotation key of the objections of a replica.
#[must_use]
pub fn objection_key(identity: &str) -> String {
    format!("{OBJECTION}{}", short_hash(identity))
}

/// Reads the first 64 targets and their rounds from an annotation value. Returns an empty map if one of these entries is not valid.
#[must_use]
pub fn suspicions(text: &str) -> BTreeMap<Target, u64> {
    let entry = |entry: &str| {
        let (target, round) = entry.rsplit_once('=')?;
        Some((target.parse().ok()?, round.parse().ok()?))
    };
    let entries = text.split(',').take(MAX_ENTRIES);
    entries.map(entry).collect::<Option<_>>().unwrap_or_default()
}

fn text_of(rounds: &BTreeMap<Target, u64>) -> String {
    let entries: Vec<_> = rounds
        .iter()
        .map(|(target, round)| format!("{target}={round}"))
        .collect();
    entries.join(",")
}

/// The leader's side of the exchange. Every replica keeps this state, so that a new leader knows which rounds were
/// used.
#[derive(Clone, Debug, Default)]
pub struct Hearing {
    suspected: BTreeMap<Target, Suspicion>,
    /// The last known value of [`SUSPECTED`] in the Lease. Empty if the Lease has no such annotation.
    stored: String,
    highest_round: u64,
    objections: BTreeMap<String, Objection>,
    /// Whether there is no other replica to ask.
    has_no_peers: bool,
}

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    round: u64,
    /// When the API server first confirmed that the Lease has the suspicion.
    stored: Option<Moment>,
}

#[derive(Clone, Debug)]
struct Objection {
    text: String,
    rounds: BTreeMap<Target, u64>,
    /// When this value was first seen.
    seen: Moment,
}

impl Hearing {
    /// Creates the state of a replica that runs without leader election and therefore asks no other replica.
    #[must_use]
    pub fn without_peers() -> Self {
        Self {
            has_no_peers: true,
            ..Self::default()
        }
    }

    /// Starts a term. Suspicions of an earlier term are dropped, because they need new rounds.
    pub fn start_term(&mut self) {
        self.suspected.clear();
    }

    /// Sets the targets that the leader suspects. Returns the value to which [`SUSPECTED`] must be set, or `None` if
    /// the Lease already has this value.
    pub fn suspect(&mut self, suspects: &BTreeSet<Target>) -> Option<String> {
        self.suspected.retain(|target, _| suspects.contains(target));
        for target in suspects {
            if !self.suspected.contains_key(target) {
                self.highest_round = self.highest_round.saturating_add(1);
                let suspicion = Suspicion {
                    round: self.highest_round,
                    stored: None,
                };
                self.suspected.insert(*target, suspicion);
            }
        }
        let rounds = self.suspected.iter();
        let rounds = rounds.map(|(target, suspicion)| (*target, suspicion.round));
        let text = text_of(&rounds.collect());
        (text != self.stored).then_some(text)
    }

    /// Records that the API server confirmed a value of [`SUSPECTED`].
    pub fn stored(&mut self, value: &str, now: Moment) {
        let rounds = suspicions(value);
        self.note_rounds(rounds.values());
        for (target, suspicion) in &mut self.suspected {
            if rounds.get(target) == Some(&suspicion.round) {
                suspicion.stored.get_or_insert(now);
            }
        }
        value.clone_into(&mut self.stored);
    }

    fn note_rounds<'a>(&mut self, rounds: impl Iterator<Item = &'a u64>) {
        let furthest = self.highest_round.saturating_add(MAX_ROUND_LEAD);
        let known = rounds.copied().filter(|round| *round <= furthest);
        self.highest_round = known.fold(self.highest_round, u64::max);
    }

    /// Records the annotations of the Lease as the watch or a GET shows them. If the Lease does not exist, pass an
    /// empty map. This call also confirms a value whose write got no response. Call it before the first
    /// [`Hearing::suspect`], so that no round is used twice.
    pub fn see(&mut self, annotations: &BTreeMap<String, String>, now: Moment) {
        let value = annotations.get(SUSPECTED).map_or("", String::as_str);
        self.stored(value, now);
        // If somebody removed or changed a suspicion, the other replicas must be asked again, because their objections
        // could be lost too.
        let rounds = suspicions(value);
        for (target, suspicion) in &mut self.suspected {
            if rounds.get(target) != Some(&suspicion.round) {
                suspicion.stored = None;
            }
        }
        self.objections.retain(|key, _| annotations.contains_key(key));
        for (key, text) in annotations.iter().filter(|(key, _)| key.starts_with(OBJECTION)) {
            // An unchanged value is the same objection, and does not extend its lifetime.
            if self
                .objections
                .get(key)
                .is_none_or(|objection| objection.text != *text)
            {
                let objection = Objection {
                    text: text.clone(),
                    rounds: suspicions(text.split_once(';').map_or("", |(rounds, _)| rounds)),
                    seen: now,
                };
                // After all replicas have restarted, objections might be the only record of the rounds that were used.
                self.note_rounds(objection.rounds.values());
                self.objections.insert(key.clone(), objection);
            }
        }
    }

    /// The annotation keys of objections that have not changed for more than a minute. The leader removes them.
    #[must_use]
    pub fn stale(&self, now: Moment) -> Vec<String> {
        let objections = self.objections.iter();
        let stale = objections.filter(|(_, objection)| now.since(objection.seen) > STALE_AFTER);
        stale.map(|(key, _)| key.clone()).collect()
    }

    /// Whether another replica objects to the suspicion of a target.
    #[must_use]
    pub fn has_objection(&self, target: Target, now: Moment) -> bool {
        self.suspected.get(&target).is_some_and(|suspicion| {
            self.objections.values().any(|objection| {
                now.since(objection.seen) < OBJECTION_LASTS
                    && objection.rounds.get(&target) == Some(&suspicion.round)
            })
        })
    }

    /// Whether the other replicas have had time to object to the suspicion of a target. Always true without leader
    /// election.
    #[must_use]
    pub fn had_time_to_object(&self, target: Target, now: Moment) -> bool {
        let stored = self.stored_since(target);
        self.has_no_peers || stored.is_some_and(|stored| now.since(stored) >= HEARD_AFTER)
    }

    /// When the API server first confirmed that the Lease has the suspicion of a target.
    pub(super) fn stored_since(&self, target: Target) -> Option<Moment> {
        self.suspected.get(&target).and_then(|suspicion| suspicion.stored)
    }
}

/// A replica's side of the exchange while it does not lead.
#[derive(Clone, Debug)]
pub struct Peer {
    key: String,
    /// Part of each written value, so that the leader's watch shows each repetition as a change.
    counter: u64,
    said: Said,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    /// The last write failed, so it is unknown whether the Lease has the written value.
    Unknown,
    Objections(BTreeMap<Target, u64>, Moment),
}

impl Peer {
    /// Creates the state of a replica that has not objected yet. `identity` is its identity in the leader election.
    #[must_use]
    pub fn new(identity: &str) -> Self {
        Self {
            key: objection_key(identity),
            counter: 0,
            said: Said::Nothing,
        }
    }

    /// The annotation key of this replica's objections.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the change to this replica's annotation that is due now, if any: the key, and either the new value or
    /// `None`, which means to remove the annotation. `suspected` is the Lease's value of [`SUSPECTED`]. Targets on this
    /// node's own addresses are excluded, because a connection to them says nothing about the network. The change is
    /// assumed to be written; if the write fails, call [`Peer::failed`].
    pub fn answer(
        &mut self,
        suspected: &str,
        is_clearly_well: impl Fn(Target) -> bool,
        own_addresses: &BTreeSet<IpAddr>,
        now: Moment,
    ) -> Option<(String, Option<String>)> {
        let mut objections = suspicions(suspected);
        objections.retain(|target, _| !own_addresses.contains(&target.address()) && is_clearly_well(*target));
        if objections.is_empty() {
            let said = std::mem::replace(&mut self.said, Said::Nothing);
            return (said != Said::Nothing).then(|| (self.key.clone(), None));
        }
        if let Said::Objections(said, at) = &self.said
            && *said == objections
            && now.since(*at) < REPEAT_AFTER
        {
            return None;
        }
        self.counter = self.counter.saturating_add(1);
        let text = format!("{};{}", text_of(&objections), self.counter);
        self.said = Said::Objections(objections, now);
        Some((self.key.clone(), Some(text)))
    }

    /// Records that the last write failed, so that the next call of [`Peer::answer`] returns a change even if nothing
    /// else is due.
    pub fn failed(&mut self) {
        self.said = Said::Unknown;
    }
}
