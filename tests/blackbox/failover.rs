//! One of two API servers is lost while the other is up. Replicas continue to work after any kind of loss.

use std::time::{Duration, Instant};

use harness::objects::{api_servers, vip};
use harness::{Cluster, Network, Operator, PATIENCE, Place, leader};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::on_both;

/// A lease that is too long for a takeover within the limits below.
const LONG_LEASE: [&str; 2] = [
    "--leader-election-lease-duration=20s",
    "--leader-election-renew-deadline=15s",
];

/// A ping notices a silent loss within 2 s, and on an idle machine the loss should be over after 3 s.
const SILENT: Duration = Duration::from_secs(6);

/// On an idle machine, a connection that is reset should be replaced within 1 s.
const RESET: Duration = Duration::from_secs(3);

/// A dial times out after 1.5 s.
const DIAL: Duration = Duration::from_millis(4500);

/// Replicas that know two API servers and have completed all their lists and copies.
async fn replicas(cluster: &Cluster, network: Option<&Network>, count: usize) -> Vec<Operator> {
    let place = Place {
        servers: &[0, 1],
        network,
    };
    let names = ["one", "two", "three"].into_iter().take(count);
    let replicas: Vec<_> = names
        .map(|name| Operator::start_at(cluster, name, place, &LONG_LEASE))
        .collect();
    cluster.vip_in_sync().await;
    for replica in &replicas {
        replica.until_ready().await;
    }
    replicas
}

/// The API server that the leader is connected to.
async fn led_by(cluster: &Cluster, replicas: &[Operator]) -> usize {
    let peers = replicas[leader(replicas).await].peers();
    let server = [0, 1]
        .into_iter()
        .find(|server| peers.contains(&cluster.address(*server)));
    server.unwrap_or_else(|| panic!("the leader is connected to {peers:?}"))
}

/// Checks that a change after a loss is copied in time, and by the same leader.
async fn goes_on(cluster: &Cluster, replicas: &mut [Operator], since: Instant, limit: Duration) {
    let holder = cluster.holder().await;
    let watched = cluster.watch_slices("default", "kubernetes-vip").await;
    cluster.put::<EndpointSlice>(api_servers(&["192.0.2.2"])).await;
    let shown = watched.shows(&["192.0.2.2"], PATIENCE).await.expect("a copy");
    let took = shown - since;
    assert!(took < limit, "{took:?}, not {limit:?}");
    assert_eq!(cluster.holder().await, holder, "the leader is who it was");
    for replica in replicas {
        assert!(replica.runs(), "{}", replica.log());
    }
}

async fn killed(cluster: &mut Cluster, count: usize) {
    let mut replicas = replicas(cluster, None, count).await;
    let server = led_by(cluster, &replicas).await;
    let start = Instant::now();
    cluster.kill_server(server).await;
    goes_on(cluster, &mut replicas, start, RESET).await;
}

async fn frozen(cluster: &mut Cluster, count: usize) {
    let mut replicas = replicas(cluster, None, count).await;
    let server = led_by(cluster, &replicas).await;
    let start = Instant::now();
    cluster.freeze_server(server);
    goes_on(cluster, &mut replicas, start, SILENT).await;
    cluster.thaw_server(server);
}

async fn black_holed(cluster: &mut Cluster, network: &Network, count: usize) {
    let mut replicas = replicas(cluster, Some(network), count).await;
    let server = led_by(cluster, &replicas).await;
    let start = Instant::now();
    network.cut(server);
    goes_on(cluster, &mut replicas, start, SILENT).await;
}

/// Checks that a replica whose first API server is lost when it starts works through the second one.
async fn starts(cluster: &Cluster, network: Option<&Network>, limit: Duration) {
    cluster.create::<Service>(vip()).await;
    let watched = cluster.watch_slices("default", "kubernetes-vip").await;
    let start = Instant::now();
    let place = Place {
        servers: &[0, 1],
        network,
    };
    let mut operator = Operator::start_at(cluster, "one", place, &[]);
    let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let shown = watched.shows(&all, PATIENCE).await.expect("a copy");
    let took = shown - start;
    assert!(took < limit, "{took:?}, not {limit:?}: {}", operator.log());
    assert!(operator.runs());
}

on_both! {
    servers: 3;
    /// Rule: survive.api-server-lost
    async fn one_replica_survives_a_killed_api_server(cluster: &mut Cluster) {
        killed(cluster, 1).await;
    }

    /// Rule: survive.api-server-lost
    async fn three_replicas_survive_a_killed_api_server(cluster: &mut Cluster) {
        killed(cluster, 3).await;
    }

    /// Rule: survive.api-server-lost
    async fn one_replica_survives_a_frozen_api_server(cluster: &mut Cluster) {
        frozen(cluster, 1).await;
    }

    /// Rule: survive.api-server-lost
    async fn three_replicas_survive_a_frozen_api_server(cluster: &mut Cluster) {
        frozen(cluster, 3).await;
    }

    /// Rule: survive.api-server-lost-before
    async fn a_replica_starts_while_its_first_api_server_is_dead(cluster: &mut Cluster) {
        cluster.kill_server(0).await;
        starts(cluster, None, RESET).await;
    }

    /// The server accepts TCP connections and never completes TLS.
    /// Rule: survive.api-server-lost-before
    async fn a_replica_starts_while_its_first_api_server_is_frozen(cluster: &mut Cluster) {
        cluster.freeze_server(0);
        starts(cluster, None, DIAL).await;
    }
}

on_both! {
    black_hole;
    /// Rule: survive.api-server-lost
    async fn one_replica_survives_packet_loss_to_its_api_server(cluster: &mut Cluster, network: &Network) {
        black_holed(cluster, network, 1).await;
    }

    /// Rule: survive.api-server-lost
    async fn three_replicas_survive_packet_loss_to_one_api_server(cluster: &mut Cluster, network: &Network) {
        black_holed(cluster, network, 3).await;
    }

    /// Rule: survive.api-server-lost-before
    async fn a_replica_starts_when_its_first_api_server_drops_packets(cluster: &mut Cluster, network: &Network) {
        network.cut(0);
        starts(cluster, Some(network), DIAL).await;
    }
}
