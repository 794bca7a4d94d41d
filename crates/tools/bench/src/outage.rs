//! Faults of API servers and of the paths to them.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use harness::objects::{managed, slice};
use harness::until;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::rows::Outcome;
use crate::stage::Stage;

/// Measures a failover after the API server that the leader is connected to is killed, while another API server is up.
pub async fn killed(stage: &mut Stage) -> anyhow::Result<Outcome> {
    let server = server_of_leader(stage).await?;
    let start = Instant::now();
    stage.cluster.kill_server(server).await;
    let outcome = copied_since(stage, start).await;
    stage.cluster.start_server(server).await;
    outcome
}

/// Measures a failover after the API server that the leader is connected to freezes. The kernel still accepts
/// connections for this server.
pub async fn frozen(stage: &mut Stage) -> anyhow::Result<Outcome> {
    let server = server_of_leader(stage).await?;
    let start = Instant::now();
    stage.cluster.freeze_server(server);
    let outcome = copied_since(stage, start).await;
    stage.cluster.thaw_server(server);
    outcome
}

/// Measures a failover after all packets to and from the API server that the leader is connected to are dropped.
pub async fn black_holed(stage: &mut Stage) -> anyhow::Result<Outcome> {
    let server = server_of_leader(stage).await?;
    let start = Instant::now();
    network(stage).cut(server);
    let outcome = copied_since(stage, start).await;
    network(stage).restore(server);
    outcome
}

fn network(stage: &Stage) -> &harness::Network {
    stage.network.as_ref().expect("a network")
}

/// Kills all API servers that the replicas know, and keeps them down for this long. Measures the time from the moment
/// that the first of them is ready again until a change that was made during the outage is copied.
pub async fn api_down(stage: &mut Stage, time: Duration, sources: usize) -> anyhow::Result<Outcome> {
    if sources > 1 {
        create_services(stage, sources).await;
    }
    let leader = stage.begin(3).await?;
    let change = if sources > 1 {
        until_copied(stage, leader, sources).await;
        stage.watch(&name(0)).await;
        kill_both(stage).await;
        let address = stage.new_address();
        put_source(stage, 0, &address).await;
        address
    } else {
        kill_both(stage).await;
        stage.change().await
    };
    tokio::time::sleep(time).await;
    stage.cluster.start_server(0).await;
    let back = Instant::now();
    let shown = stage.shown(&change).await;
    stage.cluster.start_server(1).await;
    stage.check_replicas()?;
    // A server serves requests before the bench notices that it is ready.
    Ok(Outcome::Took(shown?.saturating_duration_since(back)))
}

async fn kill_both(stage: &mut Stage) {
    for server in [0, 1] {
        stage.cluster.kill_server(server).await;
    }
}

/// Starts three replicas, and returns the index of the API server that the leader is connected to.
async fn server_of_leader(stage: &mut Stage) -> anyhow::Result<usize> {
    let leader = stage.begin(3).await?;
    let peers = stage.replicas[leader].peers();
    let server = [0, 1]
        .into_iter()
        .find(|server| peers.contains(&stage.cluster.address(*server)));
    server.with_context(|| format!("the leader is not connected to server 0 or 1: {peers:?}"))
}

async fn copied_since(stage: &mut Stage, start: Instant) -> anyhow::Result<Outcome> {
    let change = stage.change().await;
    let shown = stage.shown(&change).await;
    stage.check_replicas()?;
    Ok(Outcome::Took(shown? - start))
}

fn name(number: usize) -> String {
    format!("source-{number}")
}

async fn put_source(stage: &Stage, number: usize, address: &str) {
    let source = name(number);
    let slice = slice("default", &format!("{source}-from"), &source, &[address]);
    stage.cluster.put::<EndpointSlice>(slice).await;
}

/// Creates this many Services, each with its own source.
pub async fn create_services(stage: &Stage, sources: usize) {
    let numbers = stream::iter(0..sources);
    numbers
        .for_each_concurrent(16, async |number| {
            let service = name(number);
            put_source(stage, number, "198.51.100.1").await;
            if stage
                .cluster
                .try_get::<Service>("default", &service)
                .await
                .is_none()
            {
                let service = managed("default", &service, "default", &format!("{service}-from"));
                stage.cluster.create::<Service>(service).await;
            }
        })
        .await;
}

/// Waits until the leader reports this many Services and `default/kubernetes-vip` as in sync.
pub async fn until_copied(stage: &Stage, leader: usize, sources: usize) {
    let all = u64::try_from(sources + 1).ok();
    let leader = &stage.replicas[leader];
    until("all Services are in sync", async || {
        leader.metric("endpoint_copier_services_in_sync").await == all
    })
    .await;
}
