//! The data from Nodes that copies of the API source must have at the end of a schedule, computed from the store
//! without using the operator's code.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};
use testbed::Store;

use crate::coverage::Coverage;
use crate::oracle;
use crate::slices::{
    address, addresses, endpoint_list, is_ours, key, owner, provenance, restored, text, uid,
};
use crate::topology::{Nodes, is_api_source, is_second};
use crate::unreadable::{is_unreadable, may_belong};
use crate::verdicts::is_of_api_servers;

/// The differences from the rules about Nodes, in a store that no longer changes.
pub fn differences(store: &Store) -> Vec<String> {
    let nodes = Nodes::of(store);
    let all = store.list("endpointslices", None);
    let is_lost = |slice: &Value| key(slice).0 == "default" && may_belong(slice, "kubernetes");
    let view = View {
        store,
        nodes: &nodes,
        source: all
            .iter()
            .filter(|slice| is_api_source(slice) && !is_unreadable(slice))
            .collect(),
        unreadable: all
            .iter()
            .filter(|slice| is_lost(slice))
            .map(|slice| key(slice).1)
            .collect(),
    };
    let mut found = Vec::new();
    let api_source = ("default".to_owned(), "kubernetes".to_owned());
    for service in store.list("services", None) {
        if oracle::source(&service).as_ref() != Some(&api_source) {
            continue;
        }
        let (namespace, name) = key(&service);
        let owner_of = |slice: &Value| owner(slice).map(|(name, uid)| (name.to_owned(), uid.to_owned()));
        let copies: Vec<_> = all
            .iter()
            .filter(|slice| is_ours(slice) && is_of_api_servers(slice) && key(slice).0 == namespace)
            .filter(|slice| owner_of(slice) == Some((name.clone(), uid(&service).to_owned())))
            .collect();
        let wrong = view.of_service(&service, &copies);
        found.extend(
            wrong
                .into_iter()
                .map(|what| format!("{namespace}/{name}: {what}")),
        );
    }
    found
}

struct View<'a> {
    store: &'a Store,
    nodes: &'a Nodes,
    /// The slices of the API source that can be decoded.
    source: Vec<&'a Value>,
    /// The names of slices that cannot be decoded and might belong to the API source.
    unreadable: BTreeSet<String>,
}

impl View<'_> {
    fn of_service(&self, service: &Value, copies: &[&Value]) -> Vec<String> {
        let mut wrong = Vec::new();
        let no_families = vec![json!("IPv4")];
        let families = service["spec"]["ipFamilies"].as_array().unwrap_or(&no_families);
        for family in families {
            let of_family = |copy: &&&Value| copy["addressType"] == *family;
            let is_frozen = |copy: &Value| {
                is_unreadable(copy)
                    || provenance(copy, "slice").is_some_and(|slice| self.unreadable.contains(slice))
            };
            let copies: Vec<_> = copies.iter().filter(of_family).copied().collect();
            let is_whole = self.unreadable.is_empty() && !copies.iter().any(|copy| is_frozen(copy));
            let judged: Vec<_> = copies.iter().filter(|copy| !is_frozen(copy)).copied().collect();
            let lists = |is_wanted: bool| {
                let mut slices = self
                    .source
                    .iter()
                    .filter(|slice| (slice["addressType"] == *family) == is_wanted);
                slices.any(|slice| slice["addressType"] != "FQDN" && !addresses(slice).is_empty())
            };
            // Held copies show the last known endpoints.
            let is_current = |copy: &&Value| {
                let mut slices = self.source.iter().filter(|slice| !addresses(slice).is_empty());
                slices.any(|slice| provenance(copy, "slice") == Some(&key(slice).1))
            };
            let current: Vec<_> = judged.iter().filter(|copy| is_current(copy)).copied().collect();
            // A copy that cannot be written also affects the hints of the other copies.
            let is_taken = self.source.iter().any(|slice| {
                let (namespace, _) = key(service);
                let copy = name_of_copy(service, slice, family);
                let there = self.store.get("endpointslices", &namespace, &copy);
                there.is_some_and(|there| !is_ours(&there))
            });
            let is_complete = is_whole && current.len() == copies.len() && !is_taken;
            wrong.extend(self.topology(service, &current, is_complete));
            if !lists(true) && lists(false) && is_whole {
                wrong.extend(self.second_family(service, text(family), &judged));
            }
        }
        wrong
    }

    /// The differences in nodeName, zone and hints of the copies of one family.
    fn topology(&self, service: &Value, copies: &[&Value], is_whole: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let spec = &service["spec"];
        let distribution = text(&spec["trafficDistribution"]);
        let is_asked = !distribution.is_empty()
            || spec["externalTrafficPolicy"] == "Local"
            || spec["internalTrafficPolicy"] == "Local";
        let endpoints = || copies.iter().flat_map(|copy| endpoint_list(copy));
        for endpoint in endpoints() {
            let Some(address) = address(endpoint) else {
                continue;
            };
            let wanted = match self.nodes.with(address)[..] {
                _ if !is_asked => ("", ""),
                [] if self.nodes.has_unreadable => continue,
                [node] => (node.name.as_str(), node.zone.as_str()),
                _ => ("", ""),
            };
            let shown = (text(&endpoint["nodeName"]), text(&endpoint["zone"]));
            if shown != wanted {
                wrong.push(format!("{address} is on {shown:?} and should be on {wanted:?}"));
            }
        }
        let hint = |endpoint: &Value| {
            let (list, field) = match distribution {
                "PreferClose" | "PreferSameZone" => ("forZones", "zone"),
                "PreferSameNode" => ("forNodes", "nodeName"),
                _ => return Value::Null,
            };
            let name = text(&endpoint[field]);
            if name.is_empty() {
                Value::Null
            } else {
                json!({list: [{"name": name}]})
            }
        };
        let is_complete = endpoints().all(|endpoint| !hint(endpoint).is_null());
        for endpoint in endpoints().filter(|_| is_whole) {
            let wanted = if is_complete { hint(endpoint) } else { Value::Null };
            if endpoint["hints"] != wanted {
                wrong.push(format!(
                    "hints {} instead of {wanted} for {}",
                    endpoint["hints"], endpoint["addresses"]
                ));
            }
        }
        wrong
    }

    /// The differences in the copies that list API servers in a family that the source does not list.
    fn second_family(&self, service: &Value, family: &str, copies: &[&Value]) -> Vec<String> {
        let (namespace, _) = key(service);
        let mut wrong = Vec::new();
        let mut there: BTreeMap<_, _> = copies
            .iter()
            .filter(|copy| is_second(copy))
            .map(|copy| (key(copy).1, *copy))
            .collect();
        let (mut extra, mut is_filled) = (Vec::new(), false);
        let others = self
            .source
            .iter()
            .filter(|slice| slice["addressType"] != "FQDN" && slice["addressType"] != family);
        for slice in others {
            let Some(ports) = oracle::wanted_ports(service, slice) else {
                continue;
            };
            let copy_name = name_of_copy(service, slice, &json!(family));
            let servers = self.servers(slice);
            let Some(copy) = there.remove(&copy_name) else {
                if !servers.is_empty() && self.store.get("endpointslices", &namespace, &copy_name).is_none() {
                    wrong.push(format!("{copy_name} does not exist and should list {servers:?}"));
                }
                continue;
            };
            wrong.extend(oracle::differs_beside_endpoints(service, slice, ports, copy));
            let restored = restored(copy);
            let shown: BTreeMap<_, _> = endpoint_list(&restored)
                .filter_map(|it| Some((address(it)?, is_ready(it))))
                .collect();
            let of_servers: BTreeSet<_> = servers.keys().flatten().copied().collect();
            let (listed, shown): (BTreeMap<_, _>, BTreeMap<_, _>) =
                shown.into_iter().partition(|(it, _)| of_servers.contains(it));
            is_filled |= listed.values().any(|ready| *ready);
            if !is_one_of_each(&servers.iter().collect::<Vec<_>>(), &listed, &BTreeMap::new()) {
                wrong.push(format!("{copy_name} lists {listed:?} of {servers:?}"));
            }
            extra.extend(
                shown
                    .into_keys()
                    .filter(|address| !self.nodes.is_unclear(*address)),
            );
        }
        // The last endpoint is not removed while it is unknown whether a Node has its address.
        let has_left = |address: &IpAddr| match self.nodes.with(*address)[..] {
            [node] => !self
                .source
                .iter()
                .any(|slice| addresses(slice).iter().any(|it| node.has(*it))),
            _ => false,
        };
        if is_filled && !extra.is_empty() || extra.len() > 1 || extra.iter().any(has_left) {
            wrong.push(format!(
                "lists {extra:?} in {family}, which belong to no listed server"
            ));
        }
        // The slice of this copy was deleted. The copy may be held if no other copy has endpoints.
        let is_held = is_filled || !oracle::holds_api_servers(service);
        wrong.extend(
            there
                .keys()
                .filter(|_| is_held)
                .map(|name| format!("{name} exists and should not")),
        );
        wrong
    }

    /// The API servers of a slice that are each on exactly one Node: the addresses of each in the other family, and
    /// whether it is ready. Two servers on one Node count as one.
    fn servers(&self, slice: &Value) -> BTreeMap<BTreeSet<IpAddr>, bool> {
        let mut servers = BTreeMap::new();
        for endpoint in endpoint_list(slice) {
            let Some(listed) = address(endpoint) else { continue };
            if let [node] = self.nodes.with(listed)[..] {
                let mut counterparts = node.counterparts(listed);
                // If another Node has an address too, the address might belong to another server.
                if counterparts.iter().any(|it| self.nodes.with(*it).len() == 1) {
                    counterparts.retain(|it| self.nodes.with(*it).len() == 1);
                }
                if !counterparts.is_empty() {
                    *servers.entry(counterparts).or_default() |= is_ready(endpoint);
                }
            }
        }
        servers
    }
}

/// Whether a copy lists one address of each server, and each address is ready if its server is. Nodes can share an
/// address, so which address belongs to a server can depend on the other servers.
fn is_one_of_each(
    servers: &[(&BTreeSet<IpAddr>, &bool)],
    listed: &BTreeMap<IpAddr, bool>,
    taken: &BTreeMap<IpAddr, bool>,
) -> bool {
    let Some(((candidates, ready), others)) = servers.split_first() else {
        return taken == listed;
    };
    let mut candidates = candidates.iter().filter(|it| listed.contains_key(it));
    candidates.any(|it| {
        let mut taken = taken.clone();
        *taken.entry(*it).or_default() |= **ready;
        is_one_of_each(others, listed, &taken)
    })
}

/// The name of the copy of a slice in a family.
fn name_of_copy(service: &Value, slice: &Value, family: &Value) -> String {
    let mut slice = slice.clone();
    slice["addressType"] = family.clone();
    oracle::name_of_copy(&key(service).1, &slice)
}

fn is_ready(endpoint: &Value) -> bool {
    endpoint["conditions"]["ready"] != false
}

/// Counts the effects of Nodes on the copies in a store that no longer changes.
pub fn count_end(store: &Store, coverage: &mut Coverage) {
    let nodes = Nodes::of(store);
    let all = store.list("endpointslices", Some("default"));
    let listed: BTreeSet<_> = all
        .iter()
        .filter(|slice| is_api_source(slice))
        .flat_map(addresses)
        .collect();
    let has = |is_meant: &dyn Fn(IpAddr) -> bool| u64::from(listed.iter().any(|address| is_meant(*address)));
    coverage.add(
        "in the end, an API server that no Node has",
        has(&|it| nodes.with(it).is_empty()),
    );
    coverage.add(
        "in the end, an API server that several Nodes have",
        has(&|it| nodes.with(it).len() > 1),
    );
    coverage.add(
        "in the end, an API server that an unreadable Node may have",
        has(&|it| nodes.is_unclear(it)),
    );
    let is_named = |slice: &Value| endpoint_list(slice).any(|it| !it["nodeName"].is_null());
    let copies: Vec<_> = store
        .list("endpointslices", None)
        .into_iter()
        .filter(is_of_api_servers)
        .collect();
    let second = copies
        .iter()
        .any(|copy| is_second(copy) && !addresses(copy).is_empty());
    coverage.add("in the end, a second family", u64::from(second));
    coverage.add(
        "in the end, endpoints with a nodeName",
        u64::from(copies.iter().any(is_named)),
    );
}
