//! Invariants that must hold at every moment. They are checked after each step of each replica and at each write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use testbed::{Store, Written};
use tokio::time::Instant;

use crate::conditions;
use crate::coverage::Coverage;
use crate::hearing::SUFFIX;
use crate::oracle;
use crate::replica::{Life, RENEW_DEADLINE};
use crate::slices::{
    self, Key, endpoints, is_leftover, is_ours, key, owner, provenance, restored, text, uid, version,
};
use crate::topology::{self, History, is_second, listed_by_source, without_topology};
use crate::unreadable::Episodes;
use crate::verdicts::{Probed, Renewal};

/// A response can arrive this much later than the watch event for the same write.
const ON_THE_WAY: Duration = Duration::from_millis(50);

/// The writer of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Replicas of the operator.
    Replicas,
    /// Administrators, controllers, other API servers.
    Others,
}

/// Checks the invariants.
pub struct Observer {
    /// Writes up to this resourceVersion have been checked.
    seen: u64,
    /// The violations so far.
    pub violations: Vec<String>,
    /// When objects were unreadable, and when Services changed.
    pub episodes: Episodes,
    /// Everything that Nodes have ever shown.
    nodes: History,
    /// Whether a write of a slice was ever refused permanently. If so, the slice that it was to replace may be deleted.
    pub refused: bool,
    /// Whether two terms overlap now.
    overlap: bool,
    /// The leaders, and when each term began.
    leading: BTreeMap<String, Duration>,
    last_leader: String,
    /// When each identity was last seen with a term.
    last_led: BTreeMap<String, Duration>,
    /// Leaders that lost the Lease to another replica after something else had changed it, as section 5 of
    /// docs/contributing/rules.md allows. Until their terms end, they overlap with the successors of that replica too.
    robbed: BTreeSet<String>,
    /// When anything other than a candidate last changed the Lease.
    lease_harmed: Option<Duration>,
    /// Everything that each slice other than a copy has ever shown, by UID and version.
    shown: BTreeMap<String, BTreeMap<u64, Vec<String>>>,
    /// Everything that slices have shown, by UID, in states that were lost when etcd was restored. For a time, a
    /// replica may rely on these states.
    lost: BTreeMap<String, BTreeSet<Vec<String>>>,
    /// Slices that something other than a replica wrote last. This includes each slice that existed when etcd was
    /// restored.
    by_hand: BTreeSet<Key>,
    /// Services, by UID, that have always asked to hold copies of the API source, with their families.
    steady: BTreeMap<String, Value>,
    /// Services, by UID, that have ever asked for anything else.
    loose: BTreeSet<String>,
}

impl Observer {
    /// Starts observing, before anything has been written.
    pub fn new(store: &Store) -> Self {
        Self {
            seen: store.revision(),
            violations: Vec::new(),
            episodes: Episodes::default(),
            nodes: History::default(),
            refused: false,
            overlap: false,
            leading: BTreeMap::new(),
            last_leader: String::new(),
            last_led: BTreeMap::new(),
            robbed: BTreeSet::new(),
            lease_harmed: None,
            shown: BTreeMap::new(),
            lost: BTreeMap::new(),
            by_hand: BTreeSet::new(),
            steady: BTreeMap::new(),
            loose: BTreeSet::new(),
        }
    }

    /// Records that etcd was restored from a backup: later states never existed, and versions are reused. `before`
    /// contains the slices before the restore.
    pub fn restored(&mut self, now: Duration, store: &Store, before: &[Value]) {
        self.seen = store.revision();
        self.episodes.restored(now, store);
        for (id, versions) in &mut self.shown {
            let lost = versions.split_off(&(self.seen + 1));
            self.lost
                .entry(id.clone())
                .or_default()
                .extend(lost.into_values());
        }
        let after = store.list("endpointslices", None);
        self.by_hand.extend(before.iter().chain(&after).map(key));
        for service in store.list("services", None) {
            self.service(Some(&service), false);
        }
    }

    /// Records that a replica has a term at this moment.
    pub fn leads(&mut self, identity: &str, now: Duration) {
        self.last_led.insert(identity.to_owned(), now);
    }

    /// Whether the replica had a term while the simulated time was `now`. Requests that it began during the term can be
    /// sent after the term.
    pub fn led(&self, identity: &str, now: Duration) -> bool {
        self.last_led.get(identity) == Some(&now)
    }

    /// Whether the replica had a term at `since` or later.
    pub fn led_since(&self, identity: &str, since: Duration) -> bool {
        self.last_led.get(identity).is_some_and(|last| *last >= since)
    }

    /// Checks that there are never two terms at the same time, except in the one case that the rules allow.
    pub fn terms<'a>(
        &mut self,
        (start, now): (Instant, Duration),
        lives: impl Iterator<Item = &'a Arc<Life>>,
        coverage: &mut Coverage,
        trace: &mut Vec<(Duration, String)>,
    ) {
        let mut leaders: Vec<&Arc<Life>> = Vec::new();
        for life in lives {
            let id = &life.identity;
            if !life.leads() {
                self.robbed.remove(id);
                if self.leading.remove(id).is_some() {
                    trace.push((now, format!("term of {id} is over")));
                }
                continue;
            }
            leaders.push(life);
            self.leads(id, now);
            if !self.leading.contains_key(id) {
                self.leading.insert(id.clone(), now);
                trace.push((now, format!("term of {id} begins")));
                coverage.add("term", 1);
                if !self.last_leader.is_empty() && *id != self.last_leader {
                    coverage.add("term of another replica", 1);
                }
                self.last_leader.clone_from(id);
            }
        }
        let began = leaders.len() > 1 && !self.overlap;
        self.overlap = leaders.len() > 1;
        if !self.overlap {
            return;
        }
        leaders.sort_by_key(|life| self.leading.get(&life.identity));
        let Some((newest, older)) = leaders.split_last() else {
            return;
        };
        let harmed = self.lease_harmed.is_some_and(|at| now < at + RENEW_DEADLINE);
        let is_robbed = |life: &&Arc<Life>| self.robbed.contains(&life.identity);
        // Whether the newest leader saw that this leader had taken or retaken the Lease.
        let is_known = |life: &&Arc<Life>| {
            let began = self.leading.get(&life.identity).copied().unwrap_or(now);
            newest.knew_of(&life.identity, start + began.saturating_sub(ON_THE_WAY))
        };
        if harmed && (!older.iter().any(is_known) || older.iter().all(is_robbed)) {
            self.robbed.extend(older.iter().map(|life| life.identity.clone()));
            coverage.add("terms overlap as section 5 allows", u64::from(began));
            return;
        }
        let names: Vec<_> = leaders.iter().map(|life| life.identity.as_str()).collect();
        self.violate(now, format!("two terms at the same time: {names:?}"), trace);
    }

    /// Records a violation.
    pub fn violate(&mut self, now: Duration, what: String, trace: &mut Vec<(Duration, String)>) {
        trace.push((now, format!("VIOLATION: {what}")));
        self.violations
            .push(format!("at {:.3} s: {what}", now.as_secs_f64()));
    }

    /// Records a violation that is checked repeatedly, but only once.
    pub fn violate_once(&mut self, now: Duration, what: String, trace: &mut Vec<(Duration, String)>) {
        if !self.violations.iter().any(|violation| violation.ends_with(&what)) {
            self.violate(now, what, trace);
        }
    }

    /// When the term of a replica began, if it leads.
    pub fn leads_since(&self, identity: &str) -> Option<Duration> {
        self.leading.get(identity).copied()
    }

    /// Checks each write since the last call. It is a violation if the history no longer has these writes.
    pub fn writes(
        &mut self,
        now: Duration,
        (store, by): (&Store, By),
        probed: &mut Probed,
        coverage: &mut Coverage,
        trace: &mut Vec<(Duration, String)>,
    ) {
        if store.revision() == self.seen {
            return;
        }
        for written in store.written_since(self.seen) {
            self.seen = written.revision;
            self.episodes.written(now, &written);
            let Written {
                resource,
                namespace,
                name,
                old,
                new,
                ..
            } = &written;
            let (old, new) = (old.as_deref(), new.as_deref());
            if *resource == "endpointslices" {
                probed.slice_written(now, by, (old, new), coverage, || listed_by_source(store));
                if by == By::Replicas {
                    topology::count(store, (old, new), coverage);
                    probed.count_returns(now, (old, new), &self.last_leader, coverage);
                }
            }
            match (*resource, by) {
                ("leases", _) if name.ends_with(SUFFIX) => {
                    probed.hearing.stored(now, new, by == By::Replicas);
                    let annotations = new.map(|lease| lease["metadata"]["annotations"].to_string());
                    trace.push((now, format!("probe Lease: {}", annotations.unwrap_or_default())));
                }
                ("leases", By::Others) => self.lease_harmed = Some(now),
                ("leases", By::Replicas) => {
                    let holder = new.map(|lease| text(&lease["spec"]["holderIdentity"]));
                    match holder {
                        Some("") => coverage.add("Lease released", 1),
                        Some(holder) => {
                            let renewal = Renewal {
                                stored: now,
                                answered: None,
                            };
                            probed.renewals.insert(holder.to_owned(), renewal);
                        }
                        None => {}
                    }
                }
                ("services", By::Others) => {
                    probed.edited.clear();
                    self.service(new.or(old), new.is_none());
                }
                ("nodes", By::Others) => self.nodes.node(new.unwrap_or(&Value::Null)),
                ("endpointslices", By::Others) => self.slice_of_others(old, new),
                ("endpointslices", By::Replicas) => {
                    let wrong = self.copy(store, old, new, coverage);
                    for wrong in wrong {
                        self.violate(now, format!("{namespace}/{name}: {wrong}"), trace);
                    }
                    self.by_hand.remove(&(namespace.clone(), name.clone()));
                }
                ("endpoints", By::Replicas) => {
                    let was_ours = |it: &Value| slices::label(it, slices::MANAGED_BY) == Some(slices::US);
                    if new.is_none() && old.is_some_and(was_ours) {
                        coverage.add("delete of Endpoints", 1);
                    } else {
                        self.violate(now, format!("Endpoints {namespace}/{name} written"), trace);
                    }
                }
                ("events", _) => {}
                ("services", By::Replicas) if conditions::is_all_that_changed(old, new) => {}
                (_, By::Others) => {}
                (other, By::Replicas) => {
                    self.violate(now, format!("{other} {namespace}/{name} written"), trace);
                }
            }
        }
        if self.seen != store.revision() {
            self.seen = store.revision();
            self.violate(
                now,
                "the history lacks writes that were not checked".to_owned(),
                trace,
            );
        }
    }

    fn service(&mut self, service: Option<&Value>, gone: bool) {
        let Some(service) = service else { return };
        let id = uid(service).to_owned();
        let families = service["spec"]["ipFamilies"].clone();
        let is_same = self.steady.get(&id).is_none_or(|known| *known == families);
        if gone || !is_same || !oracle::keeps_api_servers(service) {
            self.steady.remove(&id);
            self.loose.insert(id);
        } else if !self.loose.contains(&id) {
            self.steady.insert(id, families);
        }
    }

    fn slice_of_others(&mut self, old: Option<&Value>, new: Option<&Value>) {
        if let Some(new) = new.filter(|new| slices::label(new, slices::MANAGED_BY) != Some(slices::US)) {
            self.nodes.slice(new);
            let versions = self.shown.entry(uid(new).to_owned()).or_default();
            versions.insert(version(new), endpoints(new));
        }
        if let Some(slice) = new.or(old) {
            self.by_hand.insert(key(slice));
        }
    }

    /// The state of the source slice of a copy at the version that the copy names.
    pub fn source_of(&self, copy: &Value) -> Option<&Vec<String>> {
        let version = provenance(copy, "resource-version")?.parse().ok()?;
        self.shown.get(provenance(copy, "uid")?)?.get(&version)
    }

    /// The violations in what a replica wrote.
    fn copy(
        &self,
        store: &Store,
        old: Option<&Value>,
        new: Option<&Value>,
        coverage: &mut Coverage,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(old) = old.filter(|old| !is_ours(old)) {
            if is_leftover(old) && new.is_none() {
                coverage.add("delete of a leftover", 1);
            } else {
                wrong.push("a foreign slice was changed".to_owned());
            }
            return wrong;
        }
        coverage.add(
            match (old, new) {
                (None, _) => "create",
                (_, Some(_)) => "update",
                (_, None) => "delete",
            },
            1,
        );
        let Some(new) = new else {
            wrong.extend(old.and_then(|old| self.emptied(store, old)));
            return wrong;
        };
        if !is_ours(new) {
            wrong.push("the written slice is not a copy".to_owned());
        }
        let known = |slice: &Value| {
            let version = provenance(slice, "resource-version")?.parse().ok()?;
            Some((provenance(slice, "uid")?.to_owned(), version))
        };
        let shows: Option<(String, u64)> = known(new);
        // False if a user claimed a version that the source never had, or if that version was lost.
        let was_true = |id: &str, version: u64, copy: &Value| {
            let source = self.shown.get(id).and_then(|all| all.get(&version));
            source.is_some_and(|source| self.lost.is_empty() || *source == all_endpoints(copy))
        };
        if let Some(old) = old.filter(|old| !self.by_hand.contains(&key(old)))
            && let (Some((before, from)), Some((after, to))) = (known(old), &shows)
            && before == *after
            && from > *to
            && was_true(&before, from, old)
        {
            wrong.push(format!(
                "back from the source at {from} to an older state of it at {to}"
            ));
        }
        wrong.extend(self.nodes.wrong(old, new));
        let was = old.map(all_endpoints).unwrap_or_default();
        let is = all_endpoints(new);
        let truth = shows
            .as_ref()
            .and_then(|(id, version)| self.shown.get(id)?.get(version));
        let is_lost = |(id, _): &(String, u64)| self.lost.get(id).is_some_and(|lost| lost.contains(&is));
        if is != was && !is_second(new) && truth != Some(&is) && !shows.as_ref().is_some_and(is_lost) {
            wrong.push(format!(
                "endpoints that its source never had: {is:?}, not {truth:?}"
            ));
        }
        if !was.is_empty() && is.is_empty() {
            wrong.extend(old.and_then(|old| self.emptied(store, old)));
        }
        wrong
    }

    /// The violation if a copy that was deleted or emptied was the last one with endpoints, for a Service that must
    /// keep some.
    fn emptied(&self, store: &Store, old: &Value) -> Option<String> {
        let (name, id) = owner(old)?;
        let (namespace, _) = key(old);
        let is_api_servers = provenance(old, "namespace") == Some("default")
            && provenance(old, "slice").is_some_and(|slice| slice.starts_with("kubernetes"));
        // The second family can be removed because of Nodes.
        if endpoints(old).is_empty() || !is_api_servers || is_second(old) || !self.steady.contains_key(id) {
            return None;
        }
        let service = store.get("services", &namespace, name)?;
        if uid(&service) != id {
            return None;
        }
        // Its ports are no longer permitted.
        if !oracle::may_hold(&service, old) {
            return None;
        }
        let stays = |slice: &Value| {
            is_ours(slice)
                && owner(slice) == Some((name, id))
                && slice["addressType"] == old["addressType"]
                && !endpoints(slice).is_empty()
        };
        let slices = store.list("endpointslices", Some(&namespace));
        if self.refused || oracle::is_taken(store, &service) || self.is_edited(&namespace, name, old) {
            return None;
        }
        (!slices.iter().any(stays)).then(|| {
            format!(
                "the list of API servers of {name} became empty; it was {:?}",
                endpoints(old)
            )
        })
    }

    /// Whether something other than a replica has changed or deleted another copy of a Service. Until that copy is
    /// repaired, a replica might still rely on it.
    fn is_edited(&self, namespace: &str, service: &str, but: &Value) -> bool {
        let begin = format!("{service}-");
        self.by_hand.iter().any(|place| {
            *place != key(but)
                && place.0 == namespace
                && place.1.starts_with(&begin)
                && Life::is_named_like_a_copy(&place.1)
        })
    }
}

/// The endpoints of a copy without the data that other checks cover: what probes have taken out, and what comes from
/// Nodes.
fn all_endpoints(copy: &Value) -> Vec<String> {
    endpoints(&restored(&without_topology(copy)))
}
