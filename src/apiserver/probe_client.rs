//! Probes one address and port of an API server.
//!
//! A probe dials one address directly, without the parallel dials, the stretched limits and the failover of
//! `super::channel`, because it tests that one server. It uses HTTP/1.1, with one request at a time.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kube::Config;
use kube::client::ConfigExt as _;
use kube::config::AuthInfo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt as _, service_fn};

use super::dial::KUBERNETES;
use super::{Access, Error, read};
use crate::apiserver::error::{causes, one_line};
use endpoint_copier_core::verdicts::{Failure, Reply, SUPERVISOR_PORT, Target};

/// The maximum number of bytes to read from a response body. Only the status matters.
const MAX_BODY: usize = 4 * 1024;

/// The maximum size of the status line and headers of a response.
const MAX_HEAD: usize = 16 * 1024;

/// The minimum time between two reads of the credentials and the CA, even if several servers reject the credentials
/// or fail verification.
const REREAD_PAUSE: Duration = Duration::from_secs(1);

/// Opens the connections of probes.
pub trait ProbeClient: Send + Sync {
    /// Connects to this address and port. The caller must set a time limit.
    fn connect(&self, target: Target) -> BoxFuture<'static, Result<Box<dyn ProbeConnection>, Failure>>;
}

/// A connection to one address and port.
pub trait ProbeConnection: Send {
    /// Sends a request, and may repeat it with newer credentials. The caller must set a time limit. If the caller drops
    /// the future before it completes, the connection is unusable.
    fn get(&mut self) -> BoxFuture<'_, Reply>;
    /// Returns whether the connection accepts no more requests.
    fn is_closed(&self) -> bool;
    /// Waits until the connection is closed.
    fn closed(&mut self) -> BoxFuture<'_, ()>;
}

/// Probes over verified TLS: `GET /readyz` with our credentials, or `GET /ping` without them on RKE2's supervisor port.
#[derive(Clone)]
pub struct HttpsProbeClient(Arc<ProbeClientInner>);

struct ProbeClientInner {
    config: Config,
    /// The source from which the configuration is reloaded. `None` if the configuration is fixed.
    source: Option<ConfigSource>,
    loaded: Mutex<Arc<Credentials>>,
    rereading: tokio::sync::Mutex<()>,
}

/// The source of a configuration: the file `kubeconfig`, the ServiceAccount of this Pod, or else the current context.
#[derive(Clone, Debug)]
pub(super) struct ConfigSource {
    pub kubeconfig: Option<PathBuf>,
    pub in_pod: bool,
}

/// A service that returns the headers of a request, with the current token.
type HeaderService = BoxCloneSyncService<Request<Empty<Bytes>>, Response<HeaderMap>, BoxError>;

/// CA, client certificate and token.
struct Credentials {
    read_at: Instant,
    name: ServerName<'static>,
    ours: Identity,
    anonymous: Identity,
}

/// The identity that a probe uses: the TLS configuration, and the headers with the token.
struct Identity {
    tls: Arc<ClientConfig>,
    headers: HeaderService,
}

impl Access {
    /// Returns a client that probes the API servers of this cluster.
    ///
    /// # Errors
    /// Returns an error if certificates or credentials cannot be used.
    pub fn probe_client(&self) -> Result<HttpsProbeClient, Error> {
        HttpsProbeClient::new(self.config.clone(), Some(self.source.clone()))
    }
}

impl HttpsProbeClient {
    fn new(config: Config, source: Option<ConfigSource>) -> Result<Self, Error> {
        let credentials = Arc::new(Credentials::of(config.clone())?);
        Ok(Self(Arc::new(ProbeClientInner {
            config,
            source,
            loaded: Mutex::new(credentials),
            rereading: tokio::sync::Mutex::default(),
        })))
    }
}

impl ProbeClient for HttpsProbeClient {
    fn connect(&self, target: Target) -> BoxFuture<'static, Result<Box<dyn ProbeConnection>, Failure>> {
        let inner = self.0.clone();
        async move {
            let connection = HttpsConnection::open(inner, target).await?;
            Ok(Box::new(connection) as Box<dyn ProbeConnection>)
        }
        .boxed()
    }
}

impl ProbeClientInner {
    /// Returns the credentials that were last read.
    fn credentials(&self) -> Arc<Credentials> {
        self.loaded.lock().clone()
    }

    /// Reads the credentials again after a server rejected the credentials `failed`, or failed verification against
    /// their CA. Reads nothing if newer credentials have already been read, or if the last read was less than
    /// [`REREAD_PAUSE`] ago. Returns the latest credentials.
    async fn reread(self: &Arc<Self>, failed: &Arc<Credentials>) -> Result<Arc<Credentials>, Failure> {
        let _one_at_a_time = self.rereading.lock().await;
        let loaded = self.credentials();
        if !Arc::ptr_eq(&loaded, failed) || loaded.read_at.elapsed() < REREAD_PAUSE {
            return Ok(loaded);
        }
        // The load continues even after the probe has timed out, because a credential plugin of a kubeconfig may be
        // slow.
        let load = tokio::spawn(self.clone().load());
        load.await.map_err(|error| unusable(&error))?
    }

    async fn load(self: Arc<Self>) -> Result<Arc<Credentials>, Failure> {
        let config = match &self.source {
            Some(source) => read(source).await.map_err(|error| unusable(&error))?,
            None => self.config.clone(),
        };
        let credentials = tokio::task::spawn_blocking(move || Credentials::of(config)).await;
        let credentials = credentials.map_err(|error| unusable(&error))?;
        let credentials = Arc::new(credentials.map_err(|error| unusable(&error))?);
        *self.loaded.lock() = credentials.clone();
        Ok(credentials)
    }
}

fn unusable(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::Other(format!("no usable credentials: {}", one_line(error)))
}

impl Credentials {
    fn of(mut config: Config) -> Result<Self, Error> {
        let url = config.cluster_url.to_string();
        let error = |error: String| Error::Credentials {
            url: url.clone(),
            error,
        };
        // The token is sent to addresses that the cluster lists but nobody configured, so verification of the
        // certificate cannot be disabled.
        config.accept_invalid_certs = false;
        let name = config.tls_server_name.clone();
        let name = ServerName::try_from(name.unwrap_or_else(|| KUBERNETES.to_owned()));
        let name = name.map_err(|_| error("invalid tls-server-name".to_owned()))?;
        let identity = |config: &Config| Identity::of(config).map_err(|reason| error(one_line(&reason)));
        let ours = identity(&config)?;
        config.auth_info = AuthInfo::default();
        Ok(Self {
            read_at: Instant::now(),
            name,
            ours,
            anonymous: identity(&config)?,
        })
    }

    /// Returns the identity for this target. The supervisor gets no credentials.
    fn identity(&self, target: Target) -> &Identity {
        if is_supervisor(target) {
            &self.anonymous
        } else {
            &self.ours
        }
    }

    /// Builds the request for a target, with the current token.
    async fn request(&self, target: Target) -> Result<Request<Empty<Bytes>>, Failure> {
        let path = probed_path(target);
        let service = self.identity(target).headers.clone();
        let response = service.oneshot(Request::new(Empty::new())).await;
        let mut headers = response.map_err(|error| unusable(&*error))?.into_body();
        let host = HeaderValue::from_str(&self.name.to_str());
        headers.insert(header::HOST, host.map_err(|error| unusable(&error))?);
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = http::Uri::from_static(path);
        *request.headers_mut() = headers;
        Ok(request)
    }
}

impl Identity {
    fn of(config: &Config) -> kube::Result<Self> {
        let mut tls = config.rustls_client_config()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let echo = service_fn(|request: Request<Empty<Bytes>>| async move {
            Ok::<_, BoxError>(Response::new(request.into_parts().0.headers))
        });
        let headers = ServiceBuilder::new()
            .option_layer(config.auth_layer()?)
            .layer(config.extra_headers_layer()?)
            .service(echo);
        Ok(Self {
            tls: Arc::new(tls),
            headers: BoxCloneSyncService::new(headers),
        })
    }
}

/// Returns the path that a probe of this target requests.
pub(super) fn probed_path(target: Target) -> &'static str {
    if is_supervisor(target) { "/ping" } else { "/readyz" }
}

fn is_supervisor(target: Target) -> bool {
    target.port() == SUPERVISOR_PORT
}

type ProbeSender = http1::SendRequest<Empty<Bytes>>;

/// Connects to a target over TLS. The caller must set a time limit.
pub(super) async fn connect(
    target: Target,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<TlsStream<TcpStream>, Failure> {
    let tcp = TcpStream::connect((target.address(), target.port())).await;
    let tcp = tcp.map_err(|error| failure(&error))?;
    tcp.set_nodelay(true).map_err(|error| failure(&error))?;
    let stream = TlsConnector::from(config).connect(name, tcp).await;
    stream.map_err(|error| failure(&error))
}

/// Starts HTTP/1.1 on the stream. The connection closes when the returned handle is dropped.
pub(super) async fn speak_http(
    stream: TlsStream<TcpStream>,
) -> Result<(ProbeSender, AbortOnDropHandle<()>), Failure> {
    let mut http = http1::Builder::new();
    let handshake = http.max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(|error| failure(&error))?;
    // The error can be dropped, because the caller that waits for a response gets it too.
    let task = tokio::spawn(connection.map(drop));
    Ok((sender, AbortOnDropHandle::new(task)))
}

struct HttpsConnection {
    inner: Arc<ProbeClientInner>,
    target: Target,
    credentials: Arc<Credentials>,
    sender: ProbeSender,
    /// Drives the connection, and ends when it is closed.
    task: AbortOnDropHandle<()>,
}

impl HttpsConnection {
    async fn open(inner: Arc<ProbeClientInner>, target: Target) -> Result<Self, Failure> {
        let credentials = inner.credentials();
        match Self::open_with(&inner, target, credentials.clone()).await {
            Err(Failure::Certificate(_)) => {
                let reread = inner.reread(&credentials).await?;
                Self::open_with(&inner, target, reread).await
            }
            opened => opened,
        }
    }

    async fn open_with(
        inner: &Arc<ProbeClientInner>,
        target: Target,
        credentials: Arc<Credentials>,
    ) -> Result<Self, Failure> {
        let config = credentials.identity(target).tls.clone();
        let stream = connect(target, config, credentials.name.clone()).await?;
        let (sender, task) = speak_http(stream).await?;
        Ok(Self {
            inner: inner.clone(),
            target,
            credentials,
            sender,
            task,
        })
    }

    /// Sends one request and reads the response.
    async fn ask(&mut self) -> Result<Reply, Failure> {
        let request = self.credentials.request(self.target).await?;
        self.sender.ready().await.map_err(|error| failure(&error))?;
        let answer = self.sender.send_request(request).await;
        let (head, body) = answer.map_err(|error| failure(&error))?.into_parts();
        // The connection accepts the next request only after the whole response has been read.
        if let Err(error) = Limited::new(body, MAX_BODY).collect().await {
            // A body that is longer than the limit is not a failure. hyper closes the connection, because the rest of
            // the body is not read.
            if !error.is::<LengthLimitError>() {
                return Err(failure(&*error));
            }
        }
        Ok(reply(head.status))
    }

    async fn ask_again_if_unauthorized(&mut self) -> Reply {
        let first = self.ask().await;
        if first != Ok(Reply::Alive(401)) || is_supervisor(self.target) {
            return first.unwrap_or_else(Reply::Failure);
        }
        let again = async {
            let reread = self.inner.reread(&self.credentials).await?;
            // The client certificate may have changed too.
            *self = Self::open_with(&self.inner, self.target, reread).await?;
            self.ask().await
        };
        again.await.unwrap_or_else(Reply::Failure)
    }
}

impl ProbeConnection for HttpsConnection {
    fn get(&mut self) -> BoxFuture<'_, Reply> {
        self.ask_again_if_unauthorized().boxed()
    }

    fn is_closed(&self) -> bool {
        self.task.is_finished() || self.sender.is_closed()
    }

    fn closed(&mut self) -> BoxFuture<'_, ()> {
        async {
            if !self.task.is_finished() {
                _ = (&mut self.task).await;
            }
        }
        .boxed()
    }
}

fn reply(status: StatusCode) -> Reply {
    match status.as_u16() {
        200..=299 => Reply::Success,
        code @ (401 | 403 | 429) => Reply::Alive(code),
        code => Reply::Failure(Failure::Status(code)),
    }
}

/// Classifies an error by its causes.
pub(super) fn failure(error: &(dyn std::error::Error + 'static)) -> Failure {
    let known = causes(error).find_map(|error| {
        if let Some(hyper) = error.downcast_ref::<hyper::Error>() {
            let is_reset = hyper.is_incomplete_message() || hyper.is_canceled() || hyper.is_closed();
            return is_reset.then_some(Failure::Reset);
        }
        if let Some(rustls::Error::InvalidCertificate(reason)) = error.downcast_ref() {
            return Some(Failure::Certificate(reason.to_string()));
        }
        match error.downcast_ref::<io::Error>()?.kind() {
            io::ErrorKind::ConnectionRefused => Some(Failure::Refused),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Some(Failure::Reset),
            io::ErrorKind::TimedOut => Some(Failure::TimedOut),
            _ => None,
        }
    });
    known.unwrap_or_else(|| Failure::Other(one_line(error)))
}

#[cfg(test)]
mod tests;
