//! The requests of a replica. Each request is checked as it leaves the replica.

use bytes::Bytes;
use endpoint_copier_core::model::Reason;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use serde_json::Value;
use tower::BoxError;

use crate::fault::Verb;
use crate::hearing::{PROBE_LEASE, SUFFIX};
use crate::replica::Life;
use crate::sight::Sight;
use crate::slices::{text, uid};
use crate::world::{State, World};

/// A request as it leaves a replica.
pub struct Sent {
    /// Verb.
    pub verb: Verb,
    /// The plural of the resource, or [`PROBE_LEASE`].
    pub resource: String,
    /// The namespace, empty for all namespaces and for cluster-scoped objects.
    pub namespace: String,
    /// The name, empty for a list unless its selector names one Service.
    pub name: String,
    /// The kind of list or watch, if the request is one.
    pub sight: Option<Sight>,
    /// The Services whose slices the request selects, if its selector names them.
    pub names: Vec<String>,
    /// The body, or null if it is not JSON.
    pub body: Value,
}

impl Sent {
    /// Reads a request. Also returns the request itself, with a body that can be sent.
    ///
    /// # Errors
    /// If the body cannot be read.
    pub async fn read(request: Request<Body>) -> Result<(Self, Request<Full<Bytes>>), BoxError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let path = parts.uri.path().trim_start_matches('/').to_owned();
        // api/v1/… or apis/<group>/v1/…
        let mut words = path.split('/');
        let skip = if words.next() == Some("api") { 1 } else { 2 };
        let mut words = words.skip(skip).peekable();
        let mut namespace = "";
        if words.next_if_eq(&"namespaces").is_some() {
            namespace = words.next().unwrap_or_default();
        }
        let resource = words.next().unwrap_or_default().to_owned();
        let query = parts.uri.query().unwrap_or_default();
        // A list of one Service shows as much as a GET.
        let one = query
            .split_once("fieldSelector=metadata.name%3D")
            .filter(|_| resource == "services");
        let one = one.and_then(|(_, rest)| rest.split('&').next());
        let mut name = words.next().or(one).unwrap_or_default().to_owned();
        let verb = match parts.method {
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ if query.contains("watch=true") => Verb::Watch,
            _ => Verb::Read,
        };
        let object: Value = serde_json::from_slice(&body).unwrap_or_default();
        if verb == Verb::Create {
            object["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .clone_into(&mut name);
        }
        let shows = matches!(verb, Verb::Read | Verb::Watch) && name.is_empty();
        let names = names_in(query);
        let is_probe_lease = name.ends_with(SUFFIX) || query.contains(SUFFIX);
        let resource = if resource == "leases" && is_probe_lease {
            PROBE_LEASE.to_owned()
        } else {
            resource
        };
        let sight = Sight::of(&resource, !names.is_empty()).filter(|_| shows);
        let sent = Self {
            verb,
            resource,
            namespace: namespace.to_owned(),
            name,
            sight,
            names,
            body: object,
        };
        Ok((sent, Request::from_parts(parts, Full::new(body))))
    }
}

/// The names in the selector `service-name in (a,b)` of an encoded query.
fn names_in(query: &str) -> Vec<String> {
    let list = query
        .split_once("service-name+in+%28")
        .and_then(|(_, rest)| rest.split_once("%29"));
    list.map(|(names, _)| names.split("%2C").map(str::to_owned).collect())
        .unwrap_or_default()
}

impl World {
    /// Checks whether a replica may send this request, and counts the purpose of the request.
    pub fn sent(&self, life: &Life, sent: &Sent) {
        if sent.resource == "leases" && matches!(sent.verb, Verb::Create | Verb::Patch) {
            life.note_lease_write();
        }
        let now = self.now();
        self.judge(life, sent);
        if sent.resource == PROBE_LEASE {
            return self.judge_hearing(life, sent);
        }
        if sent.resource == "endpointslices" {
            self.judge_verdict(life, sent);
        }
        let leads = life.leads();
        let is_source = sent.verb == Verb::Read
            && sent.resource == "endpointslices"
            && !sent.name.is_empty()
            && !Life::is_named_like_a_copy(&sent.name);
        let is_withdrawn_beside = sent.verb == Verb::Delete && self.is_withdrawn_beside(sent);
        let mut state = self.state();
        let coverage = &mut state.coverage;
        coverage.add(
            "consent withdrawn while names of sources change",
            is_withdrawn_beside.into(),
        );
        match (sent.verb, sent.resource.as_str()) {
            (Verb::Watch, _) | (_, "leases") => return,
            (Verb::Read, resource) => {
                match resource {
                    "endpointslices" if is_source => {
                        coverage.add("GET of a source slice", 1);
                    }
                    "endpointslices" if !sent.name.is_empty() => {
                        coverage.add("GET of a copy", 1);
                    }
                    "services" if !sent.name.is_empty() => {
                        coverage.add("GET of a Service", 1);
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
