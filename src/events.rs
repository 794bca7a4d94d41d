//! Events on managed Services: what `kubectl describe service` tells its user.
//!
//! They are written beside the syncs, never in their way; and under the term, like every write.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Expired;
use tracing::debug;

use crate::election::term::{Term, Write};
use crate::error::{is_answer, is_namespace_terminating, one_line};
use crate::metrics::Metrics;
use crate::model::{Finding, ManagedService, ServiceKey};
use crate::outage::Outage;

mod ledger;

use ledger::Ledger;

pub use crate::model::SYNCED;

/// Events that wait to be written. More are dropped: what lasts is said again in half an hour.
const WAITING: usize = 1024;

/// Time limit of one attempt to write an Event.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// The pauses after attempts that failed for no fault of the Event's. After the last one it is dropped.
static PAUSES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

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
    /// How long to wait after each failure that is left to it.
    pauses: std::slice::Iter<'static, Duration>,
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

    /// A Service is no longer managed: there is nothing more to say, though what was said lately counts.
    pub fn gone(&self, service: &ServiceKey) {
        _ = self.ledger.lock().due(service, &BTreeSet::new(), Instant::now());
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
            pauses: PAUSES.iter(),
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
    /// Writes until the herald is gone. What failed for no fault of its own is tried again, after what waits meanwhile.
    pub async fn run(mut self) {
        let outage = Outage::new("writing Events");
        let mut failed = DelayQueue::new();
        loop {
            let mut letter = tokio::select! {
                letter = self.letters.recv() => match letter {
                    Some(letter) => letter,
                    None => return,
                },
                Some(letter) = failed.next() => Expired::into_inner(letter),
            };
            let Ok(write) = letter.term.begin_write() else {
                continue;
            };
            match self.write(&letter, write).await {
                Ok(()) => outage.over(),
                Err(Unwritten::Unwanted) => {}
                // What was to be said is said again while it lasts.
                Err(Unwritten::Refused(error)) => outage.failed(&error),
                Err(Unwritten::Unanswered(error)) => {
                    outage.failed(&error);
                    if let Some(pause) = letter.pauses.next() {
                        failed.insert(letter, *pause);
                    }
                }
            }
        }
    }

    async fn write(&self, letter: &Letter, write: Write) -> Result<(), Unwritten> {
        let Letter { service, event, .. } = letter;
        // A recorder of its own for each Event: one that lives adds to an old Event of the same
        // reason and leaves its note as it was.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let limit = write.deadline.min(Instant::now() + TIME_LIMIT);
        let answer = timeout_at(limit, recorder.publish(event, service)).await;
        if answer.as_ref().is_ok_and(is_answer) {
            write.answered();
        }
        let told = |error: &str| format!("{}: {error}", event.reason);
        match answer {
            Ok(Ok(())) => {
                self.metrics.event_written(kind(event), &event.reason);
                Ok(())
            }
            // Where nothing may be created any more, nobody waits for news.
            Ok(Err(kube::Error::Api(status))) if is_namespace_terminating(&status) => {
                Err(Unwritten::Unwanted)
            }
            Ok(Err(error)) => {
                let is_final =
                    matches!(&error, kube::Error::Api(status) if status.code != 429 && status.code < 500);
                let told = told(&one_line(&error));
                Err(if is_final {
                    Unwritten::Refused(told)
                } else {
                    Unwritten::Unanswered(told)
                })
            }
            Err(_) => Err(Unwritten::Unanswered(told("no answer in time"))),
        }
    }
}

/// Why an Event was not written.
enum Unwritten {
    /// Its namespace is going.
    Unwanted,
    /// The API server will not have it.
    Refused(String),
    /// The API server is busy, or cannot be reached.
    Unanswered(String),
}
