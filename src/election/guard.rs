//! What makes `kube_leader_election::LeaseLock` safe, as a layer on the client that it uses.
//!
//! By itself the lock reads the Lease, compares times of two machines' wall clocks and patches
//! whatever is there by then. The guard
//! - shows it the Lease with the times of our own monotonic clock, so that it tries exactly when
//!   [`super::sighting`] allows, and with the fields filled in without which it would fail for ever;
//! - turns its PATCH into a compare-and-swap on the version that it was shown, so that of many
//!   candidates one wins and no late PATCH overwrites a successor.
//!
//! It is no fence: see [`super::term`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Either, Full};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use super::Record;
use super::swap::{Basis, Shown};
use super::term::Term;

/// What the lock is shown in place of a holder that it must not see as one.
const NOBODY: &str = "(nobody)";

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
    /// It leads, and what was read is not what was seen meanwhile.
    fn show(&self, lease: Option<Lease>, sent: Instant) -> Result<Option<Lease>, BoxError> {
        let shown = self.record.show(
            lease.as_ref(),
            &self.us,
            self.default_duration,
            self.leads(),
            sent,
        );
        let shown = shown.ok_or("the Lease was seen otherwise while it was read")?;
        *self.basis.lock() = lease.as_ref().map(Basis::of);
        if shown == Shown::Absent {
            return Ok(None);
        }
        let mut lease = lease.unwrap_or_default();
        let spec = lease.spec.get_or_insert_default();
        let holder = spec.holder_identity.get_or_insert_default();
        if holder.is_empty() {
            // Never us, or the lock would renew.
            let last = self
                .record
                .holder()
                .filter(|last| shown == Shown::Held && **last != *self.us);
            *holder = last.unwrap_or_else(|| NOBODY.to_owned());
        }
        spec.lease_duration_seconds = Some(60);
        let age = if shown == Shown::Free {
            SignedDuration::from_hours(1)
        } else {
            SignedDuration::ZERO
        };
        spec.renew_time = Some(MicroTime(
            Timestamp::now()
                .saturating_sub(age)
                .unwrap_or(Timestamp::UNIX_EPOCH),
        ));
        // The lock adds one to it.
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).clamp(0, i32::MAX - 1));
        Ok(Some(lease))
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
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Either<Full<bytes::Bytes>, B>>;
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
                    let response = match inner.call(request).await.map_err(Into::into) {
                        Err(missing) if is_missing(&missing) => {
                            return match guard.show(None, sent)? {
                                Some(lease) => {
                                    Ok(Response::new(Either::Left(serde_json::to_vec(&lease)?.into())))
                                }
                                None => Err(missing),
                            };
                        }
                        answer => answer?,
                    };
                    let (parts, body) = response.into_parts();
                    let body = body.collect().await.map_err(Into::<BoxError>::into)?.to_bytes();
                    let lease = match parts.status {
                        StatusCode::OK => Some(serde_json::from_slice::<Lease>(&body)?),
                        StatusCode::NOT_FOUND => None,
                        _ => return Ok(Response::from_parts(parts, Either::Left(body.into()))),
                    };
                    Ok(match guard.show(lease, sent)? {
                        Some(lease) => Response::new(Either::Left(serde_json::to_vec(&lease)?.into())),
                        None => Response::from_parts(parts, Either::Left(body.into())),
                    })
                }
                Method::PATCH => {
                    let (mut parts, body) = request.into_parts();
                    let patch = body.collect().await?.to_bytes();
                    let patch = guard
                        .bind(&patch)
                        .ok_or("a PATCH of a Lease that was not read before")?;
                    parts.headers.remove(http::header::CONTENT_LENGTH);
                    let request = Request::from_parts(parts, Body::from(patch));
                    let response = inner.call(request).await.map_err(Into::into)?;
                    Ok(response.map(Either::Right))
                }
                // What the GET showed may be over: the watch may have shown since that another has made one, and if that
                // is deleted on the way nothing would refuse this.
                Method::POST if !guard.may_race() => {
                    Err("another holder of the Lease was seen since it was read".into())
                }
                _ => {
                    let response = inner.call(request).await.map_err(Into::into)?;
                    Ok(response.map(Either::Right))
                }
            }
        })
    }
}

/// There is no such Lease.
fn is_missing(error: &BoxError) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 404)
}

#[cfg(test)]
mod tests;
