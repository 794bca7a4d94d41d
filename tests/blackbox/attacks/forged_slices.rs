//! Attacks through slices with the labels of copies, and through copies that the attacker edits.

use endpoint_copier_core::model::copy_name;
use harness::objects::{managed, slice};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::{VICTIM, forged, front, is_hidden, victim};
use crate::on_both;
use crate::probes::{REFUSES, VIP, create, replica, until_out, until_well};

/// A source slice, from which [`copy_name`] computes the name of its copy.
fn source_slice(namespace: &str, name: &str) -> endpoint_copier_core::model::EndpointSlice {
    let slice =
        json!({"metadata": {"namespace": namespace, "name": name}, "addressType": "IPv4", "endpoints": []});
    serde_json::from_value(slice).expect("a slice")
}

/// Creates a Service with a typo in an annotation, so that its copies stay as they are.
async fn frozen(cluster: &Cluster) -> Service {
    let mut frozen = front();
    frozen["metadata"]["annotations"]["endpoint-copier/enabled"] = json!("ture");
    cluster.create::<Service>(frozen).await
}

on_both! {
    servers: 1;
    /// Rule: 9.copies-by-annotation
    async fn a_forged_copy_of_a_frozen_service_is_removed(cluster: &mut Cluster) {
        victim(cluster).await;
        cluster.serve_reference_grants().await;
        let _operator = Operator::start(cluster, "one", 0);
        let service = frozen(cluster).await;
        cluster.create::<EndpointSlice>(forged(&service, "front-forged", &[VICTIM])).await;
        cluster.gone::<EndpointSlice>("team-a", "front-forged").await;
        is_hidden(cluster, "team-a").await;
    }

    /// The owner of the forged copy is a Service that is not managed.
    async fn a_forged_copy_of_an_unmanaged_service_is_removed(cluster: &mut Cluster) {
        victim(cluster).await;
        let _operator = Operator::start(cluster, "one", 0);
        let mut plain = front();
        plain["metadata"]["annotations"] = json!({});
        let service = cluster.create::<Service>(plain).await;
        cluster.create::<EndpointSlice>(forged(&service, "front-forged", &[VICTIM])).await;
        cluster.gone::<EndpointSlice>("team-a", "front-forged").await;
        is_hidden(cluster, "team-a").await;
    }

    /// A copy that a backup tool restored has no owner, and a forged copy can look the same.
    /// Rule: 9.copies-by-annotation, 2.restored
    async fn a_forged_copy_without_an_owner_is_removed(cluster: &mut Cluster) {
        victim(cluster).await;
        cluster.serve_reference_grants().await;
        let _operator = Operator::start(cluster, "one", 0);
        let service = frozen(cluster).await;
        let name = copy_name("front", &source_slice("web", "app-x7k2p"));
        let mut copy = forged(&service, &name, &[VICTIM]);
        copy["metadata"]["ownerReferences"] = json!(null);
        cluster.create::<EndpointSlice>(copy).await;
        cluster.gone::<EndpointSlice>("team-a", &name).await;
        is_hidden(cluster, "team-a").await;
    }

    /// A user who may edit the slices of one namespace must not make the operator read slices of other namespaces.
    async fn an_edited_copy_makes_the_operator_read_nothing_else(cluster: &mut Cluster) {
        victim(cluster).await;
        cluster.create::<EndpointSlice>(slice("team-a", "own", "own-x7k2p", &["10.0.0.7"])).await;
        let _operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(managed("team-a", "front", "team-a", "own")).await;
        cluster.until_addresses("team-a", "front", &["10.0.0.7"]).await;
        let copy = cluster.slices_of("team-a", "front").await.remove(0).metadata.name.expect("a name");
        let edit = json!({
            "metadata": {"annotations": {
                "endpoint-copier/source-namespace": "web", "endpoint-copier/source-slice": "app-x7k2p",
                "endpoint-copier/source-resource-version": "9999999999999",
            }},
            "endpoints": [{"addresses": ["10.0.0.66"]}],
        });
        cluster.patch::<EndpointSlice>("team-a", &copy, edit).await;
        cluster.until_addresses("team-a", "front", &["10.0.0.7"]).await;
        // Only the testbed records reads.
        if let Some((store, _)) = cluster.testbed() {
            let is_read = |request: &testbed::Request| request.is("get", "endpointslices") && request.namespace == "web";
            let reads = store.requests().matching(is_read);
            assert!(reads.is_empty(), "{reads:#?}");
        }
    }
}

on_both! {
    listed;
    /// At most 16 addresses are probed. Because of its finalizer, the forged copy remains after the operator deletes
    /// it.
    async fn forged_copies_keep_no_dead_server_in_the_vip(cluster: &mut Cluster) {
        cluster.namespace("team-a").await;
        let operator = replica(cluster, "one", 0, &harness::SHORT_LEASE);
        create(cluster, VIP, json!({})).await;
        until_well(cluster, VIP, std::slice::from_ref(&operator)).await;
        let port = cluster.address(0).port();
        let mut api = harness::objects::vip();
        api["metadata"] = json!({"name": "api", "namespace": "team-a", "annotations": {"endpoint-copier/enabled": "true"}});
        api["spec"]["ports"][0]["targetPort"] = json!(port);
        let service = cluster.create::<Service>(api).await;
        let addresses: Vec<_> = (1..=20).map(|number| format!("10.0.0.{number}")).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let mut copy = forged(&service, "api-forged", &addresses);
        copy["metadata"]["finalizers"] = json!(["example.com/keep"]);
        copy["metadata"]["annotations"]["endpoint-copier/source-namespace"] = json!("default");
        copy["metadata"]["annotations"]["endpoint-copier/source-slice"] = json!("kubernetes");
        copy["ports"] = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
        cluster.create::<EndpointSlice>(copy).await;
        until("the forged copy is deleted", async || {
            let copy = cluster.try_get::<EndpointSlice>("team-a", "api-forged").await;
            copy.expect("a copy with a finalizer").metadata.deletion_timestamp.is_some()
        })
        .await;
        cluster.kill_server(1).await;
        until_out(cluster, &[1], REFUSES).await;
    }
}
