//! One of the two API servers that the replicas know is lost: it is killed, it freezes, or packets to it are dropped.
//! The replicas continue to work.

use std::time::{Duration, Instant};

use harness::objects::{api_servers, vip};
use harness::{Cluster, Network, Operator, PATIENCE, Place, leader};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::on_both;

/// Flags for a Lease that lasts too long for a takeover within the limits below.
const LONG_LEASE: [&str; 2] = [
    "--leader-election-lease-duration=20s",
    "--leader-election-renew-deadline=15s",
];

/// Pings detect a silent loss within 2 s. On an idle machine, a change is copied within 3 s of the loss.
const SILENT: Duration = Duration::from_secs(6);

/// On an idle machine, a connection that is reset is replaced within 1 s.
const RESET: Duration = Duration::from_secs(3);

/// A dial times out after 1.5 s. The rest is margin.
const DIAL: Duration = Duration::from_millis(4500);

/// Starts replicas that know two API servers, and waits until all are ready and the VIP is in sync.
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

/// The index of the API server that the leader is connected to.
async fn server_of_leader(cluster: &Cluster, replicas: &[Operator]) -> usize {
    let peers = replicas[leader(replicas).await].peers();
    let server = [0, 1]
        .into_iter()
        .find(|server| peers.contains(&cluster.address(*server)));
    server.unwrap_or_else(|| panic!("the leader is not connected to server 0 or 1: {peers:?}"))
}

/// Checks that a change after a loss is copied in time, and by the same leader.
async fn check_change(cluster: &Cluster, replicas: &mut [Operator], since: Instant, limit: Duration) {
    let holder = cluster.holder().await;
    let watched = cluster.watch_slices("default", "kubernetes-vip").await;
    cluster.put::<EndpointSlice>(api_servers(&["192.0.2.2"])).await;
    let shown = watched.shows(&["192.0.2.2"], PATIENCE).await.expect("a copy");
    let took = shown - since;
    assert!(took < limit, "copied after {took:?}, not within {limit:?}");
    assert_eq!(cluster.holder().await, holder, "the leader has changed");
    for replica in replicas {
        assert!(replica.runs(), "{}", replica.log());
    }
}

async fn survive_kill(cluster: &mut Cluster, count: usize) {
    let mut replicas = replicas(cluster, None, count).await;
    let server = server_of_leader(cluster, &replicas).await;
    let start = Instant::now();
    cluster.kill_server(server).await;
    check_change(cluster, &mut replicas, start, RESET).await;
}

async fn survive_freeze(cluster: &mut Cluster, count: usize) {
    let mut replicas = replicas(cluster, None, count).await;
    let server = server_of_leader(cluster, &replicas).await;
    let start = Instant::now();
    cluster.freeze_server(server);
    check_change(cluster, &mut replicas, start, SILENT).await;
    cluster.thaw_server(server);
}

async fn survive_packet_loss(cluster: &mut Cluster, network: &Network, count: usize) {
    let mut replicas = replicas(cluster, Some(network), count).await;
    let server = server_of_leader(cluster, &replicas).await;
    let start = Instant::now();
    network.cut(server);
    check_change(cluster, &mut replicas, start, SILENT).await;
}

/// Checks that a replica can start and work through its second API server while its first one is lost.
async fn check_start(cluster: &Cluster, network: Option<&Network>, limit: Duration) {
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
    assert!(
        took < limit,
        "copied after {took:?}, not within {limit:?}: {}",
        operator.log()
    );
    assert!(operator.runs());
}

on_both! {
    servers: 3;
    /// Rule: survive.api-server-lost
    async fn one_replica_survives_a_killed_api_server(cluster: &mut Cluster) {
        survive_kill(cluster, 1).await;
    }

    /// Rule: survive.api-server-lost
    async fn three_replicas_survive_a_killed_api_server(cluster: &mut Cluster) {
        survive_kill(cluster, 3).await;
    }

    /// Rule: survive.api-server-lost
    async fn one_replica_survives_a_frozen_api_server(cluster: &mut Cluster) {
        survive_freeze(cluster, 1).await;
    }

    /// Rule: survive.api-server-lost
    async fn three_replicas_survive_a_frozen_api_server(cluster: &mut Cluster) {
        survive_freeze(cluster, 3).await;
    }

    /// Rule: survive.api-server-lost-before
    async fn a_replica_starts_while_its_first_api_server_is_dead(cluster: &mut Cluster) {
        cluster.kill_server(0).await;
        check_start(cluster, None, RESET).await;
    }

    /// A frozen server accepts TCP connections, but never completes a TLS handshake.
    /// Rule: survive.api-server-lost-before
    async fn a_replica_starts_while_its_first_api_server_is_frozen(cluster: &mut Cluster) {
        cluster.freeze_server(0);
        check_start(cluster, None, DIAL).await;
    }
}

on_both! {
    black_hole;
    /// Rule: survive.api-server-lost
    async fn one_replica_survives_packet_loss_to_its_api_server(cluster: &mut Cluster, network: &Network) {
        survive_packet_loss(cluster, network, 1).await;
    }

    /// Rule: survive.api-server-lost
    async fn three_replicas_survive_packet_loss_to_one_api_server(cluster: &mut Cluster, network: &Network) {
        survive_packet_loss(cluster, network, 3).await;
    }

    /// Rule: survive.api-server-lost-before
    async fn a_replica_starts_when_its_first_api_server_drops_packets(cluster: &mut Cluster, network: &Network) {
        network.cut(0);
        check_start(cluster, Some(network), DIAL).await;
    }
}
