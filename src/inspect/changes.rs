//! The writes of a plan, as a diff. All functions are pure.
//!
//! A slice is shown as a set of lines, one for each of its properties, because the order of endpoints does not matter.
//! The resourceVersion, the UID and the trigger time of the source are not shown, because any write of a copy updates
//! them.

use std::collections::BTreeSet;

use k8s_openapi::api::discovery::v1::EndpointPort;
use serde::Serialize;

use endpoint_copier_core::model::{Endpoint, EndpointSlice, Operation, SliceKey, Snapshot, provenance};
use endpoint_copier_core::plan::Plan;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PlannedWrite {
    /// `create`, `update` or `delete`.
    pub operation: &'static str,
    /// The name of the slice.
    pub slice: String,
    /// Lines that the write removes.
    pub removed: Vec<String>,
    /// Lines that the write adds.
    pub added: Vec<String>,
}

/// Returns the writes of a plan: creates, then updates, then deletes.
pub(super) fn changes(snapshot: &Snapshot, plan: &Plan) -> Vec<PlannedWrite> {
    let change = |operation: Operation, key: SliceKey, new: Option<&EndpointSlice>| {
        let [old, new] = [snapshot.slice(&key), new].map(|slice| slice.map(lines_of).unwrap_or_default());
        PlannedWrite {
            operation: operation.as_str(),
            slice: key.name().to_owned(),
            removed: old.difference(&new).cloned().collect(),
            added: new.difference(&old).cloned().collect(),
        }
    };
    let creates = plan.creates.iter();
    let creates = creates.map(|new| change(Operation::Create, new.key(), Some(new)));
    let updates = plan.updates.iter();
    let updates = updates.map(|new| change(Operation::Update, new.key(), Some(new)));
    let deletes = plan.withdrawn.iter().chain(&plan.deletes).chain(&plan.leftovers);
    let deletes = deletes.map(|slice| change(Operation::Delete, slice.key.clone(), None));
    creates.chain(updates).chain(deletes).collect()
}

/// Returns the properties of a slice that matter, one line each.
fn lines_of(slice: &EndpointSlice) -> BTreeSet<String> {
    let left_out = [
        provenance::RESOURCE_VERSION,
        provenance::UID,
        provenance::TRIGGER_TIME,
    ];
    let metadata = &slice.metadata;
    let labels = metadata.labels.iter().flatten();
    let labels = labels.map(|(name, value)| format!("label {name}={value}"));
    let annotations = metadata.annotations.iter().flatten();
    let annotations = annotations
        .filter(|(name, _)| !left_out.contains(&name.as_ref()))
        .map(|(name, value)| format!("annotation {name}={value}"));
    let owners = metadata.owner_references.iter().flatten();
    let owners = owners.map(|owner| format!("owner {}/{} {}", owner.kind, owner.name, owner.uid));
    let ports = slice.ports.iter().flatten().map(port);
    let endpoints = slice.endpoints.iter().flatten().map(endpoint);
    let kind = std::iter::once(format!("addressType {}", slice.address_type));
    kind.chain(labels)
        .chain(annotations)
        .chain(owners)
        .chain(ports)
        .chain(endpoints)
        .collect()
}

fn port(port: &EndpointPort) -> String {
    let number = port
        .port
        .map_or_else(|| "any".to_owned(), |number| number.to_string());
    let name = port
        .name
        .as_deref()
        .filter(|name| !name.is_empty())
        .unwrap_or("(unnamed)");
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let app = port
        .app_protocol
        .as_ref()
        .map(|app| format!(" {app}"))
        .unwrap_or_default();
    format!("port {name} {number}/{protocol}{app}")
}

fn endpoint(endpoint: &Endpoint) -> String {
    let mut line = format!("endpoint {}", endpoint.addresses.join(","));
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    line.push_str(if ready { " ready" } else { " not ready" });
    if conditions.serving.is_some_and(|serving| serving != ready) {
        line.push_str(if ready { ", not serving" } else { ", serving" });
    }
    if conditions.terminating == Some(true) {
        line.push_str(", terminating");
    }
    for (what, value) in [
        ("node", &endpoint.node_name),
        ("zone", &endpoint.zone),
        ("hostname", &endpoint.hostname),
    ] {
        if let Some(value) = value {
            line.extend([" ", what, "=", value]);
        }
    }
    if let Some(hints) = &endpoint.hints {
        let zones = hints.for_zones.iter().flatten().map(|zone| ("zone", &zone.name));
        let nodes = hints.for_nodes.iter().flatten().map(|node| ("node", &node.name));
        for (what, name) in zones.chain(nodes) {
            line.extend([" for-", what, "=", name]);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_endpoint_shows_node_zone_and_hints() {
        let shown: Endpoint = serde_json::from_value(json!({
            "addresses": ["192.0.2.1"], "nodeName": "a", "zone": "z",
            "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "a"}]},
        }))
        .unwrap();
        assert_eq!(
            endpoint(&shown),
            "endpoint 192.0.2.1 ready node=a zone=z for-zone=z for-node=a"
        );
    }
}
