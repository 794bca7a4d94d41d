//! Objects that tests write, as users write them.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

/// The managed Service that the flags name by default, as in the README but without fields that no test needs.
pub fn vip() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes-vip", "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "ports": [{"name": "https", "port": 6443, "targetPort": 6443, "protocol": "TCP"}],
        },
    })
}

/// A control-plane Node with these addresses.
pub fn node(name: &str, addresses: &[&str]) -> Value {
    let addresses: Vec<_> = addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "node-role.kubernetes.io/control-plane": "", "topology.kubernetes.io/zone": format!("zone-{name}"),
        }},
        "status": {"addresses": addresses},
    })
}

/// A managed Service whose annotations name this source.
pub fn managed(namespace: &str, name: &str, source_namespace: &str, source: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "annotations": {
            "endpoint-copier/enabled": "true",
            "endpoint-copier/default-service-name": source,
            "endpoint-copier/default-service-namespace": source_namespace,
        }},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// A source that Services in the namespaces `allow_from` may copy: names separated by commas, or `*`.
pub fn source(namespace: &str, name: &str, allow_from: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "annotations": {"endpoint-copier/allow-from": allow_from}},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// A slice of a source.
pub fn slice(namespace: &str, service: &str, name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// The slice of `default/kubernetes` with these API servers.
pub fn api_servers(addresses: &[&str]) -> Value {
    let mut slice = slice("default", "kubernetes", "kubernetes", addresses);
    slice["ports"] = json!([{"name": "https", "port": 6443, "protocol": "TCP"}]);
    slice
}

/// All addresses in these slices, sorted.
pub fn addresses<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Vec<String> {
    let endpoints = slices
        .into_iter()
        .flat_map(|slice| slice.endpoints.iter().flatten());
    let mut addresses: Vec<_> = endpoints
        .flat_map(|endpoint| endpoint.addresses.clone())
        .collect();
    addresses.sort();
    addresses
}

/// Converts JSON to a typed object.
pub fn typed<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of its kind")
}
