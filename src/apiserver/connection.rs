//! One connection to one API server. The connection uses HTTP/2 and carries many requests at the same time. If the
//! server speaks only HTTP/1.1, the connection carries one request at a time.

use std::error::Error as _;

use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::rt::Executor;
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::TokioTimer;
use kube::client::Body;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::dial::ServerStream;
use super::stretch::Factor;
use crate::config::ServerAddress;
use crate::timing::PING;

/// A connection. It closes when this value and all responses on the connection are dropped.
pub(super) struct Connection {
    pub address: ServerAddress,
    /// The factor by which the time limit for pings was stretched.
    pub factor: Factor,
    sender: Sender,
}

enum Sender {
    Http1(Mutex<http1::SendRequest<Body>>),
    Http2(http2::SendRequest<Body>),
}

/// The reason why there is no response.
pub(super) struct NoAnswer {
    pub error: hyper::Error,
    /// The request, if no byte of it was sent.
    pub unsent: Option<Box<Request<Body>>>,
}

impl Connection {
    /// Creates a connection over this stream, with the protocol that was negotiated with the server. The time limit for
    /// pings, stretched by `factor`, is fixed for the life of the connection. The connection ends when `until_down`
    /// completes, even if requests are in flight.
    pub async fn over(
        stream: ServerStream,
        address: ServerAddress,
        factor: Factor,
        until_down: impl Future<Output = ()> + Send + 'static,
    ) -> hyper::Result<Self> {
        let is_down = CancellationToken::new();
        let sender = if stream.connected().is_negotiated_h2() {
            let (sender, connection) = http2::Builder::new(Tasks(is_down.clone()))
                .timer(TokioTimer::new())
                .keep_alive_interval(PING)
                .keep_alive_timeout(factor.of(PING))
                .keep_alive_while_idle(true)
                .handshake(stream)
                .await?;
            tokio::spawn(carry(connection, until_down, is_down));
            Sender::Http2(sender)
        } else {
            let (mut sender, connection) = http1::handshake(stream).await?;
            tokio::spawn(carry(connection, until_down, is_down));
            sender.ready().await?;
            Sender::Http1(sender.into())
        };
        Ok(Self {
            address,
            factor,
            sender,
        })
    }

    /// Whether the connection accepts a request now. With HTTP/1.1, another request may take it first.
    pub fn is_ready(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.lock().is_ready(),
            Sender::Http2(sender) => sender.is_ready(),
        }
    }

    /// Whether the connection accepts no more requests.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.lock().is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request when the returned future is first polled.
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
                // The next connection may use another protocol.
                *request.uri_mut() = uri;
            }
            NoAnswer {
                error: error.into_error(),
                unsent,
            }
        })
    }
}

/// Runs the tasks of an HTTP/2 connection until its server is down. hyper would run them until the last response
/// is complete, which can take half a minute for a watch.
#[derive(Clone)]
struct Tasks(CancellationToken);

impl Tasks {
    /// Runs a task until the server is down. The task holds only a pointer to its future: hyper's type for these
    /// futures is as large as a whole connection, 7 KiB, and hyper spawns one or two of them for each request. Tokio
    /// aligns tasks to 128 bytes, and glibc rarely reuses the space of such a block once a small allocation lies next
    /// to it. Without the pointer, 500 create requests took 5 MiB more.
    fn until_down<F: Future>(&self, task: F) -> impl Future<Output = Option<F::Output>> + use<F> {
        self.0.clone().run_until_cancelled_owned(Box::pin(task))
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(self.until_down(task));
    }
}

/// Carries requests and responses until the connection ends or probes find its server down.
async fn carry(
    connection: impl Future<Output = hyper::Result<()>> + Send,
    until_down: impl Future<Output = ()> + Send,
    is_down: CancellationToken,
) {
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            debug!(%error, "a connection to an API server ended");
        },
        () = until_down => {
            debug!("left an API server that probes find down");
            is_down.cancel();
        }
    }
}

/// Whether a server has only asked the client to use another connection, or has refused the stream of the request. API
/// servers send a graceful GOAWAY to spread their clients, and before they stop.
pub(super) fn is_graceful_goaway(error: &hyper::Error) -> bool {
    let http2 = error.source().and_then(|error| error.downcast_ref::<h2::Error>());
    http2.is_some_and(|error| {
        error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
            || error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
    })
}

/// Converts a request for HTTP/1.1, which has the host in a header and only the path in the first line.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule: survive.memory
    #[tokio::test]
    async fn a_task_holds_only_a_pointer_to_its_future() {
        let large = [1_u8; 7 * 1024];
        let future = async move {
            tokio::task::yield_now().await;
            large.len()
        };
        assert!(size_of_val(&future) > size_of_val(&large));
        let task = Tasks(CancellationToken::new()).until_down(future);
        assert!(size_of_val(&task) <= 256, "{} bytes", size_of_val(&task));
        assert_eq!(task.await, Some(size_of_val(&large)));
    }
}
