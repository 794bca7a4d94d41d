//! The communication between replicas through the probe Lease: its content in the store, and the content that each
//! replica was shown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use endpoint_copier_core::verdicts::Target;
use serde_json::Value;

use crate::endpoints::own_addresses;
use crate::fault::Verb;
use crate::replica::Life;
use crate::sent::Sent;
use crate::slices::{annotation, text};
use crate::world::{State, World};

/// The probe Lease, as the resource of a [`Sent`].
pub const PROBE_LEASE: &str = "probe Lease";

/// The name of the probe Lease is the name of the Lease, followed by this suffix.
pub const SUFFIX: &str = "-probes";

/// The annotation in which the leader lists suspicions.
pub const SUSPECTED: &str = "endpoint-copier/suspected";

/// The prefix of the annotations in which the other replicas object.
pub const OBJECTION: &str = "objection.endpoint-copier/";

/// An objection counts for this long after it was first shown to the leader.
const OBJECTION_LIFETIME: Duration = Duration::from_secs(10);

/// A replica may remove annotations of other replicas that are older than this.
pub const STALE: Duration = Duration::from_secs(60);

/// For this long after a term begins or ends, a request might still follow from the earlier state.
const IN_FLIGHT: Duration = Duration::from_secs(3);

/// Suspected targets. The round is a number that distinguishes a suspicion of a target from earlier ones.
pub type Rounds = BTreeMap<Target, u64>;

/// Parses `192.0.2.1:6443=7,…`. Returns an empty map for any other text.
pub fn rounds(text: &str) -> Rounds {
    let entry = |entry: &str| {
        let (target, round) = entry.rsplit_once('=')?;
        Some((target.parse().ok()?, round.parse().ok()?))
    };
    let entries: Option<_> = text.split(',').map(entry).collect();
    entries.unwrap_or_default()
}

/// One replica's objection.
#[derive(Clone, Debug)]
pub struct Objection {
    text: String,
    /// The targets of the objection.
    pub rounds: Rounds,
    /// When this text first appeared.
    pub since: Duration,
}

/// The annotations of the probe Lease, with the times at which they appeared.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    version: u64,
    /// The suspected targets. For each target, the round of the suspicion and when that round began.
    pub suspected: BTreeMap<Target, (u64, Duration)>,
    /// Targets that are no longer suspected: when the suspicion began and ended.
    cleared: BTreeMap<Target, (Duration, Duration)>,
    /// The objections, by annotation.
    pub objections: BTreeMap<String, Objection>,
}

impl Heard {
    fn see(&mut self, now: Duration, lease: Option<&Value>) {
        let suspected = lease.and_then(|lease| annotation(lease, SUSPECTED));
        let rounds_now = rounds(suspected.unwrap_or_default());
        let before = std::mem::take(&mut self.suspected);
        for (target, round) in rounds_now {
            let known = before.get(&target).filter(|(known, _)| *known == round);
            let since = known.map_or(now, |(_, since)| *since);
            self.suspected.insert(target, (round, since));
        }
        for (target, (_, since)) in before {
            if !self.suspected.contains_key(&target) {
                self.cleared.insert(target, (since, now));
            }
        }
        let annotations = lease.and_then(|lease| lease["metadata"]["annotations"].as_object());
        let said: BTreeMap<&str, &str> = annotations
            .into_iter()
            .flatten()
            .filter(|(key, _)| key.starts_with(OBJECTION))
            .map(|(key, value)| (key.as_str(), text(value)))
            .collect();
        self.objections.retain(|key, _| said.contains_key(key.as_str()));
        for (key, text) in said {
            let known = self.objections.get(key);
            if known.is_none_or(|known| known.text != text) {
                let rounds = rounds(text.split_once(';').map_or("", |(rounds, _)| rounds));
                let (text, since) = (text.to_owned(), now);
                let objection = Objection { text, rounds, since };
                self.objections.insert(key.to_owned(), objection);
            }
        }
    }

    /// When the first suspicion began that could have led to a decision made at `decided`.
    pub fn asked(&self, target: Target, decided: Duration) -> Option<Duration> {
        let asked = self.suspected.get(&target).map(|(_, since)| *since);
        let cleared = self.cleared.get(&target);
        let cleared = cleared
            .filter(|(_, ended)| *ended >= decided)
            .map(|(since, _)| *since);
        asked.into_iter().chain(cleared).min()
    }

    /// When the oldest objection to the current suspicion of a target appeared, if there is one that still counts.
    pub fn objected(&self, target: Target, now: Duration) -> Option<Duration> {
        let (round, _) = self.suspected.get(&target)?;
        let counts = |objection: &&Objection| {
            now < objection.since + OBJECTION_LIFETIME && objection.rounds.get(&target) == Some(round)
        };
        let counting = self.objections.values().filter(counts);
        counting.map(|objection| objection.since).min()
    }
}

/// The state of the communication.
#[derive(Debug, Default)]
pub struct Hearing {
    /// The probe Lease in the store.
    pub stored: Heard,
    /// The probe Lease that each replica was shown, by identity.
    shown: BTreeMap<String, Heard>,
    /// When a replica last wrote the probe Lease, other than to remove objections.
    pub written: Duration,
    /// The annotation in which each replica objects, by identity.
    keys: BTreeMap<String, String>,
}

impl Hearing {
    /// Records that the probe Lease in the store was written or deleted.
    pub fn stored(&mut self, now: Duration, lease: Option<&Value>, is_replica: bool) {
        let before = self.stored.clone();
        self.stored.see(now, lease);
        // The leader may remove objections that are a minute old, and text that cannot be parsed, at any time.
        let texts = |heard: &Heard| heard.objections.values().map(|it| it.text.clone()).collect();
        let (were, are): (BTreeSet<_>, BTreeSet<_>) = (texts(&before), texts(&self.stored));
        let is_removal = self.stored.suspected == before.suspected && are.is_subset(&were);
        if is_replica && !is_removal {
            self.written = now;
        }
    }

    /// Records that etcd was restored from a backup, after which versions are reused.
    pub fn restored(&mut self) {
        for shown in self.shown.values_mut() {
            shown.version = 0;
        }
    }

    /// The probe Lease that a replica was shown.
    pub fn of(&self, identity: &str) -> Option<&Heard> {
        self.shown.get(identity)
    }

    /// Records that a replica is shown the probe Lease at a version. Version 0 means that a read shows no Lease.
    pub fn show(&mut self, identity: &str, now: Duration, version: u64, lease: Option<&Value>) {
        if !self.shown.contains_key(identity) {
            self.shown.insert(identity.to_owned(), Heard::default());
        }
        let Some(shown) = self.shown.get_mut(identity) else {
            return;
        };
        if version == 0 || version >= shown.version {
            shown.version = version;
            shown.see(now, lease);
        }
    }
}

impl World {
    /// Checks a write of the probe Lease that a replica sends. A decision might have waited for a dial or a pause, so a
    /// state that was true shortly before is accepted too.
    pub fn judge_hearing(&self, life: &Life, sent: &Sent) {
        let writes = match sent.verb {
            Verb::Read | Verb::Watch => return,
            Verb::Create | Verb::Patch => true,
            Verb::Update | Verb::Delete => false,
        };
        let now = self.now();
        let mut wrong = Vec::new();
        if !writes {
            wrong.push("neither a patch nor a create".to_owned());
        }
        let annotations = sent.body["metadata"]["annotations"].as_object();
        for (key, value) in annotations.into_iter().flatten() {
            let state = &mut *self.state();
            if key == SUSPECTED {
                state.judge_suspicions(life, text(value), now, &mut wrong);
            } else if !key.starts_with(OBJECTION) {
                wrong.push(format!("the annotation {key}"));
            } else if value.is_null() {
                state.judge_removal(life, key, now, &mut wrong);
            } else {
                state.judge_objection(life, (key, text(value)), now, &mut wrong);
            }
        }
        for what in wrong {
            self.complain(&format!("{} writes the probe Lease: {what}", life.identity));
        }
    }
}

impl State {
    fn judge_suspicions(&mut self, life: &Life, suspected: &str, now: Duration, wrong: &mut Vec<String>) {
        let is_late = life.resumed_at() + IN_FLIGHT > now;
        let ago = if is_late {
            Duration::ZERO
        } else {
            now.saturating_sub(IN_FLIGHT)
        };
        let led = self
            .observer
            .led_since(&life.identity, now.saturating_sub(IN_FLIGHT));
        if !is_late && !led {
            wrong.push("it suspects without a term".to_owned());
        }
        for target in rounds(suspected).keys() {
            let track = self.probed.attempts.of(&life.identity, *target);
            let fails = track.is_some_and(|track| {
                let mut runs = track.runs_since(ago);
                runs.any(|run| run.failures.len() >= 2 || track.is_down_by(run))
            });
            if !fails {
                wrong.push(format!("it suspects {target}, which has not failed twice"));
            }
        }
    }

    fn judge_removal(&mut self, life: &Life, key: &str, now: Duration, wrong: &mut Vec<String>) {
        if self
            .probed
            .hearing
            .keys
            .get(&life.identity)
            .is_some_and(|own| own == key)
        {
            return;
        }
        let hearing = &self.probed.hearing;
        let Some(there) = hearing.stored.objections.get(key) else {
            return;
        };
        // For a while, a replica might not notice that the annotation was deleted or changed. For example, after etcd
        // was restored, the replica takes the same text for the same objection. The replica also does not know about a
        // change that its watch has not shown yet. The patch has no precondition, so the objection is lost until it is
        // repeated.
        let shown = hearing
            .of(&life.identity)
            .and_then(|shown| shown.objections.get(key));
        let shown = shown.filter(|shown| shown.text == there.text || now < there.since + OBJECTION_LIFETIME);
        let since = shown.map_or(there.since, |shown| shown.since.min(there.since));
        self.coverage.add("objection of a minute ago removed", 1);
        if now < since + STALE {
            wrong.push(format!("it removes {key}, which is not a minute old"));
        }
    }

    fn judge_objection(&mut self, life: &Life, said: (&str, &str), now: Duration, wrong: &mut Vec<String>) {
        let (key, text) = said;
        let Self {
            probed,
            observer,
            coverage,
            ..
        } = self;
        coverage.add("objection", 1);
        let own = probed.hearing.keys.entry(life.identity.clone());
        if own.or_insert_with(|| key.to_owned()) != key {
            wrong.push(format!("{key}, although it uses another key"));
        }
        let ago = now.saturating_sub(IN_FLIGHT);
        if observer
            .leads_since(&life.identity)
            .is_some_and(|since| since < ago && life.resumed_at() < ago)
        {
            wrong.push("it objects while it leads".to_owned());
        }
        for target in rounds(text.split_once(';').map_or("", |it| it.0)).keys() {
            if own_addresses(life.replica).contains(&target.address()) {
                wrong.push(format!("it objects for {target} on its own node"));
            }
            let track = probed.attempts.of(&life.identity, *target);
            let is_well = track.is_some_and(|track| {
                let is_recent =
                    |run: &crate::attempts::Run| run.failures.first().is_none_or(|first| *first >= ago);
                track.was_well && (is_recent(&track.runs[0]) || life.resumed_at() > ago)
            });
            if !is_well {
                wrong.push(format!("it objects for {target}, which it does not see well"));
            }
        }
    }
}
