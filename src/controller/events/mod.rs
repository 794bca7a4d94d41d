//! Events on managed Services, as `kubectl describe service` shows them.
//!
//! The writer sends them in parallel with the syncs, which never wait for them. Like writes of copies, writes of Events
//! need a term.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Expired;
use tracing::debug;

use crate::apiserver::error::one_line;
use crate::apiserver::http_status::{
    is_answer, is_namespace_terminating, may_create_again, missing_right, throttled,
};
use crate::controller::workqueue::DirtySet;
use crate::leader_election::term::{Term, WritePermit};
use crate::telemetry::failure_log::FailureLog;
use crate::telemetry::metrics::Metrics;
use crate::timing::EVENT_LIMIT;
use endpoint_copier_core::model::{Finding, ManagedService, ServiceKey};

mod throttle;

use throttle::EventThrottle;

pub use endpoint_copier_core::model::SYNCED;

/// The maximum number of Events that wait to be written. Further findings are reported later.
const WAITING_EVENTS: usize = 1024;

/// The pauses before further attempts to write an Event about a finding, after rejections that allow another attempt;
/// see [`may_create_again`]. If the attempt after the last pause fails too, the Event is dropped. When an overloaded
/// API server rejects an Event, all Events pause for the first of these times, or longer if the server requests it.
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

/// An Event that waits to be written. A new leader of hundreds of Services may have one for each of them at the same
/// time, so the API object is built only when the Event is sent.
struct PendingEvent {
    term: Term,
    service: ServiceKey,
    uid: String,
    message: Message,
    /// The remaining pauses between attempts.
    pauses: std::slice::Iter<'static, Duration>,
}

/// The result of an attempt to write an Event.
enum Delivery {
    /// The Event is written, or is not tried again.
    Over,
    /// The API server may accept the Event later. `Some` means that the server is overloaded, and contains the pause
    /// that it requested, or zero if it requested none.
    Rejected(Option<Duration>),
}

/// The content of an Event.
enum Message {
    /// A new or lasting finding.
    Warning(Finding),
    /// The copies are in sync, with this note.
    Synced(String),
}

/// Writes the Events that an [`EventRecorder`] sends.
pub struct EventWriter {
    client: Client,
    reporter: Reporter,
    throttle: Arc<Mutex<EventThrottle>>,
    pending: mpsc::Receiver<PendingEvent>,
    dirty: DirtySet,
    metrics: Metrics,
}

impl EventRecorder {
    /// Creates a recorder, and the writer that must run for it. `instance` is the name of this replica. The writer marks
    /// a Service in `dirty` when an Event about it has to be reported again.
    #[must_use]
    pub fn new(client: Client, instance: &str, dirty: DirtySet, metrics: Metrics) -> (Self, EventWriter) {
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
                dirty,
                metrics,
            },
        )
    }

    /// Reports those findings of a Service that are new or due for another report, given all of its findings. Returns
    /// the time of the next check.
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
            .due(&service.key, &service.uid, findings, room, Instant::now());
        for finding in due.findings {
            self.send(term, service, Message::Warning(finding));
        }
        due.again
    }

    /// Forgets a Service that is neither managed nor disabled.
    pub fn gone(&self, service: &ServiceKey) {
        self.throttle.lock().gone(service);
    }

    /// Records that the first copies of a Service were written, or that an endpoint whose removal another replica may
    /// have reported was put back. A `Synced` Event is due once all copies are written.
    pub fn owe_synced(&self, service: &ServiceKey) {
        self.throttle.lock().owe_synced(service);
    }

    /// Reports that the copies of a Service are in sync. Sends an Event only if one is due, and only within the budget
    /// of the Service. Returns the time of the next attempt if the Event is due but cannot be sent now.
    pub fn synced(
        &self,
        term: &Term,
        service: &ManagedService,
        note: impl FnOnce() -> String,
    ) -> Option<Instant> {
        let (room, now) = (self.pending.capacity(), Instant::now());
        let taken = self.throttle.lock().take_synced(&service.key, room, now);
        if taken == Ok(true) {
            self.send(term, service, Message::Synced(note()));
        }
        taken.err()
    }

    fn send(&self, term: &Term, service: &ManagedService, message: Message) {
        let event = PendingEvent {
            term: term.clone(),
            service: service.key.clone(),
            uid: service.uid.clone(),
            message,
            pauses: PAUSES.iter(),
        };
        if let Err(dropped) = self.pending.try_send(event) {
            let reason = dropped.into_inner().message.reason();
            debug!(service = %service.key, reason, "the Event is dropped: the Event writer has stopped");
        }
    }
}

impl Message {
    fn reason(&self) -> &'static str {
        match self {
            Self::Warning(finding) => finding.reason.as_str(),
            Self::Synced(_) => SYNCED,
        }
    }

    /// Returns the type of the Event, as the API spells it.
    fn kind(&self) -> &'static str {
        match self {
            Self::Warning(_) => "Warning",
            Self::Synced(_) => "Normal",
        }
    }

    fn event(&self) -> Event {
        let (type_, note) = match self {
            Self::Warning(finding) => (EventType::Warning, &finding.note),
            Self::Synced(note) => (EventType::Normal, note),
        };
        Event {
            type_,
            reason: self.reason().to_owned(),
            note: Some(note.clone()),
            action: "CopyEndpoints".to_owned(),
            secondary: None,
        }
    }
}

impl PendingEvent {
    /// Returns the reference by which `kubectl describe` finds Events. It has no resourceVersion. Otherwise, each Event
    /// would be about a different object.
    fn regarding(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(self.service.namespace().to_owned()),
            name: Some(self.service.name().to_owned()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

impl EventWriter {
    /// Writes Events until the recorder is dropped. After a rejection that allows another attempt (see
    /// [`may_create_again`]), an Event about a finding is tried again, up to three times and while the finding lasts,
    /// after the Events that are waiting. A rejected `Synced` Event is dropped.
    pub async fn run(mut self) {
        let outage = FailureLog::new("writing Events");
        // Missing permissions have their own log, because a success in another namespace does not end the problem.
        let forbidden = FailureLog::new("writing Events in some namespaces");
        let (mut failed, mut paused_until) = (DelayQueue::new(), Instant::now());
        loop {
            sleep_until(paused_until).await;
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
                // If this replica leads again, the finding must still be reported. The new term may have synced the
                // Service already.
                if let Message::Warning(finding) = &event.message {
                    self.throttle.lock().not_sent(&event.service, finding);
                    self.dirty.mark([event.service]);
                }
                continue;
            };
            let Delivery::Rejected(overload) = self.write(&event, write, [&outage, &forbidden]).await else {
                continue;
            };
            if let Some(retry_after) = overload {
                paused_until = Instant::now() + retry_after.max(PAUSES[0]);
            }
            if self.lasts(&event)
                && let Some(pause) = event.pauses.next()
            {
                failed.insert(event, *pause);
            }
        }
    }

    fn lasts(&self, event: &PendingEvent) -> bool {
        match &event.message {
            Message::Warning(finding) => self.throttle.lock().is_reported(&event.service, finding),
            Message::Synced(_) => false,
        }
    }

    /// Tries to write an Event once.
    async fn write(
        &self,
        pending: &PendingEvent,
        write: WritePermit,
        [outage, forbidden]: [&FailureLog; 2],
    ) -> Delivery {
        let message = &pending.message;
        let (event, regarding) = (message.event(), pending.regarding());
        // Each Event has its own recorder, because a recorder that is reused adds to an old Event with the same reason
        // and keeps the old note.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let limit = write.deadline.min(Instant::now() + EVENT_LIMIT);
        let answer = timeout_at(limit, recorder.publish(&event, &regarding)).await;
        if answer.as_ref().is_ok_and(is_answer) {
            write.answered();
        }
        let (error, next) = match answer {
            Ok(Ok(())) => {
                self.metrics.event_written(message.kind(), message.reason());
                outage.recovered();
                return Delivery::Over;
            }
            // No Event can be created in a terminating namespace, and none is needed.
            Ok(Err(kube::Error::Api(status))) if is_namespace_terminating(&status) => return Delivery::Over,
            Ok(Err(kube::Error::Api(status))) if missing_right(&status).is_some() => {
                let namespace = pending.service.namespace();
                forbidden.failed_by(
                    namespace.to_owned(),
                    &format!("{}: {}", message.reason(), status.message),
                );
                return Delivery::Over;
            }
            Ok(Err(error)) => {
                // Some rejections allow another attempt. After any other failure, the server may have accepted the
                // Event, and a retry would create a second one under another name, or the server would reject the Event
                // again. A lasting finding is reported again after half an hour.
                let next = match &error {
                    kube::Error::Api(status) if may_create_again(status) => {
                        Delivery::Rejected(throttled(status))
                    }
                    _ => Delivery::Over,
                };
                (one_line(&error), next)
            }
            Err(_) => ("no response in time".to_owned(), Delivery::Over),
        };
        outage.failed(&format!("{}: {error}", message.reason()));
        next
    }
}

#[cfg(test)]
mod tests;
