//! Failures of API servers on three nodes. Each node has its own etcd, API server and replica.
//!
//! The API servers maintain `default/kubernetes` with leases, as they do by default, so the test can compare the copy
//! with the source that Kubernetes itself maintains. No kube-proxy runs.

use std::slice;
use std::time::{Duration, Instant};

use harness::objects::addresses;
use harness::{Cluster, Nodes, Operator, Platform, leader};
use serde_json::json;

use crate::probes::{VIP, copy, create, removals, stays, until_out, until_seen, until_well};

/// A server that does not respond is *taken out*, that is, listed as not ready in the copy. This takes about 3 s, and
/// at most 5.5 s on a quiet machine.
const SILENT: Duration = Duration::from_secs(8);

/// A server that refuses connections is taken out after about 0.6 s, and within 2.5 s on a quiet machine.
const REFUSES: Duration = Duration::from_secs(5);

/// If the leader fails together with the server, its Lease of 6 s expires first, and the new leader takes the server
/// out at most 2 s later.
const LEADER: Duration = Duration::from_secs(12);

/// A server that responds again becomes ready in the copy after at least 3 s, or after at least 6 s if it has failed
/// twice.
const RETURNS: Duration = Duration::from_secs(30);

/// Long enough for a server to be wrongly taken out and to return.
const LONG: Duration = Duration::from_secs(10);

struct ThreeNodes {
    replicas: [Operator; 3],
    cluster: Cluster,
    nodes: Nodes,
}

impl ThreeNodes {
    /// Starts everything, and waits until the copy lists the servers, and each replica reports all of them as `well`.
    async fn start(nodes: Nodes) -> Self {
        let cluster = Cluster::start_on(crate::PROGRAM, &nodes).await;
        create(&cluster, VIP, json!({})).await;
        let replicas = [0, 1, 2].map(|node| Operator::start_on(&cluster, &nodes, node, &[]));
        until_well(&cluster, VIP, &replicas).await;
        Self {
            replicas,
            cluster,
            nodes,
        }
    }

    /// The node of the leader, and another node, whose etcd is a follower. Waits until the leader reports all servers
    /// as `well`.
    async fn leader_and_another(&self) -> (usize, usize) {
        let leader = leader(&self.replicas).await;
        until_well(&self.cluster, VIP, slice::from_ref(&self.replicas[leader])).await;
        let etcd = self.cluster.etcd_leader().await;
        let another = [0, 1, 2]
            .into_iter()
            .find(|node| *node != leader && Some(*node) != etcd);
        (leader, another.expect("three nodes"))
    }

    /// Waits until a server has renewed its lease in etcd, and returns the time. The other servers list this one for
    /// at least 15 s from then on.
    async fn renewed(&mut self, server: usize) -> Instant {
        self.cluster.use_server((server + 1) % 3).await;
        self.cluster.renewed(server).await;
        Instant::now()
    }

    /// Checks that the copy lists a server as not ready within this time, while the source still lists it.
    async fn check_removal(&self, server: usize, since: Instant, limit: Duration) {
        until_out(&self.cluster, &[server], limit).await;
        let took = since.elapsed();
        let source = copy(&self.cluster, "kubernetes").await;
        let listed = addresses([&source]);
        assert!(
            listed.contains(&self.cluster.ip(server)),
            "after {took:?}, the source lists only {listed:?}"
        );
        println!("{} is out after {took:?}", self.cluster.ip(server));
    }

    /// Checks that all servers are ready in the copy, and that all replicas are still running.
    async fn check_recovery(&mut self) {
        until_out(&self.cluster, &[], RETURNS).await;
        for replica in &mut self.replicas {
            assert!(replica.runs(), "{}", replica.log());
            replica.until_ready().await;
        }
    }

    async fn a_node_loses_power(&mut self) {
        let (_, node) = self.leader_and_another().await;
        let since = self.renewed(node).await;
        self.nodes.unplug(node);
        self.check_removal(node, since, SILENT).await;
        self.nodes.plug(node);
        self.check_recovery().await;
    }

    async fn a_server_freezes(&mut self) {
        let (_, server) = self.leader_and_another().await;
        let since = self.renewed(server).await;
        self.cluster.freeze_server(server);
        self.check_removal(server, since, SILENT).await;
        self.cluster.thaw_server(server);
        self.check_recovery().await;
    }

    async fn the_server_of_the_leader_is_killed(&mut self) {
        let (server, _) = self.leader_and_another().await;
        let since = self.renewed(server).await;
        self.cluster.kill_server(server).await;
        self.check_removal(server, since, REFUSES).await;
        self.cluster.start_server(server).await;
        self.check_recovery().await;
    }

    /// The replica on the third node reaches the server, and objects to its removal.
    async fn only_the_leader_cannot_reach_a_server(&mut self) {
        let (leader, server) = self.leader_and_another().await;
        let third = 3 - leader - server;
        until_seen(&self.cluster, &self.replicas[third], server, "well").await;
        let holder = self.cluster.holder().await;
        let before = removals(&self.replicas[leader]).await;
        let address = self.cluster.address(server);
        self.nodes.cut(leader, address);
        until_seen(&self.cluster, &self.replicas[leader], server, "down").await;
        stays(&self.cluster, LONG).await;
        let log = self.replicas[leader].log();
        assert_eq!(self.cluster.holder().await, holder, "{log}");
        assert_eq!(removals(&self.replicas[leader]).await, before, "{log}");
        self.nodes.restore(leader, address);
        self.check_recovery().await;
    }

    async fn the_node_of_the_leader_loses_power(&mut self) {
        let (node, _) = self.leader_and_another().await;
        let since = self.renewed(node).await;
        self.nodes.unplug(node);
        self.check_removal(node, since, LEADER).await;
        self.nodes.plug(node);
        self.check_recovery().await;
    }
}

/// All checks share one cluster, because a cluster takes long to start.
/// Rule: 7.conditions, 7.out, 7.rise, 7.objection
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_server_is_out_before_the_source_drops_it_in_namespaces() {
    if !Platform::Real.is_here() {
        return println!("skipped: needs KUBEBUILDER_ASSETS");
    }
    let nodes = match Nodes::new() {
        Ok(nodes) => nodes,
        Err(reason) => return println!("skipped: needs network namespaces: {reason}"),
    };
    let mut three = ThreeNodes::start(nodes).await;
    three.a_node_loses_power().await;
    three.a_server_freezes().await;
    three.the_server_of_the_leader_is_killed().await;
    three.only_the_leader_cannot_reach_a_server().await;
    three.the_node_of_the_leader_loses_power().await;
}
