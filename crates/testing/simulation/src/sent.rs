//! What a replica may send: looked at in the moment in which a request leaves it.

use endpoint_copier_core::model::Reason;
use serde_json::Value;

use crate::fault::Verb;
use crate::replica::Life;
use crate::slices::{text, uid};
use crate::world::{State, World};

/// A request as it leaves a replica.
pub struct Sent {
    /// Verb.
    pub verb: Verb,
    /// Resource.
    pub resource: String,
    /// Namespace.
    pub namespace: String,
    /// Name, empty for a list.
    pub name: String,
    /// Body, if there is one.
    pub body: Value,
}

impl World {
    /// A request leaves a replica: whether it may, and what it is for.
    pub fn sent(&self, life: &Life, sent: &Sent) {
        if sent.resource == "leases" && matches!(sent.verb, Verb::Create | Verb::Patch) {
            life.tries();
        }
        let now = self.now();
        let leads = life.leads();
        let is_source = sent.verb == Verb::Read
            && sent.resource == "endpointslices"
            && !sent.name.is_empty()
            && !Life::is_named_like_a_copy(&sent.name);
        let mut state = self.state();
        let coverage = &mut state.coverage;
        match (sent.verb, sent.resource.as_str()) {
            (Verb::Watch, _) | (_, "leases") => return,
            (Verb::Read, resource) => {
                match resource {
                    "endpointslices" if is_source => {
                        coverage.add("GET of a source that a copy is ahead of", 1);
                    }
                    "endpointslices" if !sent.name.is_empty() => {
                        coverage.add("GET of a copy that no watch showed", 1);
                    }
                    "services" if !sent.name.is_empty() => {
                        coverage.add("GET of a Service before its copies go", 1);
                    }
                    _ => {}
                }
                return;
            }
            (_, "events") => {
                let said = text(&sent.body["reason"]);
                let reasons = Reason::ALL.iter().map(|reason| reason.as_str());
                let reason = reasons.chain(["Synced"]).find(|reason| *reason == said);
                coverage.add(reason.unwrap_or("Event of another reason"), 1);
            }
            _ => {}
        }
        let observer = &state.observer;
        let just_now = observer.led(&life.identity, now);
        let what = format!(
            "{:?} {} {}/{}",
            sent.verb, sent.resource, sent.namespace, sent.name
        );
        if !leads && !just_now && !life.led_before_a_pause_that_ends(now) {
            let State { observer, trace, .. } = &mut *state;
            observer.violate(
                now,
                format!("{} writes outside of a term: {what}", life.identity),
                trace,
            );
        }
        let unguarded = match (sent.verb, sent.resource.as_str()) {
            (Verb::Update, "endpointslices") => {
                uid(&sent.body).is_empty() || text(&sent.body["metadata"]["resourceVersion"]).is_empty()
            }
            (Verb::Delete, _) => {
                let preconditions = &sent.body["preconditions"];
                text(&preconditions["uid"]).is_empty() || text(&preconditions["resourceVersion"]).is_empty()
            }
            _ => false,
        };
        if unguarded {
            let State { observer, trace, .. } = &mut *state;
            observer.violate(now, format!("a write without preconditions: {what}"), trace);
        }
    }
}
