//! A cluster with its replicas, which is reset before each run.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use futures::FutureExt as _;
use harness::objects::{api_servers, vip};
use harness::{Cluster, History, LEASE, Network, Operator, PATIENCE, Place, Platform, USERS, leader, until};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams};

use crate::rows::{Outcome, Row, Scenario};
use crate::{cost, fair, outage, replicas};

/// The time between two changes to a source that changes continuously.
const PACE: Duration = Duration::from_millis(200);

/// The API servers that replicas know. The bench itself uses the third one, which has no faults.
const SERVERS: [usize; 2] = [0, 1];

/// Clusters that serve many runs, because real API servers take seconds to start.
pub struct Stages {
    platform: Platform,
    program: PathBuf,
    plain: Option<Stage>,
    /// The cluster in which the path to each API server can be cut.
    network: Option<Stage>,
}

impl Stages {
    pub fn new(platform: Platform, program: &Path) -> Self {
        Self {
            platform,
            program: program.to_owned(),
            plain: None,
            network: None,
        }
    }

    /// Runs a row once. A run that panics has failed, and the next run gets a new cluster.
    pub async fn run(&mut self, row: &Row) -> Outcome {
        let scenario = row.scenario;
        let kept = match (&mut self.plain, &mut self.network) {
            (_, network) if scenario.needs_network() => network,
            (plain, _) => plain,
        };
        let stage = match kept.take() {
            Some(stage) if !scenario.fills_the_cluster() => stage,
            _ => match Stage::start(self.platform, &self.program, scenario.needs_network()).await {
                Ok(stage) => stage,
                Err(reason) => return Outcome::Skipped(format!("{reason:#}")),
            },
        };
        let played = AssertUnwindSafe(play(stage, scenario)).catch_unwind().await;
        match played {
            Ok((stage, outcome)) => {
                *kept = Some(stage).filter(|_| !scenario.fills_the_cluster());
                outcome.unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")))
            }
            Err(panic) => Outcome::Failed(
                panic
                    .downcast_ref::<String>()
                    .cloned()
                    .unwrap_or_else(|| "panic".to_owned()),
            ),
        }
    }
}

async fn play(mut stage: Stage, scenario: Scenario) -> (Stage, anyhow::Result<Outcome>) {
    stage.clear().await;
    let outcome = match scenario {
        Scenario::ColdStart => replicas::cold_start(&mut stage).await,
        Scenario::LeaderStopped => replicas::leader(&mut stage, "TERM").await,
        Scenario::LeaderKilled => replicas::leader(&mut stage, "KILL").await,
        Scenario::LeaderFrozen => replicas::leader(&mut stage, "STOP").await,
        Scenario::LeaderThawed => replicas::thawed(&mut stage).await,
        Scenario::LeaseEmptied => replicas::lease_emptied(&mut stage).await,
        Scenario::SingleRestarted => replicas::restarted(&mut stage, "TERM").await,
        Scenario::SingleKilled => replicas::restarted(&mut stage, "KILL").await,
        Scenario::ServerKilled => outage::killed(&mut stage).await,
        Scenario::ServerFrozen => outage::frozen(&mut stage).await,
        Scenario::ServerBlackHoled => outage::black_holed(&mut stage).await,
        Scenario::ApiDown { seconds, sources } => {
            outage::api_down(&mut stage, Duration::from_secs(seconds), sources).await
        }
        Scenario::Scraped { scrapes, sources } => replicas::scraped(&mut stage, scrapes, sources).await,
        Scenario::FanOut { services } => fair::fan_out(&mut stage, services).await,
        Scenario::VipDelay { services, percentile } => {
            fair::vip_delay(&mut stage, services, percentile).await
        }
        Scenario::BusyTenant { services } => fair::busy_tenant(&mut stage, services).await,
        Scenario::HangingWrites => fair::hanging_writes(&mut stage).await,
        Scenario::BeyondAPut { percentile } => cost::beyond_a_put(&mut stage, percentile).await,
        Scenario::CpuOfAChange => cost::cpu_of_a_change(&mut stage).await,
        Scenario::Idle(what) => cost::idle(&mut stage, what).await,
        Scenario::Churn => cost::churn(&mut stage).await,
        Scenario::LargeCluster { of_leader } => cost::large(&mut stage, of_leader).await,
        Scenario::LargeColdStart => cost::cold_start(&mut stage).await,
    };
    stage.replicas.clear();
    (stage, outcome)
}

/// A cluster of three API servers, and the replicas of one run.
pub struct Stage {
    // The fields are dropped in this order: each before the fields that it uses.
    pub replicas: Vec<Operator>,
    copies: Option<History>,
    /// The flags of replicas that are started from now on.
    pub flags: &'static [&'static str],
    pub cluster: Cluster,
    pub network: Option<Network>,
    changes: u32,
}

impl Stage {
    async fn start(platform: Platform, program: &Path, with_network: bool) -> anyhow::Result<Self> {
        let network = with_network.then(Network::new).transpose();
        let network = network?;
        let cluster = match &network {
            None => Cluster::start(platform, program, 3).await,
            Some(network) => Cluster::start_behind(platform, program, network).await,
        };
        Ok(Self {
            replicas: Vec::new(),
            copies: None,
            flags: &[],
            cluster,
            network,
            changes: 0,
        })
    }

    /// Resets the cluster: no replica runs, there is no Lease, and `default/kubernetes-vip` is new and has no copies.
    /// Other Services stay.
    async fn clear(&mut self) {
        self.replicas.clear();
        self.copies = None;
        self.flags = &[];
        let cluster = &self.cluster;
        if cluster.try_get::<Lease>("default", LEASE).await.is_some() {
            cluster.delete::<Lease>("default", LEASE).await;
        }
        if cluster
            .try_get::<Service>("default", "kubernetes-vip")
            .await
            .is_some()
        {
            cluster.delete::<Service>("default", "kubernetes-vip").await;
        }
        let slices: Api<EndpointSlice> = Api::namespaced(cluster.client(), "default");
        let copies = ListParams::default().labels("kubernetes.io/service-name=kubernetes-vip");
        let deleted = slices.delete_collection(&DeleteParams::default(), &copies).await;
        deleted.expect("an API server");
        cluster.create::<Service>(vip()).await;
    }

    /// Starts a replica.
    pub fn start_replica(&mut self) {
        let name = USERS[1 + self.replicas.len()];
        let place = Place {
            servers: &SERVERS,
            network: self.network.as_ref(),
        };
        let replica = Operator::start_at(&self.cluster, name, place, self.flags);
        self.replicas.push(replica);
    }

    /// Starts replicas and waits until all are ready and the copies exist. Returns the index of the leader.
    pub async fn begin(&mut self, replicas: usize) -> anyhow::Result<usize> {
        self.watch("kubernetes-vip").await;
        for _ in 0..replicas {
            self.start_replica();
        }
        let change = self.change().await;
        self.shown(&change).await?;
        for replica in &self.replicas {
            replica.until_ready().await;
        }
        Ok(leader(&self.replicas).await)
    }

    /// Watches the copies of this Service from now on.
    pub async fn watch(&mut self, service: &str) {
        self.copies = Some(self.cluster.watch_slices("default", service).await);
    }

    /// An address that no source had before.
    pub fn new_address(&mut self) -> String {
        self.changes += 1;
        let [.., middle, low] = self.changes.to_be_bytes();
        format!("198.18.{middle}.{low}")
    }

    /// Changes the source. Returns the address that its copy has to show.
    pub async fn change(&mut self) -> String {
        let address = self.new_address();
        self.cluster.put::<EndpointSlice>(api_servers(&[&address])).await;
        address
    }

    /// Changes the source repeatedly for this long.
    pub async fn keep_changing(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.change().await;
            tokio::time::sleep(PACE).await;
        }
    }

    /// Waits until the copy shows this address, for at most [`PATIENCE`]. Returns when the copy first showed it.
    pub async fn shown(&self, address: &str) -> anyhow::Result<Instant> {
        let copies = self.copies.as_ref().expect("a watch");
        let shown = copies.shows(&[address], PATIENCE).await;
        shown.with_context(|| format!("not copied within {} s", PATIENCE.as_secs()))
    }

    /// Waits for a renewal of the Lease. The takeover takes longest if the leader is lost right after a renewal.
    pub async fn until_renewed(&self) {
        let version = async || {
            let lease: Option<Lease> = self.cluster.try_get("default", LEASE).await;
            lease.and_then(|lease| lease.metadata.resource_version)
        };
        let before = version().await;
        until("the Lease is renewed", async || version().await != before).await;
    }

    /// Returns an error if a replica has ended.
    pub fn check_replicas(&mut self) -> anyhow::Result<()> {
        let ended = self.replicas.iter_mut().find_map(|replica| {
            let ended = !replica.runs();
            ended.then(|| replica.name().to_owned())
        });
        ended.map_or(Ok(()), |name| Err(anyhow!("{name} has exited")))
    }
}
