//! The copies that the rules require, computed from the store without using the operator's plan.

use std::collections::{BTreeMap, BTreeSet};

use endpoint_copier_core::model::{EndpointSlice, copy_name};
use serde_json::{Value, json};
use testbed::Store;

use crate::consent;
use crate::objects::ALLOWED_PORT;
use crate::slices::{
    Key, MANAGED_BY, SERVICE_NAME, UNREACHABLE, US, annotation, endpoints, is_leftover, is_ours,
    is_permitted, key, label, owner, ports, provenance, restored, text, uid,
};
use crate::topology::{is_second, without_topology};
use crate::unreadable::{is_unreadable, may_belong};

/// The copies that a Service asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// Copies of this source.
    Copies(Key),
    /// No copies.
    Nothing,
    /// No copies, and nothing that the Go operator left behind.
    Disabled,
    /// Unknown: existing copies stay.
    Unclear,
}

/// The source that a Service asks to copy.
pub fn source(service: &Value) -> Option<Key> {
    match wish(service) {
        Wish::Copies(source) => Some(source),
        Wish::Nothing | Wish::Disabled | Wish::Unclear => None,
    }
}

/// Whether the copies of a Service can be in sync. `None` if the Service is not managed.
pub fn may_be_in_sync(service: &Value) -> Option<bool> {
    let enabled = annotation(service, "endpoint-copier/enabled");
    let is_flagged = key(service) == ("default".to_owned(), "kubernetes-vip".to_owned());
    match wish(service) {
        Wish::Copies(_) => Some(true),
        Wish::Unclear => Some(false),
        Wish::Nothing => (enabled.is_some() || is_flagged).then_some(false),
        Wish::Disabled => None,
    }
}

fn wish(service: &Value) -> Wish {
    if is_unreadable(service) {
        return Wish::Unclear;
    }
    let (namespace, name) = key(service);
    match annotation(service, "endpoint-copier/enabled") {
        Some("true") => {}
        None if namespace == "default" && name == "kubernetes-vip" => {}
        None => return Wish::Nothing,
        Some("false") => return Wish::Disabled,
        Some(_) => return Wish::Unclear,
    }
    let spec = &service["spec"];
    let has_selector = spec["selector"]
        .as_object()
        .is_some_and(|selector| !selector.is_empty());
    if spec["type"] == "ExternalName" || has_selector {
        return Wish::Nothing;
    }
    let read = |name| annotation(service, name).filter(|value| !value.is_empty());
    let source = (
        read("endpoint-copier/default-service-namespace"),
        read("endpoint-copier/default-service-name"),
    );
    let is_legal = |name: &str| !name.contains([' ', '.', '_']);
    let source = match source {
        (None, None) => ("default", "kubernetes"),
        (Some(_), None) => return Wish::Unclear,
        (namespace_there, Some(there)) => {
            if !is_legal(there) || !namespace_there.is_none_or(is_legal) {
                return Wish::Unclear;
            }
            (namespace_there.unwrap_or(&namespace), there)
        }
    };
    if source == (namespace.as_str(), name.as_str()) {
        return Wish::Nothing;
    }
    Wish::Copies((source.0.to_owned(), source.1.to_owned()))
}

/// The copies that a Service may have if sources in other namespaces require consent.
fn with_consent(store: &Store, namespace: &str, wish: Wish) -> Wish {
    match wish {
        Wish::Copies(source) => match consent::is_given(store, namespace, &source) {
            Some(true) => Wish::Copies(source),
            Some(false) => Wish::Nothing,
            None => Wish::Unclear,
        },
        wish => wish,
    }
}

/// The violations of copies that exist although their sources do not consent.
fn without_consent<'a>(store: &Store, copies: impl Iterator<Item = &'a Value>) -> Vec<String> {
    let is_refused = |copy: &&Value| {
        let source = consent::source_elsewhere(copy);
        source.is_some_and(|source| consent::is_given(store, &key(copy).0, &source) == Some(false))
    };
    let refused = copies.filter(is_refused);
    refused
        .map(|copy| format!("{} exists without consent", key(copy).1))
        .collect()
}

/// Whether a Service that copies the API source holds its copies while that source is empty.
pub fn holds_api_servers(service: &Value) -> bool {
    holds(service, &("default".to_owned(), "kubernetes".to_owned()))
}

fn holds(service: &Value, source: &Key) -> bool {
    match annotation(service, "endpoint-copier/when-source-empty") {
        Some("hold") => true,
        Some("follow") => false,
        _ => source.0 == "default" && source.1 == "kubernetes",
    }
}

/// Whether a Service must never lose its copies of the API source once it has them.
pub fn keeps_api_servers(service: &Value) -> bool {
    let api_servers = ("default".to_owned(), "kubernetes".to_owned());
    let has_names = service["spec"]["ports"]
        .as_array()
        .is_none_or(|ports| ports.is_empty() || ports.iter().any(|port| port["targetPort"].is_string()));
    holds(service, &api_servers) && wish(service) == Wish::Copies(api_servers) && !has_names
}

/// Whether a copy of the API source may be held after its source slice was deleted. In a namespace other than that of
/// the source, the Service must have a port that the copy has, or the port that the flag permits.
pub fn may_hold(service: &Value, copy: &Value) -> bool {
    let number = |port: &Value| port["targetPort"].as_i64().or_else(|| port["port"].as_i64());
    let protocol = |port: &Value| port["protocol"].as_str().unwrap_or("TCP").to_owned();
    let mut had: Vec<_> = copy["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| (port["port"].as_i64(), protocol(port)))
        .collect();
    had.push((Some(i64::from(ALLOWED_PORT)), "TCP".to_owned()));
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    key(service).0 == "default" || ports.any(|port| had.contains(&(number(port), protocol(port))))
}

/// The ports of a copy, or `None` if the Service has ports and none of them has a permitted number.
pub fn wanted_ports(service: &Value, slice: &Value) -> Option<Vec<String>> {
    let all = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let mut wanted = Vec::new();
    for port in &all {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let number = match &port["targetPort"] {
            Value::String(target) => {
                let of_source = slice["ports"].as_array().into_iter().flatten();
                let mut same = of_source.filter(|candidate| {
                    text(&candidate["name"]) == target
                        && candidate["protocol"].as_str().unwrap_or("TCP") == protocol
                });
                same.find_map(|found| found["port"].as_i64())
            }
            Value::Null => port["port"].as_i64(),
            number => number.as_i64(),
        };
        let Some(number) = number.filter(|number| is_permitted(service, slice, *number, protocol)) else {
            continue;
        };
        wanted.push(format!(
            "{} {number} {protocol} {}",
            text(&port["name"]),
            text(&port["appProtocol"])
        ));
    }
    (all.is_empty() || !wanted.is_empty()).then_some(wanted)
}

/// The content of one copy.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    source: (String, String, String),
    endpoints: Vec<String>,
    ports: Vec<String>,
    owner: String,
    service: String,
    source_label: String,
    headless: bool,
}

impl Seen {
    fn wanted(service: &Value, slice: &Value, ports: Vec<String>) -> Self {
        let (namespace, name) = key(slice);
        Self {
            source: (namespace, name.clone(), uid(slice).to_owned()),
            endpoints: endpoints(slice),
            ports,
            owner: uid(service).to_owned(),
            service: key(service).1,
            source_label: name,
            headless: service["spec"]["clusterIP"] == "None",
        }
    }

    fn of(copy: &Value) -> Self {
        let read = |what| provenance(copy, what).unwrap_or_default().to_owned();
        Self {
            source: (read("namespace"), read("slice"), read("uid")),
            // `node_oracle` checks the data from Nodes.
            endpoints: endpoints(&without_topology(copy)),
            ports: ports(copy),
            owner: owner(copy).map(|(_, uid)| uid.to_owned()).unwrap_or_default(),
            service: label(copy, SERVICE_NAME).unwrap_or_default().to_owned(),
            source_label: label(copy, "endpoint-copier/source")
                .unwrap_or_default()
                .to_owned(),
            headless: label(copy, "service.kubernetes.io/headless").is_some(),
        }
    }
}

/// The violation if a copy differs from its slice in anything but endpoints.
pub fn differs_beside_endpoints(
    service: &Value,
    slice: &Value,
    ports: Vec<String>,
    copy: &Value,
) -> Option<String> {
    let (mut is, mut wanted) = (Seen::of(copy), Seen::wanted(service, slice, ports));
    (is.endpoints, wanted.endpoints) = Default::default();
    (is != wanted).then(|| format!("{} shows {is:?} and should show {wanted:?}", key(copy).1))
}

/// The name of the copy of a slice.
///
/// # Panics
/// If `slice` is not an EndpointSlice.
pub fn name_of_copy(service: &str, slice: &Value) -> String {
    let slice: EndpointSlice = serde_json::from_value(slice.clone()).expect("a slice");
    copy_name(service, &slice)
}

/// Whether a foreign slice has the name of a copy of the API source.
pub fn is_taken(store: &Store, service: &Value) -> bool {
    let (namespace, _) = key(service);
    copies_of_api_servers(store, service).iter().any(|copy| {
        let there = store.get("endpointslices", &namespace, copy);
        there.is_some_and(|there| !is_ours(&there))
    })
}

/// The names of a Service's copies of the API source.
pub fn copies_of_api_servers(store: &Store, service: &Value) -> Vec<String> {
    let (_, name) = key(service);
    let sources = store.list("endpointslices", Some("default"));
    let of_api_servers = sources
        .iter()
        .filter(|slice| label(slice, SERVICE_NAME) == Some("kubernetes"));
    of_api_servers.map(|slice| name_of_copy(&name, slice)).collect()
}

/// The violations of copies from which probes have taken endpoints out, although all API servers are well.
pub fn out(store: &Store) -> Vec<String> {
    let copies = store.list("endpointslices", None);
    let wrong = copies.iter().filter(|copy| {
        let (namespace, _) = key(copy);
        let service = owner(copy).and_then(|(name, _)| store.get("services", &namespace, name));
        // The copy of a slice that cannot be decoded stays as it is.
        let read = |what| provenance(copy, what).unwrap_or_default();
        let source = store.get("endpointslices", read("namespace"), read("slice"));
        is_ours(copy)
            && !source.as_ref().is_some_and(is_unreadable)
            && annotation(copy, UNREACHABLE).is_some()
            && !is_unreadable(copy)
            && service.is_some_and(|service| wish(&service) != Wish::Unclear)
    });
    wrong
        .map(|copy| {
            let (namespace, name) = key(copy);
            format!(
                "{:?} are out of {namespace}/{name}",
                annotation(copy, UNREACHABLE)
            )
        })
        .collect()
}

/// The differences from the rules in a store that no longer changes, apart from endpoints that probes have taken out.
/// Empty if there are none. If `forbidden`, Endpoints of the Go operator may remain. If `consent`, sources in other
/// namespaces require consent.
pub fn differences(store: &Store, forbidden: bool, consent: bool) -> Vec<String> {
    let mut all = store.list("endpointslices", None);
    for copy in all.iter_mut().filter(|slice| is_ours(slice)) {
        *copy = restored(copy);
    }
    let services: BTreeMap<Key, Value> = store
        .list("services", None)
        .into_iter()
        .map(|service| (key(&service), service))
        .collect();
    let mut differences = Vec::new();
    let ours = all.iter().filter(|slice| is_ours(slice));
    let owners: BTreeSet<Key> = ours
        .clone()
        .filter_map(|slice| Some((key(slice).0, owner(slice)?.0.to_owned())))
        .collect();
    for place in services.keys().cloned().chain(owners).collect::<BTreeSet<_>>() {
        let there: BTreeMap<String, &Value> = ours
            .clone()
            // Copies that cannot be decoded stay as they are.
            .filter(|slice| !is_unreadable(slice))
            .filter(|slice| key(slice).0 == place.0 && owner(slice).map(|it| it.0) == Some(place.1.as_str()))
            .map(|slice| (key(slice).1, slice))
            .collect();
        let service = services.get(&place);
        let mut found = Vec::new();
        let mut wish = service.map_or(Wish::Nothing, wish);
        if consent {
            wish = with_consent(store, &place.0, wish);
            found.extend(without_consent(store, there.values().copied()));
        }
        let service = service.unwrap_or(&Value::Null);
        match &wish {
            Wish::Unclear => {}
            Wish::Nothing | Wish::Disabled => {
                found.extend(there.keys().map(|name| format!("{name} exists")));
                if wish == Wish::Disabled {
                    found.extend(leftovers(store, service));
                }
            }
            Wish::Copies(source) => found.extend(of_service(store, &all, service, source, there)),
        }
        found.retain(|what| !(forbidden && what.starts_with("the Endpoints ")));
        differences.extend(
            found
                .iter()
                .map(|what| format!("{}/{}: {what}", place.0, place.1)),
        );
    }
    differences
}

/// Whether a copy of one family for a Service with this name cannot be decoded.
fn has_undecodable_copy(slices: &[Value], service: &str, family: &Value) -> bool {
    slices.iter().any(|copy| {
        is_unreadable(copy)
            && is_ours(copy)
            && label(copy, SERVICE_NAME) == Some(service)
            && copy["addressType"] == *family
    })
}

fn of_service(
    store: &Store,
    all: &[Value],
    service: &Value,
    source: &Key,
    there: BTreeMap<String, &Value>,
) -> Vec<String> {
    let (namespace, name) = key(service);
    let no_families = vec![json!("IPv4")];
    let families = service["spec"]["ipFamilies"].as_array().unwrap_or(&no_families);
    let of_source = |slice: &&Value| {
        key(slice).0 == source.0
            && !is_unreadable(slice)
            && label(slice, SERVICE_NAME) == Some(source.1.as_str())
            && label(slice, MANAGED_BY) != Some(US)
            && !is_leftover(slice)
    };
    // A slice that cannot be decoded counts as present and unchanged: its copy stays.
    let unreadable: Vec<_> = all
        .iter()
        .filter(|slice| key(slice).0 == source.0 && may_belong(slice, &source.1))
        .map(key)
        .collect();
    let (there_of_unreadable, mut there) = there.into_iter().partition::<BTreeMap<_, _>, _>(|(_, copy)| {
        let read = |what| provenance(copy, what).unwrap_or_default().to_owned();
        unreadable.contains(&(read("namespace"), read("slice")))
    });
    let mut found = Vec::new();
    let mut wanted_are_there = unreadable.is_empty();
    let mut any = false;
    for family in families {
        let slices: Vec<_> = all
            .iter()
            .filter(|slice| slice["addressType"] == *family)
            .filter(of_source)
            .collect();
        let is_empty = slices.iter().all(|slice| endpoints(slice).is_empty());
        if is_empty {
            // The operator does not know whether an undecodable copy from Nodes is there.
            wanted_are_there &= !has_undecodable_copy(all, &name, family);
            // `node_oracle` checks the data from Nodes.
            there.retain(|_, copy| copy["addressType"] != *family || !is_second(copy));
        }
        if is_empty && holds(service, source) {
            // A copy whose name is taken does not exist, so it cannot be held.
            wanted_are_there &= slices
                .iter()
                .all(|slice| there.contains_key(&name_of_copy(&name, slice)));
            // Which copies are held depends on the past. The observer has checked that they are held correctly.
            let (kept, others) = std::mem::take(&mut there)
                .into_iter()
                .partition::<BTreeMap<_, _>, _>(|(_, copy)| copy["addressType"] == *family);
            there = others;
            for (name, copy) in kept {
                any = true;
                if owner(copy).map(|it| it.1) != Some(uid(service)) {
                    found.push(format!("{name} is held for another Service"));
                }
            }
            continue;
        }
        let is_empty = |slice: &Value| endpoints(slice).is_empty();
        let gives_endpoints = |slice: &&&Value| {
            let there = store.get("endpointslices", &namespace, &name_of_copy(&name, slice));
            let is_taken = there.is_some_and(|there| !is_unreadable(&there) && !is_ours(&there));
            !is_empty(slice) && wanted_ports(service, slice).is_some() && !is_taken
        };
        let mut of_unreadable = there_of_unreadable.values();
        // An empty copy beside others would hide their endpoints from consumers that use only the slice that they saw
        // last.
        let has_endpoints = slices.iter().any(|slice| gives_endpoints(&slice))
            || of_unreadable.any(|copy| copy["addressType"] == *family && !is_empty(copy));
        for slice in slices {
            let Some(ports) = wanted_ports(service, slice) else {
                continue;
            };
            let copy_name = name_of_copy(&name, slice);
            if is_empty(slice) && (has_endpoints || !there.contains_key(&copy_name)) {
                continue;
            }
            any = true;
            let wanted = Seen::wanted(service, slice, ports);
            match there.remove(&copy_name) {
                Some(copy) if Seen::of(copy) == wanted => {}
                Some(copy) => found.push(format!(
                    "{copy_name} shows {:?} and should show {wanted:?}",
                    Seen::of(copy)
                )),
                None => {
                    wanted_are_there = false;
                    if store.get("endpointslices", &namespace, &copy_name).is_none() {
                        found.push(format!("{copy_name} does not exist and should show {wanted:?}"));
                    }
                }
            }
        }
    }
    found.extend(there.keys().map(|name| format!("{name} exists and should not")));
    let mut of_any_family = all.iter().filter(of_source).peekable();
    let is_copy = |slice: &Value| {
        key(slice).0 == source.0
            && label(slice, SERVICE_NAME) == Some(source.1.as_str())
            && (label(slice, MANAGED_BY) == Some(US) || is_leftover(slice))
    };
    let is_invalid = of_any_family.peek().is_none() && all.iter().any(is_copy);
    let is_followed =
        !holds(service, source) && !is_invalid && of_any_family.all(|slice| endpoints(slice).is_empty());
    if (any || is_followed) && wanted_are_there && found.is_empty() {
        found.extend(leftovers(store, service));
    }
    found
}

/// The violations if objects that the Go operator left behind still exist. They are deleted once the copies exist, when
/// the Service follows an empty source, and when the Service is disabled.
fn leftovers(store: &Store, service: &Value) -> Vec<String> {
    let (namespace, name) = key(service);
    let slice = store.get("endpointslices", &namespace, &name);
    let slice = slice.filter(is_leftover).map(|_| format!("the slice {name}"));
    let endpoints = store.get("endpoints", &namespace, &name);
    let endpoints = endpoints.filter(|it| label(it, MANAGED_BY) == Some(US));
    let endpoints = endpoints.map(|_| format!("the Endpoints {name}"));
    let left = slice.into_iter().chain(endpoints);
    left.map(|what| format!("{what} of the Go operator is still there"))
        .collect()
}

/// All copies that have endpoints, without the data that differs from run to run, so that the end states of two
/// schedules can be compared.
pub fn end_state(store: &Store) -> Vec<String> {
    let all = store.list("endpointslices", None);
    // Whether an empty copy exists depends on what a replica saw of its source before.
    let ours = all
        .iter()
        .filter(|slice| is_ours(slice) && !endpoints(slice).is_empty());
    ours.map(|copy| {
        let Seen {
            source,
            endpoints: _,
            ports,
            owner: _,
            service,
            source_label,
            headless,
        } = Seen::of(copy);
        let (namespace, name) = key(copy);
        format!(
            "{namespace}/{name} of {service}: {}/{} {:?} {ports:?} {source_label} {headless}",
            source.0,
            source.1,
            endpoints(copy)
        )
    })
    .collect()
}
