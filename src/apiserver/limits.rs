//! Counts every call, limits its time, and measures the clock skew from its answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use kube::client::Body;
use parking_lot::Mutex;
use tokio::time::timeout;
use tower::{BoxError, Service};

use super::address_pool::AddressPool;
use super::{is_watch, pages, reads_one_object, status};
use crate::telemetry::metrics::Metrics;
use crate::timing::{ANSWER_LIMIT, BODY_LIMIT, READ_LIMIT};

/// Counts requests by their answer, and limits the time until one begins and, but for watches, until
/// it is whole.
#[derive(Clone)]
pub(super) struct Counted<S> {
    inner: S,
    metrics: Metrics,
    host: Arc<str>,
    pool: Arc<Mutex<AddressPool>>,
}

/// The answer did not begin, or did not complete, in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(super) struct TimedOut(Duration);

#[cfg(test)]
impl TimedOut {
    pub fn for_tests() -> Self {
        Self(Duration::ZERO)
    }
}

impl<S> Counted<S> {
    /// `pool` holds the factor by which limits are stretched.
    pub fn new(inner: S, metrics: &Metrics, host: &str, pool: Arc<Mutex<AddressPool>>) -> Self {
        Self {
            inner,
            pool,
            metrics: metrics.clone(),
            host: host.into(),
        }
    }
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Either<Full<Bytes>, B>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let goes_on = is_watch(&request);
        let is_page = pages::is_page(&request);
        let mut count = RequestCount {
            metrics: self.metrics.clone(),
            method: request.method().clone(),
            host: self.host.clone(),
            status: None,
        };
        let (answer_limit, whole_limit) = if reads_one_object(&request) {
            let limit = self.pool.lock().factor().of(READ_LIMIT);
            (limit, limit)
        } else {
            (ANSWER_LIMIT, BODY_LIMIT)
        };
        let answer = self.inner.call(request);
        let sent = SystemTime::now();
        Box::pin(async move {
            let answer = timeout(answer_limit, answer)
                .await
                .map_err(|_| TimedOut(answer_limit))?
                .map_err(Into::into)?;
            count.status = Some(answer.status());
            if let Some(skew) = skew(answer.headers(), sent, SystemTime::now()) {
                count.metrics.set_clock_skew(skew);
            }
            drop(count);
            let (parts, body) = answer.into_parts();
            if goes_on && parts.status.is_success() {
                return Ok(Response::from_parts(parts, Either::Right(body)));
            }
            // A peer that dies in the middle of a list would be waited for without end.
            let whole = timeout(whole_limit, pages::whole(body, is_page))
                .await
                .map_err(|_| TimedOut(whole_limit))??;
            if !parts.status.is_success() {
                return Err(status::error(&parts, &whole).into());
            }
            Ok(Response::from_parts(parts, Either::Left(whole.into())))
        })
    }
}

/// Counts one request when it is dropped, and so once: with an answer, after an error, or given up by its caller.
struct RequestCount {
    metrics: Metrics,
    method: Method,
    host: Arc<str>,
    /// `None`: no answer.
    status: Option<StatusCode>,
}

impl Drop for RequestCount {
    fn drop(&mut self) {
        self.metrics.api_request(&self.method, self.status, &self.host);
    }
}

/// By how many seconds the clock of this host is ahead of the API server's, as far as is certain: the Date of an
/// answer is cut to whole seconds, and was written some time between request and answer.
fn skew(headers: &HeaderMap, sent: SystemTime, received: SystemTime) -> Option<f64> {
    let date = httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()?;
    let ahead_at_most = seconds_after(received, date);
    let ahead_at_least = seconds_after(sent, date) - 1.0;
    // A clock that was set between both says nothing.
    (ahead_at_least <= ahead_at_most).then(|| 0.0_f64.clamp(ahead_at_least, ahead_at_most))
}

fn seconds_after(moment: SystemTime, other: SystemTime) -> f64 {
    match moment.duration_since(other) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::config::ServerAddress;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_millis(millis)
    }

    fn skew_of(server: u64, sent: u64, received: u64) -> Option<f64> {
        let mut headers = HeaderMap::new();
        let date = httpdate::fmt_http_date(at(server)).parse().ok()?;
        headers.insert(header::DATE, date);
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
    fn the_skew_is_what_is_certain_of_it_and_positive_when_this_clock_is_ahead() {
        assert_eq!(skew_of(5_999, 3_605_000, 3_605_100), Some(3_599.0));
        assert_eq!(skew_of(3_605_000, 5_000, 5_100), Some(-3_599.9));
    }

    #[test]
    fn no_date_no_skew() {
        assert_eq!(skew(&HeaderMap::new(), at(0), at(1)), None);
        let nonsense = HeaderMap::from_iter([(header::DATE, "yesterday".parse().unwrap())]);
        assert_eq!(skew(&nonsense, at(0), at(1)), None);
        assert_eq!(
            skew_of(5_000, 9_000, 2_000),
            None,
            "the clock went back meanwhile"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_get_of_one_object_has_less_time_than_others_until_limits_stretch() {
        let metrics = Metrics::new("lease").unwrap();
        let silent = tower::service_fn(|_: Request<Body>| async {
            std::future::pending::<Result<Response<Full<Bytes>>, BoxError>>().await
        });
        let server = ServerAddress::new("192.0.2.1", 6443);
        let pool = Arc::new(Mutex::new(AddressPool::new(vec![server.clone()], 0)));
        let mut counted = Counted::new(silent, &metrics, "host", pool.clone());
        let mut ends = async |path| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let error = counted.call(request).await.expect_err("no server answers");
            error.to_string()
        };
        assert_eq!(ends("/services/one?").await, "no answer within 5s");
        assert_eq!(ends("/services?limit=500").await, "no answer within 13s");
        let factor = pool.lock().factor();
        pool.lock()
            .timed_out(&server, factor, Duration::ZERO, Instant::now());
        assert_eq!(ends("/services/one?").await, "no answer within 10s");
        assert_eq!(ends("/services?limit=500").await, "no answer within 13s");
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_is_counted_once_with_its_answer_after_an_error_and_when_it_is_given_up() {
        let metrics = Metrics::new("lease").unwrap();
        let service = tower::service_fn(|request: Request<Body>| async move {
            match request.uri().path() {
                "/answered" => Ok(Response::new(Full::<Bytes>::default())),
                "/failed" => Err(BoxError::from("no")),
                _ => std::future::pending().await,
            }
        });
        let mut counted = Counted::new(service, &metrics, "host", Arc::default());
        let mut call = |path| counted.call(Request::get(path).body(Body::empty()).unwrap());
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
        assert!(call("/silent").await.is_err(), "there is a time limit");
        assert_eq!(count("<error>"), 2);
        assert!(timeout(Duration::from_secs(1), call("/silent")).await.is_err());
        assert_eq!(count("<error>"), 3);
        drop(call("/silent"));
        assert_eq!((count("200"), count("<error>")), (1, 4));
    }
}
