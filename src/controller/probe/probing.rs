//! Creates the tasks of the probes, and connects them to the rest of the replica.

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
use super::{OnUnhealthy, Probes};
use crate::apiserver::probe_client::ProbeClient;
use crate::config::{ElectionConfig, ProbeConfig, ProbeMode};
use crate::controller::reconcile::ReadVerdicts;
use crate::controller::watch::{Reader, Watches};
use crate::leader_election::Candidacy;
use crate::leader_election::term::Term;
use endpoint_copier_core::plan::{Judged, Verdicts};

/// The probes of a replica, before they start.
pub struct Probing {
    /// The client that sends the probes.
    pub client: Arc<dyn ProbeClient>,
    /// The schedule of the probes, and their effect.
    pub config: ProbeConfig,
    /// The client for the probe Lease, through which the replicas exchange suspicions and objections. It is a separate
    /// client, so that other requests do not delay an objection.
    pub lease_client: Client,
    /// The addresses of this node.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Called with the API servers that are unhealthy while another one is healthy, whenever this set changes.
    pub on_unhealthy: OnUnhealthy,
    /// Spreads the probes of several replicas over the period.
    pub seed: u64,
}

impl Probing {
    /// Connects the probes to the rest of the replica. `watches` are its other watches. `election` has the settings of
    /// the leader election, if there is one. Returns the names and the futures of the tasks, which run until they are
    /// dropped, and the function with which the reconciler reads the results.
    #[must_use]
    pub fn start(
        self,
        watches: &Watches,
        terms: &watch::Receiver<Option<Term>>,
        election: Option<(&ElectionConfig, &Candidacy)>,
    ) -> (Vec<(&'static str, BoxFuture<'static, ()>)>, ReadVerdicts) {
        let enforced = self.config.mode == ProbeMode::Enforce;
        let wiring = Wiring {
            terms: terms.clone(),
            // Endpoints are taken out only if the last renewal was confirmed at most 1.5 renewal intervals ago.
            renewal_limit: election.map(|(config, _)| config.renew_interval() * 3 / 2),
            index: watches.index.clone(),
            dirty: watches.dirty.clone(),
            metrics: watches.reader.metrics.clone(),
            on_unhealthy: self.on_unhealthy,
            client: self.client,
            config: self.config,
            seed: self.seed,
        };
        let (probes, started) = (Probes::new(wiring), Timestamp::now());
        let mut tasks = vec![("probes", probes.clone().run().boxed())];
        // Without leader election, there is no other replica to ask.
        if let Some((config, candidacy)) = election {
            let reader = Reader {
                client: self.lease_client,
                ..watches.reader.clone()
            };
            let lease = ProbeLease::new(reader, &candidacy.namespace, &config.lease_name);
            let objections = Objections::new(lease, probes.clone(), &candidacy.identity, self.node_addresses);
            tasks.push(("objections", objections.run().boxed()));
        }
        let verdicts = move || {
            Verdicts::Judged(Judged {
                report: probes.current_report(),
                started,
                enforced,
            })
        };
        (tasks, Box::new(verdicts))
    }
}
