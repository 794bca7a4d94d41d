//! How API servers are dialed: where to, how long, and how a dead connection is noticed.
//!
//! kube's own stack speaks HTTP/1.1 without keepalive: after a silent power-off a request on a
//! pooled connection hung for a quarter of an hour. This one speaks HTTP/2 and pings.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Either, Full};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tower::{BoxError, Service, ServiceBuilder};
use tracing::warn;

use crate::error::one_line;
use crate::metrics::Metrics;

/// A dial, TLS included, is done by then or given up.
const DIAL: Duration = Duration::from_millis(1500);

/// A connection is pinged this often, also while idle, and is dead when a ping takes longer.
const PING: Duration = Duration::from_secs(1);

/// An answer has begun by then. A watch answers at once and then goes on.
const ANSWER: Duration = Duration::from_secs(10);

/// The rest of an answer has arrived by then: a page of 500 large objects on a slow line.
const WHOLE: Duration = Duration::from_secs(20);

/// Access to the API of one cluster.
#[derive(Clone)]
pub struct Access {
    config: Config,
    metrics: Metrics,
}

/// There is no way to the API: what was tried and what to do, in one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--kubeconfig` cannot be used.
    #[error("--kubeconfig {path}: {error}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        error: String,
    },
    /// In a Pod, without a ServiceAccount that can be used.
    #[error("the Pod's ServiceAccount cannot be used: {0}; is automountServiceAccountToken off?")]
    ServiceAccount(String),
    /// Outside of a Pod, without a kubeconfig that can be used.
    #[error("no cluster to work on: {0}; give --kubeconfig, or set KUBECONFIG")]
    Context(String),
    /// The certificates or credentials of the configuration cannot be used.
    #[error("the credentials for {url} cannot be used: {error}")]
    Credentials {
        /// The API server.
        url: String,
        /// What is wrong with them.
        error: String,
    },
}

impl Access {
    /// Finds the cluster: `--kubeconfig`; else, in a Pod, its ServiceAccount; else the current context.
    ///
    /// # Errors
    /// None of them can be used.
    pub async fn find(kubeconfig: Option<&Path>, metrics: Metrics) -> Result<Self, Error> {
        let mut config = match kubeconfig {
            Some(path) => from_file(path).await.map_err(|error| Error::Kubeconfig {
                path: path.display().to_string(),
                error: one_line(&error),
            })?,
            None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => {
                Config::incluster().map_err(|error| Error::ServiceAccount(one_line(&error)))?
            }
            None => Config::from_kubeconfig(&KubeConfigOptions::default())
                .await
                .map_err(|error| Error::Context(one_line(&error)))?,
        };
        if config.proxy_url.take().is_some() {
            warn!("the API server is dialed directly: proxies are not supported");
        }
        let agent = concat!("endpoint-copier-operator/", env!("CARGO_PKG_VERSION"));
        config
            .headers
            .push((header::USER_AGENT, HeaderValue::from_static(agent)));
        Ok(Self { config, metrics })
    }

    /// Namespace of the ServiceAccount or the context.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.config.default_namespace
    }

    /// The API server's address.
    #[must_use]
    pub fn url(&self) -> &Uri {
        &self.config.cluster_url
    }

    /// A client with connections of its own. It never repeats a request by itself.
    ///
    /// # Errors
    /// Certificates or credentials cannot be used.
    pub fn client(&self) -> Result<Client, Error> {
        self.stack().map_err(|error| Error::Credentials {
            url: self.config.cluster_url.to_string(),
            error: one_line(&error),
        })
    }

    fn stack(&self) -> kube::Result<Client> {
        let config = &self.config;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Where HTTP/2 is not spoken, this is what notices a dead peer.
        tcp.set_keepalive(Some(Duration::from_secs(5)));
        tcp.set_keepalive_interval(Some(PING));
        tcp.set_keepalive_retries(Some(3));
        let mut tls = HttpsConnectorBuilder::new()
            .with_tls_config(config.rustls_client_config()?)
            .https_or_http();
        if let Some(name) = config
            .tls_server_name
            .clone()
            .and_then(|name| ServerName::try_from(name).ok())
        {
            tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        // Around the whole dial: a time limit of the TCP connector would leave TLS out.
        let mut dial = TimeoutConnector::new(tls.enable_http1().enable_http2().wrap_connector(tcp));
        dial.set_connect_timeout(Some(DIAL));
        let client = HyperClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .http2_keep_alive_while_idle(true)
            .build::<_, Body>(dial);
        let host = config
            .cluster_url
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default();
        let counted = Counted::new(client, &self.metrics, &host);
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer()?)
            .layer(config.extra_headers_layer()?)
            .service(counted);
        Ok(Client::new(service, config.default_namespace.clone()))
    }
}

/// A client over any service that answers as an API server: counted and limited in time like ours.
pub fn over<S, B>(service: S, namespace: &str, metrics: &Metrics) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(Counted::new(service, metrics, "service"), namespace)
}

async fn from_file(path: &Path) -> Result<Config, kube::config::KubeconfigError> {
    Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await
}

/// Whether a request asks for a stream that goes on.
pub fn is_watch<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query
        .split('&')
        .any(|pair| pair == "watch=true" || pair == "watch=1")
}

/// Counts requests by their answer, and limits the time until one begins and, but for watches, until
/// it is whole.
#[derive(Clone)]
struct Counted<S> {
    inner: S,
    metrics: Metrics,
    host: Arc<str>,
}

impl<S> Counted<S> {
    fn new(inner: S, metrics: &Metrics, host: &str) -> Self {
        Self {
            inner,
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
        let (metrics, host) = (self.metrics.clone(), self.host.clone());
        let (method, goes_on) = (request.method().clone(), is_watch(&request));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = match timeout(ANSWER, answer).await {
                Ok(answer) => answer.map_err(Into::<BoxError>::into),
                Err(late) => Err(late.into()),
            };
            let status = answer.as_ref().ok().map(Response::status);
            metrics.api_request(&method, status, &host);
            let (parts, body) = answer?.into_parts();
            if goes_on && parts.status.is_success() {
                return Ok(Response::from_parts(parts, Either::Right(body)));
            }
            // A peer that dies in the middle of a list would be waited for without end.
            let whole = timeout(WHOLE, body.collect()).await?.map_err(Into::into)?;
            Ok(Response::from_parts(parts, Either::Left(whole.to_bytes().into())))
        })
    }
}
