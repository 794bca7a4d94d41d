//! API servers that die on three nodes, each of which has its own etcd, API server and replica.
//!
//! The API servers maintain `default/kubernetes` with leases, as they do by default, so the tests compare the copy with
//! what Kubernetes itself does. No kube-proxy runs.

use std::slice;
use std::time::{Duration, Instant};

use harness::objects::addresses;
use harness::{Cluster, Nodes, Operator, Platform, leader};
use serde_json::json;

use crate::probes::{VIP, copy, create, removals, stays, until_out, until_seen, until_well};

/// A server that does not answer is out after about 3 s, and after 5.5 s at the latest on a quiet machine.
const SILENT: Duration = Duration::from_secs(8);

/// A server that refuses connections is out after about 0.6 s, and after 2.5 s at the latest on a quiet machine.
const REFUSES: Duration = Duration::from_secs(5);

/// If the leader dies with it, its Lease of 6 s expires first, and the new leader needs 2 s at most.
const LEADER: Duration = Duration::from_secs(12);

/// A server that answers again is back 3 s later, or 6 s later after its second failure.
const BACK: Duration = Duration::from_secs(30);

/// Long enough for each server to be taken out and to return, if that could happen.
const LONG: Duration = Duration::from_secs(10);

struct ThreeNodes {
    replicas: [Operator; 3],
    cluster: Cluster,
    nodes: Nodes,
}

impl ThreeNodes {
    /// Starts everything, and waits until the copy lists the servers and each replica has seen them as well.
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

    /// The node of the replica that leads, and another one, whose etcd is a follower. The leader sees all servers as
    /// well.
    async fn leader_and_another(&self) -> (usize, usize) {
        let leader = leader(&self.replicas).await;
        until_well(&self.cluster, VIP, slice::from_ref(&self.replicas[leader])).await;
        let etcd = self.cluster.etcd_leader().await;
        let another = [0, 1, 2]
            .into_iter()
            .find(|node| *node != leader && Some(*node) != etcd);
        (leader, another.expect("three nodes"))
    }

    /// The moment after a server has renewed its lease in etcd. The others then list it for 15 s more in any case.
    async fn renewed(&mut self, server: usize) -> Instant {
        self.cluster.use_server((server + 1) % 3).await;
        self.cluster.renewed(server).await;
        Instant::now()
    }

    /// Checks that the copy shows a server as not ready, within this time, while the source still lists it.
    async fn leaves(&self, server: usize, since: Instant, limit: Duration) {
        until_out(&self.cluster, &[server], limit).await;
        let took = since.elapsed();
        let source = copy(&self.cluster, "kubernetes").await;
        let listed = addresses([&source]);
        assert!(
            listed.contains(&self.cluster.ip(server)),
            "after {took:?} the source lists {listed:?}"
        );
        println!("{} is out after {took:?}", self.cluster.ip(server));
    }

    /// Checks that all servers are ready in the copy, and that all replicas still run.
    async fn recovers(&mut self) {
        until_out(&self.cluster, &[], BACK).await;
        for replica in &mut self.replicas {
            assert!(replica.runs(), "{}", replica.log());
            replica.until_ready().await;
        }
    }

    async fn a_node_loses_power(&mut self) {
        let (_, node) = self.leader_and_another().await;
        let since = self.renewed(node).await;
        self.nodes.unplug(node);
        self.leaves(node, since, SILENT).await;
        self.nodes.plug(node);
        self.recovers().await;
    }

    async fn a_server_freezes(&mut self) {
        let (_, server) = self.leader_and_another().await;
        let since = self.renewed(server).await;
        self.cluster.freeze_server(server);
        self.leaves(server, since, SILENT).await;
        self.cluster.thaw_server(server);
        self.recovers().await;
    }

    async fn the_server_of_the_leader_is_killed(&mut self) {
        let (server, _) = self.leader_and_another().await;
        let since = self.renewed(server).await;
        self.cluster.kill_server(server).await;
        self.leaves(server, since, REFUSES).await;
        self.cluster.start_server(server).await;
        self.recovers().await;
    }

    /// The replica on the third node reaches the server, and objects.
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
        self.recovers().await;
    }

    async fn the_node_of_the_leader_loses_power(&mut self) {
        let (node, _) = self.leader_and_another().await;
        let since = self.renewed(node).await;
        self.nodes.unplug(node);
        self.leaves(node, since, LEADER).await;
        self.nodes.plug(node);
        self.recovers().await;
    }
}

/// One cluster for all checks, because it takes long to start.
/// Rule: 7.conditions, 7.out, 7.rise, 7.objection
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_server_leaves_before_the_source_in_namespaces() {
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
