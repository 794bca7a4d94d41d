//! Counts every call, limits its time and the size of its response, and measures the clock skew from that response.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::fmt::rfc2822;
use kube::client::Body;
use parking_lot::Mutex;
use tokio::time::timeout;
use tower::{BoxError, Service, ServiceExt as _};

use super::address_pool::AddressPool;
use super::channel::Origin;
use super::response_size::{Incoming, LARGEST_OBJECT, TooLarge, WatchBody, read, read_error};
use super::{http_status, is_watch, reads_one_object};
use crate::telemetry::metrics::Metrics;
use crate::timing::{ANSWER_LIMIT, BODY_LIMIT, READ_LIMIT};

/// Counts requests by response, and limits the time until a response starts and, except for watches, until it is
/// complete.
#[derive(Clone)]
pub(super) struct CallLimits<S> {
    inner: S,
    metrics: Metrics,
    host: Arc<str>,
    pool: Arc<Mutex<AddressPool>>,
    incoming: Incoming,
}

/// The response did not begin, or did not complete, in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no response within {0:?}")]
pub(super) struct TimedOut(pub Duration);

/// A response: a complete one, or the stream of a watch.
pub(super) type Answer<B> = Response<Either<Full<Bytes>, WatchBody<B>>>;

impl<S, B> CallLimits<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Limits the calls to `inner`. `pool` provides the factor by which limits are stretched, and `incoming` counts the
    /// total size of the incomplete responses of all clients.
    pub fn new(
        inner: S,
        metrics: &Metrics,
        host: &str,
        pool: Arc<Mutex<AddressPool>>,
        incoming: Incoming,
    ) -> Self {
        Self {
            inner,
            pool,
            incoming,
            metrics: metrics.clone(),
            host: host.into(),
        }
    }

    /// Sends a request. A response of more than `largest` bytes fails with [`TooLarge`], and so does a watch with a
    /// line of more than [`LARGEST_OBJECT`] bytes. A response or line of more than 1 MiB also fails if all incomplete
    /// responses together are too large. These failures count against the server; for a response that is not a watch,
    /// they do so only if `largest` is at least [`LARGEST_OBJECT`]. Only the start of an error response is read.
    pub fn send(
        &self,
        request: Request<Body>,
        largest: usize,
    ) -> impl Future<Output = Result<Answer<B>, BoxError>> + Send + use<S, B> {
        let is_stream = is_watch(&request);
        let mut count = RequestCount {
            metrics: self.metrics.clone(),
            method: request.method().clone(),
            host: self.host.clone(),
            status: None,
        };
        let (answer_limit, whole_limit) = if reads_one_object(&request) {
            let limit = self.pool.lock().stretch.factor().of(READ_LIMIT);
            (limit, limit)
        } else {
            (ANSWER_LIMIT, BODY_LIMIT)
        };
        let inner = self.inner.clone();
        let incoming = self.incoming.clone();
        let sent = Timestamp::now();
        async move {
            let answer = timeout(answer_limit, inner.oneshot(request))
                .await
                .map_err(|_| TimedOut(answer_limit))?
                .map_err(Into::into)?;
            count.status = Some(answer.status());
            if let Some(skew) = skew(answer.headers(), sent, Timestamp::now()) {
                count.metrics.set_clock_skew(skew);
            }
            drop(count);
            let (mut parts, body) = answer.into_parts();
            let origin: Option<Origin> = parts.extensions.remove();
            if is_stream && parts.status.is_success() {
                let body = WatchBody::new(body, &incoming, origin);
                return Ok(Response::from_parts(parts, Either::Right(body)));
            }
            // Without a limit, this could wait forever for a server that answers pings, but does not complete a list.
            let too_late = |_| TimedOut(whole_limit);
            if !parts.status.is_success() {
                let text = timeout(whole_limit, read_error(body)).await.map_err(too_late)??;
                return Err(http_status::error(&parts, &text).into());
            }
            let whole = timeout(whole_limit, read(body, incoming.answer(largest)));
            let whole = whole.await.map_err(too_late)?.inspect_err(|error| {
                if let (Some(origin), Some(too_large)) = (origin, error.downcast_ref::<TooLarge>())
                    && largest >= LARGEST_OBJECT
                {
                    origin.blame(too_large);
                }
            })?;
            Ok(Response::from_parts(parts, Either::Left(whole.into())))
        }
    }
}

/// Counts one request when this value is dropped, and therefore exactly once: with a response, after an error, or when
/// the caller abandons the request.
struct RequestCount {
    metrics: Metrics,
    method: Method,
    host: Arc<str>,
    /// `None` if there was no response.
    status: Option<StatusCode>,
}

impl Drop for RequestCount {
    fn drop(&mut self) {
        self.metrics.api_request(&self.method, self.status, &self.host);
    }
}

/// Returns the minimum difference, in seconds, between the clocks of this host and of the API server: positive if this
/// host is ahead. Returns `None` without a usable Date, or if this host's clock was set back in the meantime. The Date
/// of a response is truncated to whole seconds, and was written at some time between request and response.
pub(super) fn skew(headers: &HeaderMap, sent: Timestamp, received: Timestamp) -> Option<f64> {
    let date = rfc2822::parse(headers.get(header::DATE)?.to_str().ok()?).ok()?;
    let ahead = |moment: Timestamp| moment.duration_since(date.timestamp()).as_secs_f64();
    let (ahead_at_least, ahead_at_most) = (ahead(sent) - 1.0, ahead(received));
    // If our clock was set back in the meantime, the skew is unknown.
    (ahead_at_least <= ahead_at_most).then(|| 0.0_f64.clamp(ahead_at_least, ahead_at_most))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::config::ServerAddress;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
    }

    fn skew_of(server: i64, sent: i64, received: i64) -> Option<f64> {
        let mut headers = HeaderMap::new();
        let date = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at(server));
        headers.insert(header::DATE, date.unwrap().parse().unwrap());
        skew(&headers, at(sent), at(received))
    }

    #[test]
    fn clocks_that_may_agree_have_no_skew() {
        for (server, sent, received) in [
            (5_000, 5_100, 5_200),
            (5_999, 5_990, 6_010),
            (5_500, 4_600, 5_600),
        ] {
            assert_eq!(skew_of(server, sent, received), Some(0.0));
        }
    }

    #[test]
    fn skew_is_its_certain_part_and_positive_when_clock_is_ahead() {
        assert_eq!(skew_of(5_999, 3_605_000, 3_605_100), Some(3_599.0));
        assert_eq!(skew_of(3_605_000, 5_000, 5_100), Some(-3_599.9));
    }

    #[test]
    fn skew_is_unknown_without_a_date_or_after_clock_is_set_back() {
        assert_eq!(skew(&HeaderMap::new(), at(0), at(1)), None);
        let nonsense = HeaderMap::from_iter([(header::DATE, "yesterday".parse().unwrap())]);
        assert_eq!(skew(&nonsense, at(0), at(1)), None);
        assert_eq!(
            skew_of(5_000, 9_000, 2_000),
            None,
            "a skew although the clock was set back between request and response"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_limit_for_a_get_of_one_object_stretches() {
        let metrics = Metrics::new("lease").unwrap();
        let silent = tower::service_fn(|_: Request<Body>| async {
            std::future::pending::<Result<Response<Full<Bytes>>, BoxError>>().await
        });
        let server = ServerAddress::new("192.0.2.1", 6443);
        let pool = Arc::new(Mutex::new(AddressPool::new(vec![server.clone()], 0)));
        let counted = CallLimits::new(silent, &metrics, "host", pool.clone(), Incoming::default());
        let ends = async |path| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let answer = counted.send(request, usize::MAX).await;
            let error = answer.err().expect("the silent server answered");
            error.to_string()
        };
        assert_eq!(ends("/services/one?").await, "no response within 5s");
        assert_eq!(ends("/services?limit=500").await, "no response within 13s");
        let factor = pool.lock().stretch.factor();
        pool.lock()
            .timed_out(&server, factor, Duration::ZERO, Instant::now());
        assert_eq!(ends("/services/one?").await, "no response within 10s");
        assert_eq!(ends("/services?limit=500").await, "no response within 13s");
    }

    #[tokio::test(start_paused = true)]
    async fn request_is_counted_once_even_if_it_fails_or_is_abandoned() {
        let metrics = Metrics::new("lease").unwrap();
        let service = tower::service_fn(|request: Request<Body>| async move {
            match request.uri().path() {
                "/answered" => Ok(Response::new(Full::<Bytes>::default())),
                "/failed" => Err(BoxError::from("no")),
                _ => std::future::pending().await,
            }
        });
        let counted = CallLimits::new(service, &metrics, "host", Arc::default(), Incoming::default());
        let call = |path| counted.send(Request::get(path).body(Body::empty()).unwrap(), usize::MAX);
        let count = |code| {
            let text = metrics.render();
            let series =
                format!("rest_client_requests_total{{code=\"{code}\",host=\"host\",method=\"GET\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&series));
            value.map_or(0, |value| value.parse().unwrap())
        };
        assert!(call("/answered").await.is_ok());
        assert_eq!((count("200"), count("<error>")), (1, 0));
        assert!(call("/failed").await.is_err());
        assert_eq!(count("<error>"), 1);
        assert!(call("/silent").await.is_err(), "there is no time limit");
        assert_eq!(count("<error>"), 2);
        assert!(timeout(Duration::from_secs(1), call("/silent")).await.is_err());
        assert_eq!(count("<error>"), 3);
        drop(call("/silent"));
        assert_eq!((count("200"), count("<error>")), (1, 4));
    }
}
