//! The upgrade from the Go operator: its slices and `Endpoints` are replaced without a gap.

use harness::objects::{addresses, api_servers, vip};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::on_both;

on_both! {
    /// Rule: 3.leftover-slice
    async fn the_slice_of_version_0_3_is_replaced_without_a_gap(cluster: &mut Cluster) {
        cluster.create::<Service>(vip()).await;
        let mut left = api_servers(&["192.0.2.1", "192.0.2.2"]);
        left["metadata"] = json!({
            "name": "kubernetes-vip", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes-vip", "endpoint-copier/source": "kubernetes"},
        });
        cluster.create::<EndpointSlice>(left).await;
        let watched = cluster.watch_slices("default", "kubernetes-vip").await;
        let _operator = Operator::start(cluster, "one", 0);
        cluster.gone::<EndpointSlice>("default", "kubernetes-vip").await;
        let now = cluster.slices_of("default", "kubernetes-vip").await;
        assert_eq!(addresses(&now), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let history = watched.up_to(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]).await;
        assert!(history.iter().all(|addresses| addresses.len() >= 2), "{history:?}");
    }

    /// Rule: 3.leftover-endpoints
    async fn endpoints_of_version_0_2_are_removed_once_copies_exist(cluster: &mut Cluster) {
        cluster.create::<Service>(vip()).await;
        let endpoints = |name: &str, labels: serde_json::Value| json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"name": "https", "port": 6443}]}],
        });
        let ours = json!({"endpointslice.kubernetes.io/managed-by": "endpoint-copier-operator"});
        cluster.create::<Endpoints>(endpoints("kubernetes-vip", ours)).await;
        // Kubernetes would create it, but only the API server runs here.
        let mut mirror = api_servers(&["192.0.2.1"]);
        mirror["metadata"] = json!({"name": "kubernetes-vip-x7k2p", "namespace": "default", "labels": {
            "kubernetes.io/service-name": "kubernetes-vip",
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
        }});
        cluster.create::<EndpointSlice>(mirror).await;
        let mut other = vip();
        other["metadata"] = json!({"name": "other", "namespace": "default", "annotations": {"endpoint-copier/enabled": "true"}});
        cluster.create::<Service>(other).await;
        cluster.create::<Endpoints>(endpoints("other", json!({}))).await;

        let operator = Operator::start(cluster, "one", 0);
        cluster.gone::<Endpoints>("default", "kubernetes-vip").await;
        assert_eq!(cluster.slices_of("default", "kubernetes-vip").await.len(), 2, "the copy was there first");
        until("both are in sync", async || operator.metric("endpoint_copier_services_in_sync").await == Some(2)).await;
        assert!(cluster.try_get::<Endpoints>("default", "other").await.is_some(), "what others made stays");
    }
}
