//! `Endpoints` that version 0.2 of the Go operator left, with and without the permission to delete them.

use serde_json::{Value, json};
use testbed::{Fault, Match, Store};

use crate::harness::{Operator, cluster, pass, put, seconds, service, slice, until, warnings};

/// The `Endpoints` of `vip`, with the label of the Go operator.
fn endpoints() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "vip", "namespace": "default", "labels": {
            "endpointslice.kubernetes.io/managed-by": "endpoint-copier-operator",
        }},
        "subsets": [{"addresses": [{"ip": "203.0.113.9"}], "ports": [{"name": "https", "port": 6443}]}],
    })
}

/// The slice into which Kubernetes mirrors the `Endpoints` of `vip`.
fn mirror() -> Value {
    let mut mirror = slice("vip", "vip-mirror", &["203.0.113.9"]);
    mirror["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] =
        json!("endpointslicemirroring-controller.k8s.io");
    mirror
}

fn endpoints_exist(store: &Store) -> bool {
    store.get("endpoints", "default", "vip").is_some()
}

/// Rule: 3.legacy-endpoints
#[tokio::test(start_paused = true)]
async fn undeletable_endpoints_are_reported_while_mirrored() {
    for (verb, code) in [("get", 403), ("delete", 403), ("delete", 422)] {
        let store = cluster(&["192.0.2.1"]);
        put(&store, endpoints());
        put(&store, mirror());
        let operator = Operator::start(&store);
        let refused = Match::any().verb(verb).resource("endpoints");
        operator.writer.faults().add(Fault::status(refused, code));
        put(&store, service("vip"));
        until(&store, "the Event is sent", |store| {
            warnings(store, "vip").contains(&"LegacyEndpoints".to_owned())
        })
        .await;
        assert!(endpoints_exist(&store));
        // Like any refused write, the delete is retried after 5, 10 and 20 s, and then every 30 s. Each try sends at
        // most a GET and a DELETE.
        pass(seconds(600)).await;
        let asked = store
            .requests()
            .matching(|request| request.resource == "endpoints");
        assert!(
            (20..=50).contains(&asked.len()),
            "{verb}, {code}: {} requests",
            asked.len()
        );

        operator.writer.faults().clear();
        pass(seconds(31)).await;
        assert!(
            !endpoints_exist(&store),
            "{verb}, {code}: not deleted although that is permitted"
        );
        let found = operator.metric("endpoint_copier_findings{reason=\"LegacyEndpoints\"}");
        assert_eq!(found, Some(0), "{verb}, {code}");
    }
}

/// Rule: 1.enabled-false-leftovers, 3.legacy-endpoints
#[tokio::test(start_paused = true)]
async fn undeletable_endpoints_of_a_disabled_service_are_reported() {
    let store = cluster(&["192.0.2.1"]);
    put(&store, endpoints());
    put(&store, mirror());
    let mut disabled = service("vip");
    disabled["metadata"]["annotations"]["endpoint-copier/enabled"] = json!("false");
    put(&store, disabled);
    let operator = Operator::start(&store);
    let forbidden = Match::any().resource("endpoints");
    operator.writer.faults().add(Fault::status(forbidden, 403));
    until(&store, "the Event is sent", |store| {
        warnings(store, "vip").contains(&"LegacyEndpoints".to_owned())
    })
    .await;
    operator.writer.faults().clear();
    pass(seconds(31)).await;
    assert!(!endpoints_exist(&store), "not deleted although that is permitted");
    let found = operator.metric("endpoint_copier_findings{reason=\"LegacyEndpoints\"}");
    assert_eq!(found, Some(0));
    assert_eq!(operator.metric("endpoint_copier_managed_services"), Some(0));
}

/// Rule: 3.legacy-endpoints
#[tokio::test(start_paused = true)]
async fn many_mirrors_without_permission_cause_few_requests() {
    let store = cluster(&["192.0.2.1"]);
    for number in 0..100 {
        let name = format!("vip-{number}");
        put(&store, service(&name));
        let mut mirror = mirror();
        mirror["metadata"]["name"] = json!(format!("{name}-mirror"));
        mirror["metadata"]["labels"]["kubernetes.io/service-name"] = json!(name);
        put(&store, mirror);
    }
    let operator = Operator::start(&store);
    let forbidden = Match::any().resource("endpoints");
    operator.writer.faults().add(Fault::status(forbidden, 403));
    pass(seconds(600)).await;
    let found = operator.metric("endpoint_copier_findings{reason=\"LegacyEndpoints\"}");
    assert_eq!(found, Some(100));
    assert_eq!(operator.metric("endpoint_copier_services_in_sync"), Some(100));
    // Every 30 s, there is one request for each of the few Services that are synced at the same time.
    let asked = asked(&store);
    assert!((20..=300).contains(&asked), "{asked}");
    assert!(warnings(&store, "vip-0").contains(&"LegacyEndpoints".to_owned()));
}

fn asked(store: &Store) -> usize {
    let of_endpoints = store
        .requests()
        .matching(|request| request.resource == "endpoints");
    of_endpoints.len()
}

/// Rule: 3.endpoints-unasked
#[tokio::test(start_paused = true)]
async fn endpoints_are_read_only_if_they_are_mirrored() {
    let store = cluster(&["192.0.2.1"]);
    for number in 0..20 {
        put(&store, service(&format!("vip-{number}")));
    }
    put(&store, service("vip"));
    let operator = Operator::start(&store);
    until(&store, "all copies", |store| {
        store.list("endpointslices", None).len() == 1 + 21
    })
    .await;
    pass(seconds(10)).await;
    assert_eq!(asked(&store), 0);

    // Mirrored Endpoints of another owner are read once for each of their changes.
    let mut theirs = endpoints();
    theirs["metadata"]["labels"] = json!({});
    put(&store, theirs);
    put(&store, mirror());
    pass(seconds(10)).await;
    for address in ["192.0.2.2", "192.0.2.3"] {
        put(&store, slice("kubernetes", "kubernetes", &[address]));
        until(&store, "it is copied", |store| {
            crate::harness::addresses(store, "vip").contains(&address.to_owned())
        })
        .await;
        pass(seconds(1)).await;
    }
    assert_eq!(asked(&store), 1);
    assert!(endpoints_exist(&store), "Endpoints of another owner are deleted");
    put(&store, endpoints());
    let mut changed = mirror();
    changed["metadata"]["annotations"] = json!({"of": "another version"});
    put(&store, changed);
    until(&store, "the Endpoints are deleted", |store| {
        !endpoints_exist(store)
    })
    .await;
    assert_eq!(asked(&store), 3, "expected one more GET and one DELETE");
    drop(operator);
}

/// Rule: 3.legacy-endpoints
#[tokio::test(start_paused = true)]
async fn without_a_mirror_no_permission_for_endpoints_is_needed() {
    let store = cluster(&["192.0.2.1"]);
    let operator = Operator::start(&store);
    let forbidden = Match::any().resource("endpoints");
    operator.writer.faults().add(Fault::status(forbidden, 403));
    put(&store, service("vip"));
    operator.until_addresses("vip", &["192.0.2.1"]).await;
    pass(seconds(3600)).await;
    assert_eq!(warnings(&store, "vip"), Vec::<String>::new());
    assert_eq!(operator.metric("endpoint_copier_services_in_sync"), Some(1));
}
