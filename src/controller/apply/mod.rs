//! A plan becomes API calls, under a [`Term`]; errors become kinds.
//!
//! Create is POST, which fails if the name is taken; update is PUT with the resourceVersion and UID
//! of what was seen; delete has both as preconditions. So a write that arrives late, from a leader
//! that is none any more, does nothing.

use std::time::Duration;

use http::Request;
use kube::Client;
use kube::core::Status;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::apiserver::status::{Rejection, is_answer, throttled};
use crate::apiserver::{SendDeadline, TooLate};
use crate::leader_election::term::{Term, TermOver};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::watchdog::Watchdog;
use endpoint_copier_core::model::Operation;
use endpoint_copier_core::model::{EndpointSlice, ServiceKey, ServiceState, SliceKey, version_of};
use endpoint_copier_core::plan::{Delete, Plan};

mod applied;
mod attempts;
mod request;

pub use applied::{Applied, Expectation, Failure, Kind};
use attempts::Attempts;

/// A write that has no answer by then has failed. A webhook takes up to 10 s by default, and one that is away takes all
/// of them, also where its failure is ignored: who gives up before is never answered.
const TIME_LIMIT: Duration = Duration::from_secs(12);

/// Writes EndpointSlices.
pub struct Writer {
    client: Client,
    metrics: Metrics,
    attempts: Mutex<Attempts>,
    pub(crate) watchdog: Watchdog, // A call that ended, well or badly, is a step.
}

impl Writer {
    /// A writer that uses this client.
    #[must_use]
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self {
            client,
            metrics,
            attempts: Mutex::default(),
            watchdog: Watchdog::default(),
        }
    }

    /// A Service that is not managed any more needs no expectations.
    pub fn gone(&self, service: &ServiceKey) {
        self.attempts.lock().gone(service);
    }

    /// Carries the plan for a Service out: creates, updates, and then deletes, if every new copy is written
    /// or was refused for good. Old copies never go, nor get empty, before the new ones are there.
    pub async fn apply(&self, term: &Term, service: &ServiceState, plan: Plan) -> Applied {
        let Plan {
            creates,
            updates,
            deletes,
            leftovers,
            endpoints: _,
            triggers: _,
            findings: _,
            confirm: _,
        } = plan;
        let mut applied = Applied::default();
        let service = match service {
            ServiceState::Managed(service) => Some(service),
            ServiceState::Absent | ServiceState::Unmanaged => None,
        };
        let is_hopeless = service.is_some_and(|service| self.attempts.lock().is_given_up(service));
        for slice in creates {
            if is_hopeless {
                let (key, kind) = (SliceKey::of(&slice.metadata), Kind::NamespaceTerminating);
                let failure = Failure::new(key, Operation::Create, kind, String::new());
                applied.failures.push(failure);
            } else {
                self.create(term, &slice, &mut applied).await;
            }
        }
        if let Some(service) = service.filter(|_| applied.has_failed_as(Kind::NamespaceTerminating)) {
            self.attempts.lock().give_up(service);
        }
        let is_empty = |slice: &EndpointSlice| slice.endpoints.as_ref().is_none_or(Vec::is_empty);
        let (emptied, updates): (Vec<_>, Vec<_>) = updates.into_iter().partition(is_empty);
        for slice in updates {
            self.update(term, &slice, &mut applied).await;
        }
        if applied
            .failures
            .iter()
            .all(|failure| failure.kind == Kind::Refused)
        {
            for slice in emptied {
                self.update(term, &slice, &mut applied).await;
            }
            for delete in deletes {
                if applied.overload().is_none() {
                    self.delete(term, delete, &mut applied).await;
                }
            }
        }
        if applied.failures.is_empty() {
            for leftover in leftovers {
                if applied.overload().is_none() {
                    self.delete(term, leftover, &mut applied).await;
                }
            }
        }
        applied
    }

    async fn create(&self, term: &Term, slice: &EndpointSlice, applied: &mut Applied) {
        self.write(term, Operation::Create, slice, Expectation::Exists, applied)
            .await;
    }

    async fn update(&self, term: &Term, slice: &EndpointSlice, applied: &mut Applied) {
        let seen = Expectation::NewerThan(version_of(&slice.metadata).unwrap_or(0));
        self.write(term, Operation::Update, slice, seen, applied).await;
    }

    async fn write(
        &self,
        term: &Term,
        operation: Operation,
        slice: &EndpointSlice,
        seen: Expectation,
        applied: &mut Applied,
    ) {
        // What is left of the plan is planned again.
        if applied.overload().is_some() || self.must_wait(operation, slice, applied) {
            return;
        }
        let request = match operation {
            Operation::Create => request::create(slice),
            Operation::Update | Operation::Delete => request::update(slice),
        };
        let answer = self.send(term, request).await;
        let until = self.note(slice, &answer);
        let echo = answer.map(|made| made.as_ref().and_then(echo_of));
        let key = SliceKey::of(&slice.metadata);
        self.ended(operation, key, echo, seen, until, applied);
    }

    async fn delete(&self, term: &Term, delete: Delete, applied: &mut Applied) {
        let answer = self.send(term, request::delete(&delete)).await;
        // With finalizers the slice stays a while: its deletionTimestamp is the echo.
        let stays = |left: &EndpointSlice| left.metadata.deletion_timestamp.is_some();
        let echo = |left: Option<EndpointSlice>| left.as_ref().filter(|left| stays(left)).and_then(echo_of);
        let answer = answer.map(|left| Some(echo(left).unwrap_or(Expectation::Gone(delete.uid))));
        let seen = Expectation::NewerThan(delete.resource_version.parse().unwrap_or(0));
        self.ended(Operation::Delete, delete.key, answer, seen, None, applied);
    }

    /// One call, from the right to make it until its answer: the slice as it is now, if there is one.
    async fn send(
        &self,
        term: &Term,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Option<EndpointSlice>, Error> {
        let mut request = request.map_err(|error| Error::Api(kube::Error::BuildRequest(error)))?;
        let write = term.begin_write().map_err(|TermOver| Error::TermOver)?;
        // Also if this process was stopped while the way to a server was looked for.
        request.extensions_mut().insert(SendDeadline(write.deadline));
        let answer = timeout(TIME_LIMIT, async {
            tokio::select! {
                biased;
                answer = self.client.request_status(request) => Some(answer),
                () = term.outlived(write.deadline) => None,
            }
        });
        let answer = answer.await.ok().flatten();
        self.watchdog.tick();
        if answer.as_ref().is_some_and(is_certain) {
            write.answered();
        }
        let answer = answer.ok_or(Error::NoAnswer)?.map_err(Error::Api)?;
        Ok(answer.either(Some, |_: Status| None))
    }

    /// Whether a write that failed, or did not last, is not to be tried again yet. Then it counts as
    /// refused once more.
    fn must_wait(&self, operation: Operation, slice: &EndpointSlice, applied: &mut Applied) -> bool {
        let Err((until, message)) = self.attempts.lock().check(slice, Instant::now()) else {
            return false;
        };
        let key = SliceKey::of(&slice.metadata);
        applied.failures.push(Failure {
            until: Some(until),
            ..Failure::new(key, operation, Kind::Refused, message)
        });
        true
    }

    /// Remembers what became of a write, and answers when the same may be tried again that was refused.
    fn note<T>(&self, slice: &EndpointSlice, answer: &Result<T, Error>) -> Option<Instant> {
        let (mut attempts, now) = (self.attempts.lock(), Instant::now());
        attempts.forget_old(now);
        match answer {
            Ok(_) => attempts.written(slice, now),
            Err(error) if error.kind() == Kind::Refused => {
                return Some(attempts.refused(slice, &error.message(), now));
            }
            Err(_) => {}
        }
        None
    }

    /// `echo`: what the watch will show of a write that succeeded; `seen`: what of one that was in conflict; `until`:
    /// when one may be tried again that was refused.
    fn ended(
        &self,
        operation: Operation,
        key: SliceKey,
        echo: Result<Option<Expectation>, Error>,
        seen: Expectation,
        until: Option<Instant>,
        applied: &mut Applied,
    ) {
        let error = match echo {
            Ok(echo) => {
                self.metrics.slice_changed(operation);
                applied.by_operation[operation as usize] += 1;
                applied.expectations.extend(echo.map(|echo| (key, echo)));
                return;
            }
            Err(error) => error,
        };
        let kind = error.kind();
        if kind == Kind::Conflict {
            applied.expectations.push((key.clone(), seen));
        }
        applied.failures.push(Failure {
            until,
            overload: error.overload(),
            ..Failure::new(key, operation, kind, error.message())
        });
    }
}

/// Whether it is certain what became of a write: the API server has said so, or it was never sent.
fn is_certain<T>(answer: &kube::Result<T>) -> bool {
    is_answer(answer) || matches!(answer, Err(kube::Error::Service(error)) if error.is::<TooLate>())
}

fn echo_of(slice: &EndpointSlice) -> Option<Expectation> {
    version_of(&slice.metadata).map(Expectation::Version)
}

enum Error {
    Api(kube::Error),
    NoAnswer,
    TermOver,
}

impl Error {
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status),
            _ => None,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::TermOver => Kind::TermOver,
            Self::NoAnswer => Kind::Passing,
            Self::Api(_) => match self.status().map(Rejection::of) {
                Some(Rejection::Conflict) => Kind::Conflict,
                Some(Rejection::NamespaceTerminating) => Kind::NamespaceTerminating,
                Some(Rejection::Refused) => Kind::Refused,
                Some(Rejection::Transient) | None => Kind::Passing,
            },
        }
    }

    fn overload(&self) -> Option<Duration> {
        self.status().and_then(throttled)
    }

    fn message(&self) -> String {
        match self {
            Self::TermOver => TermOver.to_string(),
            Self::NoAnswer => "no answer in time".to_owned(),
            Self::Api(error) => self
                .status()
                .map_or_else(|| error.to_string(), |status| status.message.clone()),
        }
    }
}

impl Expectation {
    /// Whether the watch shows what a write left behind, or something later.
    #[must_use]
    pub fn is_shown(&self, slice: Option<&EndpointSlice>) -> bool {
        let version = slice.and_then(|slice| version_of(&slice.metadata));
        match self {
            Self::Version(written) => version.is_some_and(|version| version >= *written),
            Self::NewerThan(seen) => slice.is_none() || version.is_some_and(|version| version > *seen),
            Self::Exists => slice.is_some(),
            Self::Gone(uid) => slice.is_none_or(|slice| slice.metadata.uid.as_ref() != Some(uid)),
        }
    }
}

#[cfg(test)]
mod tests;
