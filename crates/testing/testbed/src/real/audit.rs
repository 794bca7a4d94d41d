//! The audit log of a real server, which names the users that wrote EndpointSlices.

use serde_json::Value;
use std::{fs, path::Path};

/// The audit policy: the server logs one line for each write of an EndpointSlice, after its response.
pub const POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
  "rules": [
    {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"],
     "resources": [{"group": "discovery.k8s.io", "resources": ["endpointslices"]}]},
    {"level": "None"}
  ]
}"#;

/// The name of the log file of a server.
pub fn log(server: usize) -> String {
    format!("audit-{server}.log")
}

/// The users of accepted writes, oldest first. Empty if the file does not exist.
pub fn writers(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let entries = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let accepted = entries.filter(|entry| {
        let code = entry["responseStatus"]["code"].as_u64();
        entry["stage"] == "ResponseComplete" && code.is_some_and(|code| code < 300)
    });
    accepted
        .filter_map(|entry| entry["user"]["username"].as_str().map(str::to_owned))
        .collect()
}
