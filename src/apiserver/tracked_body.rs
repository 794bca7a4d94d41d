//! Tracks a request and its response until the response is complete, and measures how long the server is silent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use hyper::body::Incoming;
use kube::client::Body;
use tokio::time::Instant;

use super::channel::Channel;
use super::connection::Connection;
use super::reads_one_object;
use super::stretch::Factor;
use crate::timing::{LIST_SILENCE, READ_SILENCE};

/// A request whose response is not complete. If the caller abandons the request after the server has been silent for
/// too long, [`Channel::silent`] decides whether the client leaves the server.
pub(super) struct InFlight {
    channel: Channel,
    connection: Arc<Connection>,
    is_read: bool,
    /// How long the server may be silent. `None` if there is no limit.
    patience: Option<Duration>,
    /// The factor by which `patience` was stretched.
    factor: Factor,
    /// The time at which the server last sent something, or the request was sent.
    since: Instant,
    /// Whether a failure counts against the server.
    counts: bool,
}

impl InFlight {
    pub fn new(channel: &Channel, connection: &Arc<Connection>, request: &Request<Body>) -> Self {
        let is_read = request.method() == Method::GET;
        let asks_for_many = is_read && !reads_one_object(request);
        let factor = channel.factor();
        Self {
            channel: channel.clone(),
            connection: connection.clone(),
            is_read,
            patience: Some(factor.of(if asks_for_many { LIST_SILENCE } else { READ_SILENCE })),
            factor,
            since: Instant::now(),
            counts: true,
        }
    }

    /// Exempts the server from blame for silence or a broken response.
    pub fn without_blame(mut self) -> Self {
        (self.patience, self.counts) = (None, false);
        self
    }

    /// Returns how long the server has been silent.
    pub fn silence(&self) -> Duration {
        self.since.elapsed()
    }

    /// Lets the server be silent from now on: the request has ended, or the response is a stream.
    pub fn allow_silence(&mut self) {
        self.patience = None;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let silence = self.silence();
        if self.patience.is_some_and(|patience| silence >= patience) {
            let why = format!("the server sent nothing for {} ms", silence.as_millis());
            self.channel
                .silent(&self.connection, self.is_read, self.factor, &why);
        }
    }
}

/// The body of a response. If the body breaks off, the connection counts as broken too, unless the response is exempt
/// from blame.
pub(super) struct TrackedBody {
    body: Incoming,
    request: InFlight,
}

impl TrackedBody {
    pub fn new(body: Incoming, mut request: InFlight) -> Self {
        request.since = Instant::now();
        Self { body, request }
    }
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let request = &mut self.request;
        match &frame {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(_))) => request.since = Instant::now(),
            Poll::Ready(Some(Err(error))) => {
                if request.counts {
                    request.channel.failed(&request.connection, error);
                }
                request.allow_silence();
            }
            Poll::Ready(None) => request.allow_silence(),
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
