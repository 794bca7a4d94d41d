//! One replica of the operator: how its parts are connected, and the order in which they stop.
//!
//! [`crate::run`] runs a replica in a process. Tests with paused time and the simulation run it against in-memory API
//! servers.
//!
//! To follow a slice from watch to write, read these parts in order: `controller/watch` receives it, the index of
//! `crates/core` knows which Services it affects, `controller/worker.rs` takes their keys from the queue,
//! `controller/reconcile` handles one of them, the plan of `crates/core` decides, and `controller/apply` writes.
//!
//! ```text
//!     watch ──> index ──> queue ──> reconcile { snapshot ─> plan ─> apply } ──> API server
//!       ^                                                                          │
//!       └──────────── applied copies come back only through the watch ─────────────┘
//! ```

use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch as channel};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::admin::{Health, Probe};
use crate::config::ElectionConfig;
use crate::controller::conditions::Conditions;
use crate::controller::events::EventRecorder;
use crate::controller::probe::probing::Probing;
use crate::controller::reconcile::{ReadVerdicts, Reconciler};
use crate::controller::watch::{self, Reader, Watches};
use crate::controller::worker::{Reconcile as _, Worker};
use crate::controller::workqueue::DirtySet;
use crate::leader_election::term::Term;
use crate::leader_election::{self, Candidacy, LeaderElector, LeaseObserver, View};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::watch_health::WatchHealth;
use crate::telemetry::watchdog::Watchdog;
use crate::timing::{GRACE, STOP_ELECTION, WATCH_LIFE};
use endpoint_copier_core::index::{Index, NotFilled, SharedIndex};
use endpoint_copier_core::model::Defaults;
use endpoint_copier_core::plan::Verdicts;

/// The name of the task that syncs managed Services while this replica leads.
pub const WORKER: &str = "worker";

/// The name of the task that checks the source watches against consistent lists.
pub const SOURCE_CHECK: &str = "source check";

/// The parts of a replica.
pub struct Parts {
    /// The client for everything except the election, the probes and the probe Lease.
    pub client: Client,
    /// The settings from the flags: the default source, the Service that is managed without an annotation, and the
    /// consent policy.
    pub defaults: Defaults,
    /// The metrics of the replica.
    pub metrics: Metrics,
    /// Receives the checks that show whether the replica is ready and alive.
    pub health: Health,
    /// The name under which the replica reports Events.
    pub reporter: String,
    /// The settings of the leader election. The lease duration also decides when a loop counts as stuck, even without
    /// leader election.
    pub election: ElectionConfig,
    /// The client, namespace and identity with which this replica competes for the Lease. `None` means that it leads
    /// from the start.
    pub candidacy: Option<Candidacy>,
    /// The label selector of the Nodes on which API servers run. An empty one selects all Nodes.
    pub nodes_selector: String,
    /// The probes of the API servers. Without probes, endpoints that earlier probes marked as not ready in the copies
    /// become ready again.
    pub probing: Option<Probing>,
    /// Whether to write a condition into the status of managed Services.
    pub service_conditions: bool,
}

/// A task has ended although it should run as long as the replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {0:?} ended unexpectedly")]
pub struct TaskEnded(&'static str);

/// The name and the future of a task.
type Named = (&'static str, BoxFuture<'static, ()>);

fn named(name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> Named {
    (name, task.boxed())
}

/// A replica that is not running yet.
pub struct Replica {
    /// The replica's view of the cluster.
    pub index: SharedIndex,
    /// The current term, while this replica leads.
    pub terms: channel::Receiver<Option<Term>>,
    /// The replica's view of the Lease. `None` without leader election.
    pub lease: Option<LeaseObserver>,
    /// The watchdog of the worker.
    pub watchdog: Watchdog,
    health: Health,
    stop_election: CancellationToken,
    /// Tasks that run until the replica ends.
    watching: Vec<Named>,
    /// The election and the workers. When the replica stops, they finish their work before they end.
    writing: Vec<Named>,
}

impl Replica {
    /// Connects the parts and registers their health checks. Nothing runs before [`Replica::run`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            client,
            defaults,
            metrics,
            health,
            reporter,
            election,
            candidacy,
            nodes_selector,
            probing,
            service_conditions,
        } = parts;
        let index: SharedIndex = Arc::new(Mutex::new(Index::new(defaults)));
        let (dirty, watch_health) = (DirtySet::default(), WatchHealth::default());
        let filled = filled(&index);
        report_readiness(&health, filled.clone(), &watch_health);
        metrics.read_watch_life(watch_health.clone());

        let reader = |client: &Client| Reader {
            client: client.clone(),
            watch_health: watch_health.clone(),
            metrics: metrics.clone(),
        };
        let all = Watches {
            reader: reader(&client),
            index: index.clone(),
            dirty: dirty.clone(),
        };
        let conditions = DirtySet::default();
        let mut watching = watch_cluster(&all, conditions.clone(), nodes_selector);

        let (stop_election, limit) = (CancellationToken::new(), election.lease_duration + GRACE);
        let (election_task, terms, lease) = if let Some(candidacy) = candidacy.clone() {
            let view = View::new(move || filled().is_ok(), watch_health.clone());
            let reader = reader(&candidacy.client);
            let (elector, terms, observer, lease_watch) = elector(candidacy, &election, reader, view);
            watching.push(lease_watch);
            report_liveness(&health, "renewal", elector.watchdog(), limit);
            let task = named("election", elector.run(stop_election.clone()));
            (task, terms, Some(observer))
        } else {
            let (leadership, terms) = leader_election::without_election(&metrics, stop_election.clone());
            (named("election", leadership), terms, None)
        };

        let (recorder, event_writer) =
            EventRecorder::new(client.clone(), &reporter, dirty.clone(), metrics.clone());
        watching.push(named("Events", event_writer.run()));
        let elected = candidacy.as_ref().map(|candidacy| (&election, candidacy));
        let (probes, verdicts) = match probing {
            Some(probing) => probing.start(&all, &terms, elected),
            None => (Vec::new(), Box::new(|| Verdicts::Off) as ReadVerdicts),
        };
        watching.extend(probes);
        let condition_worker = service_conditions
            .then(|| condition_worker(client.clone(), conditions, &index, &watch_health, terms.clone()));
        let reconciler = Reconciler::new(
            client,
            index.clone(),
            dirty.clone(),
            watch_health.clone(),
            metrics.clone(),
            recorder,
            verdicts,
        );
        let conditions = condition_worker.as_ref().map(|worker| worker.reconciler.clone());
        if let Some(conditions) = &conditions {
            report_liveness(&health, "conditions", conditions.watchdog().clone(), limit);
        }
        let reconciler = Arc::new(reconciler.with_conditions(conditions));
        let watchdog = reconciler.watchdog().clone();
        report_liveness(&health, WORKER, watchdog.clone(), limit);
        let worker = Worker {
            dirty,
            index: index.clone(),
            watch_health,
            reconciler,
            metrics: Some(metrics),
            terms: terms.clone(),
        };
        let mut writing = vec![election_task, named(WORKER, worker.run())];
        writing.extend(condition_worker.map(|worker| named("conditions", worker.run())));
        Self {
            index,
            terms,
            lease,
            watchdog,
            health,
            stop_election,
            watching,
            writing,
        }
    }

    /// Runs until `asked_to_stop` completes or a task ends. Then stops the tasks in order. `spawn` gets the name and
    /// the future of each task, and returns a future that completes when the task has ended. Dropping that future ends
    /// the task.
    ///
    /// # Errors
    /// Returns an error if a task ended before the replica was asked to stop.
    pub async fn run<T: Future<Output = ()>>(
        self,
        asked_to_stop: impl Future<Output = ()>,
        spawn: impl Fn(&'static str, BoxFuture<'static, ()>) -> T,
    ) -> Result<(), TaskEnded> {
        let start = |(name, task)| spawn(name, task).map(move |()| name);
        let mut watching: FuturesUnordered<_> = self.watching.into_iter().map(start).collect();
        let mut writing: FuturesUnordered<_> = self.writing.into_iter().map(start).collect();
        let stopped = tokio::select! {
            biased;
            () = asked_to_stop => Ok(()),
            Some(name) = watching.next() => Err(TaskEnded(name)),
            Some(name) = writing.next() => Err(TaskEnded(name)),
        };
        info!("stopping");
        // First, the replica becomes not ready. Then no new write starts, writes in flight end, and
        // `leader_election::elector` releases the Lease.
        self.health.shutting_down();
        self.stop_election.cancel();
        let written = timeout(STOP_ELECTION, async { while writing.next().await.is_some() {} });
        let watched = async {
            while watching.next().await.is_some() {}
            pending::<()>().await;
        };
        tokio::select! {
            biased;
            written = written => if written.is_err() {
                error!("writes or the release of the Lease took too long");
            },
            () = watched => {}
        }
        stopped
    }
}

/// Returns a check that fails until Services, copies and sources have been listed, and passes from then on. If the
/// source of a new Service is not listed yet, only that Service waits for the list.
fn filled(index: &SharedIndex) -> impl Fn() -> Result<(), NotFilled> + Clone + Send + Sync + use<> {
    let (index, filled) = (index.clone(), Arc::new(OnceLock::new()));
    move || match filled.get() {
        Some(()) => Ok(()),
        None => index.lock().is_filled().map(|()| _ = filled.set(())),
    }
}

/// Adds the readiness checks: the caches are filled, and every required watch is alive. A replica can be ready without
/// leading.
fn report_readiness(
    health: &Health,
    filled: impl Fn() -> Result<(), NotFilled> + Send + Sync + 'static,
    watch_health: &WatchHealth,
) {
    let watch_health = watch_health.clone();
    health.check("caches", Probe::Readiness, filled);
    health.check("watches", Probe::Readiness, move || {
        watch_health.check(WATCH_LIFE)
    });
}

/// Adds a liveness check: a loop that has work must make progress. An unavailable API server does not count as a lack
/// of progress.
fn report_liveness(health: &Health, name: &'static str, watchdog: Watchdog, limit: Duration) {
    health.check(name, Probe::Liveness, move || watchdog.check(limit));
}

/// Creates the elector, the receiver of its terms, the observer of the Lease, and the task that watches the Lease.
fn elector(
    candidacy: Candidacy,
    config: &ElectionConfig,
    reader: Reader,
    view: View,
) -> (
    LeaderElector,
    channel::Receiver<Option<Term>>,
    LeaseObserver,
    Named,
) {
    let metrics = reader.metrics.clone();
    let observer = LeaseObserver::new(&candidacy.identity, config.lease_duration, metrics.clone());
    let (watched, name) = (observer.clone(), config.lease_name.clone());
    let namespace = candidacy.namespace.clone();
    let lease_watch = named("Lease watch", async move {
        watch::lease(reader, &namespace, &name, watched).await;
    });
    let (elector, terms) = LeaderElector::new(
        candidacy.client,
        &candidacy.namespace,
        config.clone(),
        observer.clone(),
        view,
        metrics,
    );
    (elector, terms, observer, lease_watch)
}

/// Creates the worker that writes conditions of Services, and makes the index keep the conditions from now on.
fn condition_worker(
    client: Client,
    dirty: DirtySet,
    index: &SharedIndex,
    watch_health: &WatchHealth,
    terms: channel::Receiver<Option<Term>>,
) -> Worker<Conditions> {
    index.lock().want_conditions();
    Worker {
        reconciler: Arc::new(Conditions::new(client, index.clone(), dirty.clone())),
        dirty,
        index: index.clone(),
        watch_health: watch_health.clone(),
        metrics: None,
        terms,
    }
}

/// Returns the tasks that watch the cluster, and the task that checks the source watches against consistent lists.
fn watch_cluster(watches: &Watches, conditions: DirtySet, nodes_selector: String) -> Vec<Named> {
    let watches = || watches.clone();
    let (services_listed, services_list) = oneshot::channel();
    vec![
        named("Service watch", watches().services(conditions, services_listed)),
        named("grant watch", watch::grants(watches())),
        named("copy watch", watches().copies(services_list)),
        named(SOURCE_CHECK, watches().check_sources()),
        named("source watch", watch::named_slices(watches())),
        named("Node watch", watch::nodes(watches(), nodes_selector)),
    ]
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use endpoint_copier_core::model::{ConsentPolicy, ServiceKey};
    use http::{Request, Response};
    use http_body_util::Full;
    use kube::client::Body;
    use tokio::time::Instant;
    use tokio_util::task::AbortOnDropHandle;
    use tower::BoxError;

    use super::*;
    use crate::apiserver;

    /// Returns a replica with these tasks instead of its own.
    fn replica(watching: Vec<Named>, writing: Vec<Named>) -> Replica {
        let metrics = Metrics::new("lease").unwrap();
        let silent =
            tower::service_fn(|_: Request<Body>| pending::<Result<Response<Full<Bytes>>, BoxError>>());
        let parts = Parts {
            client: apiserver::over(silent, "default", &metrics),
            defaults: Defaults {
                source: ServiceKey::new("default", "kubernetes"),
                managed: None,
                consent: ConsentPolicy::default(),
            },
            metrics,
            health: Health::default(),
            reporter: "replica".to_owned(),
            election: ElectionConfig::default(),
            candidacy: None,
            nodes_selector: String::new(),
            probing: None,
            service_conditions: false,
        };
        Replica {
            watching,
            writing,
            ..Replica::new(parts)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_or_panics_is_named_and_ends_the_replica() {
        let spawn = |_, task| AbortOnDropHandle::new(tokio::spawn(task)).map(drop);
        for end in [|| {}, || panic!("on purpose")] {
            let ends = named("Events", async move { end() });
            let replica = replica(vec![ends], vec![named(WORKER, pending())]);
            let ended = replica.run(pending(), spawn).await.unwrap_err();
            assert_eq!(ended.to_string(), "task \"Events\" ended unexpectedly");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_replica_waits_for_its_writes_but_not_forever() {
        for (writes, took) in [(2000, 2000), (10_000, 3050)].map(|(a, b)| (ms(a), ms(b))) {
            let mut replica = replica(vec![named("Events", pending())], Vec::new());
            let stopped = replica.stop_election.clone().cancelled_owned();
            let write = stopped.then(move |()| tokio::time::sleep(writes));
            replica.writing.push(named(WORKER, write));
            let start = Instant::now();
            let ended = replica.run(std::future::ready(()), |_, task| task).await;
            assert_eq!((ended, start.elapsed()), (Ok(()), took));
        }
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }
}
