//! The set of API servers that are probed, and the changes that can affect it.

use super::*;
use crate::model::annotation;
use crate::testing::{node, slice_port};
use crate::verdicts::Target;

const HTTPS: u16 = 6443;

fn targets(index: &Index) -> Vec<String> {
    targets_after(index, &BTreeSet::new())
}

/// The targets of a replica that has probed the targets in `before`.
fn targets_after(index: &Index, before: &BTreeSet<Target>) -> Vec<String> {
    let targets = index.probe_targets(&[HTTPS].into(), before);
    targets.iter().map(ToString::to_string).collect()
}

/// A copy of `kubernetes` for a Service with this name.
fn copy_for(service: &str, addresses: &[&str]) -> EndpointSlice {
    slice(&copy_name(service, &slice("kubernetes")))
        .copied(service, "kubernetes")
        .edit(|copy| copy.endpoints = Some(addresses.iter().map(|address| endpoint(address)).collect()))
        .ports(&[slice_port("https", 6443)])
}

fn with_copies(copies: &[EndpointSlice]) -> Index {
    let mut index = filled();
    for copy in copies {
        index.apply_slice(&Scope::Copies, copy.clone());
    }
    index
}

/// Rule: 7.targets
#[test]
fn only_https_and_the_supervisor_are_probed_on_each_address() {
    let copy = copy_for("vip", &["192.0.2.2", "192.0.2.1", "192.0.2.2"]).ports(&[
        slice_port("api", 6443),
        slice_port("join", 9345),
        slice_port("ssh", 22),
    ]);
    let udp = copy_for("vip", &["192.0.2.3"]).edit(|copy| {
        let mut port = slice_port("https", 6443);
        port.protocol = Some("UDP".to_owned());
        copy.metadata.name = Some("another".to_owned());
        copy.ports = Some(vec![port]);
    });
    let index = with_copies(&[copy, udp]);
    let expected = [
        "192.0.2.1:6443",
        "192.0.2.1:9345",
        "192.0.2.2:6443",
        "192.0.2.2:9345",
    ];
    assert_eq!(targets(&index), expected);
}

/// Rule: 7.targets
#[test]
fn copies_of_other_sources_and_foreign_slices_are_not_probed() {
    let mut index = with_copies(&[
        copy_for("web", &["192.0.2.9"]),
        copy_for("nobody", &["192.0.2.8"]),
    ]);
    index.apply_service(&service("web").source("default", "app"));
    let foreign = slice("foreign").of("vip").endpoints(["192.0.2.7"]);
    index.apply_slice(&named(&["kubernetes", "vip"]), foreign);
    assert_eq!(targets(&index), Vec::<String>::new());
}

/// Rule: 7.exempt
#[test]
fn probe_off_exempts_a_service_and_other_values_are_ignored() {
    for (value, expected) in [("off", 0), ("Off", 1), ("", 1), ("on", 1)] {
        let mut index = with_copies(&[copy_for("vip", &["192.0.2.1"])]);
        index.apply_service(&service("vip").annotate(annotation::PROBE, value).version(9));
        assert_eq!(targets(&index).len(), expected, "{value:?}");
    }
}

/// Rule: 7.targets-limit
#[test]
fn at_most_16_addresses_of_a_family_are_probed() {
    let addresses: Vec<_> = (1..=40).map(|number| format!("192.0.2.{number}")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let mut index = with_copies(&[copy_for("vip", &addresses)]);
    let six = copy_for("vip", &["2001:db8::1"]).edit(|copy| {
        copy.metadata.name = Some("six".to_owned());
        copy.address_type = "IPv6".to_owned();
    });
    index.apply_slice(&Scope::Copies, six);
    let targets = targets(&index);
    assert_eq!((targets.len(), targets[16].as_str()), (17, "[2001:db8::1]:6443"));
}

/// A user who can write slices must not be able to prevent probes of the API servers.
/// Rule: 7.targets-limit
#[test]
fn forged_slices_do_not_displace_api_servers() {
    let addresses: Vec<_> = (1..=40).map(|number| format!("192.0.2.{number}")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let forged = copy_for("vip", &addresses).edit(|copy| copy.metadata.name = Some("forged".to_owned()));
    let mut index = with_copies(&[copy_for("vip", &["192.0.2.100"]), forged]);
    let source = slice("kubernetes").endpoints(["192.0.2.100"]);
    index.apply_slice(&named(&["kubernetes", "vip"]), source);
    assert_eq!(targets(&index), ["192.0.2.100:6443"]);
    let extra = slice("extra").of("kubernetes").endpoints(addresses.clone());
    index.apply_slice(&named(&["kubernetes", "vip"]), extra);
    let targets = targets(&index);
    assert_eq!(targets.len(), 16);
    assert!(targets.contains(&"192.0.2.100:6443".to_owned()), "{targets:?}");
}

/// Rule: 7.targets
#[test]
fn address_not_in_source_is_probed_only_while_source_is_empty() {
    let copy = copy_for("vip", &["192.0.2.1", "192.0.2.66"]);
    let mut index = with_copies(&[copy]);
    let source = |addresses: &[&'static str]| slice("kubernetes").endpoints(addresses.to_vec());
    let scope = named(&["kubernetes", "vip"]);
    index.apply_slice(&scope, source(&["192.0.2.1", "192.0.2.2"]).version(200));
    assert_eq!(targets(&index), ["192.0.2.1:6443"]);
    index.apply_slice(&scope, source(&[]).version(201));
    assert_eq!(targets(&index), ["192.0.2.1:6443", "192.0.2.66:6443"], "held");
}

/// In a family that the source lacks, users could otherwise keep the servers out of all copies.
/// Rule: 7.targets
#[test]
fn forged_addresses_displace_none_of_nodes_or_admins() {
    let dual = |name| service(name).families(&["IPv4", "IPv6"]);
    let six = |service: &str, addresses: &[&str]| copy_for(service, addresses).family("IPv6");
    let forged: Vec<_> = (0..16).map(|number| format!("2001:db8::f{number:x}")).collect();
    let forged: Vec<_> = forged.iter().map(String::as_str).collect();
    let mut index = filled();
    index.apply_service(&dual("vip").version(200));
    index.apply_service(&dual("web").namespace("tenant"));
    let source = slice("kubernetes").endpoints(["192.0.2.1"]);
    index.apply_slice(&named(&["kubernetes", "vip"]), source);
    index.apply_node(node("a").internal("192.0.2.1").internal("2001:db8::1"));
    index.nodes_listed(&["a".to_owned()].into());
    index.apply_slice(&Scope::Copies, six("web", &forged).namespace("tenant"));
    let probed = targets(&index);
    assert_eq!(probed.len(), 16);
    assert!(probed.contains(&"[2001:db8::1]:6443".to_owned()), "{probed:?}");
    index.apply_slice(&Scope::Copies, six("vip", &["2001:db8::ff"]));
    let probed = targets(&index);
    assert_eq!(probed.len(), 16);
    for address in ["[2001:db8::1]:6443", "[2001:db8::ff]:6443"] {
        assert!(probed.contains(&address.to_owned()), "{probed:?}");
    }
}

/// Rule: 7.targets-kept
#[test]
fn target_stays_while_a_copy_lacks_what_the_source_lists() {
    let scope = named(&["kubernetes", "vip"]);
    let join = |service: Service| service.no_ports().number("api", 6443).number("join", 9345);
    let copy = copy_for("vip", &["192.0.2.1", "192.0.2.2"])
        .ports(&[slice_port("api", 6443), slice_port("join", 9345)]);
    let mut index = with_copies(std::slice::from_ref(&copy));
    index.apply_service(&join(service("vip")).version(200));
    let source = |addresses: &[&'static str]| slice("kubernetes").endpoints(addresses.to_vec());
    index.apply_slice(&scope, source(&["192.0.2.1", "192.0.2.2"]).version(200));
    let before = index.probe_targets(&[HTTPS].into(), &BTreeSet::new());
    let all: Vec<_> = before.iter().map(ToString::to_string).collect();
    assert_eq!(all.len(), 4);

    let edited = copy_for("vip", &["192.0.2.1"]).version(201);
    index.apply_slice(&Scope::Copies, edited.clone());
    assert_eq!(targets_after(&index, &before), all, "an edited copy");
    index.delete_slice(&Scope::Copies, &edited.metadata);
    assert_eq!(targets_after(&index, &before), all, "a deleted copy");
    assert_eq!(targets(&index), Vec::<String>::new(), "a new replica");

    let moved = index.probe_targets(&[443].into(), &before);
    assert!(
        moved.iter().all(|target| target.port() == 9345),
        "another port is named https"
    );

    index.apply_slice(&scope, source(&["192.0.2.1"]).version(201));
    let one = ["192.0.2.1:6443", "192.0.2.1:9345"];
    assert_eq!(
        targets_after(&index, &before),
        one,
        "the source removes an address"
    );
    index.apply_service(&service("vip").no_ports().number("api", 6443).version(201));
    assert_eq!(
        targets_after(&index, &before),
        ["192.0.2.1:6443"],
        "the Service drops a port"
    );
    index.apply_service(&service("vip").families(&["IPv6"]).version(202));
    assert_eq!(
        targets_after(&index, &before),
        Vec::<String>::new(),
        "another family"
    );
    index.apply_service(&service("vip").annotate(annotation::PROBE, "off").version(203));
    assert_eq!(targets_after(&index, &before), Vec::<String>::new(), "exempt");
    index.apply_service(&service("vip").version(204));
    assert_eq!(targets_after(&index, &before), ["192.0.2.1:6443"]);
    index.delete_service(&key("vip"));
    assert_eq!(targets_after(&index, &before), Vec::<String>::new(), "no Service");
}

/// A replica that does not lead never reads a copy in full if it keeps only an outline of that copy.
/// Rule: 7.targets
#[test]
fn large_copy_listed_before_its_service_is_probed() {
    let addresses: Vec<_> = (1..=40).map(|number| format!("192.0.2.{number}")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let mut index = Index::new(defaults());
    let copy = copy_for("vip", &addresses);
    index.apply_slice(&Scope::Copies, copy.clone());
    assert_eq!(index.slice(&copy.key()).unwrap().endpoints, None);
    index.apply_service(&service("vip"));
    let source = slice("kubernetes").endpoints(addresses);
    index.apply_slice(&named(&["kubernetes", "vip"]), source);
    assert_eq!(targets(&index).len(), 16);
}

/// A finalizer keeps a forged copy that the operator has deleted.
/// Rule: 7.targets
#[test]
fn copies_that_are_being_deleted_are_not_probed() {
    let deleting = copy_for("vip", &["192.0.2.1"]).edit(|copy| {
        copy.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".into());
    });
    assert_eq!(targets(&with_copies(&[deleting])), Vec::<String>::new());
}

/// Rule: 7.targets
#[test]
fn probed_ports_are_those_named_https_in_the_source() {
    let mut index = filled();
    assert_eq!(index.api_server_ports(), BTreeSet::new());
    let source = slice("kubernetes").ports(&[slice_port("https", 443), slice_port("http", 80)]);
    index.apply_slice(&named(&["kubernetes", "vip"]), source);
    assert_eq!(index.api_server_ports(), [443].into());
}

/// Rule: 8.probed-first
#[test]
fn second_family_address_is_probed_before_a_copy_has_it() {
    let v6 = |service: Service| service.families(&["IPv6"]);
    for (what, service, copy, expected) in [
        (
            "dual-stack",
            service("vip").families(&["IPv4", "IPv6"]),
            None,
            vec!["[2001:db8::1]:6443"],
        ),
        (
            "IPv6 alone",
            v6(service("vip")).number("join", 9345).number("web", 80),
            None,
            vec!["[2001:db8::1]:6443", "[2001:db8::1]:9345"],
        ),
        (
            "a named port",
            v6(service("vip").no_ports()).port("api", "https"),
            None,
            vec!["[2001:db8::1]:6443"],
        ),
        ("single-stack", service("vip"), None, vec![]),
        (
            "exempt",
            v6(service("vip").annotate(annotation::PROBE, "off")),
            None,
            vec![],
        ),
        (
            "another source",
            v6(service("vip").source("web", "app")),
            None,
            vec![],
        ),
        (
            "an address that the copy lists",
            v6(service("vip")),
            Some("2001:db8::2"),
            vec!["[2001:db8::2]:6443"],
        ),
        (
            "an address that is the VIP",
            v6(service("vip")).edit(|it| it.spec_mut().external_ips = Some(vec!["2001:db8::1".to_owned()])),
            None,
            vec!["[2001:db8::2]:6443"],
        ),
    ] {
        let mut index = filled();
        index.apply_service(&service.version(200));
        index.apply_slice(
            &named(&["kubernetes", "vip"]),
            slice("kubernetes").endpoints(["192.0.2.1"]),
        );
        if let Some(address) = copy {
            index.apply_slice(&Scope::Copies, copy_for("vip", &[address]).family("IPv6"));
        }
        let seen = index.api_servers_changed();
        index.apply_node(
            node("a")
                .internal("192.0.2.1")
                .internal("2001:db8::1")
                .internal("2001:db8::2"),
        );
        assert_eq!(
            targets(&index)
                .iter()
                .filter(|target| target.contains("db8::1"))
                .count(),
            0,
            "{what}: not listed"
        );
        index.nodes_listed(&["a".to_owned()].into());
        assert!(index.api_servers_changed() > seen, "{what}");
        assert_eq!(targets(&index), expected, "{what}");
    }
}

/// Rule: 8.probed-first, 9.ports
#[test]
fn second_family_is_probed_only_on_ports_with_consent() {
    let mut index = filled();
    index.apply_service(
        &service("web")
            .namespace("tenant")
            .families(&["IPv6"])
            .number("join", 9345),
    );
    index.apply_slice(
        &named(&["kubernetes", "vip"]),
        slice("kubernetes").endpoints(["192.0.2.1"]),
    );
    index.apply_node(node("a").internal("192.0.2.1").internal("2001:db8::1"));
    index.nodes_listed(&["a".to_owned()].into());
    assert_eq!(targets(&index), ["[2001:db8::1]:6443"]);
    index.defaults.consent.allowed_ports = [9345].into();
    assert_eq!(targets(&index), ["[2001:db8::1]:6443", "[2001:db8::1]:9345"]);
}

/// Rule: 7.targets-limit, 8.probed-first
#[test]
fn addresses_in_copies_are_probed_before_candidates() {
    let mut index = filled();
    index.apply_service(&service("vip").families(&["IPv6"]).version(200));
    index.apply_slice(
        &named(&["kubernetes", "vip"]),
        slice("kubernetes").endpoints(["192.0.2.1", "192.0.2.2"]),
    );
    let shown: Vec<_> = (0..15).map(|number| format!("2001:db8::f{number:x}")).collect();
    let copy = copy_for("vip", &shown.iter().map(String::as_str).collect::<Vec<_>>());
    index.apply_slice(&Scope::Copies, copy.family("IPv6"));
    for (name, four, six) in [
        ("a", "192.0.2.1", "2001:db8::1"),
        ("b", "192.0.2.2", "2001:db8::2"),
    ] {
        index.apply_node(node(name).internal(four).internal(six));
    }
    index.nodes_listed(&["a".to_owned(), "b".to_owned()].into());
    let targets = targets(&index);
    assert_eq!(targets.len(), 16);
    assert!(
        targets.contains(&"[2001:db8::1]:6443".to_owned())
            && !targets.contains(&"[2001:db8::2]:6443".to_owned())
    );
}

#[test]
fn only_changes_of_api_servers_are_recorded() {
    let mut index = filled();
    index.apply_service(&service("web").source("default", "app"));
    let mut seen = index.api_servers_changed();
    let mut is_recorded = |index: &Index| std::mem::replace(&mut seen, index.api_servers_changed()) != seen;

    let copy = copy_for("vip", &["192.0.2.1"]);
    index.apply_slice(&Scope::Copies, copy.clone());
    assert!(is_recorded(&index), "a copy of the API servers");
    index.apply_slice(&Scope::Copies, copy.clone());
    assert!(!is_recorded(&index), "the same copy again");
    index.apply_slice(&Scope::Copies, copy_for("web", &["192.0.2.9"]));
    index.apply_slice(&named(&["app", "kubernetes", "vip"]), slice("app-x").of("app"));
    assert!(!is_recorded(&index), "a copy and a slice of another source");
    index.apply_slice(&named(&["app", "kubernetes", "vip"]), slice("kubernetes"));
    assert!(is_recorded(&index), "a slice of default/kubernetes");
    index.apply_service(&service("vip").annotate(annotation::PROBE, "off").version(8));
    assert!(is_recorded(&index), "a Service that copies the API servers");
    index.delete_slice(&Scope::Copies, &copy.metadata);
    assert!(is_recorded(&index), "a deleted copy");
    index.delete_service(&key("vip"));
    assert!(is_recorded(&index), "a deleted Service");
}
