//! Tests of the content of a copy.

use k8s_openapi::api::discovery::v1::{EndpointHints, ForZone};

use serde_json::json;

use super::*;
use crate::model::Defaults;
use crate::model::ports::{LeftOut, ports};
use crate::testing::{Build, BuildService, BuildSlice, defaults, endpoint, service, slice, slice_port};

mod compare;

fn read(service: &crate::model::Service) -> ManagedService {
    ManagedService::read(service, &defaults() as &Defaults).expect("a managed Service")
}

fn copy_of(source: &EndpointSlice) -> EndpointSlice {
    fresh(&read(&service("vip")), source, vec![slice_port("https", 6443)])
}

/// Rule: 2.name
#[test]
fn the_name_of_a_copy_never_changes_between_releases() {
    for (namespace, address_type, expected) in [
        ("default", "IPv4", "vip-mdxoxp2egu"),
        ("default", "IPv6", "vip-v6iiq4k2dw"),
        ("web", "IPv4", "vip-izgh6ujmmi"),
    ] {
        let source = slice("kubernetes").namespace(namespace).family(address_type);
        assert_eq!(copy_name("vip", &source), expected);
    }
}

/// Rule: 2.name-whole
#[test]
fn a_long_service_name_is_not_truncated_in_the_name_of_a_copy() {
    let service = "s".repeat(63);
    let name = copy_name(&service, &slice(&"x".repeat(253)));
    assert!(name.starts_with(&format!("{service}-")), "{name}");
    assert_eq!(name.len(), 63 + 1 + 10);
}

/// Rule: 2.labels
#[test]
fn copy_has_our_labels_and_none_of_its_source() {
    let source = slice("kubernetes")
        .label(label::HEADLESS, "")
        .label("endpointslice.kubernetes.io/skip-mirror", "true")
        .label("app", "web");
    let labels = |service| {
        let copy = fresh(&read(&service), &source, Vec::new());
        copy.metadata.labels.expect("labels")
    };
    let expected = |more: &[&'static str]| -> StringMap {
        [
            ("kubernetes.io/service-name", "vip"),
            (
                "endpointslice.kubernetes.io/managed-by",
                "endpoint-copier-operator",
            ),
            ("endpoint-copier/source", "kubernetes"),
        ]
        .into_iter()
        .chain(more.iter().map(|&key| (key, "")))
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
    };
    assert_eq!(labels(service("vip")), expected(&[]));
    assert_eq!(
        labels(service("vip").headless()),
        expected(&["service.kubernetes.io/headless"])
    );
}

/// Rule: 2.label-source-fits
#[test]
fn name_of_the_source_slice_is_a_label_only_if_it_fits() {
    for (length, fits) in [(1, true), (63, true), (64, false), (253, false)] {
        let source = "x".repeat(length);
        let copy = copy_of(&slice(&source));
        let label = label_of(&copy.metadata, label::SOURCE);
        assert_eq!(label, fits.then_some(source.as_str()), "{length} characters");
        assert_eq!(
            annotation_of(&copy.metadata, "endpoint-copier/source-slice"),
            Some(&*source)
        );
    }
}

/// Rule: 2.annotations
#[test]
fn annotations_of_a_copy_name_its_source() {
    let source = slice("kubernetes")
        .namespace("web")
        .version(42)
        .annotate("owner", "somebody");
    let expect = |source: &EndpointSlice, more: &[(&'static str, &str)]| {
        let expected: StringMap = [
            ("endpoint-copier/source-namespace", "web"),
            ("endpoint-copier/source-slice", "kubernetes"),
            ("endpoint-copier/source-uid", "uid-kubernetes"),
            ("endpoint-copier/source-resource-version", "42"),
        ]
        .iter()
        .chain(more)
        .map(|&(key, value)| (key.into(), value.into()))
        .collect();
        assert_eq!(copy_of(source).metadata.annotations, Some(expected));
    };
    expect(&source, &[]);
    let time = (
        "endpoints.kubernetes.io/last-change-trigger-time",
        "2025-01-01T00:00:00Z",
    );
    expect(&source.annotate(time.0, time.1), &[time]);
}

/// Rule: 2.owner
#[test]
fn copy_is_owned_by_service_without_blocking_its_deletion() {
    let copy = copy_of(&slice("kubernetes"));
    assert_eq!(
        copy.metadata.owner_references,
        Some(vec![crate::testing::owner("vip")])
    );
    assert_eq!(copy.metadata.namespace.as_deref(), Some("default"));
}

fn udp(mut port: EndpointPort) -> EndpointPort {
    port.protocol = Some("UDP".to_owned());
    port
}

/// Rule: 2.ports
#[test]
fn ports_come_from_the_service_and_numbers_from_the_source() {
    let no_target = |name: &str| {
        service("vip").no_ports().number(name, 0).edit(|service| {
            for port in service.spec_mut().ports.iter_mut().flatten() {
                port.target_port = None;
            }
        })
    };
    let plain = || service("vip").no_ports();
    let any = EndpointPort {
        port: None,
        ..slice_port("api", 0)
    };
    for (what, service, source, known, unresolved) in [
        (
            "a number needs no source",
            plain().number("https", 8443),
            vec![],
            vec![("https", 8443)],
            vec![],
        ),
        (
            "a number overrides the source",
            plain().number("https", 8443),
            vec![slice_port("https", 6443)],
            vec![("https", 8443)],
            vec![],
        ),
        (
            "without a target, the port itself",
            no_target("https"),
            vec![],
            vec![("https", 443)],
            vec![],
        ),
        (
            "a name is looked up",
            plain().port("https", "api"),
            vec![slice_port("web", 80), slice_port("api", 6443)],
            vec![("https", 6443)],
            vec![],
        ),
        (
            "the only port has another name",
            plain().port("https", "api"),
            vec![slice_port("https", 6443)],
            vec![],
            vec!["api"],
        ),
        (
            "another protocol",
            plain().port("https", "api"),
            vec![udp(slice_port("api", 53))],
            vec![],
            vec!["api"],
        ),
        (
            "the right one of two protocols",
            plain().port("https", "api"),
            vec![udp(slice_port("api", 53)), slice_port("api", 6443)],
            vec![("https", 6443)],
            vec![],
        ),
        (
            "a port without a number",
            plain().port("https", "api"),
            vec![any],
            vec![],
            vec!["api"],
        ),
        (
            "one of two is known",
            plain().port("https", "api").port("metrics", "m"),
            vec![slice_port("api", 6443)],
            vec![("https", 6443)],
            vec!["m"],
        ),
        (
            "no ports",
            plain().headless(),
            vec![slice_port("api", 6443)],
            vec![],
            vec![],
        ),
    ] {
        let mut missing = LeftOut::default();
        let ports = ports(&read(&service).ports, &source, |_| true, &mut missing);
        let expected: Vec<_> = known
            .iter()
            .map(|&(name, number)| slice_port(name, number))
            .collect();
        let is_made = !known.is_empty() || unresolved.is_empty();
        assert_eq!(ports, is_made.then_some(expected), "{what}");
        assert_eq!(
            missing.unresolved,
            unresolved.into_iter().map(str::to_owned).collect(),
            "{what}"
        );
    }
}

/// Rule: 2.ports
#[test]
fn a_port_keeps_protocol_and_app_protocol_of_the_service() {
    let service = service("vip").no_ports().port("dns", "dns").edit(|service| {
        for port in service.spec_mut().ports.iter_mut().flatten() {
            port.protocol = Some("UDP".to_owned());
            port.app_protocol = Some("kubernetes.io/h2c".to_owned());
            port.name = None;
        }
    });
    let source = [EndpointPort {
        app_protocol: Some("theirs".to_owned()),
        ..udp(slice_port("dns", 5353))
    }];
    let expected = EndpointPort {
        name: Some(String::new()),
        port: Some(5353),
        protocol: Some("UDP".to_owned()),
        app_protocol: Some("kubernetes.io/h2c".to_owned()),
    };
    assert_eq!(
        ports(&read(&service).ports, &source, |_| true, &mut LeftOut::default()),
        Some(vec![expected])
    );
}

/// Rule: 2.headless-no-ports
#[test]
fn copy_without_ports_has_an_empty_list_of_ports() {
    let copy = fresh(
        &read(&service("vip").headless().no_ports()),
        &slice("a"),
        Vec::new(),
    );
    assert_eq!(copy.ports, Some(Vec::new()));
}

/// Rule: 2.conditions
#[test]
fn copy_states_all_conditions() {
    let (yes, no) = (Some(true), Some(false));
    for (given, expected) in [
        ((None, None, None), (true, true, false)),
        ((yes, None, None), (true, true, false)),
        ((no, None, None), (false, false, false)),
        ((no, yes, yes), (false, true, true)),
        ((yes, no, None), (true, false, false)),
        ((None, no, no), (true, false, false)),
    ] {
        let (ready, serving, terminating) = given;
        let given = EndpointConditions {
            ready,
            serving,
            terminating,
        };
        let copied = copy_endpoint(
            &read(&service("vip")),
            &Endpoint {
                conditions: Some(given.clone()),
                ..endpoint("192.0.2.1")
            },
        );
        let expected = EndpointConditions {
            ready: Some(expected.0),
            serving: Some(expected.1),
            terminating: Some(expected.2),
        };
        assert_eq!(copied.conditions, Some(expected), "{given:?}");
    }
    let copied = copy_endpoint(&read(&service("vip")), &endpoint("192.0.2.1"));
    assert_eq!(
        copied.conditions.and_then(|conditions| conditions.ready),
        Some(true)
    );
}

/// Rule: 2.endpoints
#[test]
fn an_endpoint_keeps_its_addresses_node_zone_and_hostname() {
    let given = Endpoint {
        addresses: vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()],
        node_name: Some("n1".into()),
        zone: Some("z1".into()),
        hostname: Some("h1".into()),
        ..Endpoint::default()
    };
    let copied = copy_endpoint(&read(&service("vip")), &given);
    let expected = Endpoint {
        conditions: copied.conditions.clone(),
        ..given
    };
    assert_eq!(copied, expected);
}

/// Rule: 2.target-ref
#[test]
fn target_ref_is_kept_unless_it_names_another_namespace() {
    for (namespace, kept) in [
        (None, true),
        (Some(""), true),
        (Some("default"), true),
        (Some("web"), false),
    ] {
        let given = Endpoint {
            target_ref: serde_json::from_value(json!({"kind": "Pod", "namespace": namespace})).unwrap(),
            ..endpoint("192.0.2.1")
        };
        let copied = copy_endpoint(&read(&service("vip")), &given);
        assert_eq!(
            copied.target_ref,
            given.target_ref.filter(|_| kept),
            "{namespace:?}"
        );
    }
}

/// Rule: 2.hints
#[test]
fn hints_are_kept_for_a_service_that_asks_for_topology() {
    let given = Endpoint {
        hints: Some(Box::new(EndpointHints {
            for_zones: Some(vec![ForZone {
                name: "z1".to_owned(),
            }]),
            ..EndpointHints::default()
        })),
        ..endpoint("192.0.2.1")
    };
    let plain = read(&service("vip"));
    assert_eq!(copy_endpoint(&plain, &given).hints, None);
    let asks = read(&service("vip").annotate("service.kubernetes.io/topology-mode", "Auto"));
    assert_eq!(copy_endpoint(&asks, &given).hints, given.hints);
}
