//! The client that makes `kube_leader_election::LeaseLock` safe.
//!
//! Without this client, the lock reads the Lease, compares times from the wall clocks of two machines, and then patches
//! the Lease, even if the Lease has changed in the meantime. This client:
//! - shows the lock a Lease whose times make the lock try exactly when [`super::observed_lease`] allows it, by our own
//!   monotonic clock. This Lease has every field that the lock needs, in a format that the lock can read. Otherwise,
//!   the lock would fail forever;
//! - turns the PATCH of the lock into a compare-and-swap on the version that the lock has seen, so that only one of
//!   many candidates wins and no late PATCH overwrites the Lease of a successor;
//! - answers the GET of the lock from memory if the version for the next write is known ([`super::known_version`]), so
//!   that a renewal takes one request;
//! - repeats a slow renewal in parallel, through other API servers if there are any, and detects through the watch that
//!   a renewal was applied even though its response was lost (`renewal`).
//!
//! This client does not limit the term; see [`super::term`].

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tower::{BoxError, service_fn};

use super::LeaseObserver;
use super::lease::Lease;
use super::presented_lease::{PresentedLease, ReadVersion};
use super::term::Term;
use crate::apiserver::http_status::status_of;

mod renewal;

/// The holder that the lock sees if the Lease names none and no other name can be shown.
const NOBODY: &str = "(nobody)";

/// The error for a Lease that no API server can have sent.
const NO_VERSION: &str = "a Lease without uid or resourceVersion";

/// The client of the lock. Clones share its state.
#[derive(Clone)]
pub struct LeaseCas {
    /// The client that sends the requests. It must not repeat a request that a server may have accepted.
    upstream: Client,
    observer: LeaseObserver,
    terms: Receiver<Option<Term>>,
    /// The version of the Lease that the lock last saw.
    read_version: Arc<Mutex<Option<ReadVersion>>>,
    /// When the last successful write was sent.
    sent: Arc<Mutex<Option<Instant>>>,
}

/// The lock's PATCH, bound to a version.
pub struct Patch {
    /// The version that the PATCH is based on.
    pub read_version: ReadVersion,
    /// The renewal time that the PATCH sets. No two renewals by one replica are expected to set the same time.
    pub renewed: Option<String>,
    body: Bytes,
}

/// The successful response of an API server to a request. `upstream` converts every other response into an error.
struct TimedResponse {
    /// When the request was sent.
    sent: Instant,
    body: Bytes,
}

impl TimedResponse {
    /// Decodes the Lease in the response.
    ///
    /// # Errors
    /// Returns an error if the response is garbled, or if no API server can have stored this Lease.
    fn lease(&self) -> Result<Lease, BoxError> {
        let lease: Lease = serde_json::from_slice(&self.body)?;
        ReadVersion::of(&lease).ok_or(NO_VERSION)?;
        Ok(lease)
    }
}

impl LeaseCas {
    /// Creates the client for the lock of one candidate. `observer` holds what the candidate knows about the Lease, and
    /// `terms` receives the candidate's current term.
    pub fn new(upstream: Client, observer: LeaseObserver, terms: Receiver<Option<Term>>) -> Self {
        Self {
            upstream,
            observer,
            terms,
            read_version: Arc::default(),
            sent: Arc::default(),
        }
    }

    /// Returns the client for the lock.
    pub fn client(&self, namespace: &str) -> Client {
        let cas = self.clone();
        let service = service_fn(move |request| {
            let cas = cas.clone();
            async move { cas.answer(request).await }
        });
        Client::new(service, namespace)
    }

    /// Returns the time at which the last successful write was sent.
    pub fn sent(&self) -> Option<Instant> {
        *self.sent.lock()
    }

    fn leads(&self) -> bool {
        self.terms.borrow().as_ref().is_some_and(|term| !term.is_over())
    }

    /// Returns the Lease to show to the lock after its GET, or `None` if the response should be passed on unchanged.
    /// `lease` is the Lease in the API server's response, if there is one.
    ///
    /// # Errors
    /// Returns an error if no API server can have stored this Lease, or if this replica leads but may have lost the
    /// Lease: the watch showed another state during the GET.
    fn present(&self, lease: Option<&Lease>, sent: Instant) -> Result<Option<Bytes>, BoxError> {
        let read_version = lease.map(|lease| ReadVersion::of(lease).ok_or(NO_VERSION));
        let read_version = read_version.transpose()?;
        let to_present = self.observer.present(lease, self.leads(), sent);
        let to_present = to_present.ok_or("the watch showed another state of the Lease during the GET")?;
        *self.read_version.lock() = read_version;
        if to_present == PresentedLease::Absent {
            return Ok(None);
        }
        let absent = Lease::default();
        let lease = lease.unwrap_or(&absent);
        let last = self.observer.holder();
        let holder = match lease.holder() {
            Some(holder) => holder,
            // This must not be our own name, because the lock would then renew.
            None if to_present == PresentedLease::Held => last
                .as_deref()
                .filter(|last| **last != *self.observer.us)
                .unwrap_or(NOBODY),
            None => NOBODY,
        };
        let age = if to_present == PresentedLease::Free {
            SignedDuration::from_hours(1)
        } else {
            SignedDuration::ZERO
        };
        Ok(Some(presented(lease, holder, age)))
    }

    /// Returns what the lock receives instead of the response to a GET, if the current version is known.
    fn remembered(&self) -> Option<Bytes> {
        let read_version = self.observer.version_to_renew()?;
        *self.read_version.lock() = Some(read_version);
        Some(presented(
            &Lease::default(),
            &self.observer.us,
            SignedDuration::ZERO,
        ))
    }

    /// Returns what the lock receives after the API server has responded to its write.
    ///
    /// # Errors
    /// Returns an error if the result of the write is unknown.
    fn written(&self, answer: TimedResponse) -> Result<Response<Full<Bytes>>, BoxError> {
        let lease = answer.lease()?;
        self.observer.wrote(&lease);
        *self.sent.lock() = Some(answer.sent);
        let holder = lease.holder().unwrap_or_default();
        Ok(Response::new(
            presented(&lease, holder, SignedDuration::ZERO).into(),
        ))
    }

    /// Returns what the lock receives if a renewal got no successful response, but the watch shows that the renewal was
    /// applied. The term then counts from when the first try was sent.
    fn applied(&self, sent: Instant) -> Response<Full<Bytes>> {
        *self.sent.lock() = Some(sent);
        Response::new(presented(&Lease::default(), &self.observer.us, SignedDuration::ZERO).into())
    }

    /// Turns the lock's PATCH into a compare-and-swap. Returns `None` if the lock has read no Lease since its last
    /// PATCH, or if the PATCH cannot be decoded.
    fn bind(&self, patch: &[u8]) -> Option<Patch> {
        let read_version = self.read_version.lock().take()?;
        let mut patch: Value = serde_json::from_slice(patch).ok()?;
        read_version.bind(patch.get_mut("metadata")?.as_object_mut()?);
        Some(Patch {
            read_version,
            renewed: canonical(patch["spec"]["renewTime"].clone()),
            body: serde_json::to_vec(&patch).ok()?.into(),
        })
    }

    /// Responds to a request from the lock.
    async fn answer(&self, request: Request<Body>) -> Result<Response<Full<Bytes>>, BoxError> {
        match *request.method() {
            Method::GET => self.read(request).await,
            Method::PATCH => self.patch(request).await,
            // The state that the GET showed may be outdated. The watch may have shown since then that another candidate
            // created the Lease. If that Lease were deleted before this request arrives, nothing would reject the
            // request.
            Method::POST if !self.observer.may_race(self.leads()) => {
                Err("the Lease has changed since it was read, and another replica may hold it".into())
            }
            _ => self.written(ask(&self.upstream, request).await?),
        }
    }

    async fn read(&self, request: Request<Body>) -> Result<Response<Full<Bytes>>, BoxError> {
        if let Some(lease) = self.remembered() {
            return Ok(Response::new(lease.into()));
        }
        let sent = Instant::now();
        let answer = ask(&self.upstream, request).await;
        let shown = match &answer {
            Ok(answer) => self.present(Some(&serde_json::from_slice(&answer.body)?), sent)?,
            Err(_) if code_of(&answer) == Some(404) => self.present(None, sent)?,
            Err(_) => None,
        };
        let lease = shown.map_or_else(|| answer.map(|answer| answer.body), Ok)?;
        Ok(Response::new(lease.into()))
    }

    async fn patch(&self, request: Request<Body>) -> Result<Response<Full<Bytes>>, BoxError> {
        let (mut parts, body) = request.into_parts();
        let patch = body.collect().await?.to_bytes();
        let patch = self
            .bind(&patch)
            .ok_or("a PATCH of a Lease that was not read before")?;
        parts.headers.remove(http::header::CONTENT_LENGTH);
        let request = Request::from_parts(parts, patch.body.clone());
        let (term, sent) = (self.terms.borrow().clone(), Instant::now());
        let answer = match &term {
            Some(term) => self.renew(request, &patch, term).await,
            None => ask(&self.upstream, request.map(Body::from)).await,
        };
        if is_unprocessed(code_of(&answer)) {
            self.observer.unprocessed(&patch.read_version);
        }
        let written = answer.and_then(|answer| self.written(answer));
        if written.is_err() && term.is_some() && self.observer.is_applied(&patch) {
            return Ok(self.applied(sent));
        }
        written
    }
}

/// Formats a time as the API server does, whichever format the lock uses.
fn canonical(time: Value) -> Option<String> {
    let time: MicroTime = serde_json::from_value(time).ok()?;
    let time = serde_json::to_value(time).ok()?;
    time.as_str().map(str::to_owned)
}

/// Sends a request and reads the whole response.
async fn ask(upstream: &Client, request: Request<Body>) -> Result<TimedResponse, BoxError> {
    let sent = Instant::now();
    let body = upstream.send(request).await?.into_body().collect().await?;
    Ok(TimedResponse {
        sent,
        body: body.to_bytes(),
    })
}

/// Returns the status code of an unsuccessful response.
fn code_of(answer: &Result<TimedResponse, BoxError>) -> Option<u16> {
    let error = answer.as_ref().err()?.downcast_ref()?;
    status_of(error).map(|status| status.code)
}

/// Whether the server rejected the sender or was overloaded, and therefore did not process the Lease.
fn is_unprocessed(code: Option<u16>) -> bool {
    matches!(code, Some(401 | 403 | 429))
}

/// Creates a Lease that the lock can always read: held by this holder, with a duration of one minute, and renewed `age`
/// ago.
fn presented(lease: &Lease, holder: &str, age: SignedDuration) -> Bytes {
    let renewed = Timestamp::now()
        .saturating_sub(age)
        .unwrap_or(Timestamp::UNIX_EPOCH);
    // The lock increments this value.
    let transitions = lease
        .spec
        .lease_transitions
        .unwrap_or(0)
        .clamp(0, i64::from(i32::MAX - 1));
    let metadata = &lease.metadata;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        },
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": 60,
            "leaseTransitions": transitions,
            "renewTime": MicroTime(renewed),
        },
    });
    lease.to_string().into()
}

#[cfg(test)]
mod tests;
