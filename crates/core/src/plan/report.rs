//! Reports problems to the user, each with its remedy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::second_family::{Missing, SecondFamily};
use super::{Plan, families};
use crate::model::ports::{LeftOut, protocol};
use crate::model::{
    EndpointSlice, Family, KnownNodes, ManagedService, NoCounterpart, Nodes, NodesUnknown, Reason, SliceKey,
    Snapshot, Source, a_few,
};
use crate::verdicts::{Judgment, Moment, SUPERVISOR_PORT, Target, Unreachable};

/// The note on the held copies of a family.
pub(super) fn held(source: &Source, family: Family) -> String {
    format!(
        "{} has no {} endpoint, so its last good copy is kept. Check the source, or empty the copy with endpoint-copier/when-source-empty: follow",
        source.key,
        family.as_str()
    )
}

/// Reports ports that are left out.
pub(super) fn left_out(source: &Source, left_out: &LeftOut, plan: &mut Plan) {
    if !left_out.unresolved.is_empty() {
        plan.find(
            Reason::PortUnresolved,
            format!(
                "{} has no port named {}; use a number as targetPort, or the name of a port of the source",
                source.key,
                a_few(&left_out.unresolved)
            ),
        );
    }
    if !left_out.refused.is_empty() {
        plan.find(
            Reason::PortNotPermitted,
            format!(
                "{} is not a port of {}, which is in another namespace; use a port of the source",
                a_few(&left_out.refused),
                source.key
            ),
        );
    }
}

/// Reports endpoints whose address is one of the Service's own addresses.
pub(super) fn loops(source: &Source, loops: &BTreeSet<IpAddr>, plan: &mut Plan) {
    if !loops.is_empty() {
        plan.find(
            Reason::EndpointIsVip,
            format!(
                "{} lists {}, an address of this Service itself, so traffic would come back to the Service. The copies leave it out while another endpoint of its family remains. Correct the source; API servers list their --advertise-address (advertise-address in config.yaml of RKE2 and K3s)",
                source.key,
                a_few(loops)
            ),
        );
    }
}

/// Reports ports of copies that the API source does not list, because probably nothing listens on them. The RKE2
/// supervisor port is an exception, because the source never lists it.
pub(super) fn ports(source: &Source, wanted: &BTreeMap<SliceKey, EndpointSlice>, plan: &mut Plan) {
    if !source.key.is_api_source() || !source.unreadable.is_empty() {
        return;
    }
    let of = |slice: &EndpointSlice| -> BTreeSet<String> {
        let named =
            |port: &EndpointPort| Some(format!("{}/{}", port.port?, protocol(port.protocol.as_deref())));
        slice.ports.iter().flatten().filter_map(named).collect()
    };
    let listed: BTreeSet<_> = source.slices.values().flat_map(|slice| of(slice)).collect();
    let shown: BTreeSet<_> = wanted.values().flat_map(of).collect();
    let supervisor = format!("{SUPERVISOR_PORT}/TCP");
    let unlisted: Vec<_> = shown
        .difference(&listed)
        .filter(|port| **port != supervisor)
        .collect();
    if !listed.is_empty() && !unlisted.is_empty() {
        plan.find(
            Reason::PortNotInSource,
            format!(
                "{} lists no port {}, so perhaps nothing listens there; set targetPort to a port that it lists: {}",
                source.key,
                a_few(&unlisted),
                a_few(&listed)
            ),
        );
    }
}

/// Reports problems with the source.
pub(super) fn source(service: &ManagedService, source: &Source, plan: &mut Plan) {
    if !source.unreadable.is_empty() {
        return;
    }
    if source.slices.is_empty() {
        if source.has_copies {
            plan.find(
                Reason::SourceIsCopy,
                format!(
                    "all slices of {} are copies; name their source instead",
                    source.key
                ),
            );
        } else if !source.exists {
            plan.find(
                Reason::SourceNotFound,
                format!(
                    "neither the Service {} nor an EndpointSlice of it exists; check the name and the namespace in the annotations, or create the source",
                    source.key
                ),
            );
        }
        return;
    }
    let other = source
        .slices
        .values()
        .find(|slice| Family::parse(&slice.address_type).is_none());
    if let Some(slice) = other {
        plan.find(
            Reason::UnsupportedAddressType,
            format!(
                "slice {} of {} has address type {}; only IPv4 and IPv6 are copied. If the other slices are not enough, list the addresses in an EndpointSlice of such a type",
                slice.key().name(),
                source.key,
                slice.address_type
            ),
        );
    }
    families::missing(service, source, plan);
}

/// Reports an empty source if the Service would hold copies of it but has none to hold, and therefore has no endpoints.
pub(super) fn emptiness(service: &ManagedService, source: &Source, plan: &mut Plan) {
    let is_there = source.unreadable.is_empty() && (source.exists || !source.slices.is_empty());
    let has_endpoints = source.slices.values().any(|slice| !slice.is_empty());
    if service.holds && is_there && !has_endpoints && plan.endpoints == 0 {
        plan.find(
            Reason::SourceEmpty,
            format!("{} has no endpoint, and there is no copy to keep, so this Service has no endpoint either. Check the source", source.key),
        );
    }
}

/// Reports why Nodes are unknown, and API servers without a usable address in the second family.
pub(super) fn second_family(source: &Source, family: Family, second: &SecondFamily, plan: &mut Plan) {
    let family = family.as_str();
    if let Some(why) = second.unknown {
        plan.find(
            Reason::FamilyIncomplete,
            format!(
                "the {family} endpoints of {} come from Nodes, and {}; until then, the copies keep the endpoints that they have",
                source.key,
                unknown_nodes(why)
            ),
        );
    }
    if !second.missing.is_empty() {
        let missing = second.missing.iter();
        let missing = missing.map(|(address, why)| format!("{address} ({why})"));
        plan.find(
            Reason::FamilyIncomplete,
            format!(
                "the {family} endpoints are incomplete: {}; {} lists API servers in one family, and Nodes give the other. Check status.addresses of the Nodes, --nodes-selector, and the addresses that the servers listen on",
                a_few(missing),
                source.key
            ),
        );
    }
}

fn unknown_nodes(why: NodesUnknown) -> &'static str {
    match why {
        NodesUnknown::NotListed => "Nodes are not listed yet",
        NodesUnknown::Forbidden => {
            "the operator is not allowed to list Nodes: allow get, list and watch of nodes, as the chart does"
        }
        NodesUnknown::Failing => "Nodes cannot be listed: check the log of the operator",
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes(NoCounterpart::NoNode) => f.write_str("no Node has this address"),
            Self::Nodes(NoCounterpart::Several(names)) => {
                write!(f, "Nodes {} have this address", a_few(names))
            }
            Self::Nodes(NoCounterpart::NoAddress(name, kind)) => {
                write!(f, "Node {name} has no usable {kind} of this family")
            }
            Self::Unreadable(names) => {
                write!(f, "may belong to a Node that cannot be decoded: {}", a_few(names))
            }
            Self::Silent(address) => write!(f, "{address} does not answer"),
            Self::Unprobed(address) => write!(f, "{address} has not answered yet"),
        }
    }
}

/// Reports ready endpoints without a node name if a traffic policy is `Local`, because such endpoints are not local to
/// any node.
pub(super) fn endpoints(
    service: &ManagedService,
    source: &Source,
    snapshot: &Snapshot,
    wanted: &BTreeMap<SliceKey, EndpointSlice>,
    plan: &mut Plan,
) {
    if !service.local_traffic {
        return;
    }
    let is_api_source = source.key.is_api_source();
    let remedy = match &snapshot.nodes {
        _ if !is_api_source => "name their nodes in the source, or set the policy to Cluster",
        // The first list of Nodes is expected soon.
        KnownNodes::Unknown(NodesUnknown::NotListed) => return,
        KnownNodes::Unknown(why) => unknown_nodes(*why),
        KnownNodes::Known(_) => {
            "check status.addresses of the Nodes, and --nodes-selector, or set the policy to Cluster"
        }
    };
    let describe = |address: &String| match &snapshot.nodes {
        KnownNodes::Known(nodes) if is_api_source => format!("{address} ({})", without_node(nodes, address)),
        _ => address.clone(),
    };
    let endpoints = wanted.values().flat_map(|copy| copy.endpoints.iter().flatten());
    let nameless = endpoints.filter(|endpoint| endpoint.is_ready() && endpoint.node_name.is_none());
    let nameless: BTreeSet<_> = nameless
        .filter_map(|endpoint| endpoint.addresses.first())
        .collect();
    if !nameless.is_empty() {
        plan.find(
            Reason::NodeNameMissing,
            format!(
                "the traffic policy is Local, but endpoints have no nodeName, so they are not local to any node, and with externalTrafficPolicy, their nodes do not announce the address: {}; {remedy}",
                a_few(nameless.into_iter().map(describe))
            ),
        );
    }
}

/// Why the Node of an address is unknown.
fn without_node(nodes: &Nodes, address: &str) -> Missing {
    let address = address.parse().ok().map(|address: IpAddr| address.to_canonical());
    let with = address.iter().flat_map(|address| nodes.with(*address));
    let with: Vec<_> = with.map(|node| node.name.clone()).collect();
    let unreadable: Vec<_> = nodes.unreadable().cloned().collect();
    match (with.is_empty(), unreadable.is_empty()) {
        (false, _) => Missing::Nodes(NoCounterpart::Several(with)),
        (true, false) => Missing::Unreadable(unreadable),
        (true, true) => Missing::Nodes(NoCounterpart::NoNode),
    }
}

/// Reports what the probes found.
pub(super) fn judgment(family: Family, judgment: &Judgment, started: Timestamp, plan: &mut Plan) {
    if !judgment.out.is_empty() {
        let out = judgment.out.iter();
        let out = out.map(|(address, unreachable)| unreachable_since(*address, unreachable, started));
        plan.find(
            Reason::EndpointUnreachable,
            format!(
                "{}; other API servers answer. Check this server and the network to it; it returns automatically",
                a_few(out)
            ),
        );
    }
    if judgment.blind {
        plan.find(
            Reason::ProbesBlind,
            format!(
                "no {} endpoint has answered a probe for 3 s, so none is taken out. Check the API servers, and whether a NetworkPolicy or a firewall blocks the operator",
                family.as_str()
            ),
        );
    }
    if !judgment.unauthorized.is_empty() {
        plan.find(
            Reason::ProbeUnauthorized,
            format!(
                "{} refuse the operator's credentials; allow its ServiceAccount to get the nonResourceURL /readyz",
                a_few(&judgment.unauthorized)
            ),
        );
    }
    if !judgment.not_answering.is_empty() {
        plan.find(
            Reason::PortNotAnswering,
            format!(
                "{} never answered, while others do; remove the port from the Service if nothing listens there, open the firewall, or, if the API server is gone, find out why default/kubernetes still lists it",
                a_few(&judgment.not_answering)
            ),
        );
    }
}

fn unreachable_since(address: IpAddr, unreachable: &Unreachable, started: Timestamp) -> String {
    let target = Target::new(address, unreachable.port);
    let since = unreachable
        .since
        .and_then(|since| SignedDuration::try_from(since.since(Moment::default())).ok())
        .and_then(|since| started.checked_add(since).ok());
    match since {
        Some(since) => format!("{target} has been unreachable since {since:.0} ({unreachable})"),
        None => format!("{target} is unreachable ({unreachable})"),
    }
}
