//! EndpointSlices as JSON, read without using the operator's code: their owners and their content.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::objects::ALLOWED_PORT;

/// Namespace and name.
pub type Key = (String, String);

/// The label that names the manager of a slice. The labels and annotations here are copied from the rules, not taken
/// from the operator's code.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] on copies.
pub const US: &str = "endpoint-copier-operator";
/// The label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names the source slice on copies. Slices of the Go operator have it too.
pub const SOURCE_LABEL: &str = "endpoint-copier/source";

/// The annotation with the addresses that probes have taken out of a copy.
pub const UNREACHABLE: &str = "endpoint-copier/unreachable";

/// A JSON string, or an empty string if the value is not one.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The value of a label.
pub fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["labels"].get(name)?.as_str()
}

/// The value of an annotation.
pub fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"].get(name)?.as_str()
}

/// Namespace and name of an object.
pub fn key(object: &Value) -> Key {
    let metadata = &object["metadata"];
    (
        text(&metadata["namespace"]).to_owned(),
        text(&metadata["name"]).to_owned(),
    )
}

/// An object's UID, or an empty string if there is none.
pub fn uid(object: &Value) -> &str {
    text(&object["metadata"]["uid"])
}

/// The resourceVersion of an object as a number, or 0 if there is none.
pub fn version(object: &Value) -> u64 {
    text(&object["metadata"]["resourceVersion"]).parse().unwrap_or(0)
}

/// Name and UID of the Service that controls a slice.
pub fn owner(slice: &Value) -> Option<(&str, &str)> {
    let owners = slice["metadata"]["ownerReferences"].as_array()?;
    let controls = |owner: &&Value| owner["controller"] == true && owner["kind"] == "Service";
    let owner = owners.iter().find(controls)?;
    Some((text(&owner["name"]), text(&owner["uid"])))
}

/// Whether a slice is a copy: it has the label and the annotations of copies, and a Service controls it.
pub fn is_ours(slice: &Value) -> bool {
    label(slice, MANAGED_BY) == Some(US)
        && ["namespace", "slice", "uid"]
            .iter()
            .all(|what| provenance(slice, what).is_some())
        && owner(slice).is_some()
}

/// A part of the provenance of a copy: `namespace`, `slice`, `uid` or `resource-version`.
pub fn provenance<'a>(slice: &'a Value, what: &str) -> Option<&'a str> {
    annotation(slice, &format!("endpoint-copier/source-{what}"))
}

/// Whether the Go operator left a slice behind.
pub fn is_leftover(slice: &Value) -> bool {
    label(slice, SERVICE_NAME) == Some(text(&slice["metadata"]["name"]))
        && label(slice, SOURCE_LABEL).is_some()
        && label(slice, MANAGED_BY).is_none()
        && slice["metadata"]["ownerReferences"]
            .as_array()
            .is_none_or(Vec::is_empty)
}

/// The endpoints of a slice, sorted: addresses, ready, serving, terminating, Node, zone and host name.
pub fn endpoints(slice: &Value) -> Vec<String> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let mut shown: Vec<_> = endpoints.map(endpoint).collect();
    shown.sort();
    shown
}

fn endpoint(endpoint: &Value) -> String {
    let conditions = &endpoint["conditions"];
    let ready = conditions["ready"].as_bool().unwrap_or(true);
    let serving = conditions["serving"].as_bool().unwrap_or(ready);
    let terminating = conditions["terminating"].as_bool().unwrap_or(false);
    format!(
        "{} {ready} {serving} {terminating} {} {} {}",
        endpoint["addresses"],
        text(&endpoint["nodeName"]),
        text(&endpoint["zone"]),
        text(&endpoint["hostname"]),
    )
}

/// The ports of a slice: name, number, protocol and application protocol.
pub fn ports(slice: &Value) -> Vec<String> {
    let ports = slice["ports"].as_array().into_iter().flatten();
    ports
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            format!(
                "{} {} {protocol} {}",
                text(&port["name"]),
                port["port"],
                text(&port["appProtocol"])
            )
        })
        .collect()
}

/// The addresses that probes have taken out of a copy: its annotation names them, and they are not ready.
pub fn unreachable(copy: &Value) -> BTreeSet<IpAddr> {
    let listed = listed_out(copy);
    let endpoints = copy["endpoints"].as_array().into_iter().flatten();
    let out = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == false);
    out.filter_map(address)
        .filter(|address| listed.contains(address))
        .collect()
}

/// The addresses in a copy that would get traffic if no endpoint were out.
pub fn restored_ready(copy: &Value) -> BTreeSet<IpAddr> {
    let restored = restored(copy);
    let endpoints = restored["endpoints"].as_array().into_iter().flatten();
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    ready.filter_map(address).collect()
}

/// The copy as it would be if no endpoint were out. An endpoint that is out stays in the copy, with all conditions set
/// to false.
pub fn restored(copy: &Value) -> Value {
    let listed = listed_out(copy);
    let mut copy = copy.clone();
    for endpoint in copy["endpoints"].as_array_mut().into_iter().flatten() {
        let out = json!({"ready": false, "serving": false, "terminating": false});
        if endpoint["conditions"] == out && address(endpoint).is_some_and(|it| listed.contains(&it)) {
            endpoint["conditions"] = json!({});
        }
    }
    copy
}

/// The addresses that a slice lists.
pub fn addresses(slice: &Value) -> BTreeSet<IpAddr> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints.filter_map(address).collect()
}

fn listed_out(copy: &Value) -> BTreeSet<IpAddr> {
    let listed = annotation(copy, UNREACHABLE).unwrap_or_default().split(',');
    listed.filter_map(|address| address.parse().ok()).collect()
}

/// The endpoints of a slice.
pub fn endpoint_list(slice: &Value) -> impl Iterator<Item = &Value> {
    slice["endpoints"].as_array().into_iter().flatten()
}

/// The first address of an endpoint, if it is an IP address.
pub fn address(endpoint: &Value) -> Option<IpAddr> {
    text(&endpoint["addresses"][0]).parse().ok()
}

/// Whether a copy may have a port. In a namespace other than that of the source, only the ports of the slice are
/// permitted and, for the API source, the port of the flag.
pub fn is_permitted(service: &Value, slice: &Value, number: i64, protocol: &str) -> bool {
    let (namespace, _) = key(service);
    let source = (key(slice).0, label(slice, SERVICE_NAME));
    let is_allowed = source == ("default".to_owned(), Some("kubernetes"))
        && protocol == "TCP"
        && number == i64::from(ALLOWED_PORT);
    let mut of_source = slice["ports"].as_array().into_iter().flatten();
    namespace == source.0
        || is_allowed
        || of_source.any(|port| {
            port["port"].as_i64() == Some(number) && port["protocol"].as_str().unwrap_or("TCP") == protocol
        })
}
