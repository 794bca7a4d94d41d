//! Events on managed Services, as `kubectl describe service` shows them.
//!
//! They are written in parallel to the syncs, which never wait for them, and under a term, like every write.

use std::collections::BTreeSet;
use std::sync::Arc;
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

use crate::apiserver::error::one_line;
use crate::apiserver::status::{is_answer, is_namespace_terminating, may_create_again};
use crate::leader_election::term::{Term, WritePermit};
use crate::telemetry::failure_log::FailureLog;
use crate::telemetry::metrics::Metrics;
use crate::timing::EVENT_LIMIT;
use endpoint_copier_core::model::{Finding, ManagedService, ServiceKey};

mod throttle;

use throttle::EventThrottle;

pub use endpoint_copier_core::model::SYNCED;

/// The limit for Events that wait to be written. Further findings are reported later.
const WAITING_EVENTS: usize = 1024;

/// The pauses after attempts that a busy API server rejected. After the last one, the Event is dropped.
static PAUSES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// Sends Events about managed Services to an [`EventWriter`].
pub struct EventRecorder {
    throttle: Arc<Mutex<EventThrottle>>,
    pending: mpsc::Sender<PendingEvent>,
}

/// An Event that waits to be written.
struct PendingEvent {
    term: Term,
    service: ObjectReference,
    event: Event,
    /// The finding that it reports, or `None` for a `Synced` Event.
    about: Option<(ServiceKey, Finding)>,
    /// The remaining pauses, one for each further failure.
    pauses: std::slice::Iter<'static, Duration>,
}

/// Writes the Events that an [`EventRecorder`] sends.
pub struct EventWriter {
    client: Client,
    reporter: Reporter,
    throttle: Arc<Mutex<EventThrottle>>,
    pending: mpsc::Receiver<PendingEvent>,
    metrics: Metrics,
}

impl EventRecorder {
    /// Creates a recorder, and the writer that must run for it. `instance` is the name of this replica.
    #[must_use]
    pub fn new(client: Client, instance: &str, metrics: Metrics) -> (Self, EventWriter) {
        let (sender, pending) = mpsc::channel(WAITING_EVENTS);
        let reporter = Reporter {
            controller: env!("CARGO_PKG_NAME").to_owned(),
            instance: Some(instance.to_owned()),
        };
        let throttle = Arc::<Mutex<EventThrottle>>::default();
        (
            Self {
                throttle: throttle.clone(),
                pending: sender,
            },
            EventWriter {
                client,
                reporter,
                throttle,
                pending,
                metrics,
            },
        )
    }

    /// Reports those findings of a Service that are new or due again, given all its findings. Returns when to check
    /// again.
    pub fn report(
        &self,
        term: &Term,
        service: &ManagedService,
        findings: &BTreeSet<Finding>,
    ) -> Option<Instant> {
        // Nothing else fills the queue, so the capacity that is seen here is still available below.
        let room = self.pending.capacity();
        let due = self
            .throttle
            .lock()
            .due(&service.key, findings, room, Instant::now());
        for finding in due.findings {
            let Finding { reason, note } = finding.clone();
            let about = Some((service.key.clone(), finding));
            self.send(term, service, EventType::Warning, reason.as_str(), note, about);
        }
        due.again
    }

    /// Forgets a Service that is no longer managed.
    pub fn gone(&self, service: &ServiceKey) {
        self.throttle.lock().gone(service);
    }

    /// Records that the first copies of a Service were written. A `Synced` Event is due once all of them are.
    pub fn made_first(&self, service: &ServiceKey) {
        self.throttle.lock().owes_synced(service);
    }

    /// Records that the copies of a Service are in sync. Sends an Event only if there was a finding or there were no
    /// copies before.
    pub fn synced(&self, term: &Term, service: &ManagedService, note: String) {
        let has_room = self.pending.capacity() > 0;
        if has_room && self.throttle.lock().take_synced(&service.key, Instant::now()) {
            self.send(term, service, EventType::Normal, SYNCED, note, None);
        }
    }

    fn send(
        &self,
        term: &Term,
        service: &ManagedService,
        type_: EventType,
        reason: &str,
        note: String,
        about: Option<(ServiceKey, Finding)>,
    ) {
        let event = PendingEvent {
            term: term.clone(),
            service: reference(service),
            event: Event {
                type_,
                reason: reason.to_owned(),
                note: Some(note),
                action: "CopyEndpoints".to_owned(),
                secondary: None,
            },
            about,
            pauses: PAUSES.iter(),
        };
        if self.pending.try_send(event).is_err() {
            debug!(service = %service.key, reason, "the Event is dropped: the Event writer has stopped");
        }
    }
}

fn kind(event: &Event) -> &'static str {
    match event.type_ {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    }
}

/// The object reference by which `kubectl describe` finds Events. It has no resourceVersion, because otherwise each
/// Event would regard another object.
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

impl EventWriter {
    /// Writes until the recorder is dropped. A finding that a busy API server rejected is tried again while it lasts,
    /// after the Events that are waiting.
    pub async fn run(mut self) {
        let outage = FailureLog::new("writing Events");
        let mut failed = DelayQueue::new();
        loop {
            let mut event = tokio::select! {
                biased;
                event = self.pending.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
                Some(event) = failed.next() => match Expired::into_inner(event) {
                    event if self.lasts(&event) => event,
                    _ => continue,
                },
            };
            let Ok(write) = event.term.begin_write() else {
                // If this replica becomes the leader again, it must still report the finding.
                if let Some((service, finding)) = &event.about {
                    self.throttle.lock().not_sent(service, finding);
                }
                continue;
            };
            let may_retry = self.write(&event, write, &outage).await;
            if may_retry
                && self.lasts(&event)
                && let Some(pause) = event.pauses.next()
            {
                failed.insert(event, *pause);
            }
        }
    }

    fn lasts(&self, event: &PendingEvent) -> bool {
        let throttle = self.throttle.lock();
        event
            .about
            .as_ref()
            .is_some_and(|(service, finding)| throttle.holds(service, finding))
    }

    /// Returns whether the API server may accept the Event later.
    async fn write(&self, pending: &PendingEvent, write: WritePermit, outage: &FailureLog) -> bool {
        let PendingEvent { service, event, .. } = pending;
        // A separate recorder for each Event: a recorder that lives on adds to an old Event of the same reason and does
        // not update its note.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let limit = write.deadline.min(Instant::now() + EVENT_LIMIT);
        let answer = timeout_at(limit, recorder.publish(event, service)).await;
        if answer.as_ref().is_ok_and(is_answer) {
            write.answered();
        }
        let (error, may_retry) = match answer {
            Ok(Ok(())) => {
                self.metrics.event_written(kind(event), &event.reason);
                outage.recovered();
                return false;
            }
            // No Event can be created in a terminating namespace, and no one needs it.
            Ok(Err(kube::Error::Api(status))) if is_namespace_terminating(&status) => return false,
            Ok(Err(error)) => {
                // A busy API server did not accept the Event. After any other failure this is unknown, and a second
                // Event would have another name. A lasting finding is reported again after half an hour.
                let is_busy = matches!(&error, kube::Error::Api(status) if may_create_again(status));
                (one_line(&error), is_busy)
            }
            Err(_) => ("no answer in time".to_owned(), false),
        };
        outage.failed(&format!("{}: {error}", event.reason));
        may_retry
    }
}
