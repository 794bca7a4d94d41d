//! The parts of the probes, wired together.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;

use super::objections::{Objections, ProbeLease};
use super::shared::Wiring;
use super::{OnDown, Prober, Probes};
use crate::apiserver::probe_client::ProbeClient;
use crate::config::{ElectionConfig, ProbeConfig, ProbeMode};
use crate::controller::reconcile::ReadVerdicts;
use crate::controller::workqueue::DirtySet;
use crate::leader_election::Candidacy;
use crate::leader_election::term::Term;
use crate::telemetry::metrics::Metrics;
use endpoint_copier_core::index::SharedIndex;
use endpoint_copier_core::plan::{Judged, Verdicts};

/// The probes of a replica, before they start.
pub struct Probing {
    /// How it asks.
    pub client: Arc<dyn ProbeClient>,
    /// When it asks, and what follows.
    pub config: ProbeConfig,
    /// Asks the other replicas, through a Lease beside that of the election. A client of its own, so that other requests
    /// do not delay an objection.
    pub lease_client: Client,
    /// The addresses of this node.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Told which API servers are down while another is well.
    pub on_down: OnDown,
    /// Spreads the probes of several replicas over the period.
    pub seed: u64,
}

/// Probes that run as soon as their tasks do.
pub struct Started {
    /// Names and futures of the tasks. They go on until they are dropped.
    pub tasks: Vec<(&'static str, BoxFuture<'static, ()>)>,
    /// How the reconciler reads what the probes know.
    pub verdicts: ReadVerdicts,
}

impl Probing {
    /// Wires the probes to the rest of the replica. `election`: how it races for the Lease, if it does.
    #[must_use]
    pub fn start(
        self,
        index: &SharedIndex,
        dirty: &DirtySet,
        metrics: &Metrics,
        terms: &watch::Receiver<Option<Term>>,
        election: Option<(&ElectionConfig, &Candidacy)>,
    ) -> Started {
        let enforced = self.config.mode == ProbeMode::Enforce;
        let wiring = Wiring {
            terms: terms.clone(),
            // Endpoints are taken out only while the last renewal was answered within 1.5 intervals.
            renewal_limit: election.map(|(config, _)| config.renew_interval() * 3 / 2),
            index: index.clone(),
            dirty: dirty.clone(),
            metrics: metrics.clone(),
            on_down: self.on_down,
        };
        let (probes, started) = (Probes::new(self.config.thresholds, wiring), Timestamp::now());
        let asking = Prober {
            probes: probes.clone(),
            client: self.client,
            config: self.config,
            seed: self.seed,
        };
        let mut tasks = vec![("probes", asking.run().boxed())];
        // Without election there is nobody to ask.
        if let Some((config, candidacy)) = election {
            let lease = ProbeLease::new(self.lease_client, &candidacy.namespace, &config.lease_name);
            let objections = Objections::new(lease, probes.clone(), &candidacy.identity, self.node_addresses);
            tasks.push(("objections", objections.run().boxed()));
        }
        Started {
            tasks,
            verdicts: Box::new(move || {
                Verdicts::Judged(Judged {
                    report: probes.report(),
                    started,
                    enforced,
                })
            }),
        }
    }
}
