//! Data that copies of the API source may take from Nodes: the addresses in the family that the source lacks, and the
//! Node, zone and hints of each endpoint. All data except hints is checked at each write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;
use testbed::Store;

use crate::coverage::Coverage;
use crate::nodes::{SELECTED, ZONE};
use crate::objects::{SLICES, slice_name};
use crate::slices::{
    MANAGED_BY, SERVICE_NAME, US, address, addresses, endpoint_list, key, label, owner, provenance, text,
};
use crate::unreadable::is_unreadable;
use crate::verdicts::is_of_api_servers;

/// The parts of a Node that the rules depend on.
#[derive(Debug)]
pub struct Node {
    /// The name of the Node.
    pub name: String,
    /// The zone of the Node, empty if it has none.
    pub zone: String,
    /// The type of each address, and the address. Internal addresses come first.
    addresses: Vec<(String, IpAddr)>,
}

impl Node {
    fn of(node: &Value) -> Self {
        let all = node["status"]["addresses"].as_array().into_iter().flatten();
        let mut addresses: Vec<_> = all
            .filter_map(|it| {
                let address: IpAddr = text(&it["address"]).parse().ok()?;
                Some((text(&it["type"]).to_owned(), address.to_canonical()))
            })
            .filter(|(kind, _)| ["InternalIP", "ExternalIP"].contains(&kind.as_str()))
            .collect();
        addresses.sort_by_key(|(kind, _)| kind != "InternalIP");
        Self {
            name: key(node).1,
            zone: label(node, ZONE).unwrap_or_default().to_owned(),
            addresses,
        }
    }

    /// Whether the Node has this address.
    pub fn has(&self, wanted: IpAddr) -> bool {
        self.addresses.iter().any(|(_, address)| *address == wanted)
    }

    /// The addresses in the other family that might belong to the same server as this address.
    pub fn counterparts(&self, listed: IpAddr) -> BTreeSet<IpAddr> {
        let kind = self.addresses.iter().find(|(_, address)| *address == listed);
        let same = self.addresses.iter().filter(|(other, address)| {
            kind.is_some_and(|(kind, _)| kind == other) && address.is_ipv4() != listed.is_ipv4()
        });
        same.map(|(_, address)| *address).collect()
    }
}

/// The Nodes that the operator selects.
#[derive(Debug, Default)]
pub struct Nodes {
    readable: Vec<Node>,
    /// Whether one of the selected Nodes cannot be decoded.
    pub has_unreadable: bool,
}

impl Nodes {
    /// The Nodes of a store.
    pub fn of(store: &Store) -> Self {
        let all = store.list("nodes", None);
        let selected = all.iter().filter(|node| label(node, SELECTED).is_some());
        let (unreadable, readable): (Vec<_>, Vec<_>) = selected.partition(|node| is_unreadable(node));
        Self {
            readable: readable.into_iter().map(Node::of).collect(),
            has_unreadable: !unreadable.is_empty(),
        }
    }

    /// The Nodes that can be decoded and have this address.
    pub fn with(&self, address: IpAddr) -> Vec<&Node> {
        self.readable.iter().filter(|node| node.has(address)).collect()
    }

    /// Whether it is unknown which Node has this address.
    pub fn is_unclear(&self, address: IpAddr) -> bool {
        self.has_unreadable && self.with(address).is_empty()
    }
}

/// The address type of the source slice of a copy of the API source.
fn type_of_source(copy: &Value) -> Option<&'static str> {
    let source = provenance(copy, "slice")?;
    let number = (0..SLICES.len()).find(|number| slice_name(0, *number) == source)?;
    Some(SLICES[number])
}

/// Whether a copy shows the API servers in a family that its source slice does not have.
pub fn is_second(copy: &Value) -> bool {
    is_of_api_servers(copy) && type_of_source(copy).is_some_and(|kind| copy["addressType"] != kind)
}

/// A copy of the API source without the data from Nodes. Any other copy is unchanged.
pub fn without_topology(copy: &Value) -> Value {
    let mut copy = copy.clone();
    if is_of_api_servers(&copy) {
        for endpoint in copy["endpoints"].as_array_mut().into_iter().flatten() {
            for field in ["nodeName", "zone", "hints"] {
                endpoint.as_object_mut().map(|endpoint| endpoint.remove(field));
            }
        }
    }
    copy
}

/// Everything that Nodes have ever shown, and everything that the API source has ever listed.
#[derive(Debug, Default)]
pub struct History {
    zones: BTreeSet<(String, String)>,
    had: BTreeMap<String, BTreeSet<IpAddr>>,
    listed: BTreeSet<IpAddr>,
}

impl History {
    /// Records a Node that was written.
    pub fn node(&mut self, node: &Value) {
        if label(node, SELECTED).is_none() {
            return;
        }
        let node = Node::of(node);
        self.zones.insert((node.name.clone(), node.zone));
        let all = node.addresses.into_iter().map(|(_, address)| address);
        self.had.entry(node.name).or_default().extend(all);
    }

    /// Records the addresses of a slice that was written, if it is a slice of the API source.
    pub fn slice(&mut self, slice: &Value) {
        if is_api_source(slice) {
            self.listed.extend(addresses(slice));
        }
    }

    fn had(&self, name: &str, address: IpAddr) -> bool {
        self.had.get(name).is_some_and(|all| all.contains(&address))
    }

    /// The violations in a copy of the API source that a replica has created or updated.
    pub fn wrong(&self, old: Option<&Value>, new: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        if !is_of_api_servers(new) {
            return wrong;
        }
        let is_second = is_second(new);
        let shown: Vec<_> = old.into_iter().flat_map(endpoint_list).collect();
        for endpoint in endpoint_list(new) {
            let Some(address) = address(endpoint) else {
                continue;
            };
            let before = shown.iter().find(|it| self::address(it) == Some(address));
            let (name, zone) = (text(&endpoint["nodeName"]), text(&endpoint["zone"]));
            let had = |field: &str| before.is_some_and(|before| before[field] == endpoint[field]);
            if !name.is_empty() && !had("nodeName") && !self.had(name, address) {
                wrong.push(format!("{address} on {name}, which never had it"));
            }
            if !zone.is_empty() && !had("zone") && !self.zones.contains(&(name.to_owned(), zone.to_owned())) {
                wrong.push(format!("{address} in {zone}, where {name:?} never was"));
            }
            let is_of_server = || {
                let mut all = self.had.values();
                all.any(|all| all.contains(&address) && !all.is_disjoint(&self.listed))
            };
            if is_second && before.is_none() && !is_of_server() {
                wrong.push(format!("{address}, which no Node of an API server ever had"));
            }
        }
        wrong
    }
}

/// The violations in a copy that a replica writes without having seen Nodes. Also returns whether the copy lists API
/// servers in a family that its source slice does not have. `source` is the state of the source slice at the version
/// that the copy names.
pub fn wrong_without_nodes(
    old: Option<&Value>,
    copy: &Value,
    source: Option<&Vec<String>>,
) -> (Vec<String>, bool) {
    let mut wrong = Vec::new();
    let shown: Vec<_> = old.into_iter().flat_map(endpoint_list).collect();
    for endpoint in endpoint_list(copy) {
        let before = shown.iter().find(|it| address(it) == address(endpoint));
        for field in ["nodeName", "zone"] {
            let had = before.map(|before| &before[field]);
            if !endpoint[field].is_null() && had != Some(&endpoint[field]) {
                wrong.push(format!(
                    "{field} {} of {} is new",
                    endpoint[field], endpoint["addresses"]
                ));
            }
        }
    }
    let is_second = is_second(copy);
    let is_listed = source.is_some_and(|source| !source.is_empty());
    let (before, after) = (old.map(addresses).unwrap_or_default(), addresses(copy));
    if is_second && is_listed && before != after {
        wrong.push(format!("lists {after:?} instead of {before:?}"));
    }
    (wrong, is_second)
}

/// Whether the Service of a copy also has a copy that lists API servers in a family that the source slice does not
/// have.
pub fn is_beside_second(store: &Store, copy: &Value) -> bool {
    let slices = store.list("endpointslices", Some(&key(copy).0));
    let mut second = slices
        .iter()
        .filter(|slice| is_second(slice) && !addresses(slice).is_empty());
    second.any(|slice| owner(slice) == owner(copy))
}

/// Counts the effects of Nodes on a write.
pub fn count(store: &Store, (old, new): (Option<&Value>, Option<&Value>), coverage: &mut Coverage) {
    let Some(copy) = new.or(old) else { return };
    if !is_of_api_servers(copy) {
        return;
    }
    let shown = |copy: Option<&Value>| copy.map(addresses).unwrap_or_default();
    let (before, after) = (shown(old), shown(new));
    if is_second(copy) {
        let (is_new, is_gone) = (before.is_empty(), after.is_empty());
        let is_replaced =
            before.iter().any(|it| !after.contains(it)) && after.iter().any(|it| !before.contains(it));
        coverage.add("second family filled from Nodes", u64::from(is_new && !is_gone));
        coverage.add("second family emptied or removed", u64::from(!is_new && is_gone));
        if !is_new && is_gone {
            let slices = store.list("endpointslices", Some("default"));
            let mut own = slices.iter().filter(|slice| {
                is_api_source(slice)
                    && slice["addressType"] == copy["addressType"]
                    && !addresses(slice).is_empty()
            });
            let gives_way = own.next().is_some();
            coverage.add("second family gave way to the source", u64::from(gives_way));
        }
        coverage.add(
            "server left the second family, others stay",
            u64::from(!is_gone && before.iter().any(|it| !after.contains(it))),
        );
        coverage.add(
            "server in the second family has another address",
            u64::from(is_replaced),
        );
    }
    for (field, what) in [
        ("nodeName", "nodeName from a Node"),
        ("zone", "zone from a Node"),
        ("hints", "hints from Nodes"),
    ] {
        let has = |copy: Option<&Value>| {
            copy.is_some_and(|copy| endpoint_list(copy).any(|endpoint| !endpoint[field].is_null()))
        };
        coverage.add(what, u64::from(has(new) && !has(old)));
    }
}

/// Whether a slice belongs to the API source.
pub fn is_api_source(slice: &Value) -> bool {
    key(slice).0 == "default"
        && label(slice, SERVICE_NAME) == Some("kubernetes")
        && label(slice, MANAGED_BY) != Some(US)
}

/// The addresses that the API source lists.
pub fn listed_by_source(store: &Store) -> BTreeSet<IpAddr> {
    let slices = store.list("endpointslices", Some("default"));
    slices
        .iter()
        .filter(|slice| is_api_source(slice))
        .flat_map(addresses)
        .collect()
}
