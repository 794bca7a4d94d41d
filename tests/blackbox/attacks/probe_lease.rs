//! Attacks through annotations that the attacker writes to the probe Lease. In these annotations, the leader names the
//! servers that it suspects, with a round number for each suspicion, and other replicas object to suspicions.

use std::time::Duration;

use harness::{Cluster, LEASE, SHORT_LEASE, until};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};

use crate::on_both;
use crate::probes::{VIP, copy, create, replica, until_out, until_well};

/// An objection is valid for 10 s. A server that refuses connections is taken out within 3 s: the copy then lists it as
/// not ready. The rest is margin.
const OUT: Duration = Duration::from_secs(16);

/// The name of the probe Lease.
fn name() -> String {
    format!("{LEASE}-probes")
}

/// Adds annotations to the probe Lease.
async fn write(cluster: &Cluster, annotations: Value) {
    let metadata = json!({"name": name(), "namespace": "default", "annotations": annotations});
    if cluster.try_get::<Lease>("default", &name()).await.is_some() {
        let patch = json!({"metadata": metadata});
        cluster.patch::<Lease>("default", &name(), patch).await;
    } else {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata});
        cluster.create::<Lease>(lease).await;
    }
}

on_both! {
    listed;
    /// The attacker writes one objection for each of the round numbers 1 to 40, so that one of them matches the current
    /// round.
    /// Rule: 7.objection-lasts
    async fn a_forged_objection_keeps_no_dead_server_for_long(cluster: &mut Cluster) {
        let operator = replica(cluster, "one", 0, &SHORT_LEASE);
        create(cluster, VIP, json!({})).await;
        until_well(cluster, VIP, std::slice::from_ref(&operator)).await;
        let dead = cluster.address(1);
        let objection = |round| (format!("objection.endpoint-copier/forged-{round}"), json!(format!("{dead}={round};1")));
        write(cluster, (1..=40).map(objection).collect()).await;
        cluster.kill_server(1).await;
        until_out(cluster, &[1], OUT).await;
    }

    /// If a forged suspicion stayed, the other replicas would respond to it with a write every few seconds.
    async fn a_forged_suspicion_is_removed_and_harms_no_server(cluster: &mut Cluster) {
        let operator = replica(cluster, "one", 0, &SHORT_LEASE);
        create(cluster, VIP, json!({})).await;
        until_well(cluster, VIP, std::slice::from_ref(&operator)).await;
        let before = copy(cluster, VIP).await;
        let all: Vec<_> = (0..3).map(|server| format!("{}=7", cluster.address(server))).collect();
        write(cluster, json!({"endpoint-copier/suspected": all.join(",")})).await;
        until("the suspicion is removed", async || {
            let lease = cluster.try_get::<Lease>("default", &name()).await.expect("a Lease");
            let annotations = lease.metadata.annotations.unwrap_or_default();
            !annotations.contains_key("endpoint-copier/suspected")
        })
        .await;
        assert_eq!(copy(cluster, VIP).await, before);
    }
}
