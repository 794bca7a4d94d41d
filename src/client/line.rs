//! A client's line to the API: one connection to one API server, given up for another as soon as it fails.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{BoxError, Service};
use tracing::info;

use super::dial::{Connector, Dialer};
use super::{Elsewhere, NotAfter, PING, TooLate, is_watch};
use crate::cli::ServerAddress;
use crate::error::one_line;
use crate::metrics::Metrics;

/// A request that was given up after this time, without an answer, says something about its server.
const PATIENCE: Duration = Duration::from_millis(500);

/// The lines of one client, one at a time.
#[derive(Clone)]
pub(super) struct Lines(Arc<Inner>);

struct Inner {
    dialer: Dialer,
    metrics: Metrics,
    /// What the client is for, in logs.
    purpose: &'static str,
    current: Mutex<Option<Arc<Line>>>,
    last: Arc<Mutex<Last>>,
}

/// Where the lines led last, and why that one was left.
#[derive(Default)]
struct Last {
    address: Option<ServerAddress>,
    why: Option<String>,
}

/// A pool of connections that holds one, as long as HTTP/2 is spoken.
struct Line {
    client: HyperClient<Connector, Body>,
    address: Arc<Mutex<Option<ServerAddress>>>,
}

impl Lines {
    pub fn new(dialer: Dialer, purpose: &'static str, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            dialer,
            metrics,
            purpose,
            current: Mutex::default(),
            last: Arc::default(),
        }))
    }

    /// The line for a request. A watch is where a better address is gone back to: it begins anew anyway, and
    /// those that run on the old line are not disturbed.
    fn line(&self, watches: bool) -> Arc<Line> {
        let mut current = self.0.current.lock();
        if let Some(line) = current.as_ref() {
            let address = line.address.lock().clone();
            let leads_astray = |address: &ServerAddress| {
                let book = self.0.dialer.book.lock();
                book.has_better(address, Instant::now()) && book.has_other(address, Instant::now())
            };
            if !(watches && address.as_ref().is_some_and(leads_astray)) {
                return line.clone();
            }
            self.0.last.lock().why = Some("another address comes before it".to_owned());
        }
        current.insert(Arc::new(self.open())).clone()
    }

    fn open(&self) -> Line {
        let address: Arc<Mutex<Option<ServerAddress>>> = Arc::default();
        let (line, last) = (address.clone(), self.0.last.clone());
        let (metrics, purpose) = (self.0.metrics.clone(), self.0.purpose);
        let connected = move |to: ServerAddress| {
            *line.lock() = Some(to.clone());
            let mut last = last.lock();
            let why = last.why.take();
            if let Some(from) = last.address.replace(to.clone()).filter(|from| *from != to) {
                metrics.api_address_changed();
                let why = why.unwrap_or_else(|| "the connection ended".to_owned());
                info!(%from, %to, why, client = purpose, "changed to another API server");
            }
        };
        let connector = Connector {
            dialer: self.0.dialer.clone(),
            connected: Arc::new(connected),
        };
        let client = HyperClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .http2_keep_alive_while_idle(true)
            .build(connector);
        Line { client, address }
    }

    /// A line has failed: its address is skipped for a while, and the next request takes another line.
    fn leave(&self, line: &Arc<Line>, why: &str) {
        let mut current = self.0.current.lock();
        if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, line)) {
            return;
        }
        *current = None;
        self.0.last.lock().why = Some(why.to_owned());
        if let Some(address) = line.address.lock().as_ref() {
            self.0.dialer.book.lock().failed(address, Instant::now());
        }
    }

    /// The server of a line answered. One that is ill, as one without its etcd, is left if there is another.
    fn answered(&self, line: &Arc<Line>, status: StatusCode) {
        if !status.is_server_error() {
            return;
        }
        let address = line.address.lock().clone();
        let has_other = |address| self.0.dialer.book.lock().has_other(address, Instant::now());
        if address.as_ref().is_some_and(has_other) {
            self.leave(line, &format!("it answered {status}"));
        }
    }
}

impl Service<Request<Body>> for Lines {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let watches = is_watch(&request);
        if let Some(Elsewhere(why)) = request.extensions().get() {
            let current = self.0.current.lock().clone();
            current.inspect(|line| self.leave(line, why));
        }
        let not_after = request.extensions().get::<NotAfter>();
        if not_after.is_some_and(|NotAfter(moment)| Instant::now() >= *moment) {
            return Box::pin(std::future::ready(Err(TooLate.into())));
        }
        let line = self.line(watches);
        let answer = line.client.request(request);
        let mut waiting = Waiting {
            line: Some(line),
            lines: self.clone(),
            since: Instant::now(),
        };
        Box::pin(async move {
            let answer = answer.await;
            let Some(line) = waiting.line.take() else {
                return Err("a request that was given up".into());
            };
            let lines = waiting.lines.clone();
            match answer {
                Ok(answer) => {
                    lines.answered(&line, answer.status());
                    Ok(answer.map(|body| Answer { body, line, lines }))
                }
                Err(error) => {
                    lines.leave(&line, &one_line(&error));
                    Err(error.into())
                }
            }
        })
    }
}

/// A request in flight, which its caller may give up.
struct Waiting {
    line: Option<Arc<Line>>,
    lines: Lines,
    since: Instant,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(line) = self.line.take()
            && self.since.elapsed() >= PATIENCE
        {
            let waited = self.since.elapsed().as_millis();
            self.lines.leave(&line, &format!("no answer within {waited} ms"));
        }
    }
}

/// The body of an answer. If it breaks, so has the line.
pub(super) struct Answer {
    body: Incoming,
    line: Arc<Line>,
    lines: Lines,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Err(error))) = &frame {
            self.lines.leave(&self.line, &one_line(error));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
