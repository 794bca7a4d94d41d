//! A small HTTP/1 server for read-only pages. It withstands slow, broken and hostile clients.

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::Body;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::connections::Connections;
use super::rendering::SharedPage;
use super::secure::{ClientStream, Secure};

/// The pause after an error from `accept`, such as too many open files. It avoids a busy loop and ends before the
/// kubelet's next probe.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// Returns the page for a path and a query, or `None` if the path does not exist. This function must not block.
pub(super) type Pages = Arc<dyn Fn(&str, Option<&str>) -> Option<BoxFuture<'static, Document>> + Send + Sync>;

/// The pages of a server, and how they are protected.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) pages: Pages,
    /// TLS and authorization. `None` means plain HTTP without authorization.
    pub(super) secure: Option<Arc<Secure>>,
}

pub(super) struct Document {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Either<Full<Bytes>, SharedPage>,
}

/// The limits for one client and for all clients together.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Whether a connection may send another request after its first.
    pub(super) keep_alive: bool,
    /// The time limit for receiving the headers of a request, measured from the start of the wait for the request. It
    /// also limits how long a connection may be idle.
    pub(super) header_time: Duration,
    /// The maximum number of headers in a request. Prometheus sends six.
    pub(super) headers: usize,
    /// The maximum number of bytes of a request's head, and of the buffered part of a response.
    pub(super) buffer: usize,
    /// The maximum number of simultaneous connections.
    pub(super) connections: usize,
    /// The maximum lifetime of a connection, which limits clients that read their responses too slowly or not at all.
    pub(super) age: Duration,
    /// How long a response in progress may take to finish before the connection is closed.
    pub(super) drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keep_alive: true,
            header_time: Duration::from_secs(5),
            headers: 32,
            buffer: 8 * 1024,
            connections: 64,
            age: Duration::from_secs(60),
            drain: Duration::from_millis(500),
        }
    }
}

/// Serves a site until `shutdown` is canceled. An error on a connection ends only that connection. A new connection
/// never waits for a slot: when there are too many connections, an older one is closed.
pub(super) async fn serve(listener: TcpListener, site: Site, limits: Limits, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    let accept = async {
        let mut open = Connections::default();
        let mut is_failing = false;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if std::mem::take(&mut is_failing) {
                        info!("HTTP connections are accepted again");
                    }
                    let peer = peer.ip();
                    if site.secure.as_ref().is_some_and(|secure| !secure.admits(peer)) {
                        continue;
                    }
                    let answers = Arc::new(());
                    let client = Client {
                        peer,
                        answers: answers.clone(),
                    };
                    let serving = connection(stream, client, site.clone(), limits, shutdown.clone());
                    open.add(peer, answers, tasks.spawn(serving));
                    while tasks.try_join_next().is_some() {}
                    if open.len() > limits.connections {
                        // Before this task resumes, the runtime polls the sockets and runs every ready task. By then,
                        // each request that has arrived is being answered.
                        yield_now().await;
                        open.shrink_to(limits.connections);
                    }
                }
                // The next `accept` can succeed after such an error, so there is no reason to wait.
                Err(error) if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) => {}
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        warn!(%error, "cannot accept HTTP connections for now");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    let follow_certificate = async {
        match &site.secure {
            Some(secure) => secure.follow_certificate().await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = accept => {}
        () = follow_certificate => {}
        () = shutdown.cancelled() => {}
    }
    drop(listener);
    // Connections that are still open after this time end when the set is dropped.
    let _ = timeout(limits.drain, async { while tasks.join_next().await.is_some() {} }).await;
}

/// The other end of a connection.
struct Client {
    peer: IpAddr,
    /// Each response in progress holds a [`Weak`] of this.
    answers: Arc<()>,
}

async fn connection(
    stream: TcpStream,
    client: Client,
    site: Site,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let stream = match &site.secure {
        Some(secure) => {
            // The future is boxed, because otherwise it would make the futures of all connections larger.
            let handshake = Box::pin(secure.handshake(stream, limits.header_time));
            shutdown.run_until_cancelled(handshake).await.flatten()
        }
        None => Some(ClientStream::Left(stream)),
    };
    let Some(stream) = stream else { return };
    let service = service_fn(async |request: Request<hyper::body::Incoming>| {
        let under_way = Arc::downgrade(&client.answers);
        let response = respond(request, &site, client.peer).await;
        Ok::<_, Infallible>(response.map(|body| keeping(body, under_way)))
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(limits.keep_alive)
            .header_read_timeout(limits.header_time)
            .max_headers(limits.headers)
            .max_buf_size(limits.buffer)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        result = connection.as_mut() => result,
        () = async { tokio::select! { () = shutdown.cancelled() => {} () = sleep(limits.age) => {} } } => {
            connection.as_mut().graceful_shutdown();
            match timeout(limits.drain, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an HTTP connection ended early");
    }
}

/// Returns `body`, which holds `kept` until hyper has consumed the body.
fn keeping(
    body: Either<Full<Bytes>, SharedPage>,
    kept: Weak<()>,
) -> impl Body<Data = Bytes, Error = Box<dyn Error + Send + Sync>> {
    body.map_err(move |error| {
        _ = &kept;
        error
    })
}

/// Returns the response to a request. The body of the request is not read.
async fn respond<B>(
    request: Request<B>,
    site: &Site,
    peer: IpAddr,
) -> Response<Either<Full<Bytes>, SharedPage>> {
    let plain = |status: StatusCode, body: &'static str| Document {
        status,
        content_type: "text/plain; charset=utf-8",
        body: Either::Left(Full::from(body)),
    };
    let page = (site.pages)(request.uri().path(), request.uri().query());
    let allowed = matches!(*request.method(), Method::GET | Method::HEAD);
    let page = match page {
        None => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
        Some(_) if !allowed => plain(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n"),
        Some(page) => {
            let checked = match &site.secure {
                Some(secure) => secure.check(request.headers(), peer).await,
                None => Ok(()),
            };
            match checked {
                Ok(()) => page.await,
                Err((status, text)) => plain(status, text),
            }
        }
    };
    let mut response = Response::new(page.body);
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if page.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    if page.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
