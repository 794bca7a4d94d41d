//! Limits on the requests of a replica, given what it was shown. Each request is checked as it leaves the replica.

use std::time::Duration;

use crate::fault::Verb;
use crate::objects;
use crate::oracle;
use crate::replica::Life;
use crate::sent::Sent;
use crate::sight::Sight;
use crate::slices::{
    Key, SERVICE_NAME, endpoints, is_ours, label, owner, ports, provenance, restored, text, uid, version,
};
use crate::unreadable::is_unreadable;
use crate::verdicts::is_of_api_servers;
use crate::world::{State, World};

/// A decision made from an earlier view is carried out within this time, because each of its requests has a time limit.
/// Time before the end of a pause is not included.
const CARRIED_OUT: Duration = Duration::from_secs(15);

/// A replica without lists may compete for the Lease only after it has had no news of the Lease for this long.
const LEADERLESS: Duration = Duration::from_secs(10);

/// After a replica gives up the Lease because it sees nothing, it does not compete for the Lease for this long.
const ASIDE: Duration = Duration::from_secs(30);

/// A replica that has given up the Lease because it sees nothing does not give it up again within this time.
const GIVES_UP_EVERY: Duration = Duration::from_secs(60);

/// The requests of one release are at most this much time apart.
const ONE_RELEASE: Duration = Duration::from_secs(4);

impl World {
    /// Records a violation if a replica may not send this request.
    pub fn judge(&self, life: &Life, sent: &Sent) {
        let now = self.now();
        let mut wrong = Vec::new();
        match (sent.resource.as_str(), sent.verb) {
            ("leases", Verb::Read) if !sent.name.is_empty() => {
                let views = &mut self.state().views;
                let shown = views.entry(life.identity.clone()).or_default();
                shown.lease_before_attempt = shown.lease;
            }
            ("leases", Verb::Create | Verb::Patch) => self.judge_race(life, sent, &mut wrong),
            ("endpointslices", Verb::Create | Verb::Update | Verb::Delete) => {
                self.judge_slice(life, sent, &mut wrong);
            }
            _ => {}
        }
        for what in wrong {
            let what = format!(
                "{} {what}: {:?} {}/{}",
                life.identity, sent.verb, sent.namespace, sent.name
            );
            let State { observer, trace, .. } = &mut *self.state();
            observer.violate(now, what, trace);
        }
    }

    fn judge_race(&self, life: &Life, sent: &Sent, wrong: &mut Vec<String>) {
        let now = self.now();
        let leads = life.leads();
        let State {
            views,
            observer,
            coverage,
            ..
        } = &mut *self.state();
        let shown = views.entry(life.identity.clone()).or_default();
        // A renewal does not name the holder.
        let is_release = sent.body["spec"]
            .get("holderIdentity")
            .is_some_and(|holder| text(holder).is_empty());
        if is_release {
            match shown.gave_up {
                _ if life.stop.is_cancelled() => {}
                Some(before) if now < before + ONE_RELEASE => {}
                Some(before) if now < before + GIVES_UP_EVERY => {
                    wrong.push("gives up the Lease twice in a minute".to_owned());
                }
                _ => {
                    coverage.add("Lease given up by a leader that sees nothing", 1);
                    shown.gave_up = Some(now);
                }
            }
            return;
        }
        if shown.gave_up.is_some_and(|at| now < at + ASIDE) {
            wrong.push("competes for the Lease too soon after it gave up the Lease".to_owned());
        }
        if leads || observer.led(&life.identity, now) || shown.listed.len() == 3 {
            return;
        }
        // News that arrived during a pause might not be handled until after the attempt.
        match shown.lease_before_attempt.or(shown.lease) {
            Some((_, news)) if now >= news + LEADERLESS || news < life.resumed_at() => {
                coverage.add("contest without lists after 10 s without a leader", 1);
            }
            _ => wrong.push(format!(
                "competes for the Lease, although it was shown no more than {:?}, and the Lease as {:?}",
                shown.listed, shown.lease
            )),
        }
    }

    fn judge_slice(&self, life: &Life, sent: &Sent, wrong: &mut Vec<String>) {
        let now = self.now();
        let place = (sent.namespace.clone(), sent.name.clone());
        let there = self.store.get("endpointslices", &place.0, &place.1);
        let copy = if sent.verb == Verb::Delete {
            there.as_ref()
        } else {
            Some(&sent.body)
        };
        let Some(copy) = copy.filter(|copy| is_ours(copy)) else {
            return;
        };
        let elapsed = |since: Duration| now.saturating_sub(since.max(life.resumed_at()));
        let is_long = |since: Duration| elapsed(since) > CARRIED_OUT;
        let is_withdrawn = self.is_withdrawn(copy, sent.verb, is_long);
        wrong.extend(self.wants_to_keep(copy, sent, is_long));
        let State {
            views,
            observer,
            coverage,
            restores,
            ..
        } = &mut *self.state();
        let shown = &*views.entry(life.identity.clone()).or_default();
        // A delete requires only the first two lists, because unwanted copies are deleted regardless of their source.
        let needed = if sent.verb == Verb::Delete {
            &Sight::ALL[..2]
        } else {
            &Sight::ALL
        };
        if !needed.iter().all(|sight| shown.listed.contains(sight)) {
            wrong.push(format!(
                "writes, although it was shown no more than {:?}",
                shown.listed
            ));
        }

        let service = (
            sent.namespace.clone(),
            owner(copy).map(|it| it.0.to_owned()).unwrap_or_default(),
        );
        let source = source_of(copy);
        let knows = |resource, key: &Key| {
            shown
                .knows_unreadable(&observer.episodes, &(resource, key.clone()))
                .is_some_and(is_long)
        };
        if knows("services", &service) && !is_withdrawn {
            wrong.push(format!("knows that the Service {} is unreadable", service.1));
        }
        if sent.verb == Verb::Delete && shown.unreadable_service.contains(&service) && !is_withdrawn {
            wrong.push(format!("read that the Service {} is unreadable", service.1));
        }
        if sent.verb != Verb::Create && knows("endpointslices", &place) {
            wrong.push("knows that the copy is unreadable".to_owned());
        }
        // The API server refuses an update of a copy that has changed or was deleted, so the effect of the update is
        // unknown.
        let is_refused =
            sent.verb == Verb::Update && there.as_ref().is_none_or(|there| version(there) != version(copy));
        // Probes may still take endpoints out and put them back.
        let content = |copy: &serde_json::Value| (endpoints(&restored(copy)), ports(copy));
        let is_verdict = there
            .as_ref()
            .is_some_and(|there| content(there) == content(copy));
        if knows("endpointslices", &source)
            && !is_refused
            && !(is_verdict && is_of_api_servers(copy))
            && is_long(observer.episodes.changed(&service))
            && self.wants(&service, &source)
            && !is_withdrawn
        {
            wrong.push(format!("knows that the source slice {} is unreadable", source.1));
        }

        let is_confirmed = shown.read.get(&source).is_some_and(|read| !is_long(*read));
        let of = objects::source_of(&source.0, &source.1).unwrap_or_default();
        if sent.verb == Verb::Create && shown.uncovered.get(of).is_some_and(|since| is_long(*since)) {
            coverage.add("create while the view was in doubt", 1);
            if !is_confirmed {
                wrong.push(format!(
                    "creates from a view in doubt, but has not read {}",
                    source.1
                ));
            }
        }
        let claims = |copy: &serde_json::Value| {
            provenance(copy, "resource-version").and_then(|it| it.parse::<u64>().ok())
        };
        let is_ahead = |there: &serde_json::Value| {
            version(there) == version(copy)
                && provenance(there, "uid") == provenance(copy, "uid")
                && claims(there) > claims(copy)
        };
        if sent.verb == Verb::Update && *restores == 0 && there.as_ref().is_some_and(is_ahead) {
            coverage.add("update of a copy that is ahead", 1);
            if !is_confirmed {
                wrong.push(format!(
                    "overwrites a copy that is ahead, but has not read {}",
                    source.1
                ));
            }
        }
    }

    /// Whether a Service wants copies of the slices of the Service to which this slice belongs.
    fn wants(&self, service: &Key, slice: &Key) -> bool {
        let service = self.store.get("services", &service.0, &service.1);
        let slice = self.store.get("endpointslices", &slice.0, &slice.1);
        let (Some(service), Some(slice)) = (service, slice) else {
            return false;
        };
        let of = label(&slice, SERVICE_NAME).unwrap_or_default();
        let namespace = crate::slices::key(&slice).0;
        !is_unreadable(&service)
            && oracle::source(&service) == Some((namespace, of.to_owned()))
            && !uid(&service).is_empty()
    }
}

/// The slice from which a copy is made.
fn source_of(copy: &serde_json::Value) -> Key {
    let read = |what| provenance(copy, what).unwrap_or_default().to_owned();
    (read("namespace"), read("slice"))
}
