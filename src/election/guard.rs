//! What makes `kube_leader_election::LeaseLock` safe, as a layer on the client that it uses.
//!
//! By itself the lock reads the Lease, compares times of two machines' wall clocks and patches
//! whatever is there by then. The guard
//! - shows it the Lease with the times of our own monotonic clock, so that it tries exactly when
//!   [`super::sighting`] allows, and with nothing in it on which it would fail for ever: fields that are missing are
//!   filled in, and times that it cannot read never reach it;
//! - turns its PATCH into a compare-and-swap on the version that it was shown, so that of many
//!   candidates one wins and no late PATCH overwrites a successor.
//!
//! It is no fence: see [`super::term`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, response};
use http_body_util::{BodyExt as _, Full};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use super::Record;
use super::lease::Lease;
use super::swap::{Basis, Shown};
use super::term::Term;

/// What the lock is shown in place of a holder that it must not see as one.
const NOBODY: &str = "(nobody)";

/// The answer to a read or a write that no API server gives.
const NO_VERSION: &str = "a Lease without uid or resourceVersion";

/// State of the guard, shared with the watch of the Lease.
#[derive(Clone)]
pub struct Guard {
    us: Arc<str>,
    default_duration: Duration,
    record: Record,
    terms: Receiver<Option<Term>>,
    /// The Lease as the lock last saw it.
    basis: Arc<Mutex<Option<Basis>>>,
}

impl Guard {
    /// A guard for the candidate `us`, whose terms are these.
    pub fn new(us: &str, default_duration: Duration, record: Record, terms: Receiver<Option<Term>>) -> Self {
        Self {
            us: us.into(),
            default_duration,
            record,
            terms,
            basis: Arc::default(),
        }
    }

    fn leads(&self) -> bool {
        self.terms.borrow().as_ref().is_some_and(|term| !term.is_over())
    }

    fn may_race(&self) -> bool {
        self.record
            .may_race(&self.us, self.default_duration, self.leads())
    }

    /// What the lock is told after the API server has answered its GET with this Lease or none.
    ///
    /// # Errors
    /// It leads, and what was read is not what was seen meanwhile; or no API server has stored what was read.
    fn show(&self, lease: Option<&Lease>, sent: Instant) -> Result<Option<Bytes>, BoxError> {
        let basis = lease.map(|lease| Basis::of(lease).ok_or(NO_VERSION));
        let basis = basis.transpose()?;
        let shown = self
            .record
            .show(lease, &self.us, self.default_duration, self.leads(), sent);
        let shown = shown.ok_or("the Lease was seen otherwise while it was read")?;
        *self.basis.lock() = basis;
        if shown == Shown::Absent {
            return Ok(None);
        }
        let absent = Lease::default();
        let lease = lease.unwrap_or(&absent);
        let stated = lease.spec.holder_identity.as_deref();
        let last = self.record.holder();
        let holder = match stated.filter(|holder| !holder.is_empty()) {
            Some(holder) => holder,
            // Never us, or the lock would renew.
            None if shown == Shown::Held => last
                .as_deref()
                .filter(|last| **last != *self.us)
                .unwrap_or(NOBODY),
            None => NOBODY,
        };
        let age = if shown == Shown::Free {
            SignedDuration::from_hours(1)
        } else {
            SignedDuration::ZERO
        };
        Ok(Some(presented(lease, holder, age)))
    }

    /// What the lock is told after the API server has answered its write.
    ///
    /// # Errors
    /// Nobody knows what became of the write.
    fn written(&self, parts: response::Parts, body: Bytes) -> Result<Response<Full<Bytes>>, BoxError> {
        if !parts.status.is_success() {
            return Ok(Response::from_parts(parts, body.into()));
        }
        let lease: Lease = serde_json::from_slice(&body)?;
        Basis::of(&lease).ok_or(NO_VERSION)?;
        self.record.wrote(&lease);
        let holder = lease.spec.holder_identity.as_deref().unwrap_or_default();
        Ok(Response::new(
            presented(&lease, holder, SignedDuration::ZERO).into(),
        ))
    }

    /// The lock's PATCH as a compare-and-swap. `None`: it patches what it has not seen.
    fn bind(&self, patch: &[u8]) -> Option<Vec<u8>> {
        let basis = self.basis.lock().take()?;
        let mut patch: Value = serde_json::from_slice(patch).ok()?;
        basis.bind(patch.get_mut("metadata")?.as_object_mut()?);
        serde_json::to_vec(&patch).ok()
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            guard: self.clone(),
            inner,
        }
    }
}

/// A client behind a [`Guard`].
#[derive(Clone)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S, B> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let guard = self.guard.clone();
        // The clone may not be ready; the one that was asked is.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            match *request.method() {
                Method::GET => {
                    let sent = Instant::now();
                    let answer = ask(&mut inner, request).await;
                    let lease = match (code_of(&answer), &answer) {
                        (Some(200), Ok((_, body))) => Some(serde_json::from_slice::<Lease>(body)?),
                        (Some(404), _) => None,
                        _ => return Ok(into_response(answer?)),
                    };
                    match guard.show(lease.as_ref(), sent)? {
                        Some(lease) => Ok(Response::new(lease.into())),
                        None => Ok(into_response(answer?)),
                    }
                }
                Method::PATCH => {
                    let (mut parts, body) = request.into_parts();
                    let patch = body.collect().await?.to_bytes();
                    let patch = guard
                        .bind(&patch)
                        .ok_or("a PATCH of a Lease that was not read before")?;
                    parts.headers.remove(http::header::CONTENT_LENGTH);
                    let request = Request::from_parts(parts, Body::from(patch));
                    let (parts, body) = ask(&mut inner, request).await?;
                    guard.written(parts, body)
                }
                // What the GET showed may be over: the watch may have shown since that another has made one, and if that
                // is deleted on the way nothing would refuse this.
                Method::POST if !guard.may_race() => {
                    Err("another holder of the Lease was seen since it was read".into())
                }
                _ => {
                    let (parts, body) = ask(&mut inner, request).await?;
                    guard.written(parts, body)
                }
            }
        })
    }
}

/// Sends a request and takes in the whole answer.
async fn ask<S, B>(inner: &mut S, request: Request<Body>) -> Result<(response::Parts, Bytes), BoxError>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (parts, body) = inner.call(request).await.map_err(Into::into)?.into_parts();
    let body = body.collect().await.map_err(Into::into)?.to_bytes();
    Ok((parts, body))
}

/// The code of an answer, which the client makes an error of unless it is 2xx.
fn code_of(answer: &Result<(response::Parts, Bytes), BoxError>) -> Option<u16> {
    match answer {
        Ok((parts, _)) => Some(parts.status.as_u16()),
        Err(error) => match error.downcast_ref() {
            Some(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        },
    }
}

fn into_response((parts, body): (response::Parts, Bytes)) -> Response<Full<Bytes>> {
    Response::from_parts(parts, body.into())
}

/// A Lease as the lock can always read it: held by this holder for a minute, and renewed so long ago.
fn presented(lease: &Lease, holder: &str, age: SignedDuration) -> Bytes {
    let renewed = Timestamp::now()
        .saturating_sub(age)
        .unwrap_or(Timestamp::UNIX_EPOCH);
    // The lock adds one to it.
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
