//! Connections to API servers: addresses, time limits, and the detection of dead connections.
//!
//! The HTTP client of the `kube` crate speaks HTTP/1.1 without keepalive: after a server loses power, a request on a
//! pooled connection hangs for a quarter of an hour. The client of this module speaks HTTP/2, pings the server, and
//! knows more than one address:
//!
//! ```text
//!   kube ──> credentials ──> Paged ──> CallLimits: time limits ──> Channel: one Connection at a time ──> Dialer ──> AddressPool
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::Arc;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri, header};
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::time::Instant;
use tower::{BoxError, Service, ServiceBuilder, service_fn};
use tracing::warn;

use crate::apiserver::error::one_line;
use crate::config::{ApiServerConfig, ApiServerMode, ServerAddress};
use crate::telemetry::metrics::Metrics;
use endpoint_copier_core::verdicts::Unhealthy;

pub mod access_review;
mod address_pool;
mod call_limits;
mod channel;
mod connection;
pub mod decode;
mod dial;
pub mod error;
mod hedging;
pub mod http_status;
mod pages;
pub mod probe_client;
pub mod reference_grant;
mod response_size;
pub mod serving_certificate;
mod stretch;
mod tracked_body;

use address_pool::AddressPool;
use call_limits::CallLimits;
use channel::Channel;
use dial::{Dialer, TlsName};
pub use hedging::{Hedge, Hedging, NoOtherServer};
use pages::Paged;
use probe_client::ConfigSource;
use response_size::Incoming;

/// The server that sent a response, stored in the extensions of the response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server(pub ServerAddress);

/// Stored in the extensions of a request: a server not to use, because a watch of that server is faulty.
#[derive(Clone, Debug)]
pub struct Avoid {
    /// The server to avoid.
    pub server: Server,
    /// The reason, for logs.
    pub why: &'static str,
}

/// Stored in the extensions of a request: the time after which the request is not sent, however long the dial takes.
#[derive(Clone, Copy, Debug)]
pub struct SendDeadline(pub Instant);

/// The [`SendDeadline`] had passed, so the request was not sent and never will be.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the request was not sent: its deadline had passed")]
pub struct TooLate;

/// Access to the API of one cluster.
#[derive(Clone)]
pub struct Access {
    config: Config,
    /// The place where the configuration was found.
    source: ConfigSource,
    dialer: Dialer,
    /// Whether the cluster's own list of API servers is used.
    learns: bool,
    metrics: Metrics,
    incoming: Incoming,
}

/// The reason why there is no access to the API. The message is one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file that `--kubeconfig` names cannot be used.
    #[error("--kubeconfig {path}: {error}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// The problem with the file.
        error: String,
    },
    /// The process runs in a Pod without a usable ServiceAccount.
    #[error("the Pod's ServiceAccount cannot be used: {0}; is automountServiceAccountToken off?")]
    ServiceAccount(String),
    /// The process runs outside a Pod, without a usable kubeconfig.
    #[error("no cluster to work on: {0}; pass --kubeconfig, or set KUBECONFIG")]
    Context(String),
    /// The URL, the TLS server name, the certificates or the credentials of the configuration cannot be used.
    #[error("the configuration for {url} cannot be used: {error}")]
    Credentials {
        /// The API server.
        url: String,
        /// The reason.
        error: String,
    },
}

impl Access {
    /// Finds the configuration: the file that `--kubeconfig` names; without that flag, the ServiceAccount in a Pod, and
    /// the current context elsewhere.
    ///
    /// # Errors
    /// Returns an error if the configuration that applies cannot be used.
    pub async fn find(
        kubeconfig: Option<&Path>,
        api_server: &ApiServerConfig,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let source = ConfigSource {
            kubeconfig: kubeconfig.map(Path::to_owned),
            in_pod: kubeconfig.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
        };
        let mut config = read(&source).await?;
        if config.proxy_url.take().is_some() {
            warn!("the API server is dialed directly: proxies are not supported");
        }
        Self::to(config, source, api_server, metrics)
    }

    fn to(
        mut config: Config,
        source: ConfigSource,
        api_server: &ApiServerConfig,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let unusable = |error: &str| Error::Credentials {
            url: config.cluster_url.to_string(),
            error: error.to_owned(),
        };
        let in_pod = source.in_pod;
        let configured = configured(&config.cluster_url).ok_or_else(|| unusable("no host"))?;
        let configured_at = configured.clone();
        let name = match config.tls_server_name.clone() {
            Some(name) => {
                TlsName::Fixed(ServerName::try_from(name).map_err(|_| unusable("invalid tls-server-name"))?)
            }
            None if in_pod => TlsName::InPod(configured_at),
            None => TlsName::Own(configured_at),
        };
        let tls = config.rustls_client_config();
        let tls = tls.map_err(|error| unusable(&one_line(&error)))?;
        if in_pod && dial::dns_name(&configured).is_none() {
            // Every API server accepts this Host, whatever its address. A configured DNS name stays, because it may
            // belong to a proxy that accepts no other Host.
            config.cluster_url = Uri::from_static("https://kubernetes.default.svc");
        }
        // The addresses that a cluster lists are often unreachable from outside it.
        let default_mode = if in_pod {
            ApiServerMode::Auto
        } else {
            ApiServerMode::Cluster
        };
        let mode = api_server.mode.as_ref().unwrap_or(&default_mode);
        let local = match mode {
            ApiServerMode::Local(address) => Some(address.clone()),
            ApiServerMode::Auto | ApiServerMode::Cluster => None,
        };
        // A cluster IP hides which server answers, so a client cannot avoid a server that is down. Learned addresses
        // therefore come before the cluster IP.
        let before_learned = usize::from(local.is_some());
        let fixed = local
            .into_iter()
            .chain([configured])
            .chain(api_server.addresses.clone());
        let turn = usize::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(0);
        let mut pool = AddressPool::new(fixed.collect(), turn);
        pool.first = before_learned;
        Ok(Self {
            source,
            dialer: Dialer {
                pool: Arc::new(Mutex::new(pool)),
                listed: Arc::default(),
                scheme: config.cluster_url.scheme().cloned().unwrap_or(Scheme::HTTPS),
                tls: Arc::new(tls),
                name,
            },
            learns: *mode != ApiServerMode::Cluster,
            config,
            metrics,
            incoming: Incoming::default(),
        })
    }

    /// Returns the namespace of the ServiceAccount or the context.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.config.default_namespace
    }

    /// Whether the credentials are those of the Pod that this process runs in.
    #[must_use]
    pub fn is_in_pod(&self) -> bool {
        self.source.in_pod
    }

    /// Returns the URL to which requests are addressed: the configured one or, in a Pod that is configured with an IP
    /// address, `https://kubernetes.default.svc`.
    #[must_use]
    pub fn url(&self) -> &Uri {
        &self.config.cluster_url
    }

    /// Whether the addresses that the cluster itself lists are used. If so, call [`Access::learn_from`].
    #[must_use]
    pub fn learns(&self) -> bool {
        self.learns
    }

    /// Sets the function that lists the learned addresses. `listed` returns the known addresses and ports of the API
    /// servers, the more trusted group first. `listed` is called at each dial, and sometimes between dials. At most 16
    /// of the listed addresses are used.
    pub fn learn_from(&self, listed: impl Fn() -> [BTreeSet<(String, u16)>; 2] + Send + Sync + 'static) {
        _ = self.dialer.listed.set(Box::new(listed));
    }

    /// Replaces the servers that probes find unhealthy. The caller passes none while no server is healthy. New requests
    /// avoid these servers. When probes find a server down, all client connections to it end immediately, including the
    /// requests and watches on them.
    pub fn set_unhealthy(&self, servers: BTreeMap<ServerAddress, Unhealthy>) {
        self.dialer.learn();
        self.dialer.pool.lock().set_unhealthy(servers);
    }

    /// Creates a client with its own connections. The client itself repeats a request only if no server has accepted
    /// it, or if the request is for a page of a list. `purpose` names the client in logs.
    ///
    /// # Errors
    /// Returns an error if certificates or credentials cannot be used.
    pub fn client(&self, purpose: &'static str) -> Result<Client, Error> {
        let config = &self.config;
        let unusable = |error: kube::Error| Error::Credentials {
            url: config.cluster_url.to_string(),
            error: one_line(&error),
        };
        let channel = Channel::new(self.dialer.clone(), purpose, self.metrics.clone());
        let send = service_fn(move |request| channel.clone().send(request));
        let host = config.cluster_url.authority().map_or("", Authority::as_str);
        let pool = self.dialer.pool.clone();
        let incoming = self.incoming.clone();
        let paged = Paged::new(CallLimits::new(send, &self.metrics, host, pool, incoming));
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(unusable)?)
            .layer(config.extra_headers_layer().map_err(unusable)?)
            .service(service_fn(move |request| paged.clone().send(request)));
        Ok(Client::new(service, config.default_namespace.clone()))
    }
}

/// Returns the host and the port of a URL.
fn configured(url: &Uri) -> Option<ServerAddress> {
    let default = if url.scheme() == Some(&Scheme::HTTP) {
        80
    } else {
        443
    };
    let port = url.port_u16().unwrap_or(default);
    url.host().map(|host| ServerAddress::new(host, port))
}

/// Creates a client over any service that answers like an API server, with the same metrics and limits as for API
/// servers.
pub fn over<S, B>(service: S, namespace: &str, metrics: &Metrics) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let incoming = Incoming::default();
    let paged = Paged::new(CallLimits::new(
        service,
        metrics,
        "service",
        Arc::default(),
        incoming,
    ));
    Client::new(service_fn(move |request| paged.clone().send(request)), namespace)
}

/// Reads the configuration, for the first time or again.
async fn read(source: &ConfigSource) -> Result<Config, Error> {
    let mut config = match &source.kubeconfig {
        Some(path) => from_file(path).await.map_err(|error| Error::Kubeconfig {
            path: path.display().to_string(),
            error: one_line(&error),
        })?,
        None if source.in_pod => {
            Config::incluster().map_err(|error| Error::ServiceAccount(one_line(&error)))?
        }
        None => Config::from_kubeconfig(&KubeConfigOptions::default())
            .await
            .map_err(|error| Error::Context(one_line(&error)))?,
    };
    let agent = concat!("endpoint-copier-operator/", env!("CARGO_PKG_VERSION"));
    config
        .headers
        .push((header::USER_AGENT, HeaderValue::from_static(agent)));
    Ok(config)
}

async fn from_file(path: &Path) -> Result<Config, kube::config::KubeconfigError> {
    Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await
}

/// Whether a request reads one object. Lists and watches always have a query, such as `limit=500` or `watch=true`.
fn reads_one_object<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET && request.uri().query().unwrap_or_default().is_empty()
}

/// Whether a request is a watch.
pub fn is_watch<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query
        .split('&')
        .any(|pair| pair == "watch=true" || pair == "watch=1")
}

#[cfg(test)]
mod tests;
