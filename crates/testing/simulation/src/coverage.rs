//! Counts of everything that happens in a run. If something is rare, the run has shown little about it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Counts by name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Coverage(BTreeMap<String, u64>);

/// Everything that must happen at least [`ENOUGH`] times in a run, in the order of the table.
pub const NEEDED: &[(&str, &[&str])] = &[
    (
        "what happens to the cluster",
        &[
            "Service added",
            "Service changed",
            "Service removed",
            "storm of toggles",
            "source changed",
            "source emptied",
            "source slice removed",
            "source touched",
            "time out of range",
            "Service unreadable",
            "source slice unreadable",
            "copy unreadable",
            "unreadable object readable again",
            "unreadable object deleted",
            "object with harmless flaws",
            "copy edited by hand",
            "copy deleted by hand",
            "copy claims a newer source",
            "Lease deleted",
            "Lease emptied",
            "Lease garbled",
        ],
    ),
    (
        "what happens to replicas",
        &[
            "replica killed",
            "leader killed",
            "replica stopped",
            "replica paused",
            "leader paused",
            "replica started",
            "read of a wall clock that is off",
        ],
    ),
    (
        "what happens to requests and watches (only what had an effect)",
        &[
            "answer 403",
            "answer 404",
            "answer 409",
            "answer 410",
            "answer 422",
            "answer 429",
            "answer 500",
            "answer 503",
            "answer 504",
            "answer cut in half",
            "answer that is not JSON",
            "reply lost, connection broken",
            "reply lost, connection stands",
            "request lost, connection broken",
            "request lost, connection stands",
            "request late",
            "watch ended",
            "watch broken",
            "watch silent",
            "event late",
            "history compacted under a watch",
            "connection moved",
        ],
    ),
    (
        "what happens to servers (only what had an effect)",
        &[
            "server frozen with connections",
            "server down with connections",
            "answer of a slow server",
            "server behind while something was written",
            "etcd restored from a backup",
            "network cut with connections",
            "dial refused",
            "dial timed out",
        ],
    ),
    (
        "the election",
        &[
            "term",
            "term of another replica",
            "Lease released",
            "renewal sent again in parallel with the first",
            "Lease given up by a leader that sees nothing",
            "blind leader replaced",
            "contest without lists after 10 s without a leader",
        ],
    ),
    (
        "results of the plan",
        &[
            "create",
            "update",
            "delete",
            "delete of a leftover",
            "delete of Endpoints",
            "nothing to write",
            "create while the view was in doubt",
            "update of a copy that is ahead",
            "GET of a source slice",
            "GET of a copy",
            "GET of a Service",
        ],
    ),
    (
        "what happens to probes (only what had an effect)",
        &[
            "probe answered 2xx",
            "probe answered slowly",
            "probe answered 401",
            "probe answered 403",
            "probe answered 429",
            "probe answered 5xx",
            "probe refused",
            "probe reset",
            "probe without an answer",
            "probe on a connection that was closed",
            "one API server fails or is slow for all",
            "one API server fails or is slow for one replica",
            "all API servers fail or are slow for one replica",
            "all API servers answer alike",
            "node off",
            "node off is no longer listed",
            "false objection in the probe Lease",
            "probe Lease deleted",
            "probe Lease garbled",
            "probe Lease unreadable",
            "suspicion forged",
            "objection left by a replica that no longer exists",
            "request for the probe Lease fails, or is not answered",
            "memory of a copy forged",
            "endpoint that is out removed by hand",
        ],
    ),
    (
        "effects of probes",
        &[
            "endpoint taken out",
            "endpoint back",
            "endpoint back by an objection",
            "endpoint back because no endpoint answers",
            "endpoint back after a relapse",
            "endpoint gave its place to another",
            "objection",
            "removal withheld by an objection",
            "kept out by memory across terms",
            "blind while nothing is out",
            "objection of a minute ago removed",
            "timeout discarded because its timer fired late",
            "connection closed because its server is down",
            "request steered away from a suspected server",
        ],
    ),
    (
        "what happens to Nodes (only what had an effect)",
        &[
            "Node added",
            "Node changed",
            "Node removed",
            "Node recreated",
            "heartbeat of a Node",
            "Node no longer selected",
            "Node unreadable",
            "zone of a Node changed",
            "other IPv6 address of a Node",
            "addresses of a Node in another order",
            "addresses of a Node in other spellings",
            "Node with an address of another",
            "addresses move to another Node",
            "Nodes forbidden",
            "list of Nodes fails",
            "watch of Nodes fails",
        ],
    ),
    (
        "effects of Nodes",
        &[
            "second family filled from Nodes",
            "second family emptied or removed",
            "second family gave way to the source",
            "server left the second family, others stay",
            "server in the second family has another address",
            "nodeName from a Node",
            "zone from a Node",
            "hints from Nodes",
            "copies right while Nodes cannot be listed",
            "in the end, a second family",
            "in the end, endpoints with a nodeName",
            "in the end, an API server that no Node has",
            "in the end, an API server that several Nodes have",
            "in the end, an API server that an unreadable Node may have",
        ],
    ),
    (
        "Events",
        &[
            "Unreadable",
            "InvalidAnnotation",
            "HasSelector",
            "ExternalName",
            "SourceIsSelf",
            "SourceIsCopy",
            "SourceNotFound",
            "UnsupportedAddressType",
            "FamilyMissing",
            "FamilyIncomplete",
            "PortUnresolved",
            "PortNotPermitted",
            "NameTaken",
            "WriteRefused",
            "SourceEmptyHeld",
            "SourceEmpty",
            "NodeNameMissing",
            "ForeignSlices",
            "LegacyEndpoints",
            "EndpointUnreachable",
            "ProbesBlind",
            "ProbeUnauthorized",
            "Synced",
        ],
    ),
];

/// The minimum count of each entry of [`NEEDED`].
pub const ENOUGH: u64 = 100;

impl Coverage {
    /// Adds to a count.
    pub fn add(&mut self, what: &str, times: u64) {
        if times > 0 {
            *self.0.entry(what.to_owned()).or_insert(0) += times;
        }
    }

    /// The count with this name.
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds the counts of another schedule.
    pub fn merge(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            self.add(what, *times);
        }
    }

    /// The entries of [`NEEDED`] that happened too rarely.
    pub fn rare(&self) -> Vec<&'static str> {
        let needed = NEEDED.iter().flat_map(|(_, names)| names.iter().copied());
        needed.filter(|what| self.of(what) < ENOUGH).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, names) in NEEDED {
            writeln!(f, "{title}")?;
            for what in *names {
                writeln!(f, "  {:>10}  {what}", self.of(what))?;
            }
        }
        writeln!(f, "also counted")?;
        let is_needed = |what: &str| NEEDED.iter().any(|(_, names)| names.contains(&what));
        for (what, times) in self.0.iter().filter(|(what, _)| !is_needed(what)) {
            writeln!(f, "  {times:>10}  {what}")?;
        }
        Ok(())
    }
}
