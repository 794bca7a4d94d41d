//! Candidates with in-memory API servers.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{ApiServer, Effect, Fault, Match, Store};
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::term::Term;
use super::*;
use crate::config::ElectionConfig;
use crate::controller::watch::{self, Reader};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::watch_health::WatchHealth;
use crate::telemetry::watchdog::Watchdog;

mod blind;
mod candidate;
mod client_go;
mod deleted;
mod release;
mod renewal;
mod stale_watch;
mod unreadable;

const LEASE: &str = "lease";

/// A candidate that runs with an in-memory API server and simulated time.
struct Runner {
    name: &'static str,
    server: ApiServer,
    terms: Receiver<Option<Term>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    metrics: Metrics,
    watchdog: Watchdog,
    observer: LeaseObserver,
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn config() -> ElectionConfig {
    ElectionConfig {
        lease_duration: seconds(6),
        renew_deadline: seconds(4),
        retry_period: seconds(1),
        namespace: None,
        lease_name: LEASE.to_owned(),
    }
}

impl Runner {
    /// Starts a candidate. Each candidate has its own API server, so that a fault can affect only one candidate.
    fn start(store: &Store, name: &'static str) -> Self {
        Self::with_view(store, name, View::new(|| true, WatchHealth::default()))
    }

    fn with_view(store: &Store, name: &'static str, view: View) -> Self {
        Self::with_config(store, name, view, config())
    }

    fn with_config(store: &Store, name: &'static str, view: View, config: ElectionConfig) -> Self {
        let server = ApiServer::named(store, name);
        let metrics = Metrics::new(LEASE).unwrap();
        let client = crate::apiserver::over(server.as_user(name), "default", &metrics);
        let observer = LeaseObserver::new(name, config.lease_duration, metrics.clone());
        let (candidate, terms) = LeaderElector::new(
            client.clone(),
            "default",
            config,
            observer.clone(),
            view,
            metrics.clone(),
        );
        let stop = CancellationToken::new();
        let watchdog = candidate.watchdog();
        let task = tokio::spawn(candidate.run(stop.clone()));
        let reader = Reader {
            client,
            watch_health: WatchHealth::default(),
            metrics: metrics.clone(),
        };
        let watched = observer.clone();
        tokio::spawn(async move { watch::lease(reader, "default", LEASE, watched).await });
        Self {
            name,
            server,
            terms,
            stop,
            task,
            metrics,
            watchdog,
            observer,
        }
    }

    async fn leads(&mut self) -> Term {
        let term = timeout(seconds(120), self.terms.wait_for(Option::is_some)).await;
        term.unwrap_or_else(|_| panic!("{} never leads", self.name))
            .unwrap()
            .clone()
            .unwrap()
    }

    fn requests(&self) -> usize {
        let name = self.name;
        self.server
            .store()
            .requests()
            .matching(|request| request.user == name)
            .len()
    }

    /// Returns the number of requests with this verb for the Lease.
    fn asked(&self, verb: &str) -> usize {
        let mine = |request: &testbed::Request| request.user == self.name && request.is(verb, "leases");
        self.server.store().requests().matching(mine).len()
    }

    fn writes(&self) -> usize {
        let name = self.name;
        self.server
            .store()
            .requests()
            .matching(|request| request.user == name && request.is_write())
            .len()
    }
}

fn spec(store: &Store) -> Value {
    store
        .get("leases", "default", LEASE)
        .map(|lease| lease["spec"].clone())
        .unwrap_or_default()
}

/// Writes the Lease as another client would.
fn put(store: &Store, spec: Value) {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": LEASE, "namespace": "default"}, "spec": spec,
    });
    store.put(lease).unwrap();
}
