//! Everything that one schedule needs: the store, two API servers, the network, the replicas, and their checks.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use endpoint_copier_core::model::CrossNamespace;
use endpoint_copier_core::verdicts::Target;
use parking_lot::{Mutex, MutexGuard};
use testbed::{ApiServer, Store, builders};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::coverage::Coverage;
use crate::deterministic;
use crate::fault::{Armed, Effect, Harm};
use crate::node_watch::Failures;
use crate::observer::{By, Observer};
use crate::probe_steps::probe_lease;
use crate::replica::Life;
use crate::sight::Blinded;
use crate::stream::Stream;
use crate::systematic::Script;
use crate::verdicts::Probed;
use crate::views::Seen;

/// The time on the wall clocks at the start of a schedule, as Unix time in nanoseconds.
const EPOCH: i64 = 1_750_000_000_000_000_000;

/// The maximum number of replicas.
pub const REPLICAS: usize = 3;

/// The world of one schedule.
pub struct World {
    /// The store, in the role of etcd.
    pub store: Store,
    /// The API servers, which share the store.
    pub servers: [ApiServer; 2],
    start: Instant,
    seed: u64,
    state: Mutex<State>,
}

/// The mutable state of a schedule.
pub struct State {
    /// Random numbers for the network.
    pub chance: Chance,
    /// The maximum latency of a message, in milliseconds.
    pub latency: u64,
    /// Faults of future requests.
    pub armed: Vec<Armed>,
    /// Watches that are open.
    pub streams: BTreeMap<u64, Stream>,
    /// Connections that steps can break.
    pub connections: Vec<Connection>,
    /// Whether a read or delete of Endpoints has ever failed. After a failure, no replica reads them until something
    /// changes.
    pub endpoints_forbidden: bool,
    /// Servers that refuse connections.
    pub down: [bool; 2],
    /// The delay of the responses of each server.
    pub slow: [Duration; 2],
    /// Lists and watches that fail.
    pub blind: Blinded,
    /// Lists and watches of Nodes that fail.
    pub nodes_fail: Failures,
    /// The view of each incarnation of a replica, by identity.
    pub views: BTreeMap<String, Seen>,
    /// The version of the store when the replicas were first started.
    pub founded: u64,
    /// Whether etcd is being restored: both servers refuse connections.
    pub restoring: bool,
    /// The number of restores. Requests that were on their way to a server before a restore are lost.
    pub restores: u64,
    /// Replicas without a network.
    pub cut: [bool; REPLICAS],
    /// The error of the wall clock of each replica's machine, in nanoseconds.
    pub skew: [i64; REPLICAS],
    /// The current incarnation of each replica.
    pub lives: [Option<Arc<Life>>; REPLICAS],
    /// The checks of the invariants.
    pub observer: Observer,
    /// Everything about probes.
    pub probed: Probed,
    /// Whether the replicas write conditions of Services.
    pub conditions: bool,
    /// Whether sources in other namespaces require consent.
    pub cross_namespace: CrossNamespace,
    /// What happened, and how often.
    pub coverage: Coverage,
    /// The trace, with times.
    pub trace: Vec<(Duration, String)>,
    /// The fault of a systematic schedule at one call or event.
    pub script: Script,
}

/// A connection of a client to a server.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The server.
    pub server: usize,
    /// The replica of the client.
    pub replica: usize,
    /// Canceled when the connection has broken and its client has noticed.
    pub dead: CancellationToken,
}

impl World {
    /// Creates a world with a cluster that has only its namespaces.
    ///
    /// # Panics
    /// If the store does not accept a Namespace.
    pub fn new(seed: u64, script: Script) -> Arc<Self> {
        deterministic::set_wall(EPOCH);
        let store = Store::seeded(seed);
        // The world collects garbage itself, so that the observer knows who makes these writes.
        store.collect_after(None);
        store.put(builders::namespace("apps")).expect("a valid Namespace");
        let servers = ["a", "b"].map(|name| ApiServer::named(&store, name));
        let mut chance = Chance::new(seed, 1);
        let latency = *chance.one_of(&[0, 1, 3, 20]);
        let observer = Observer::new(&store);
        Arc::new(Self {
            store,
            servers,
            start: Instant::now(),
            seed,
            state: Mutex::new(State {
                chance,
                latency,
                armed: Vec::new(),
                streams: BTreeMap::new(),
                connections: Vec::new(),
                endpoints_forbidden: false,
                down: [false; 2],
                slow: [Duration::ZERO; 2],
                blind: Blinded::default(),
                nodes_fail: Failures::default(),
                views: BTreeMap::new(),
                founded: 0,
                restoring: false,
                restores: 0,
                cut: [false; REPLICAS],
                skew: [0; REPLICAS],
                lives: [const { None }; REPLICAS],
                observer,
                probed: Probed::default(),
                conditions: false,
                cross_namespace: CrossNamespace::Allow,
                coverage: Coverage::default(),
                trace: Vec::new(),
                script,
            }),
        })
    }

    /// The state. Never hold it across an `await`, or while code of a replica runs.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The time since the start.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The instant that is this long after the start.
    pub fn moment(&self, at: Duration) -> Instant {
        self.start + at
    }

    /// Adds a line to the trace.
    pub fn note(&self, what: impl Into<String>) {
        let now = self.now();
        self.state().trace.push((now, what.into()));
    }

    /// Counts an event.
    pub fn count(&self, what: &'static str) {
        self.state().coverage.add(what, 1);
    }

    /// Sets the wall clock of this thread to that of a replica's machine, or to the true time.
    pub fn wall_of(&self, replica: Option<usize>) {
        let elapsed = i64::try_from(self.now().as_nanos()).unwrap_or(0);
        let skew = replica.map_or(0, |replica| self.state().skew[replica]);
        deterministic::set_wall(EPOCH + elapsed + skew);
    }

    /// Checks the terms, the leaders that see nothing, and the writes since the last call. `by` is the author of these
    /// writes.
    pub fn observe(&self, by: By) {
        let now = self.now();
        let mut state = self.state();
        let State {
            lives,
            observer,
            coverage,
            trace,
            probed,
            ..
        } = &mut *state;
        observer.terms((self.start, now), lives.iter().flatten(), coverage, trace);
        observer.writes(now, (&self.store, by), probed, coverage, trace);
        for overdue in state.blind_leaders(now) {
            let State { observer, trace, .. } = &mut *state;
            observer.violate_once(now, overdue, trace);
        }
    }

    /// Changes the cluster on behalf of a writer that is not a replica.
    pub fn administer<T>(&self, what: impl FnOnce(&Store) -> T) -> T {
        self.observe(By::Replicas);
        let done = what(&self.store);
        self.observe(By::Others);
        done
    }

    /// Deletes objects that have lost their owner, as a controller manager does.
    pub async fn collect_garbage(&self) {
        loop {
            sleep(Duration::from_millis(100)).await;
            self.administer(Store::collect_now);
        }
    }

    /// A random latency for a message.
    pub fn latency(&self) -> Duration {
        let mut state = self.state();
        let latency = state.latency;
        // Most messages are quick in any network.
        if latency == 0 || state.chance.percent(60) {
            return Duration::ZERO;
        }
        state.chance.millis(1, latency)
    }

    /// A random latency for a probe message, in place of [`World::latency`]. Replicas wake their probes in an order
    /// that does not follow from the seed, so each probe has its own random numbers.
    pub fn probe_latency(&self, life: &Life, target: Target) -> Duration {
        let latency = self.state().latency;
        let mut hasher = DefaultHasher::new();
        (self.seed, &life.identity, target, self.now()).hash(&mut hasher);
        let mut chance = Chance::new(hasher.finish(), 3);
        if latency == 0 || chance.percent(60) {
            return Duration::ZERO;
        }
        chance.millis(1, latency)
    }

    /// Whether a server is frozen now.
    pub fn is_frozen(&self, server: usize) -> bool {
        self.servers[server].faults().is_frozen()
    }

    /// Whether a server refuses connections now.
    pub fn is_down(&self, server: usize) -> bool {
        let state = self.state();
        state.restoring || state.down[server]
    }

    /// Restores etcd to the state from this many writes ago, or to the state when the replicas were first started,
    /// whichever is later. Returns false if the store no longer has that state.
    pub fn restore(&self, writes: u64) -> bool {
        self.observe(By::Replicas);
        // Backups are no older than the cluster.
        let oldest = self.state().founded;
        let to = self.store.revision().saturating_sub(writes).max(oldest);
        let lost = self.store.list("endpointslices", None);
        let is_restored = self.store.rewind(to).is_ok();
        if is_restored {
            self.servers.iter().for_each(ApiServer::release);
            let (mut state, now) = (self.state(), self.now());
            state.observer.restored(now, &self.store, &lost);
            let (namespace, name) = probe_lease();
            let lease = self.store.get("leases", namespace, &name);
            state.probed.restored(now, &lost, lease.as_ref());
            state.views.values_mut().for_each(Seen::restored);
        }
        is_restored
    }

    /// Breaks the live connections that satisfy `which`, and returns their number.
    pub fn break_connections(&self, which: impl Fn(&Connection) -> bool) -> usize {
        let mut state = self.state();
        state
            .connections
            .retain(|connection| !connection.dead.is_cancelled());
        let broken: Vec<_> = state.connections.iter().filter(|it| which(it)).cloned().collect();
        drop(state);
        for connection in &broken {
            connection.dead.cancel();
        }
        broken.len()
    }

    /// The fault that applies to a request, if any. Counts the fault.
    pub fn fault_for(&self, harm: Harm, replica: usize) -> Option<Effect> {
        let mut state = self.state();
        let now = self.now();
        let State {
            armed,
            coverage,
            probed,
            ..
        } = &mut *state;
        let at = armed.iter().position(|it| it.fits(harm, replica))?;
        let effect = armed[at].effect;
        coverage.add(effect.name(), 1);
        if harm == Harm::ProbeLease {
            coverage.add("request for the probe Lease fails, or is not answered", 1);
            probed.disturbed = probed.disturbed.max(now + Duration::from_secs(3));
        }
        armed[at].times -= 1;
        if armed[at].times == 0 {
            armed.remove(at);
        }
        Some(effect)
    }
}
