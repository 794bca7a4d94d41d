//! Objects as rows and columns (`meta.k8s.io/v1` Table), for `kubectl get`. The columns for the testbed's kinds match
//! those that the real server's printers define.

use crate::{
    kinds::{Kind, Storage},
    object::{self, array},
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Renders a list or one object as a Table, with column definitions if `columns`. A watch gets these only with its
/// first event.
#[must_use]
pub fn render(kind: &Kind, object: &Value, now: Timestamp, columns: bool) -> Value {
    let is_list = object["items"].is_array();
    let objects = if is_list {
        array(&object["items"])
    } else {
        std::slice::from_ref(object)
    };
    let rows: Vec<Value> = objects.iter().map(|o| row(kind, o, now)).collect();
    let mut definitions = Vec::new();
    if columns {
        for (name, priority) in headers(kind.storage) {
            let format = if *name == "Name" { "name" } else { "" };
            definitions.push(
                json!({"name": name, "type": "string", "format": format, "description": "", "priority": priority}),
            );
        }
    }
    let metadata = if is_list {
        object["metadata"].clone()
    } else {
        json!({"resourceVersion": object["metadata"]["resourceVersion"]})
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// Columns with their priority. Only `-o wide` shows columns with a priority above 0.
fn headers(storage: Storage) -> &'static [(&'static str, u8)] {
    match storage {
        Storage::Service => &[
            ("Name", 0),
            ("Type", 0),
            ("Cluster-IP", 0),
            ("External-IP", 0),
            ("Port(s)", 0),
            ("Age", 0),
            ("Selector", 1),
        ],
        Storage::Endpoints => &[("Name", 0), ("Endpoints", 0), ("Age", 0)],
        Storage::EndpointSlice => &[
            ("Name", 0),
            ("AddressType", 0),
            ("Ports", 0),
            ("Endpoints", 0),
            ("Age", 0),
        ],
        Storage::Event => &[
            ("Last Seen", 0),
            ("Type", 0),
            ("Reason", 0),
            ("Object", 0),
            ("Source", 1),
            ("Message", 0),
            ("Count", 1),
            ("Name", 1),
        ],
        Storage::Lease => &[("Name", 0), ("Holder", 0), ("Age", 0)],
        Storage::Namespace => &[("Name", 0), ("Status", 0), ("Age", 0)],
        Storage::ServiceAccount | Storage::ReferenceGrant | Storage::Review => &[("Name", 0), ("Age", 0)],
        Storage::Node => &[
            ("Name", 0),
            ("Status", 0),
            ("Roles", 0),
            ("Age", 0),
            ("Version", 0),
        ],
    }
}

fn row(kind: &Kind, object: &Value, now: Timestamp) -> Value {
    let name = object::name(object).to_owned();
    let created = age(object::meta(object, "creationTimestamp"), now);
    let spec = &object["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let cells = match kind.storage {
        Storage::Service => vec![
            name,
            text(&spec["type"]),
            or_none(text(&spec["clusterIP"])),
            external(object),
            or_none(service_ports(object)),
            created,
            or_none(pairs(&spec["selector"])),
        ],
        Storage::Endpoints => vec![name, or_none(subsets(object)), created],
        Storage::EndpointSlice => {
            let ports = join(array(&object["ports"]), |p| p["port"].to_string());
            let addresses: Vec<Value> = array(&object["endpoints"])
                .iter()
                .flat_map(|e| array(&e["addresses"]))
                .cloned()
                .collect();
            let ports = if ports.is_empty() {
                "<unset>".to_owned()
            } else {
                ports
            };
            let addresses = if addresses.is_empty() {
                "<unset>".to_owned()
            } else {
                join(&addresses, text)
            };
            vec![name, text(&object["addressType"]), ports, addresses, created]
        }
        Storage::Event => event(object, now),
        Storage::Lease => vec![name, text(&spec["holderIdentity"]), created],
        Storage::Namespace => vec![name, text(&object["status"]["phase"]), created],
        Storage::ServiceAccount | Storage::ReferenceGrant | Storage::Review => vec![name, created],
        Storage::Node => {
            let version = text(&object["status"]["nodeInfo"]["kubeletVersion"]);
            vec![
                name,
                node_status(object),
                or_none(roles(object)),
                created,
                version,
            ]
        }
    };
    json!({
        "cells": cells,
        "object": {
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
        },
    })
}

fn event(object: &Value, now: Timestamp) -> Vec<String> {
    // The first of these fields that is set, because the fields have different names in the two views of an Event.
    let text = |names: &[&str]| {
        names
            .iter()
            .find_map(|n| object.pointer(n)?.as_str().filter(|t| !t.is_empty()))
            .unwrap_or_default()
    };
    let seen = text(&[
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/deprecatedLastTimestamp",
        "/eventTime",
    ]);
    let kind = text(&["/involvedObject/kind", "/regarding/kind"]).to_lowercase();
    let about = text(&["/involvedObject/name", "/regarding/name"]);
    vec![
        age(seen, now),
        text(&["/type"]).to_owned(),
        text(&["/reason"]).to_owned(),
        format!("{kind}/{about}"),
        text(&[
            "/source/component",
            "/deprecatedSource/component",
            "/reportingComponent",
            "/reportingController",
        ])
        .to_owned(),
        text(&["/message", "/note"]).to_owned(),
        object["series"]["count"]
            .as_u64()
            .or(object["count"].as_u64())
            .unwrap_or(1)
            .to_string(),
        object::name(object).to_owned(),
    ]
}

fn node_status(node: &Value) -> String {
    let conditions = array(&node["status"]["conditions"]);
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
    let status = ready.map(|condition| condition["status"].as_str().unwrap_or_default());
    match status {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned()
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles = labels.filter_map(|(label, _)| label.strip_prefix("node-role.kubernetes.io/"));
    roles.collect::<Vec<_>>().join(",")
}

fn join(items: &[Value], text: impl Fn(&Value) -> String) -> String {
    const SHOWN: usize = 3;
    let mut joined: Vec<String> = items.iter().take(SHOWN).map(text).collect();
    if items.len() > SHOWN {
        joined.push(format!(" + {} more...", items.len() - SHOWN));
        let more = joined.pop().unwrap_or_default();
        return joined.join(",") + &more;
    }
    joined.join(",")
}

fn or_none(text: String) -> String {
    if text.is_empty() {
        "<none>".to_owned()
    } else {
        text
    }
}

fn external(service: &Value) -> String {
    let ingress = array(&service["status"]["loadBalancer"]["ingress"]);
    let shown = join(ingress, |i| {
        i["ip"]
            .as_str()
            .or(i["hostname"].as_str())
            .unwrap_or_default()
            .to_owned()
    });
    match service["spec"]["type"].as_str() {
        Some("ExternalName") => service["spec"]["externalName"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        Some("LoadBalancer") if shown.is_empty() => "<pending>".to_owned(),
        _ => or_none(shown),
    }
}

fn service_ports(service: &Value) -> String {
    let ports = array(&service["spec"]["ports"]).iter().map(|p| {
        let protocol = p["protocol"].as_str().unwrap_or_default();
        match p["nodePort"].as_u64() {
            Some(node) => format!("{}:{node}/{protocol}", p["port"]),
            None => format!("{}/{protocol}", p["port"]),
        }
    });
    ports.collect::<Vec<_>>().join(",")
}

fn subsets(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in array(&endpoints["subsets"]) {
        for port in array(&subset["ports"]) {
            for address in array(&subset["addresses"]) {
                all.push(json!(format!(
                    "{}:{}",
                    address["ip"].as_str().unwrap_or_default(),
                    port["port"]
                )));
            }
        }
    }
    join(&all, |v| v.as_str().unwrap_or_default().to_owned())
}

fn pairs(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    let pairs = pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()));
    pairs.collect::<Vec<_>>().join(",")
}

/// An age in a readable form, which becomes less precise as the age grows: `45s`, `3m20s`, `50m`, `5h10m`, `3d4h`,
/// `12d`.
fn age(since: &str, now: Timestamp) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let Ok(since) = since.parse::<Timestamp>() else {
        return "<unknown>".to_owned();
    };
    let seconds = now.duration_since(since).as_secs().max(0);
    let two = |big: i64, b: char, small: i64, s: char| match seconds % big / small {
        0 => format!("{}{b}", seconds / big),
        rest => format!("{}{b}{rest}{s}", seconds / big),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(MINUTE, 'm', 1, 's'),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(HOUR, 'h', MINUTE, 'm'),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(DAY, 'd', HOUR, 'h'),
        _ => format!("{}d", seconds / DAY),
    }
}
