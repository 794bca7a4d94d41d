//! Consent and its withdrawal while an object cannot be decoded or read, or while a view is old.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{Ending, Fault, FaultId, Match, Store};

use crate::harness::{
    Operator, addresses, cluster, ms, namespace_named, pass, put, seconds, service, service_of, slice,
    slices_of, until, warnings,
};

/// The time within which copies are deleted after consent is withdrawn.
const WITHDRAWAL_TIME: Duration = Duration::from_secs(1);

/// The annotation of a source that lists the namespaces that may copy it.
const ALLOW_FROM: &str = "endpoint-copier/allow-from";

/// A store in which `default/vip` names the source `web/app` without consent.
fn store() -> Store {
    let store = cluster(&["192.0.2.1"]);
    put(&store, namespace_named("web"));
    let mut source = slice("app", "app-x7k2p", &["10.0.0.1"]);
    source["metadata"]["namespace"] = json!("web");
    put(&store, source);
    put(&store, app());
    put(&store, service_of_app("vip"));
    store
}

fn app() -> Value {
    let ports = json!([{"name": "https", "port": 6443}]);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "app", "namespace": "web"}, "spec": {"ports": ports}})
}

/// A managed Service in namespace `default` whose source is `web/app`.
fn service_of_app(name: &str) -> Value {
    let mut service = service_of(name, "app");
    service["metadata"]["annotations"]["endpoint-copier/default-service-namespace"] = json!("web");
    service
}

/// Gives or withdraws consent with the annotation of the source.
fn allow(store: &Store, consent: bool) {
    let value = if consent { json!("default") } else { Value::Null };
    let patch = json!({"metadata": {"annotations": {ALLOW_FROM: value}}});
    store.patch("services", "web", "app", patch).expect("a patch");
}

fn grant(store: &Store, name: &str) {
    put(
        store,
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
            "metadata": {"name": name, "namespace": "web"},
            "spec": {
                "from": [{"group": "", "kind": "Service", "namespace": "default"}],
                "to": [{"group": "", "kind": "Service", "name": "app"}],
            },
        }),
    );
}

/// A store that serves ReferenceGrants.
fn with_grants() -> Store {
    let store = store();
    store.serve_reference_grants();
    store
}

fn leader(store: &Store) -> Operator {
    let operator = Operator::standby_with_consent(store);
    operator.lead();
    operator
}

/// An operator that has listed the ReferenceGrants and copied `web/app` for `vip`.
async fn copied() -> Operator {
    let store = with_grants();
    allow(&store, true);
    let operator = leader(&store);
    operator.until_addresses("vip", &["10.0.0.1"]).await;
    pass(seconds(2)).await;
    operator
}

fn spoil(store: &Store, (resource, namespace, name): (&str, &str, &str), patch: Value) {
    store
        .spoil(resource, namespace, name, patch)
        .expect("an existing object");
}

/// From now on, the API server responds to reads of this Service with 500.
fn fail_reads(operator: &Operator, namespace: &str, name: &str) -> FaultId {
    let reads = Match::any().resource("services").namespace(namespace).name(name);
    operator.writer.faults().add(Fault::status(reads, 500))
}

/// Asserts that the copies of `vip` are deleted in time.
async fn is_withdrawn(operator: &Operator) {
    let took = operator.until_addresses("vip", &[]).await;
    assert!(took < WITHDRAWAL_TIME, "{took:?}");
}

/// Asserts that the copies of `vip` stay, and that the new Service `another` gets none.
async fn stays(operator: &Operator) {
    pass(seconds(60)).await;
    assert_eq!(addresses(&operator.store, "vip"), ["10.0.0.1"]);
    assert_eq!(addresses(&operator.store, "another"), [""; 0]);
}

/// Deletes `another` with its copies, restarts the operator, and creates `another` again. The new process does not know
/// whether there was consent before: `vip` keeps its copies, and `another` gets none.
async fn restarted(operator: Operator) -> Operator {
    let store = operator.store.clone();
    store
        .delete("services", "default", "another")
        .expect("an existing object");
    operator.until_addresses("another", &[]).await;
    operator.stop().await;
    let operator = leader(&store);
    put(&store, service_of_app("another"));
    stays(&operator).await;
    operator
}

/// Rule: 9.withdrawal
#[tokio::test(start_paused = true)]
async fn an_undecodable_service_keeps_no_copy_without_consent() {
    let operator = copied().await;
    let vip = ("services", "default", "vip");
    spoil(&operator.store, vip, json!({"spec": {"ports": {}}}));
    pass(seconds(60)).await;
    assert_eq!(addresses(&operator.store, "vip"), ["10.0.0.1"]);
    allow(&operator.store, false);
    is_withdrawn(&operator).await;
}

/// Rule: 9.withdrawal
#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_be_read_keeps_no_copy_without_consent() {
    let operator = copied().await;
    fail_reads(&operator, "default", "vip");
    allow(&operator.store, false);
    is_withdrawn(&operator).await;
}

/// The watch still shows a readable Service, which no longer needs the copy, because the source slice is deleted.
/// Rule: 9.unreadable
#[tokio::test(start_paused = true)]
async fn a_service_that_a_get_shows_as_undecodable_keeps_its_copies() {
    let operator = copied().await;
    operator.services.lag();
    let vip = ("services", "default", "vip");
    spoil(&operator.store, vip, json!({"spec": {"ports": {}}}));
    operator
        .store
        .delete("endpointslices", "web", "app-x7k2p")
        .expect("an existing object");
    stays(&operator).await;
    let reads = operator.store.requests().matching(|request| {
        request.server == "writer" && request.is("get", "services") && request.name == "vip"
    });
    assert_eq!(reads.len(), 1, "the undecodable Service was read again");
}

/// Rule: 9.unreadable
#[tokio::test(start_paused = true)]
async fn an_undecodable_source_keeps_its_last_answer() {
    let operator = copied().await;
    let store = operator.store.clone();
    let app = ("services", "web", "app");
    spoil(&store, app, json!({"metadata": {"annotations": {ALLOW_FROM: 7}}}));
    stays(&operator).await;
    put(&store, service_of_app("another"));
    operator.until_addresses("another", &["10.0.0.1"]).await;
    let operator = restarted(operator).await;
    spoil(&store, app, json!({"metadata": {"annotations": null}}));
    is_withdrawn(&operator).await;
}

/// Rule: 9.unreadable
#[tokio::test(start_paused = true)]
async fn deletion_of_an_undecodable_source_withdraws_consent() {
    let operator = copied().await;
    let app = ("services", "web", "app");
    spoil(&operator.store, app, json!({"spec": {"ports": {}}}));
    stays(&operator).await;
    operator
        .store
        .delete("services", "web", "app")
        .expect("an existing object");
    is_withdrawn(&operator).await;
}

/// Rule: 9.unreadable
#[tokio::test(start_paused = true)]
async fn an_undecodable_grant_keeps_its_last_answer() {
    let store = with_grants();
    grant(&store, "grant");
    let operator = leader(&store);
    operator.until_addresses("vip", &["10.0.0.1"]).await;
    pass(seconds(2)).await;
    let place = ("referencegrants", "web", "grant");
    spoil(&store, place, json!({"spec": {"from": "x"}}));
    stays(&operator).await;
    // A list shows the undecodable grant too.
    store.compact();
    operator.nodes.faults().end_watches(Match::any(), Ending::Abrupt);
    stays(&operator).await;
    put(&store, service_of_app("another"));
    operator.until_addresses("another", &["10.0.0.1"]).await;
    let operator = restarted(operator).await;
    store
        .delete("referencegrants", "web", "grant")
        .expect("an existing object");
    is_withdrawn(&operator).await;
}

/// Rule: 9.unreadable
#[tokio::test(start_paused = true)]
async fn an_undecodable_grant_for_another_source_protects_no_copy() {
    let operator = copied().await;
    grant(&operator.store, "of-another");
    let place = ("referencegrants", "web", "of-another");
    let of_another = json!({"spec": {"to": [{"group": "", "kind": "Service", "name": "other"}]}});
    operator
        .store
        .patch(place.0, place.1, place.2, of_another)
        .expect("a patch");
    spoil(&operator.store, place, json!({"spec": {"from": "x"}}));
    pass(seconds(2)).await;
    allow(&operator.store, false);
    is_withdrawn(&operator).await;
}

/// A leader has created a copy, and its successor has not seen the consent.
/// Rule: 9.old-view
#[tokio::test(start_paused = true)]
async fn a_new_leader_with_an_old_view_of_services_deletes_no_copy() {
    let store = with_grants();
    let (first, second) = (leader(&store), Operator::standby_with_consent(&store));
    pass(seconds(2)).await;
    second.services.lag();
    allow(&store, true);
    first.until_addresses("vip", &["10.0.0.1"]).await;
    first.stop().await;
    second.lead();
    stays(&second).await;
    assert!(second.slice_requests("delete").is_empty(), "{:?}", second.asked());
    second.services.release();
    pass(seconds(20)).await;
    allow(&store, false);
    is_withdrawn(&second).await;
}

/// Rule: 9.old-view
#[tokio::test(start_paused = true)]
async fn a_new_leader_deletes_no_copy_of_a_source_it_cannot_read() {
    let first = copied().await;
    let store = first.store.clone();
    first.stop().await;
    let operator = leader(&store);
    pass(seconds(2)).await;
    let rule = fail_reads(&operator, "web", "app");
    allow(&operator.store, false);
    pass(seconds(60)).await;
    assert_eq!(addresses(&operator.store, "vip"), ["10.0.0.1"]);
    operator.writer.faults().remove(rule);
    let took = until(&operator.store, "no copy", |store| {
        addresses(store, "vip").is_empty()
    })
    .await;
    assert!(took < seconds(2), "{took:?}");
}

/// The replica that wrote the copy has seen the consent, so its view without consent is newer.
/// Rule: 9.withdrawal
#[tokio::test(start_paused = true)]
async fn a_leader_needs_no_get_to_delete_copies_that_it_wrote() {
    let operator = copied().await;
    fail_reads(&operator, "web", "app");
    fail_reads(&operator, "default", "vip");
    allow(&operator.store, false);
    is_withdrawn(&operator).await;
}

/// The operator lists the slices of a new source only after a pause, which a user can make longer.
/// Rule: 9.withdrawal
#[tokio::test(start_paused = true)]
async fn withdrawal_does_not_wait_for_the_slices_of_another_source() {
    let operator = copied().await;
    let store = operator.store.clone();
    for number in 0..55 {
        put(&store, service_of("other", &format!("invented-{number}")));
        pass(ms(100)).await;
    }
    put(&store, service_of("vip", "unlisted"));
    pass(ms(100)).await;
    assert_eq!(
        addresses(&store, "vip"),
        ["10.0.0.1"],
        "deleted despite the consent"
    );
    allow(&store, false);
    is_withdrawn(&operator).await;
    pass(seconds(10)).await;
    assert_eq!(warnings(&store, "vip"), ["SourceNotFound"]);
}

/// Rule: 9.withdrawal
#[tokio::test(start_paused = true)]
async fn a_write_that_fails_keeps_no_copy_without_consent() {
    let operator = copied().await;
    let creates = Match::any().verb("create").resource("endpointslices");
    operator.writer.faults().add(Fault::status(creates, 500));
    put(&operator.store, service("vip"));
    pass(seconds(5)).await;
    assert_eq!(
        addresses(&operator.store, "vip"),
        ["10.0.0.1"],
        "deleted before its replacement exists"
    );
    allow(&operator.store, false);
    is_withdrawn(&operator).await;
}

/// Before an update, the operator reads the part of the copy's metadata that it does not keep in memory.
/// Rule: 9.withdrawal
#[tokio::test(start_paused = true)]
async fn a_copy_that_cannot_be_read_keeps_no_other_without_consent() {
    let store = with_grants();
    put(&store, service("vip"));
    let operator = leader(&store);
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    let copy = slices_of(&store, "vip").remove(0);
    let name = copy["metadata"]["name"].as_str().expect("a name");
    let large = json!({"metadata": {"annotations": {"of-another": "x".repeat(5000)}}});
    store
        .patch("endpointslices", "default", name, large)
        .expect("a patch");
    let reads = Match::any().verb("get").resource("endpointslices").name(name);
    operator.writer.faults().add(Fault::status(reads, 500));
    put(&store, testbed::builders::kubernetes_slice(&["192.0.2.2"]));
    pass(seconds(5)).await;
    assert_eq!(addresses(&store, "vip"), ["192.0.2.1"]);

    let mut forged = copy.clone();
    forged["metadata"] = json!({
        "name": "vip-forged", "namespace": "default",
        "labels": copy["metadata"]["labels"], "ownerReferences": copy["metadata"]["ownerReferences"],
        "annotations": {
            "endpoint-copier/source-namespace": "web", "endpoint-copier/source-slice": "app-x7k2p",
            "endpoint-copier/source-uid": "x", "endpoint-copier/source-resource-version": "1",
        },
    });
    forged["endpoints"] = json!([{"addresses": ["10.0.0.1"]}]);
    put(&store, forged);
    let took = operator.until_addresses("vip", &["192.0.2.1"]).await;
    assert!(took < WITHDRAWAL_TIME, "{took:?}");
}
