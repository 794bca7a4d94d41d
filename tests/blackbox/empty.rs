//! Empty sources: by default, copies of the API source are held, and other copies follow the source. An annotation on
//! the Service can override either default.

use harness::objects::{addresses, api_servers, managed, slice, vip};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::on_both;

const ALL: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const HELD: &str = "endpoint_copier_findings{reason=\"SourceEmptyHeld\"}";

async fn until_held(operator: &Operator, count: u64) {
    until(&format!("{count} Services have held copies"), async || {
        operator.metric(HELD).await.unwrap_or(0) == count
    })
    .await;
}

/// Creates one more Service and waits for its copy. By then, the operator has seen all earlier changes to Services and
/// source slices.
async fn until_seen(cluster: &Cluster, name: &str) {
    let source = format!("{name}-source");
    cluster
        .create::<EndpointSlice>(slice("default", &source, &source, &["10.255.0.1"]))
        .await;
    cluster
        .create::<Service>(managed("default", name, "default", &source))
        .await;
    cluster.until_addresses("default", name, &["10.255.0.1"]).await;
}

on_both! {
    /// Rule: 3.held, 3.held-ports, 3.held-deleted
    async fn copy_of_an_empty_api_source_is_held_through_restarts(cluster: &mut Cluster) {
        let mut operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(vip()).await;
        cluster.until_addresses("default", "kubernetes-vip", &ALL).await;
        cluster.put::<EndpointSlice>(api_servers(&[])).await;
        until_held(&operator, 1).await;
        cluster.delete::<EndpointSlice>("default", "kubernetes").await;
        until_seen(cluster, "first").await;
        assert_eq!(cluster.addresses_of("default", "kubernetes-vip").await, ALL);

        operator.signal("TERM");
        operator.ended().await;
        let operator = Operator::start(cluster, "two", 0);
        until_held(&operator, 1).await;
        // The ports of a held copy still follow the Service.
        let ports = json!({"spec": {"ports": [{"name": "https", "port": 6443, "targetPort": 7443}]}});
        cluster.patch::<Service>("default", "kubernetes-vip", ports).await;
        cluster.until_slices("default", "kubernetes-vip", "the new port", |slices| {
            slices.iter().flat_map(|slice| slice.ports.iter().flatten()).all(|port| port.port == Some(7443))
        }).await;
        assert_eq!(cluster.addresses_of("default", "kubernetes-vip").await, ALL);

        // A held copy that is deleted by hand is not created again.
        let name = cluster.slices_of("default", "kubernetes-vip").await[0].metadata.name.clone().unwrap();
        cluster.delete::<EndpointSlice>("default", &name).await;
        until_held(&operator, 0).await;
        until_seen(cluster, "second").await;
        assert!(cluster.slices_of("default", "kubernetes-vip").await.is_empty());

        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.9"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.9"]).await;
    }

    /// Rule: 3.empty-followed, 3.when-source-empty, 3.when-source-empty-typo
    async fn annotation_decides_if_copies_of_empty_sources_are_held(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        let when = |value: &str| json!({"metadata": {"annotations": {"endpoint-copier/when-source-empty": value}}});
        cluster.create::<Service>(vip()).await;
        for name in ["held", "mistyped", "plain"] {
            cluster.create::<EndpointSlice>(slice("default", &format!("{name}-source"), name, &["10.0.0.1"])).await;
            cluster.create::<Service>(managed("default", name, "default", &format!("{name}-source"))).await;
            cluster.until_addresses("default", name, &["10.0.0.1"]).await;
        }
        cluster.until_addresses("default", "kubernetes-vip", &ALL).await;
        cluster.patch::<Service>("default", "held", when("hold")).await;
        cluster.patch::<Service>("default", "mistyped", when("keep")).await;
        until("the typo is reported", async || {
            operator.metric("endpoint_copier_findings{reason=\"InvalidAnnotation\"}").await == Some(1)
        }).await;
        for name in ["held", "mistyped", "plain"] {
            cluster.put::<EndpointSlice>(slice("default", &format!("{name}-source"), name, &[])).await;
        }
        cluster.put::<EndpointSlice>(api_servers(&[])).await;
        cluster.until_addresses("default", "mistyped", &[]).await;
        cluster.until_addresses("default", "plain", &[]).await;
        until_held(&operator, 2).await;
        assert_eq!(cluster.addresses_of("default", "held").await, ["10.0.0.1"]);
        assert_eq!(cluster.addresses_of("default", "kubernetes-vip").await, ALL);

        cluster.patch::<Service>("default", "kubernetes-vip", when("follow")).await;
        cluster.patch::<Service>("default", "held", when("follow")).await;
        cluster.until_addresses("default", "kubernetes-vip", &[]).await;
        cluster.until_addresses("default", "held", &[]).await;
        until_held(&operator, 0).await;
    }

    /// Rule: 2.empty-no-create, 2.empty-in-place, 2.empty-beside-others
    async fn an_empty_slice_has_no_copy_beside_others(cluster: &mut Cluster) {
        let _operator = Operator::start(cluster, "one", 0);
        let source = |name: &str, addresses: &[&str]| slice("default", "source", name, addresses);
        cluster.create::<EndpointSlice>(source("one", &["10.0.0.1"])).await;
        cluster.create::<EndpointSlice>(source("two", &["10.0.0.2"])).await;
        cluster.create::<EndpointSlice>(source("three", &[])).await;
        cluster.create::<Service>(managed("default", "web", "default", "source")).await;
        cluster.until_addresses("default", "web", &["10.0.0.1", "10.0.0.2"]).await;
        assert_eq!(cluster.slices_of("default", "web").await.len(), 2, "expected one copy for each slice with endpoints");

        let of_one = |slices: &[EndpointSlice]| slices.len() == 1 && addresses(slices) == ["10.0.0.1"];
        cluster.put::<EndpointSlice>(source("two", &[])).await;
        let one = cluster.until_slices("default", "web", "the empty copy is deleted", of_one).await;
        cluster.put::<EndpointSlice>(source("one", &[])).await;
        cluster.until_addresses("default", "web", &[]).await;
        let emptied = cluster.slices_of("default", "web").await;
        assert_eq!(emptied.len(), 1);
        assert_eq!(emptied[0].metadata.uid, one[0].metadata.uid, "the copy was replaced");

        // The endpoints move from one slice to another.
        cluster.put::<EndpointSlice>(source("one", &["10.0.0.1"])).await;
        cluster.until_addresses("default", "web", &["10.0.0.1"]).await;
        let watched = cluster.watch_slices("default", "web").await;
        cluster.put::<EndpointSlice>(source("two", &["10.0.0.1", "10.0.0.2"])).await;
        cluster.put::<EndpointSlice>(source("one", &[])).await;
        cluster.until_slices("default", "web", "the old copy is deleted", |slices| {
            slices.len() == 1 && addresses(slices) == ["10.0.0.1", "10.0.0.2"]
        }).await;
        let history = watched.up_to(&["10.0.0.1", "10.0.0.2"]).await;
        assert!(history.iter().all(|addresses| !addresses.is_empty()), "{history:?}");
    }

    /// Rule: 2.family, 3.held-per-family
    async fn copies_of_each_family_are_held_separately(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        let of_family = |name: &str, family: &str, addresses: &[&str]| {
            let mut slice = slice("default", "source", name, addresses);
            slice["addressType"] = json!(family);
            slice
        };
        cluster.create::<EndpointSlice>(of_family("source-4", "IPv4", &["10.0.0.1"])).await;
        cluster.create::<EndpointSlice>(of_family("source-6", "IPv6", &["2001:db8::1"])).await;
        let mut service = managed("default", "web", "default", "source");
        service["metadata"]["annotations"]["endpoint-copier/when-source-empty"] = json!("hold");
        // A headless Service without a selector gets both families in any cluster.
        service["spec"]["clusterIP"] = json!("None");
        cluster.create::<Service>(service).await;
        cluster.until_addresses("default", "web", &["10.0.0.1", "2001:db8::1"]).await;
        cluster.put::<EndpointSlice>(of_family("source-4", "IPv4", &[])).await;
        cluster.put::<EndpointSlice>(of_family("source-6", "IPv6", &["2001:db8::2"])).await;
        cluster.until_addresses("default", "web", &["10.0.0.1", "2001:db8::2"]).await;
        until_held(&operator, 1).await;
        cluster.put::<EndpointSlice>(of_family("source-4", "IPv4", &["10.0.0.2"])).await;
        cluster.until_addresses("default", "web", &["10.0.0.2", "2001:db8::2"]).await;
        until_held(&operator, 0).await;
    }

    /// Rule: 3.held-not-across
    async fn copies_of_another_source_or_service_are_not_held(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        cluster.create::<EndpointSlice>(slice("default", "one", "one-x", &["10.0.0.1"])).await;
        cluster.create::<EndpointSlice>(slice("default", "two", "two-x", &[])).await;
        let hold = |name: &str| {
            let mut service = managed("default", name, "default", "one");
            service["metadata"]["annotations"]["endpoint-copier/when-source-empty"] = json!("hold");
            service
        };
        for name in ["moved", "remade"] {
            cluster.create::<Service>(hold(name)).await;
            cluster.until_addresses("default", name, &["10.0.0.1"]).await;
        }
        cluster.put::<EndpointSlice>(slice("default", "one", "one-x", &[])).await;
        until_held(&operator, 2).await;
        let source = json!({"metadata": {"annotations": {"endpoint-copier/default-service-name": "two"}}});
        cluster.patch::<Service>("default", "moved", source).await;
        cluster.until_addresses("default", "moved", &[]).await;
        cluster.delete::<Service>("default", "remade").await;
        cluster.create::<Service>(hold("remade")).await;
        cluster.until_addresses("default", "remade", &[]).await;
        until_held(&operator, 0).await;
    }
}
