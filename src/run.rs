//! Wiring, supervision and the order of shutdown: the table of contents of the operator.
//!
//! To follow one slice from watch to write, read on in six files: `watch.rs` hears of it, `index.rs` knows
//! whom it concerns, `worker.rs` takes these keys from the queue, `reconcile.rs` works on one, `plan.rs`
//! decides, `apply.rs` writes.
//!
//! ```text
//!     watch ──> index ──> queue ──> reconcile { snapshot ─> plan ─> apply } ──> API server
//!       ^                                                                          │
//!       └──────────── applied copies come back only through the watch ─────────────┘
//! ```

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch as channel;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::admin::{self, Health, Probe};
use crate::apiserver::{self, Access};
use crate::config::Config;
use crate::controller::events::EventRecorder;
use crate::controller::reconcile::Reconciler;
use crate::controller::watch::{self, LIFE, Reader, Watches};
use crate::controller::worker::Worker;
use crate::controller::workqueue::DirtySet;
use crate::leader_election::term::Term;
use crate::leader_election::{self, Candidate, LeaseObserver, View};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::watch_health::WatchHealth;
use crate::telemetry::watchdog::{GRACE, Watchdog};
use endpoint_copier_core::index::{Index, NamesByRequester, SharedIndex};
use endpoint_copier_core::model::ServiceKey;

/// The election, with its writes and its release, has ended by then.
const STOP_ELECTION: Duration = Duration::from_millis(3050);

/// Answers to probes have ended by then.
const STOP_HTTP: Duration = Duration::from_millis(250);

/// Why the operator ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration leads nowhere. A restart will not help.
    #[error(transparent)]
    Configuration(#[from] apiserver::Error),
    /// The namespace of the Lease is not known.
    #[error(
        "the namespace of the Lease is not known: give --leader-election-namespace, or set POD_NAMESPACE"
    )]
    LeaseNamespace,
    /// An address cannot be listened on, or a signal not waited for.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// Metrics contradict each other.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A task that runs for ever has ended.
    #[error("the task {0} has ended unexpectedly")]
    TaskEnded(String),
}

impl Error {
    /// 2: the configuration is wrong; 1: a restart may help.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) | Self::LeaseNamespace => 2,
            Self::System(_) | Self::Metrics(_) | Self::TaskEnded(_) => 1,
        }
    }
}

/// Runs until asked to stop.
///
/// # Errors
/// See [`Error`].
pub async fn run(config: Config) -> Result<(), Error> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let metrics = Metrics::new(&config.election.lease_name)?;
    let access = Access::find(config.kubeconfig.as_deref(), &config.api_server, metrics.clone()).await?;
    info!(version = env!("CARGO_PKG_VERSION"), api_server = %access.url(), "starting");

    let health = Health::new();
    let stop_http = CancellationToken::new();
    let mut servers = serve(&config, &metrics, &health, &stop_http).await?;

    let index: SharedIndex = Arc::new(Mutex::new(Index::new(config.defaults.clone())));
    let dirty = DirtySet::default();
    let watch_health = WatchHealth::default();
    let filled = filled(&index);
    report_readiness(&health, filled.clone(), &watch_health);
    let watches = watch_health.clone();
    metrics.read_watch_life(LIFE, move || watches.last());

    let mut tasks = Tasks::default();
    let client = access.client("watches and writes")?;
    if access.learns() {
        let kubernetes = ServiceKey::new("default", "kubernetes");
        index.lock().always_watch(kubernetes.name());
        let index = index.clone();
        access.learn_from(move || index.lock().addresses_of(&kubernetes, "https"));
    }
    let reader = |client| Reader {
        client,
        watch_health: watch_health.clone(),
        metrics: metrics.clone(),
    };
    watch_cluster(&mut tasks, reader(client.clone()), &index, &dirty);

    let stop_election = CancellationToken::new();
    let mut writing = JoinSet::new();
    let terms = if config.leader_elect {
        // A client of its own: nothing that goes on in the others delays a renewal.
        let reader = reader(access.client("election")?);
        let view = View::new(move || filled().is_ok(), watch_health.clone());
        let (candidate, terms) = candidate(&mut tasks, reader, view, &config, &access)?;
        report_liveness(&health, "renewal", candidate.watchdog(), &config);
        writing.spawn(candidate.run(stop_election.clone()));
        terms
    } else {
        let (unopposed, terms) = leader_election::unopposed(&metrics);
        writing.spawn(unopposed.run(stop_election.clone()));
        terms
    };
    let (recorder, event_writer) = EventRecorder::new(client.clone(), &pod_name(), metrics.clone());
    tasks.spawn("Events", event_writer.run());
    let reconciler = Arc::new(Reconciler::new(
        client,
        index.clone(),
        dirty.clone(),
        watch_health.clone(),
        metrics.clone(),
        recorder,
    ));
    report_liveness(&health, "worker", reconciler.watchdog().clone(), &config);
    writing.spawn(
        Worker {
            dirty,
            index,
            watch_health,
            reconciler,
            metrics,
            terms,
        }
        .run(),
    );

    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        name = tasks.ended() => Err(Error::TaskEnded(name)),
        _ = writing.join_next() => Err(Error::TaskEnded("election or worker".to_owned())),
    };
    info!("stopping");
    // Nobody sends requests to a replica that is not ready; then no write may begin, those in flight
    // end, the Lease is released; and until the last moment the probes are answered.
    health.shutting_down();
    stop_election.cancel();
    if timeout(STOP_ELECTION, async {
        while writing.join_next().await.is_some() {}
    })
    .await
    .is_err()
    {
        error!("writes or the release of the Lease took too long");
    }
    stop_http.cancel();
    _ = timeout(STOP_HTTP, async { while servers.join_next().await.is_some() {} }).await;
    ended
}

/// Metrics and probes, each on an address of its own.
async fn serve(
    config: &Config,
    metrics: &Metrics,
    health: &Health,
    stop: &CancellationToken,
) -> Result<JoinSet<()>, Error> {
    let mut servers = JoinSet::new();
    if let Some(address) = &config.metrics_bind_address {
        let listener = admin::bind(address).await?;
        info!(%address, "serving /metrics");
        servers.spawn(admin::serve_metrics(listener, metrics.clone(), stop.clone()));
    }
    if let Some(address) = &config.health_probe_bind_address {
        let listener = admin::bind(address).await?;
        info!(%address, "serving probes");
        servers.spawn(admin::serve_health(listener, health.clone(), stop.clone()));
    }
    Ok(servers)
}

/// Whether everything has been listed once. After that it stays true: a new Service waits for its own source,
/// and no other Service waits.
fn filled(index: &SharedIndex) -> impl Fn() -> Result<(), String> + Clone + Send + Sync + use<> {
    let (index, filled) = (index.clone(), Arc::new(OnceLock::new()));
    move || match filled.get() {
        Some(()) => Ok(()),
        None => index.lock().is_filled().map(|()| _ = filled.set(())),
    }
}

/// Ready: everything has been listed and every watch is alive. A replica need not lead to be ready.
fn report_readiness(
    health: &Health,
    filled: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    watch_health: &WatchHealth,
) {
    let watch_health = watch_health.clone();
    health.check("caches", Probe::Readiness, filled);
    health.check("watches", Probe::Readiness, move || watch_health.check(LIFE));
}

/// Alive: a loop that has work makes steps. An API that is away does not stop them.
fn report_liveness(health: &Health, name: &'static str, watchdog: Watchdog, config: &Config) {
    let limit = config.election.lease_duration + GRACE;
    health.check(name, Probe::Liveness, move || watchdog.check(limit));
}

/// One task for each watch.
fn watch_cluster(tasks: &mut Tasks, reader: Reader, index: &SharedIndex, dirty: &DirtySet) {
    let watches = Watches {
        reader,
        index: index.clone(),
        dirty: dirty.clone(),
    };
    let (names, names_wanted) = channel::channel(NamesByRequester::new());
    tasks.spawn("Service watch", watches.clone().services(names));
    tasks.spawn("copy watch", watches.clone().copies());
    tasks.spawn("check of sources", watches.clone().check_sources());
    tasks.spawn("source watch", watch::named_slices(watches, names_wanted));
}

/// A candidate for the Lease, with a watch of it.
fn candidate(
    tasks: &mut Tasks,
    reader: Reader,
    view: View,
    config: &Config,
    access: &Access,
) -> Result<(Candidate, channel::Receiver<Option<Term>>), Error> {
    let namespace = lease_namespace(config, access)?;
    let observer = LeaseObserver::new(reader.metrics.clone());
    let (election, metrics) = (config.election.clone(), reader.metrics.clone());
    let lease_name = election.lease_name.clone();
    let made = Candidate::new(
        reader.client.clone(),
        &namespace,
        identity(),
        election,
        observer.clone(),
        view,
        metrics,
    );
    tasks.spawn("Lease watch", async move {
        watch::lease(reader, &namespace, &lease_name, observer).await;
    });
    Ok(made)
}

/// Tasks that run as long as the process.
#[derive(Default)]
struct Tasks(JoinSet<&'static str>);

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until one of them ends, which none should.
    async fn ended(&mut self) -> String {
        match self.0.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(error)) => error.to_string(),
            None => std::future::pending().await,
        }
    }
}

/// Where the Lease is: flag or `POD_NAMESPACE`, else the ServiceAccount's namespace or the context's.
fn lease_namespace(config: &Config, access: &Access) -> Result<String, Error> {
    let context = || Some(access.namespace().to_owned()).filter(|namespace| !namespace.is_empty());
    config
        .election
        .namespace
        .clone()
        .or_else(context)
        .ok_or(Error::LeaseNamespace)
}

/// Who this replica is. It ends up as a field manager too, which may have 128 bytes, all printable.
fn identity() -> String {
    let uuid = uuid::Uuid::new_v4().to_string();
    let mut name = pod_name();
    name.retain(|c| c.is_ascii_graphic());
    name.truncate(128 - uuid.len() - 1);
    format!("{name}_{uuid}")
}

/// The Pod's name, or the host's.
fn pod_name() -> String {
    let pod = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty());
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    pod.unwrap_or_else(host).trim().to_owned()
}
