//! Fills in the node names, zones and hints of API servers in copies if the source does not state them.
//!
//! This applies only to Services that need them: those with a traffic policy of `Local` or a `trafficDistribution`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{EndpointHints, ForNode, ForZone};

use crate::model::{
    Distribution, Endpoint, EndpointSlice, KnownNodes, ManagedService, SliceKey, Snapshot, Source,
};

/// Fills in nodeName, zone and hints of the wanted copies.
pub(super) fn apply(
    service: &ManagedService,
    source: &Source,
    snapshot: &Snapshot,
    wanted: &mut BTreeMap<SliceKey, EndpointSlice>,
) {
    if !source.key.is_api_source() || !service.needs_node_names() {
        return;
    }
    for (key, copy) in &mut *wanted {
        let shown = shown_by(snapshot.copy(key));
        for endpoint in copy.endpoints.iter_mut().flatten() {
            if let Some(address) = endpoint.address() {
                fill(endpoint, address, &shown, &snapshot.nodes);
            }
        }
    }
    let slices = source.slices.values();
    let mut stated = slices.flat_map(|slice| slice.endpoints.iter().flatten());
    if stated.any(|endpoint| endpoint.hints.is_some()) {
        return;
    }
    if let Some(hint) = service.distribution.and_then(hint_of) {
        for &family in &service.families {
            let of_family = |copy: &&mut EndpointSlice| copy.address_type == family.as_str();
            let copies = wanted.values_mut().filter(of_family);
            let copies = copies.filter(|copy| !snapshot.is_name_taken(&copy.key()));
            give_hints(copies.flat_map(|copy| copy.endpoints.iter_mut().flatten()), hint);
        }
    }
}

/// The endpoints of a copy by address.
type ShownEndpoints<'a> = BTreeMap<IpAddr, &'a Endpoint>;

fn shown_by(copy: Option<&EndpointSlice>) -> ShownEndpoints<'_> {
    let endpoints = copy.and_then(|copy| copy.endpoints.as_ref());
    // If an address occurs twice, the first endpoint wins.
    let endpoints = endpoints.into_iter().flatten().rev();
    endpoints
        .filter_map(|endpoint| Some((endpoint.address()?, endpoint)))
        .collect()
}

/// Fills in the node name and the zone of an endpoint from the Node that has its address. The values in the current
/// copy stay while Nodes are unknown, or if the address might belong to a Node that cannot be decoded.
fn fill(endpoint: &mut Endpoint, address: IpAddr, shown: &ShownEndpoints<'_>, nodes: &KnownNodes) {
    let (node, is_unclear) = match nodes {
        KnownNodes::Known(nodes) => (nodes.only_with(address), nodes.may_be_of_unreadable(address)),
        KnownNodes::Unknown(_) => (None, true),
    };
    let (node_name, zone) = if let Some(node) = node {
        (Some(node.name.as_ref().into()), node.zone.clone())
    } else if is_unclear && let Some(shown) = shown.get(&address) {
        (shown.node_name.clone(), shown.zone.clone())
    } else {
        return;
    };
    if endpoint.node_name.is_none() {
        endpoint.node_name.clone_from(&node_name);
    }
    // If the source names another Node, the zone of this Node would be a guess.
    if endpoint.zone.is_none() && endpoint.node_name == node_name {
        endpoint.zone = zone;
    }
}

type Hint = fn(&Endpoint) -> Option<EndpointHints>;

/// Returns a function that makes the hint for an endpoint, or `None` if the distribution asks for no hint.
fn hint_of(distribution: Distribution) -> Option<Hint> {
    match distribution {
        Distribution::SameZone => Some(|endpoint| {
            let name = endpoint.zone.as_deref()?.to_owned();
            Some(EndpointHints {
                for_zones: Some(vec![ForZone { name }]),
                ..EndpointHints::default()
            })
        }),
        Distribution::SameNode => Some(|endpoint| {
            let name = endpoint.node_name.as_deref()?.to_owned();
            Some(EndpointHints {
                for_nodes: Some(vec![ForNode { name }]),
                ..EndpointHints::default()
            })
        }),
        Distribution::Other => None,
    }
}

/// Gives hints to all endpoints or to none, because kube-proxy ignores all hints of a family if one endpoint has none.
fn give_hints<'a>(endpoints: impl Iterator<Item = &'a mut Endpoint>, hint: Hint) {
    let mut endpoints: Vec<_> = endpoints.collect();
    let hints: Option<Vec<_>> = endpoints.iter().map(|endpoint| hint(endpoint)).collect();
    for (number, endpoint) in endpoints.iter_mut().enumerate() {
        let own = hints.as_ref().and_then(|hints| hints.get(number).cloned());
        endpoint.hints = own.map(Box::new);
    }
}
