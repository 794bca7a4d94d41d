//! The upgrade from the Go operator: its slices and `Endpoints` are replaced without a gap.

use std::time::Duration;

use harness::objects::{addresses, api_servers, slice, vip};
use harness::{Cluster, Operator, Rights, until, within};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};

use crate::on_both;

fn endpoints(name: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"name": "https", "port": 6443}]}],
    })
}

/// The labels of `Endpoints` that version 0.2 of the Go operator created.
fn go_operator() -> Value {
    json!({"endpointslice.kubernetes.io/managed-by": "endpoint-copier-operator"})
}

/// The slice to which Kubernetes mirrors the `Endpoints` of the VIP. No controllers run in these tests, so the test
/// creates the slice.
fn mirror() -> Value {
    let mut mirror = api_servers(&["192.0.2.1"]);
    mirror["metadata"] = json!({"name": "kubernetes-vip-x7k2p", "namespace": "default", "labels": {
        "kubernetes.io/service-name": "kubernetes-vip",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    }});
    mirror
}

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
        cluster.give_rights(Rights::GoOperator, "default").await;
        cluster.create::<Service>(vip()).await;
        cluster.create::<Endpoints>(endpoints("kubernetes-vip", go_operator())).await;
        cluster.create::<EndpointSlice>(mirror()).await;
        let mut other = vip();
        other["metadata"] = json!({"name": "other", "namespace": "default", "annotations": {"endpoint-copier/enabled": "true"}});
        cluster.create::<Service>(other).await;
        cluster.create::<Endpoints>(endpoints("other", json!({}))).await;

        let operator = Operator::start(cluster, "one", 0);
        cluster.gone::<Endpoints>("default", "kubernetes-vip").await;
        assert_eq!(cluster.slices_of("default", "kubernetes-vip").await.len(), 2, "the copy did not exist first");
        until("both are in sync", async || operator.metric("endpoint_copier_services_in_sync").await == Some(2)).await;
        assert!(cluster.try_get::<Endpoints>("default", "other").await.is_some(), "`Endpoints` of another owner are gone");
    }

    /// Rule: 3.leftover-empty
    async fn leftovers_are_deleted_when_an_empty_source_is_followed(cluster: &mut Cluster) {
        cluster.give_rights(Rights::GoOperator, "default").await;
        let follow = |name: &str| {
            let mut service = vip();
            service["metadata"] = json!({"name": name, "namespace": "default", "annotations": {
                "endpoint-copier/enabled": "true", "endpoint-copier/default-service-name": "source",
            }});
            service
        };
        let mut left = slice("default", "web", "web", &["192.0.2.1"]);
        left["metadata"]["labels"]["endpoint-copier/source"] = json!("source");
        cluster.create::<Service>(follow("web")).await;
        cluster.create::<EndpointSlice>(left).await;
        cluster.create::<Service>(follow("old")).await;
        cluster.create::<Endpoints>(endpoints("old", go_operator())).await;
        let mut mirror = mirror();
        mirror["metadata"]["name"] = json!("old-x7k2p");
        mirror["metadata"]["labels"]["kubernetes.io/service-name"] = json!("old");
        cluster.create::<EndpointSlice>(mirror).await;
        cluster.create::<EndpointSlice>(slice("default", "source", "source", &[])).await;
        let _operator = Operator::start(cluster, "one", 0);
        cluster.gone::<EndpointSlice>("default", "web").await;
        cluster.gone::<Endpoints>("default", "old").await;
        assert!(cluster.slices_of("default", "web").await.is_empty(), "an empty slice has a copy");
    }

    /// Rule: 1.enabled-false-leftovers
    async fn a_disabled_service_loses_what_the_go_operator_left(cluster: &mut Cluster) {
        cluster.give_rights(Rights::GoOperator, "default").await;
        let left = |name: &str| {
            let mut left = slice("default", name, name, &["192.0.2.1"]);
            left["metadata"]["labels"]["endpoint-copier/source"] = json!("kubernetes");
            left
        };
        let service = |name: &str, annotations: Value| {
            let mut service = vip();
            service["metadata"] = json!({"name": name, "namespace": "default", "annotations": annotations});
            service
        };
        let disabled = json!({"endpoint-copier/enabled": "false"});
        cluster.create::<Service>(service("silent", json!({}))).await;
        cluster.create::<Service>(service("owned", disabled.clone())).await;
        cluster.create::<Service>(service("kubernetes-vip", disabled.clone())).await;
        cluster.create::<Service>(service("late", json!({}))).await;
        for name in ["silent", "kubernetes-vip", "late"] {
            cluster.create::<EndpointSlice>(left(name)).await;
        }
        let mut owned = left("owned");
        owned["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = json!("someone");
        cluster.create::<EndpointSlice>(owned).await;
        cluster.create::<Endpoints>(endpoints("kubernetes-vip", go_operator())).await;
        cluster.create::<EndpointSlice>(mirror()).await;

        let operator = Operator::start(cluster, "one", 0);
        cluster.gone::<EndpointSlice>("default", "kubernetes-vip").await;
        cluster.gone::<Endpoints>("default", "kubernetes-vip").await;
        cluster.patch::<Service>("default", "late", json!({"metadata": {"annotations": disabled}})).await;
        cluster.gone::<EndpointSlice>("default", "late").await;
        for stays in ["silent", "owned"] {
            assert!(cluster.try_get::<EndpointSlice>("default", stays).await.is_some(), "{stays}");
        }
        assert_eq!(operator.metric("endpoint_copier_managed_services").await, Some(0));
    }

    /// Rule: 3.legacy-endpoints
    async fn endpoints_of_version_0_2_stay_until_rights_are_granted(cluster: &mut Cluster) {
        cluster.create::<Service>(vip()).await;
        cluster.create::<Endpoints>(endpoints("kubernetes-vip", go_operator())).await;
        cluster.create::<EndpointSlice>(mirror()).await;
        let operator = Operator::start(cluster, "one", 0);
        let reason = "LegacyEndpoints";
        until("the finding is reported", async || {
            let events = cluster.list::<Event>("default").await;
            let mut notes = events.iter().filter(|event| event.reason.as_deref() == Some(reason));
            notes.any(|event| event.note.as_deref().is_some_and(|note| note.contains("set rbac.goOperator=true in the chart")))
        })
        .await;
        until("the Service is in sync", async || operator.metric("endpoint_copier_services_in_sync").await == Some(1)).await;
        assert!(cluster.try_get::<Endpoints>("default", "kubernetes-vip").await.is_some());
        cluster.give_rights(Rights::GoOperator, "default").await;
        let is_gone = within(Duration::from_secs(40), async || {
            cluster.try_get::<Endpoints>("default", "kubernetes-vip").await.is_none()
        });
        assert!(is_gone.await, "not removed within 40 s after the rights were granted");
    }
}
