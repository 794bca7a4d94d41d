//! The facts about a cluster. The checks use nothing else.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::Unknown;
use super::rights::Rights;
use crate::inspect::announced::Announced;
use crate::inspect::look::ListedObjects;
use crate::inspect::report::{Leader, Row};
use endpoint_copier_core::model::ports::{LeftOut, tcp_numbers};
use endpoint_copier_core::model::{ServiceKey, Snapshot};
use endpoint_copier_core::verdicts::{Failure, SUPERVISOR_PORT, Target};

#[derive(Debug)]
pub(super) struct Facts {
    /// The time of the read, by the API server's clock if that is known, and by our own otherwise.
    pub at: Timestamp,
    pub services: Vec<ServiceFacts>,
    /// All Nodes by name, and whether load balancers exclude them.
    pub nodes: Result<BTreeMap<String, bool>, Unknown>,
    /// The Nodes from which MetalLB announces Services in layer 2, by the key of the Service.
    pub metallb: Result<BTreeMap<ServiceKey, BTreeSet<String>>, Unknown>,
    /// The API servers that the Services lead to, and the answer of each.
    pub servers: BTreeMap<Target, Result<ServerAnswer, Failure>>,
    pub installations: Installations,
    pub rights: Result<Rights, Unknown>,
}

/// The facts about a Service that is managed, or still has slices to delete.
#[derive(Debug)]
pub(super) struct ServiceFacts {
    pub row: Row,
    pub announced: Announced,
    /// The API servers that the Service leads to. Empty if its source is not the API source.
    pub servers: BTreeSet<Target>,
    /// The Nodes that ready endpoints of the copies name.
    pub endpoint_nodes: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ServerAnswer {
    /// The names in the certificate.
    pub names: Vec<String>,
    /// The addresses and host names by which clients may reach Services, but which the certificate lacks.
    pub missing: BTreeSet<String>,
    /// The minimum number of seconds by which our clock is ahead of the server's clock; negative if it is behind.
    pub ahead: Option<f64>,
}

/// The Leases with which replicas are elected.
#[derive(Debug, Default)]
pub(super) struct Installations {
    /// Whether replicas use a Lease: `--leader-elect` is on.
    pub elect: bool,
    pub seen: Vec<Installation>,
    /// Why the Leases of other namespaces, or any Leases, could not be read.
    pub hidden: Option<Unknown>,
}

/// One installation of the operator, as its Lease shows it.
#[derive(Clone, Debug)]
pub(super) struct Installation {
    pub leader: Leader,
    /// By how much the last renewal is later than the API server's clock; negative if it is earlier.
    pub ahead: Option<SignedDuration>,
}

impl Installation {
    /// Compares the last renewal of a Lease with `at`, the time of the read by the API server's clock.
    pub fn of(leader: Leader, at: Timestamp) -> Self {
        let ahead = leader.renewed.map(|renewed| renewed.duration_since(at));
        Self { leader, ahead }
    }
}

impl ServiceFacts {
    pub fn of(row: Row, seen: &ListedObjects) -> Self {
        let key = row.key();
        let snapshot = seen.index.snapshot(&key);
        let copies = snapshot.iter().flat_map(|snapshot| snapshot.copies.values());
        let endpoints = copies.flat_map(|copy| copy.endpoints.iter().flatten());
        let names = endpoints
            .filter(|endpoint| endpoint.is_ready())
            .filter_map(|endpoint| endpoint.node_name.as_deref());
        Self {
            row,
            announced: seen.announced.get(&key).cloned().unwrap_or_default(),
            servers: snapshot.as_ref().map(servers).unwrap_or_default(),
            endpoint_nodes: names.map(str::to_owned).collect(),
        }
    }

    /// Returns the addresses and names by which clients may reach the Service.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let addresses = self.announced.addresses.iter().map(ToString::to_string);
        addresses.chain(self.announced.host_names.iter().cloned())
    }
}

/// Returns the addresses that the source and the copies list, on the ports that the source lists, and on the port of
/// RKE2's supervisor if the copies have or should have that port. If the source lists no port, the ports of the copies
/// are used instead. Other ports and other sources are not contacted, because the servers there may not be API servers.
fn servers(snapshot: &Snapshot) -> BTreeSet<Target> {
    let (Some(service), Some(source)) = (&snapshot.service, &snapshot.source) else {
        return BTreeSet::new();
    };
    if !source.key.is_api_source() {
        return BTreeSet::new();
    }
    let any = |_: Option<&str>| true;
    let shown = snapshot.copies.values();
    let mut copied: BTreeSet<_> = shown.flat_map(|copy| copy.tcp_ports(any)).collect();
    for slice in source.slices.values() {
        let wanted = source.ports_of_copy(&service.ports, slice, &mut LeftOut::default());
        copied.extend(tcp_numbers(&wanted.unwrap_or_default(), any));
    }
    let listed = source.slices.values();
    let mut ports: BTreeSet<_> = listed.flat_map(|slice| slice.tcp_ports(any)).collect();
    if ports.is_empty() {
        // The source is empty, and a copy is held.
        ports.clone_from(&copied);
    }
    ports.extend(copied.contains(&SUPERVISOR_PORT).then_some(SUPERVISOR_PORT));
    let slices = source.slices.values().chain(snapshot.copies.values());
    let addresses: BTreeSet<_> = slices.flat_map(|slice| slice.addresses()).collect();
    let of_address = |address| ports.iter().map(move |port| Target::new(address, *port));
    addresses.into_iter().flat_map(of_address).collect()
}
