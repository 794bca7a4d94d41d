//! Attacks by users with few permissions who want to gain more through the operator. Each attack fails against the
//! operator, and succeeds against the mutants in `hack/mutants` that docs/explanation/security.md lists for it, if any.

use std::sync::atomic::{AtomicUsize, Ordering};

use harness::objects::{addresses, managed, slice, source};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::events::events_on;

mod annotations;
mod forged_slices;
mod grants;
mod names;
mod oracles;
mod ports;
mod probe_lease;
mod races;
mod token;

/// The address that no user of `team-a` may expose.
const VICTIM: &str = "10.0.0.1";

/// Creates the namespace `web`, with a slice of a Service `app`, and the attacker's namespace `team-a`.
async fn victim(cluster: &Cluster) {
    for namespace in ["web", "team-a"] {
        cluster.namespace(namespace).await;
    }
    cluster
        .create::<EndpointSlice>(slice("web", "app", "app-x7k2p", &[VICTIM]))
        .await;
}

/// The managed Service `team-a/front`, whose source is `web/app`.
fn front() -> Value {
    managed("team-a", "front", "web", "app")
}

/// Starts a replica and waits until it holds the copy for `team-a/front`. The owner of the source consents to this
/// copy.
async fn held_copy(cluster: &Cluster) -> Operator {
    victim(cluster).await;
    cluster.create::<Service>(source("web", "app", "team-a")).await;
    let operator = Operator::start(cluster, "one", 0);
    let mut front = front();
    front["metadata"]["annotations"]["endpoint-copier/when-source-empty"] = json!("hold");
    cluster.create::<Service>(front).await;
    cluster.until_addresses("team-a", "front", &[VICTIM]).await;
    cluster.delete::<EndpointSlice>("web", "app-x7k2p").await;
    let held = "endpoint_copier_findings{reason=\"SourceEmptyHeld\"}";
    until("the copy is held", async || {
        operator.metric(held).await == Some(1)
    })
    .await;
    operator
}

/// Creates one more Service and waits for its copy. By then, the operator has seen all earlier changes to Services and
/// source slices.
async fn seen(cluster: &Cluster) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let (source, name) = (format!("last-source-{number}"), format!("last-{number}"));
    cluster
        .create::<EndpointSlice>(slice("default", &source, &source, &["10.255.0.1"]))
        .await;
    cluster
        .create::<Service>(managed("default", &name, "default", &source))
        .await;
    cluster.until_addresses("default", &name, &["10.255.0.1"]).await;
}

/// The slices in a namespace that contain the victim's address.
async fn shown(cluster: &Cluster, namespace: &str) -> Vec<EndpointSlice> {
    let mut slices: Vec<EndpointSlice> = cluster.list(namespace).await;
    slices.retain(|slice| addresses([slice]).iter().any(|address| address == VICTIM));
    slices
}

/// Checks that no slice in a namespace contains the victim's address.
async fn is_hidden(cluster: &Cluster, namespace: &str) {
    seen(cluster).await;
    let shown = shown(cluster, namespace).await;
    assert!(shown.is_empty(), "{shown:#?}");
}

/// Waits until the operator refuses a Service for this reason. Returns early if a slice in the Service's namespace
/// contains the victim's address, so that the caller's check fails.
async fn until_refused(cluster: &Cluster, service: &Service, reason: &str) {
    let namespace = service.metadata.namespace.as_deref().expect("a namespace");
    until(&format!("an Event {reason}"), async || {
        let events = events_on(cluster, service).await;
        events.iter().any(|event| event.1 == reason) || !shown(cluster, namespace).await.is_empty()
    })
    .await;
}

/// Checks that the operator refuses a Service for this reason, and that no slice in the Service's namespace contains
/// the victim's address.
async fn is_refused(cluster: &Cluster, service: &Service, reason: &str) {
    until_refused(cluster, service, reason).await;
    let namespace = service.metadata.namespace.as_deref().expect("a namespace");
    is_hidden(cluster, namespace).await;
}

/// A slice with the labels, annotations and owners that a copy of `web/app-x7k2p` for this Service would have.
fn forged(service: &Service, name: &str, addresses: &[&str]) -> Value {
    let (namespace, owner) = (
        service.metadata.namespace.as_deref().expect("a namespace"),
        service.metadata.name.as_deref().expect("a name"),
    );
    let mut forged = slice(namespace, owner, name, addresses);
    forged["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] =
        json!("endpoint-copier-operator");
    forged["metadata"]["annotations"] = json!({
        "endpoint-copier/source-namespace": "web", "endpoint-copier/source-slice": "app-x7k2p",
        "endpoint-copier/source-uid": "x", "endpoint-copier/source-resource-version": "1",
    });
    forged["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "Service", "name": owner, "uid": service.metadata.uid, "controller": true,
    }]);
    forged
}
