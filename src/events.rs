//! Events on managed Services: what `kubectl describe service` tells its user.
//!
//! They are written beside the syncs, never in their way; and under the term, like every write.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::election::term::Term;
use crate::error::{is_answer, is_namespace_terminating, one_line};
use crate::metrics::Metrics;
use crate::model::{Finding, ManagedService};
use crate::outage::Outage;

mod ledger;

use ledger::Ledger;

pub use crate::model::SYNCED;

/// Events that wait to be written. More are dropped: what lasts is said again in half an hour.
const WAITING: usize = 1024;

/// An Event that is not taken by then is dropped.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// Says what happens to Services.
pub struct Herald {
    ledger: Mutex<Ledger>,
    letters: mpsc::Sender<Letter>,
}

/// An Event on its way.
struct Letter {
    term: Term,
    service: ObjectReference,
    event: Event,
}

/// Writes what a [`Herald`] says.
pub struct Scribe {
    client: Client,
    reporter: Reporter,
    letters: mpsc::Receiver<Letter>,
    metrics: Metrics,
}

impl Herald {
    /// A herald, and the scribe that has to run for it. `instance` is the name of this replica.
    #[must_use]
    pub fn new(client: Client, instance: &str, metrics: Metrics) -> (Self, Scribe) {
        let (sender, letters) = mpsc::channel(WAITING);
        let reporter = Reporter {
            controller: env!("CARGO_PKG_NAME").to_owned(),
            instance: Some(instance.to_owned()),
        };
        (
            Self {
                ledger: Mutex::default(),
                letters: sender,
            },
            Scribe {
                client,
                reporter,
                letters,
                metrics,
            },
        )
    }

    /// These are all findings of a Service now. Says what is new or due again; answers when to look again.
    pub fn report(
        &self,
        term: &Term,
        service: &ManagedService,
        findings: &BTreeSet<Finding>,
    ) -> Option<Instant> {
        let due = self.ledger.lock().due(&service.key, findings, Instant::now());
        for Finding { reason, note } in due.findings {
            self.send(term, service, EventType::Warning, reason.as_str(), note);
        }
        due.again
    }

    /// The copies of a Service were written and are in step.
    pub fn synced(&self, term: &Term, service: &ManagedService, note: String) {
        if self.ledger.lock().may_tell(&service.key, Instant::now()) {
            self.send(term, service, EventType::Normal, SYNCED, note);
        }
    }

    /// The term is over: the next leader says everything anew.
    pub fn forget(&self) {
        *self.ledger.lock() = Ledger::default();
    }

    fn send(&self, term: &Term, service: &ManagedService, type_: EventType, reason: &str, note: String) {
        let letter = Letter {
            term: term.clone(),
            service: reference(service),
            event: Event {
                type_,
                reason: reason.to_owned(),
                note: Some(note),
                action: "CopyEndpoints".to_owned(),
                secondary: None,
            },
        };
        if self.letters.try_send(letter).is_err() {
            debug!(service = %service.key, reason, "too many Events wait; this one is dropped");
        }
    }
}

fn kind(event: &Event) -> &'static str {
    match event.type_ {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    }
}

/// What `kubectl describe` finds Events by. Without a resourceVersion, or each Event would regard
/// another object.
fn reference(service: &ManagedService) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: Some(service.key.namespace().to_owned()),
        name: Some(service.key.name().to_owned()),
        uid: Some(service.uid.clone()),
        ..ObjectReference::default()
    }
}

impl Scribe {
    /// Writes until the herald is gone.
    pub async fn run(mut self) {
        let outage = Outage::new("writing Events");
        while let Some(letter) = self.letters.recv().await {
            let Letter { term, service, event } = letter;
            let Ok(write) = term.begin_write() else { continue };
            // A recorder of its own for each Event: one that lives adds to an old Event of the same
            // reason and leaves its note as it was.
            let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
            let limit = write.deadline.min(Instant::now() + TIME_LIMIT);
            let answer = timeout_at(limit, recorder.publish(&event, &service)).await;
            if answer.as_ref().is_ok_and(is_answer) {
                write.answered();
            }
            let error = match answer {
                Ok(Ok(())) => {
                    self.metrics.event_written(kind(&event), &event.reason);
                    outage.over();
                    continue;
                }
                // Where nothing may be created any more, nobody waits for news.
                Ok(Err(kube::Error::Api(status))) if is_namespace_terminating(&status) => continue,
                Ok(Err(error)) => one_line(&error),
                Err(_) => "no answer in time".to_owned(),
            };
            // What was to be said is said again while it lasts.
            outage.failed(&format!("{}: {error}", event.reason));
        }
    }
}
