//! Writes the condition `endpoint-copier/InSync` into the status of managed Services, for `kubectl wait`.
//!
//! A worker with its own queue writes the condition in parallel with the syncs, which never wait for it. A strategic
//! merge patch changes only the entry of this type in the list of conditions, so the conditions and the addresses that
//! others write are preserved. The patch contains the resourceVersion that was seen, so a late write from a former
//! leader cannot replace a newer condition.

use std::collections::HashSet;

use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use kube::core::{Request as Build, request};
use kube::{Client, Resource as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::apiserver::error::one_line;
use crate::apiserver::http_status::{Rejection, missing_right, status_of, throttled};
use crate::controller::apply::send;
use crate::controller::outcome::{Backoff, Outcome, Requeue};
use crate::controller::refusals::Refusals;
use crate::controller::worker::Reconcile;
use crate::controller::workqueue::DirtySet;
use crate::leader_election::term::{Term, TermOver};
use crate::telemetry::failure_log::FailureLog;
use crate::telemetry::watchdog::Watchdog;
use crate::timing::{EVENT_LIMIT, EXPECTATION};
use endpoint_copier_core::index::{Dirty, SharedIndex};
use endpoint_copier_core::model::{Condition, IN_SYNC, Priority, ServiceKey, SyncResult};

mod decisions;

use decisions::{ConditionWrite, Decisions, Next};

/// Writes the conditions that the syncs of a term decide.
pub struct Conditions {
    client: Client,
    index: SharedIndex,
    dirty: DirtySet,
    decisions: Mutex<Decisions>,
    /// Namespaces in which a permission is missing. All Services in such a namespace share a pause, because there may
    /// be thousands of them.
    forbidden: Mutex<Refusals<String>>,
    failures: FailureLog,
    /// The Services whose writes fail. Together, they count as one outage.
    failing: Mutex<HashSet<ServiceKey>>,
    /// Missing permissions have their own log, because a success in another namespace does not end the problem.
    missing_rights: FailureLog,
    watchdog: Watchdog,
}

impl Conditions {
    /// Creates conditions that are written with `client`. Their worker takes the Services that are marked in `dirty`.
    #[must_use]
    pub fn new(client: Client, index: SharedIndex, dirty: DirtySet) -> Self {
        Self {
            client,
            index,
            dirty,
            decisions: Mutex::default(),
            forbidden: Mutex::default(),
            failures: FailureLog::new("writing conditions of Services"),
            failing: Mutex::default(),
            missing_rights: FailureLog::new("writing conditions of Services in some namespaces"),
            watchdog: Watchdog::default(),
        }
    }

    /// Records the condition that a sync decided, or `None` if the Service is not managed.
    pub fn decided(&self, key: &ServiceKey, condition: Option<Condition>) {
        let is_news = self.decisions.lock().decided(key, condition, Instant::now());
        if is_news {
            self.dirty.mark([key.clone()]);
        }
    }

    /// Forgets the decisions of a term.
    pub fn forget_decisions(&self) {
        self.decisions.lock().forget();
    }

    async fn write(&self, key: &ServiceKey, change: ConditionWrite, term: &Term) -> Outcome {
        let namespace = key.namespace().to_owned();
        let waits = self.forbidden.lock().waits(&namespace, || (), Instant::now());
        if let Some((until, _)) = waits {
            return Outcome::new(SyncResult::Refused, Requeue::Resume(until));
        }
        let answer = match patch(key, &change, Timestamp::now()) {
            Ok(request) => send(&self.client, &self.watchdog, term, EVENT_LIMIT, request).await,
            Err(error) => Ok(Err(kube::Error::BuildRequest(error))),
        };
        let now = Instant::now();
        let outcome = match answer {
            Err(TermOver) => return Outcome::new(SyncResult::Requeued, Requeue::WhenDirty),
            Ok(Ok(_)) => {
                self.forbidden.lock().accepted(&namespace);
                self.decisions.lock().wrote(key, change, now);
                Outcome {
                    has_written: true,
                    ..Outcome::new(SyncResult::Success, Requeue::WhenDirty)
                }
            }
            Ok(Err(error)) => self.failed(key, &error, now),
        };
        Outcome {
            has_sent: true,
            ..outcome
        }
    }

    fn failed(&self, key: &ServiceKey, error: &kube::Error, now: Instant) -> Outcome {
        let status = status_of(error);
        if status.map(Rejection::of) == Some(Rejection::Conflict) {
            // The watch will soon show the current Service.
            return Outcome::new(SyncResult::Requeued, Requeue::Resume(now + EXPECTATION));
        }
        if let Some(right) = status.and_then(missing_right) {
            let namespace = key.namespace().to_owned();
            let until = self.forbidden.lock().refused(namespace.clone(), (), right, now);
            self.missing_rights.failed_by(namespace, right);
            return Outcome::new(SyncResult::Refused, Requeue::Resume(until));
        }
        self.failing.lock().insert(key.clone());
        self.failures
            .failed(&format!("Service {key}: {}", one_line(error)));
        let pause = status.and_then(throttled);
        let requeue = pause.map_or(Requeue::Backoff(Backoff::Long), Requeue::Overloaded);
        Outcome::new(SyncResult::Error, requeue)
    }
}

impl Reconcile for Conditions {
    async fn reconcile(&self, key: &ServiceKey, _: Instant, term: &Term) -> Outcome {
        let shown = self.index.lock().shown_condition(key);
        let next = shown.map_or(Next::Nothing, |shown| {
            self.decisions.lock().next(key, shown, Instant::now())
        });
        let outcome = match next {
            Next::Nothing => Outcome::new(SyncResult::Success, Requeue::WhenDirty),
            Next::Later(moment) => Outcome::new(SyncResult::Success, Requeue::At(moment)),
            Next::Write(change) => self.write(key, change, term).await,
        };
        if outcome.result == SyncResult::Success {
            let mut failing = self.failing.lock();
            if failing.remove(key) && failing.is_empty() {
                self.failures.recovered();
            }
        }
        outcome
    }

    /// Returns the Services with a decision, and those with a condition that may have to be removed.
    fn all(&self) -> Dirty {
        let mut all: Dirty = self.index.lock().with_condition().cloned().collect();
        all.extend(self.decisions.lock().services().cloned());
        all
    }

    /// Returns the same priority for all conditions: none of them justifies a request to an overloaded API server.
    fn priority(&self, _: &ServiceKey) -> Priority {
        Priority::Other
    }

    /// Does nothing. The reconciler of the copies forgets the decisions, because it may already be making decisions in
    /// the next term when this worker ends the previous term.
    fn forget(&self) {}

    fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }
}

/// Builds the request for a change.
fn patch(
    key: &ServiceKey,
    change: &ConditionWrite,
    now: Timestamp,
) -> Result<Request<Vec<u8>>, request::Error> {
    let patch = Patch::Strategic(body(change, now));
    let services = Build::new(Service::url_path(&(), Some(key.namespace())));
    services.patch_subresource("status", key.name(), &PatchParams::default(), &patch)
}

/// Builds the patch. The patch contains a transition time only if the status changes; otherwise, the entry keeps its
/// time.
fn body(change: &ConditionWrite, now: Timestamp) -> Value {
    let condition = match &change.to {
        None => json!({"type": IN_SYNC, "$patch": "delete"}),
        Some(Condition {
            status,
            reason,
            message,
        }) => {
            let mut condition =
                json!({"type": IN_SYNC, "status": status, "reason": reason, "message": message});
            if change.is_transition() {
                // In the API, transition times have no fractions of a second.
                let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
                condition["lastTransitionTime"] = json!(now.to_string());
            }
            condition
        }
    };
    let version = change.seen.version.map(|version| version.to_string());
    json!({"metadata": {"resourceVersion": version}, "status": {"conditions": [condition]}})
}

#[cfg(test)]
mod tests {
    use endpoint_copier_core::index::KnownCondition;
    use endpoint_copier_core::model::{Finding, Reason};

    use super::*;

    /// Rule: 3.condition-patch
    #[test]
    fn a_patch_has_the_seen_version_and_only_this_condition() {
        let condition = |note: &str| {
            let finding = Finding::new(Reason::PortUnresolved, note);
            Some(Condition::decided(true, [&finding]))
        };
        let patched = |from: Option<Condition>, to| {
            let seen = KnownCondition {
                managed: None,
                version: Some(7),
                condition: from,
            };
            let body = body(
                &ConditionWrite { seen, to },
                "2026-01-02T03:04:05.678Z".parse().unwrap(),
            );
            assert_eq!(body["metadata"], json!({"resourceVersion": "7"}));
            assert_eq!(body.as_object().unwrap().len(), 2);
            assert_eq!(body["status"].as_object().unwrap().len(), 1);
            body["status"]["conditions"].clone()
        };
        let base = json!({"type": "endpoint-copier/InSync", "status": "False", "reason": "PortUnresolved", "message": "a"});
        assert_eq!(
            patched(condition("b"), condition("a")),
            json!([base]),
            "the time should stay"
        );
        let mut first = base;
        first["lastTransitionTime"] = json!("2026-01-02T03:04:05Z");
        assert_eq!(patched(None, condition("a")), json!([first]));
        let removal = json!([{"type": "endpoint-copier/InSync", "$patch": "delete"}]);
        assert_eq!(patched(condition("a"), None), removal);
    }
}
