//! One connection to one API server. It is HTTP/2 and takes any number of requests; with HTTP/1.1, where nothing
//! better is spoken, one at a time.

use std::error::Error as _;

use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use parking_lot::Mutex;
use tracing::debug;

use super::dial::Stream;
use super::stretch::Factor;
use crate::config::ServerAddress;
use crate::timing::PING;

/// A connection. It closes when it and all answers on it are dropped.
pub(super) struct Connection {
    pub address: ServerAddress,
    /// The factor by which its time limit for pings was stretched.
    pub factor: Factor,
    sender: Sender,
}

enum Sender {
    Http1(Mutex<http1::SendRequest<Body>>),
    Http2(http2::SendRequest<Body>),
}

/// Why there is no answer.
pub(super) struct NoAnswer {
    pub error: hyper::Error,
    /// The request, if no byte of it was sent.
    pub unsent: Option<Box<Request<Body>>>,
}

impl Connection {
    /// Speaks the protocol that the server has agreed to. The time limit for pings, stretched by `factor`, is
    /// fixed for the life of the connection.
    pub async fn over(stream: Stream, address: ServerAddress, factor: Factor) -> hyper::Result<Self> {
        let ended = |error| debug!(%error, "a connection to an API server ended");
        let sender = if stream.connected().is_negotiated_h2() {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(PING)
                .keep_alive_timeout(factor.of(PING))
                .keep_alive_while_idle(true)
                .handshake(stream)
                .await?;
            tokio::spawn(async move { connection.await.unwrap_or_else(ended) });
            Sender::Http2(sender)
        } else {
            let (mut sender, connection) = http1::handshake(stream).await?;
            tokio::spawn(async move { connection.await.unwrap_or_else(ended) });
            sender.ready().await?;
            Sender::Http1(sender.into())
        };
        Ok(Self {
            address,
            factor,
            sender,
        })
    }

    /// Whether it takes a request now. With HTTP/1.1 another one may be quicker.
    pub fn is_ready(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.lock().is_ready(),
            Sender::Http2(sender) => sender.is_ready(),
        }
    }

    /// Whether it will never take a request any more.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.lock().is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request, when this is polled first.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, NoAnswer> {
        let uri = request.uri().clone();
        let answer = match &self.sender {
            Sender::Http1(sender) => {
                let answer = sender.lock().try_send_request(in_origin_form(request));
                answer.await
            }
            Sender::Http2(sender) => sender.clone().try_send_request(request).await,
        };
        answer.map_err(|mut error: TrySendError<_>| {
            let mut unsent = error.take_message().map(Box::new);
            if let Some(request) = &mut unsent {
                // The next connection may speak something else.
                *request.uri_mut() = uri;
            }
            NoAnswer {
                error: error.into_error(),
                unsent,
            }
        })
    }
}

/// Whether a server has only asked for another connection, as API servers do to spread their clients and before they stop.
/// It did not take the request.
pub(super) fn is_graceful_goaway(error: &hyper::Error) -> bool {
    let http2 = error.source().and_then(|error| error.downcast_ref::<h2::Error>());
    http2.is_some_and(|error| {
        error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
            || error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
    })
}

/// HTTP/1.1 names the host in a header, and only the path in its first line.
fn in_origin_form(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri().clone();
    let host = uri
        .authority()
        .map(|authority| HeaderValue::from_str(authority.as_str()));
    if let Some(Ok(host)) = host {
        request.headers_mut().insert(header::HOST, host);
    }
    if let Some(path) = uri.path_and_query() {
        *request.uri_mut() = Uri::from(path.clone());
    }
    request
}
