//! Runs one [`Replica`] in a process: signals, access to the API, the servers for metrics and health, and the exit
//! code. [`Replica`] is the table of contents of the operator.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use futures::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use crate::admin::{self, Health, Secure};
use crate::apiserver::{self, Access};
use crate::config::{Config, ProbeMode};
use crate::controller::probe::probing::Probing;
use crate::leader_election::Candidacy;
use crate::replica::{Parts, Replica, TaskEnded};
use crate::telemetry::metrics::Metrics;
use crate::timing::STOP_HTTP;
use endpoint_copier_core::model::ServiceKey;

/// The reason why the operator ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is unusable. A restart will not help.
    #[error(transparent)]
    Configuration(#[from] apiserver::Error),
    /// The namespace of the Lease is not known.
    #[error(
        "the namespace of the Lease is not known: pass --leader-election-namespace, or set POD_NAMESPACE"
    )]
    LeaseNamespace,
    /// The process cannot listen on an address, wait for a signal, or create a certificate for `/metrics`.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// The metrics cannot be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A task that should run forever has ended.
    #[error(transparent)]
    TaskEnded(#[from] TaskEnded),
}

impl Error {
    /// Returns 2 if the configuration is wrong, or 1 if a restart may help.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) | Self::LeaseNamespace => 2,
            Self::System(_) | Self::Metrics(_) | Self::TaskEnded(_) => 1,
        }
    }
}

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// See [`Error`].
pub async fn run(config: Config) -> Result<(), Error> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let metrics = Metrics::new(&config.election.lease_name)?;
    let access = Access::find(config.kubeconfig.as_deref(), &config.api_server, metrics.clone()).await?;
    info!(version = env!("CARGO_PKG_VERSION"), api_server = %access.url(), "starting");

    let health = Health::default();
    let replica = replica(&config, &access, &metrics, &health)?;
    let stop_http = CancellationToken::new();
    let mut servers = serve(&config, &access, &metrics, &health, &stop_http).await?;

    let asked_to_stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let spawn = |_, task| AbortOnDropHandle::new(tokio::spawn(task)).map(drop);
    let ended = replica.run(asked_to_stop, spawn).await;
    // Health probes are answered until the last moment.
    stop_http.cancel();
    _ = timeout(STOP_HTTP, async { while servers.join_next().await.is_some() {} }).await;
    Ok(ended?)
}

fn replica(config: &Config, access: &Access, metrics: &Metrics, health: &Health) -> Result<Replica, Error> {
    let candidacy = || {
        Ok::<_, Error>(Candidacy {
            client: access.client("election")?,
            namespace: lease_namespace(config, access)?,
            identity: identity(),
        })
    };
    let probing = || {
        let pool = access.clone();
        Ok::<_, Error>(Probing {
            client: Arc::new(access.probe_client()?),
            config: config.probe,
            lease_client: access.client("probe Lease")?,
            node_addresses: config.node_addresses.clone(),
            on_unhealthy: Box::new(move |servers| pool.set_unhealthy(servers)),
            seed: RandomState::new().hash_one(()),
        })
    };
    let replica = Replica::new(Parts {
        client: access.client("watches and writes")?,
        defaults: config.defaults.clone(),
        metrics: metrics.clone(),
        health: health.clone(),
        reporter: pod_name(),
        election: config.election.clone(),
        nodes_selector: config.nodes_selector.clone(),
        candidacy: config.leader_elect.then(candidacy).transpose()?,
        probing: (config.probe.mode != ProbeMode::Off).then(probing).transpose()?,
        service_conditions: config.service_conditions,
    });
    replica.index.lock().set_limits(config.limits);
    if access.learns() {
        let source = ServiceKey::api_source();
        replica.index.lock().always_watch(source.name());
        let index = replica.index.clone();
        access.learn_from(move || index.lock().addresses_of(&source, "https"));
    }
    Ok(replica)
}

/// Serves metrics and health, each on its own address.
async fn serve(
    config: &Config,
    access: &Access,
    metrics: &Metrics,
    health: &Health,
    stop: &CancellationToken,
) -> Result<JoinSet<()>, Error> {
    let mut servers = JoinSet::new();
    if let Some(address) = &config.metrics_bind_address {
        let secure = |secure| Ok::<_, Error>(Secure::new(secure, access.client("token reviews")?)?);
        let secure = config.secure_metrics.as_ref().map(secure).transpose()?;
        let listener = admin::bind(address).await?;
        info!(%address, tls = secure.is_some(), "serving /metrics");
        servers.spawn(admin::serve_metrics(
            listener,
            metrics.clone(),
            secure,
            stop.clone(),
        ));
    }
    if let Some(address) = &config.health_probe_bind_address {
        let listener = admin::bind(address).await?;
        info!(%address, "serving health probes");
        servers.spawn(admin::serve_health(listener, health.clone(), stop.clone()));
    }
    Ok(servers)
}

/// Returns the namespace of the Lease: from the flag or `POD_NAMESPACE`, or else from the ServiceAccount or the
/// context.
fn lease_namespace(config: &Config, access: &Access) -> Result<String, Error> {
    let context = || Some(access.namespace().to_owned()).filter(|namespace| !namespace.is_empty());
    config
        .election
        .namespace
        .clone()
        .or_else(context)
        .ok_or(Error::LeaseNamespace)
}

/// Creates the identity of this replica. It is also used as a field manager name, which may have at most 128 bytes and
/// only printable characters.
fn identity() -> String {
    let uuid = uuid::Uuid::new_v4().to_string();
    let mut name = pod_name();
    name.retain(|c| c.is_ascii_graphic());
    name.truncate(128 - uuid.len() - 1);
    format!("{name}_{uuid}")
}

/// Returns the name of the Pod or, if it is not known, of the host.
fn pod_name() -> String {
    let pod = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty());
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    pod.unwrap_or_else(host).trim().to_owned()
}
