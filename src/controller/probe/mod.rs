//! Asks the API servers that copies list whether they are ready.
//!
//! ```text
//!     index ──> targets ──> a task for each ──> Targets ──> Report ──> dirty Services ──> plan
//! ```
//!
//! Kubernetes lists a dead API server for 7 to 38 s more. Every replica probes, so that a new leader knows at once what
//! the last one knew. What follows from the report is decided where everything is: in the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{AbortHandle, abortable};
use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::apiserver::probe_client::ProbeClient;
use crate::config::ProbeConfig;
use crate::controller::workqueue::DirtySet;
use crate::leader_election::term::Term;
use crate::telemetry::metrics::Metrics;
use endpoint_copier_core::index::SharedIndex;
use endpoint_copier_core::verdicts::{Hearing, Report, Target, Targets};

pub mod objections;
pub mod probing;
mod shared;
mod target_task;

use shared::Inner;
pub use shared::{OnDown, Probes};
use target_task::TargetTask;

/// The pause between two looks at what is to be probed, however often copies change.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// What a prober is made from.
pub struct ProberParts {
    /// How it asks.
    pub client: Arc<dyn ProbeClient>,
    /// When it asks, and how many results decide.
    pub config: ProbeConfig,
    /// Shows what copies list.
    pub index: SharedIndex,
    /// Gets the Services that copy the API source whenever the report changes.
    pub dirty: DirtySet,
    /// The right to write, while there is one.
    pub terms: watch::Receiver<Option<Term>>,
    /// How long ago the last renewal was answered at most when endpoints are taken out: 1.5 renewal intervals. `None`:
    /// there is no election.
    pub renewal_limit: Option<Duration>,
    /// Counts the attempts.
    pub metrics: Metrics,
    /// Told which API servers are down while another is well.
    pub on_down: OnDown,
    /// Spreads the attempts of several replicas over the period.
    pub seed: u64,
}

/// Probes what copies of the API source list.
pub struct Prober {
    probes: Probes,
    client: Arc<dyn ProbeClient>,
    config: ProbeConfig,
    index: SharedIndex,
    dirty: DirtySet,
    seed: u64,
}

impl Prober {
    /// A prober that does not run yet.
    #[must_use]
    pub fn new(parts: ProberParts) -> Self {
        let ProberParts {
            client,
            config,
            index,
            dirty,
            terms,
            renewal_limit,
            metrics,
            on_down,
            seed,
        } = parts;
        let probes = Probes::new(Inner {
            start: Instant::now(),
            targets: Mutex::new(Targets::new(config.thresholds)),
            hearing: Mutex::new(Hearing::default()),
            report: watch::Sender::new(Arc::new(Report::default())),
            rounds: watch::Sender::default(),
            terms,
            renewal_limit,
            index: index.clone(),
            dirty: dirty.clone(),
            metrics,
            on_down,
            down: Mutex::default(),
            outages: Mutex::default(),
        });
        Self {
            probes,
            client,
            config,
            index,
            dirty,
            seed,
        }
    }

    /// What it finds out.
    #[must_use]
    pub fn probes(&self) -> Probes {
        self.probes.clone()
    }

    /// Probes until it is dropped.
    pub async fn run(self) {
        let probes = self.probes.clone();
        tokio::select! {
            biased;
            () = self.follow_index() => {}
            () = probes.keep_looking() => {}
        }
    }

    async fn follow_index(self) {
        let mut marks = self.dirty.marks();
        // Part of this future: whatever stops this one stops them as well.
        let mut tasks = FuturesUnordered::new();
        let mut handles: BTreeMap<Target, AbortHandle> = BTreeMap::new();
        let (mut seen, mut https) = (None, BTreeSet::new());
        let mut next_look = Instant::now();
        loop {
            if let Some(targets) = self.changed_targets(&mut seen, &mut https) {
                self.probes.list(&targets);
                handles.retain(|target, task| {
                    let is_listed = targets.contains(target);
                    if !is_listed {
                        task.abort();
                    }
                    is_listed
                });
                for target in targets {
                    handles.entry(target).or_insert_with(|| {
                        let (task, handle) = abortable(self.task(target).run());
                        tasks.push(task);
                        handle
                    });
                }
                next_look = Instant::now() + LOOK_PAUSE;
            }
            let changed = async {
                sleep_until(next_look).await;
                _ = marks.changed().await;
            };
            tokio::select! {
                biased;
                () = changed => {}
                // Those that are no longer listed.
                Some(_) = tasks.next() => {}
            }
        }
    }

    /// What is to be probed, if that may have changed. While the API source shows no port, the last one counts: its copies
    /// may be held.
    fn changed_targets(&self, seen: &mut Option<u64>, https: &mut BTreeSet<u16>) -> Option<BTreeSet<Target>> {
        let index = self.index.lock();
        let version = index.api_servers_changed();
        if seen.replace(version) == Some(version) {
            return None;
        }
        let ports = index.api_server_ports();
        if !ports.is_empty() {
            *https = ports;
        }
        Some(index.probe_targets(https))
    }

    fn task(&self, target: Target) -> TargetTask {
        let mut hasher = DefaultHasher::new();
        (self.seed, target).hash(&mut hasher);
        let period = u64::try_from(self.config.period.as_nanos()).unwrap_or(u64::MAX);
        let phase = Duration::from_nanos(hasher.finish() % period.max(1));
        TargetTask::new(
            target,
            self.client.clone(),
            self.config,
            self.probes.clone(),
            phase,
        )
    }
}

#[cfg(test)]
mod tests;
