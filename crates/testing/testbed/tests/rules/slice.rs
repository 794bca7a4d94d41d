//! EndpointSlices: defaults, limits, addresses, and the metadata rules of all kinds.

use crate::target::{Target, slice};
use serde_json::{Value, json};

fn with(field: &str, value: Value) -> Value {
    let mut object = slice("a");
    object[field] = value;
    object
}

fn with_metadata(field: &str, value: Value) -> Value {
    let mut object = slice("a");
    object["metadata"][field] = value;
    object
}

async fn refused(t: &Target, object: &Value, fields: &[&str]) {
    t.post(&t.all("endpointslices"), object).await.invalid(fields);
}

pub async fn a_slice_gets_defaults(t: Target) {
    let mut object = slice("a");
    object["ports"] = json!([{"port": 6443}]);
    let made = t.made("endpointslices", &object).await;
    assert_eq!(
        made["ports"],
        json!([{"name": "", "port": 6443, "protocol": "TCP"}])
    );
    assert_eq!(
        made["endpoints"],
        json!([{"addresses": ["192.0.2.1"], "conditions": {}}])
    );
    let mut object = slice("b");
    object["endpoints"] = json!([]);
    object["ports"] = json!([]);
    object["metadata"]["labels"] = json!({});
    let made = t.made("endpointslices", &object).await;
    assert_eq!(made["endpoints"], Value::Null);
    assert_eq!(made["ports"], Value::Null);
    assert_eq!(made["metadata"]["labels"], Value::Null);
}

pub async fn the_address_type_is_required_and_known(t: Target) {
    for value in [json!(""), json!("IP"), json!("Foo")] {
        refused(&t, &with("addressType", value), &["addressType"]).await;
    }
    let mut object = slice("a");
    object.as_object_mut().unwrap().remove("addressType");
    refused(&t, &object, &["addressType"]).await;
}

pub async fn the_address_type_cannot_change(t: Target) {
    t.made("endpointslices", &slice("a")).await;
    let patch = json!({"addressType": "IPv6", "endpoints": [{"addresses": ["2001:db8::1"]}]});
    let message = t
        .merge(&t.one("endpointslices", "a"), &patch)
        .await
        .invalid(&["addressType"]);
    assert!(message.contains("field is immutable"), "{message}");
}

pub async fn special_addresses_are_refused(t: Target) {
    for (family, address) in [
        ("IPv4", "127.0.0.1"),
        ("IPv4", "169.254.1.1"),
        ("IPv4", "224.0.0.1"),
        ("IPv4", "0.0.0.0"),
        ("IPv6", "::1"),
        ("IPv6", "::"),
        ("IPv6", "fe80::1"),
        ("IPv6", "ff02::1"),
    ] {
        let mut object = with("addressType", family.into());
        object["endpoints"] = json!([{"addresses": [address]}]);
        refused(&t, &object, &["endpoints[0].addresses[0]"]).await;
    }
}

/// Older API servers, for example 1.30, name other fields and allow leading zeros in an address.
pub async fn addresses_must_be_of_the_family(t: Target) {
    let is_older = t.is_older().await;
    for (family, address, field) in [
        ("IPv4", "2001:db8::1", "endpoints[0].addresses"),
        ("IPv6", "192.0.2.1", "endpoints[0].addresses"),
        ("IPv4", "x", "endpoints[0].addresses[0]"),
        ("IPv4", "192.0.2.01", "endpoints[0].addresses[0]"),
        ("IPv6", "x", "endpoints[0].addresses[0]"),
        ("FQDN", "a_b.example", "endpoints[0].addresses[0]"),
        ("FQDN", "short", "endpoints[0].addresses[0]"),
    ] {
        let mut object = with("addressType", family.into());
        object["endpoints"] = json!([{"addresses": [address]}]);
        if !is_older {
            refused(&t, &object, &[field]).await;
        } else if address != "192.0.2.01" {
            refused(&t, &object, &[]).await;
        }
    }
    for (name, family, address) in [("v6", "IPv6", "2001:db8::1"), ("fqdn", "FQDN", "a.example.com")] {
        let mut object = slice(name);
        object["addressType"] = family.into();
        object["endpoints"] = json!([{"addresses": [address]}]);
        t.made("endpointslices", &object).await;
    }
}

pub async fn the_numbers_of_items_are_limited(t: Target) {
    let endpoints = |count: usize| json!(vec![json!({"addresses": ["192.0.2.1"]}); count]);
    refused(&t, &with("endpoints", endpoints(1001)), &["endpoints"]).await;
    t.made("endpointslices", &with("endpoints", endpoints(1000)))
        .await;
    let addresses = |count: usize| json!([{"addresses": vec!["192.0.2.1"; count]}]);
    refused(
        &t,
        &with("endpoints", addresses(101)),
        &["endpoints[0].addresses"],
    )
    .await;
    refused(&t, &with("endpoints", addresses(0)), &["endpoints[0].addresses"]).await;
    let mut object = with("endpoints", addresses(100));
    object["metadata"]["name"] = "b".into();
    t.made("endpointslices", &object).await;
    let ports: Vec<Value> = (0..101)
        .map(|n| json!({"name": format!("p{n}"), "port": 1}))
        .collect();
    let mut object = with("ports", ports.into());
    object["metadata"]["name"] = "c".into();
    t.made("endpointslices", &object).await;
}

pub async fn port_names_must_be_unique_labels(t: Target) {
    let ports =
        json!([{"name": "A"}, {"name": "x"}, {"name": "x", "protocol": "Q"}, {"name": "y".repeat(64)}]);
    let fields = [
        "ports[0].name",
        "ports[2].name",
        "ports[2].protocol",
        "ports[3].name",
    ];
    refused(&t, &with("ports", ports), &fields).await;
}

pub async fn labels_and_annotations_must_be_well_formed(t: Target) {
    for labels in [
        json!({"k": "v".repeat(64)}),
        json!({"k": "a b"}),
        json!({"-k": ""}),
        json!({"a/b/c": ""}),
    ] {
        refused(&t, &with_metadata("labels", labels), &["metadata.labels"]).await;
    }
    refused(
        &t,
        &with_metadata("annotations", json!({"a b": ""})),
        &["metadata.annotations"],
    )
    .await;
    let mut object = with_metadata("labels", json!({"example.com/k": "v".repeat(63)}));
    object["metadata"]["annotations"] = json!({"Example.com/K": "any value at all"});
    t.made("endpointslices", &object).await;
}

pub async fn the_total_size_of_annotations_is_limited(t: Target) {
    let annotations = |size: usize| json!({"a": "x".repeat(size - 1)});
    let object = with_metadata("annotations", annotations(256 * 1024 + 1));
    refused(&t, &object, &["metadata.annotations"]).await;
    t.made(
        "endpointslices",
        &with_metadata("annotations", annotations(256 * 1024)),
    )
    .await;
}

pub async fn owners_must_be_complete(t: Target) {
    let object = with_metadata(
        "ownerReferences",
        json!([{"apiVersion": "", "kind": "", "name": "", "uid": ""}]),
    );
    let fields = ["apiVersion", "kind", "name", "uid"].map(|f| format!("metadata.ownerReferences.{f}"));
    refused(&t, &object, &fields.each_ref().map(String::as_str)).await;
}

pub async fn only_one_owner_can_be_the_controller(t: Target) {
    let owner = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "name": name, "uid": name, "controller": true});
    let object = with_metadata("ownerReferences", json!([owner("x"), owner("y")]));
    refused(&t, &object, &["metadata.ownerReferences"]).await;
}

pub async fn the_generation_counts_changes_of_content_and_labels(t: Target) {
    t.made("endpointslices", &slice("a")).await;
    let path = t.one("endpointslices", "a");
    for (patch, generation) in [
        (json!({"metadata": {"annotations": {"a": "1"}}}), 1),
        (json!({"metadata": {"labels": {"a": "1"}}}), 2),
        (json!({"endpoints": []}), 3),
        (json!({"endpoints": []}), 3),
    ] {
        let patched = t.merge(&path, &patch).await.expect(200);
        assert_eq!(patched["metadata"]["generation"], generation, "{patch}");
    }
}
