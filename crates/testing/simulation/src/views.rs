//! The view of each replica: the lists, watches and GETs whose responses have reached it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::fault::Verb;
use crate::hearing::PROBE_LEASE;
use crate::replica::Life;
use crate::sent::Sent;
use crate::sight::Sight;
use crate::slices::{Key, key, unreachable, version};
use crate::unreadable::{Episodes, Place, objects_of};
use crate::world::{State, World};

/// The view of one incarnation of a replica.
#[derive(Debug, Default)]
pub struct Seen {
    /// The kinds whose lists are complete.
    pub listed: BTreeSet<Sight>,
    /// The newest version of the Lease, and when it arrived.
    pub lease: Option<(u64, Duration)>,
    /// The value of `lease` at the last GET of the Lease, with which an attempt to take it begins.
    pub lease_before_attempt: Option<(u64, Duration)>,
    /// Whether a GET has shown that there is no Lease, and nothing has shown a Lease since.
    lease_is_gone: bool,
    /// When watches stopped showing the previously listed slices of a Service.
    pub uncovered: BTreeMap<String, Duration>,
    /// When a GET of a slice was last answered, even with a 404.
    pub read: BTreeMap<Key, Duration>,
    /// Services that their last GET showed as unreadable.
    pub unreadable_service: BTreeSet<Key>,
    /// The endpoints that are out of each copy, in the state that was shown last. A copy that is missing from a list
    /// stays here until something else shows that it is gone, so the replica remembers no more than this.
    out: BTreeMap<Key, BTreeSet<IpAddr>>,
    /// Whether the list of Nodes is complete.
    pub nodes_listed: bool,
    /// When this incarnation released the Lease without being asked to stop.
    pub gave_up: Option<Duration>,
    /// When an object was first shown as unreadable, and its version at that time.
    unreadable: BTreeMap<Place, (Duration, u64)>,
}

impl Seen {
    /// When this incarnation was first shown that an object is unreadable, if the object has been unreadable ever
    /// since.
    pub fn knows_unreadable(&self, episodes: &Episodes, place: &Place) -> Option<Duration> {
        let first = episodes.unreadable_since(place)?;
        let (at, version) = self.unreadable.get(place)?;
        (*version >= first).then_some(*at)
    }

    /// Records that etcd was restored from a backup, so what was shown before is meaningless.
    pub fn restored(&mut self) {
        self.unreadable.clear();
        self.unreadable_service.clear();
    }

    /// Whether the replica might remember that an endpoint is out of a copy for this Service.
    pub fn remembers_out(&self, service: &Key, address: &IpAddr) -> bool {
        let is_of = |copy: &Key| copy.0 == service.0 && copy.1.starts_with(&format!("{}-", service.1));
        let mut copies = self.out.iter().filter(|(copy, _)| is_of(copy));
        copies.any(|(_, out)| out.contains(address))
    }

    fn objects(&mut self, now: Duration, episodes: &Episodes, sent: &Sent, answer: &mut Value) {
        let resource = match sent.resource.as_str() {
            "services" => "services",
            "endpointslices" => "endpointslices",
            _ => return,
        };
        let is_list = answer.get("items").is_some();
        objects_of(answer, |object| {
            let place = (resource, key(object));
            if resource == "endpointslices" {
                // An unreadable copy remembers nothing.
                let out = if is_broken(object) {
                    BTreeSet::new()
                } else {
                    unreachable(object)
                };
                self.out.insert(place.1.clone(), out);
            }
            if is_broken(object) {
                let first = episodes.unreadable_since(&place).unwrap_or(u64::MAX);
                let known = self.unreadable.entry(place).or_insert((now, version(object)));
                if known.1 < first {
                    *known = (now, version(object));
                }
            } else if is_list {
                // A list can be older than what was shown before.
                self.unreadable.remove(&place);
            }
        });
    }
}

/// Whether a flaw was inserted into an object on its way.
fn is_broken(object: &Value) -> bool {
    let entries = |list: &Value| list.as_array().is_some_and(|list| list.contains(&Value::Null));
    object["metadata"]["labels"].is_number()
        || object["metadata"]["annotations"].is_array()
        || object["spec"].is_number()
        || object["addressType"].is_number()
        || entries(&object["spec"]["ports"])
        || entries(&object["endpoints"])
}

impl World {
    /// Records that a response has reached a replica.
    pub fn answered(&self, life: &Life, sent: &Sent, status: StatusCode, body: &[u8]) {
        if sent.resource == PROBE_LEASE {
            return self.heard(life, sent, status, body);
        }
        let is_lease = sent.resource == "leases";
        let is_read = sent.verb == Verb::Read;
        if !is_lease && !is_read || !status.is_success() && status != StatusCode::NOT_FOUND {
            return;
        }
        let now = self.now();
        let mut answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let State {
            views,
            observer,
            streams,
            ..
        } = &mut *self.state();
        let shown = views.entry(life.identity.clone()).or_default();
        if is_lease {
            // The first response is news, even if it shows no Lease.
            let before = shown.lease;
            shown.lease(now, &Value::Null);
            if is_read && status == StatusCode::NOT_FOUND {
                // The GET proves nothing if the watch has shown a Lease since the GET was sent.
                shown.lease_is_gone = before == shown.lease_before_attempt;
            } else if is_read && !sent.name.is_empty() {
                shown.lease(now, &answer);
            } else {
                objects_of(&mut answer, |lease| shown.lease(now, lease));
            }
            return;
        }
        let goes_on = answer["metadata"]["continue"]
            .as_str()
            .is_some_and(|token| !token.is_empty());
        if sent.resource == "nodes" {
            shown.nodes_listed |= !goes_on;
            return;
        }
        let place = (sent.namespace.clone(), sent.name.clone());
        if !sent.name.is_empty() && answer["items"].is_array() {
            answer = answer["items"].get(0).cloned().unwrap_or_default();
        }
        match (sent.resource.as_str(), sent.name.is_empty()) {
            ("endpointslices", false) => {
                shown.out.remove(&place);
                shown.read.insert(place, now);
            }
            ("services", false) if is_broken(&answer) => _ = shown.unreadable_service.insert(place),
            ("services", false) => _ = shown.unreadable_service.remove(&place),
            _ => {}
        }
        // A list of a single namespace is used only for a comparison.
        if sent.sight.is_some() && !sent.namespace.is_empty() {
            return;
        }
        shown.objects(now, &observer.episodes, sent, &mut answer);
        if let Some(sight) = sent.sight.filter(|_| !goes_on) {
            shown.listed.insert(sight);
            for name in &sent.names {
                let mut open = streams.values().filter(|it| it.identity == life.identity);
                if !open.any(|it| it.names.contains(name)) {
                    shown.uncovered.insert(name.clone(), now);
                }
            }
        }
    }

    /// Records that the response to a list or a GET of the probe Lease has reached a replica.
    fn heard(&self, life: &Life, sent: &Sent, status: StatusCode, body: &[u8]) {
        if sent.verb != Verb::Read || !status.is_success() && status != StatusCode::NOT_FOUND {
            return;
        }
        let now = self.now();
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let is_list = answer.get("items").is_some();
        let lease = if is_list {
            answer["items"].get(0)
        } else {
            status.is_success().then_some(&answer)
        };
        let version = lease.map_or(0, version);
        self.state()
            .probed
            .hearing
            .show(&life.identity, now, version, lease);
    }

    /// Records that lines of a watch are about to reach a replica.
    pub fn showed(&self, life: &Life, sent: &Sent, lines: &[u8]) {
        let now = self.now();
        let State {
            views,
            observer,
            probed,
            ..
        } = &mut *self.state();
        let shown = views.entry(life.identity.clone()).or_default();
        for line in lines.split(|byte| *byte == b'\n') {
            let Ok(mut event) = serde_json::from_slice::<Value>(line) else {
                continue;
            };
            // The object of these events is not one of the watched objects.
            if event["type"] == "BOOKMARK" || event["type"] == "ERROR" {
                continue;
            }
            if sent.resource == PROBE_LEASE {
                // A late watch can show that the Lease was deleted, although a read has shown that it exists again.
                let version = version(&event["object"]);
                let lease = (event["type"] != "DELETED").then_some(&event["object"]);
                probed.hearing.show(&life.identity, now, version, lease);
                continue;
            }
            if sent.resource == "leases" {
                // A late watch can show the deletion of a Lease that a GET has already found missing. That is not news,
                // because the replica has known since the GET that no replica leads.
                if event["type"] != "DELETED" || !shown.lease_is_gone {
                    objects_of(&mut event, |lease| shown.lease(now, lease));
                }
            } else {
                shown.objects(now, &observer.episodes, sent, &mut event);
                if event["type"] == "DELETED" && sent.resource == "endpointslices" {
                    shown.out.remove(&key(&event["object"]));
                }
            }
        }
    }

    /// Records that a watch is open.
    pub fn opened(&self, life: &Life, sent: &Sent) {
        let mut state = self.state();
        let shown = state.views.entry(life.identity.clone()).or_default();
        for name in &sent.names {
            shown.uncovered.remove(name);
        }
    }

    /// Records that a watch has ended.
    pub fn closed(&self, life: &Life, sent: &Sent) {
        let now = self.now();
        let State { views, streams, .. } = &mut *self.state();
        let shown = views.entry(life.identity.clone()).or_default();
        for name in &sent.names {
            let mut open = streams.values().filter(|it| it.identity == life.identity);
            if !open.any(|it| it.names.contains(name)) {
                shown.uncovered.entry(name.clone()).or_insert(now);
            }
        }
    }
}

impl Seen {
    fn lease(&mut self, now: Duration, lease: &Value) {
        let shown = version(lease);
        // An older or known state is not news. The first state is news, even if there is no Lease.
        if self.lease.is_none_or(|(known, _)| shown > known) {
            (self.lease, self.lease_is_gone) = (Some((shown, now)), false);
        }
    }
}
