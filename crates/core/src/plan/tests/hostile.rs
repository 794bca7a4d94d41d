//! No object in the cluster causes a panic, an Event note that is too long, or an endlessly repeated write.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::{Endpoint, EndpointSlice, Service, ServiceSpec};
use crate::model::{
    Finding, ManagedService, PermittedPorts, ServiceKey, SlicesByKey, Snapshot, Source, annotation,
    copy_name, provenance,
};
use crate::plan::{Plan, plan};
use crate::testing::world::World;
use crate::testing::{Build, BuildService, BuildSlice, defaults, endpoint, service, slice, slice_port};

/// Plans directly from objects, including objects that the index would not accept.
fn plan_of(service: &Service, source: &[EndpointSlice], existing: &[EndpointSlice]) -> Plan {
    let managed = ManagedService::read(service, &defaults()).expect("a managed Service");
    let shared = |slices: &[EndpointSlice]| -> SlicesByKey {
        let slices = slices.iter().cloned().map(Arc::new);
        slices.map(|slice| (slice.key(), slice)).collect()
    };
    let (copies, others) = shared(existing)
        .into_iter()
        .partition(|(_, slice)| slice.is_copy_for(&managed.key));
    let plan = plan(
        &Snapshot {
            key: managed.key.clone(),
            source: managed.source().map(|key| Source {
                key: key.clone(),
                exists: false,
                has_copies: false,
                slices: shared(source),
                unreadable: BTreeSet::new(),
                ports: PermittedPorts::Any,
            }),
            refusal: None,
            without_consent: BTreeSet::new(),
            named_after_others: BTreeSet::new(),
            service: Some(managed.into()),
            copies,
            others,
            unreadable: BTreeSet::new(),
            outlines: BTreeSet::new(),
            seen: u64::MAX,
            in_doubt: false,
            cause: None,
            reports_probes: false,
            nodes: crate::model::KnownNodes::default(),
            confirmed: BTreeSet::new(),
        },
        &crate::plan::Verdicts::Off,
    );
    for Finding { reason, note } in &plan.findings {
        assert!(note.len() <= 1000, "{reason}: {} bytes", note.len());
    }
    plan
}

/// Rule: survive.odd-objects
#[test]
fn empty_objects_are_planned_without_a_panic() {
    let bare = Service::default().annotate(annotation::ENABLED, "true");
    let empty_spec = bare
        .clone()
        .edit(|service| service.spec = Some(ServiceSpec::default()));
    let unnamed = EndpointSlice::default();
    let nothing_but_type = EndpointSlice {
        address_type: "IPv4".to_owned(),
        endpoints: Some(vec![Endpoint::default()]),
        ..EndpointSlice::default()
    };
    let odd_type = slice("odd").family("IPv5");
    let all = [unnamed, nothing_but_type, odd_type, slice("")];
    for service in [bare, empty_spec, service(""), service("vip")] {
        plan_of(&service, &all, &all);
        plan_of(&service, &[], &all);
    }
}

/// Rule: 2.delete-preconditions
#[test]
fn copy_without_a_uid_is_not_deleted() {
    let copy = slice("copy")
        .copied("vip", "gone")
        .edit(|copy| copy.metadata.uid = None);
    let plan = plan_of(&service("vip"), &[slice("kubernetes")], &[copy]);
    assert_eq!(plan.deletes, []);
}

#[test]
fn copy_of_a_source_with_an_invalid_version_is_written_once() {
    for version in [
        None,
        Some(""),
        Some("abc"),
        Some("-1"),
        Some("99999999999999999999999"),
    ] {
        let source = slice("kubernetes").endpoints(["192.0.2.1"]);
        let source = source.edit(|slice| slice.metadata.resource_version = version.map(str::to_owned));
        World::new().service(service("vip")).slice(source).settled("vip");
    }
}

#[test]
fn invalid_port_numbers_are_left_to_the_api_server() {
    let ports = [i32::MIN, -1, 0, i32::MAX];
    let service = ports
        .iter()
        .fold(service("vip").no_ports(), |service, &number| {
            service.number("p", number)
        })
        .add_port("", IntOrString::String(String::new()));
    let ports = ports.map(|number| slice_port("p", number));
    let source = slice("kubernetes").ports(&ports).endpoints(["192.0.2.1"]);
    let plan = plan_of(&service, &[source], &[]);
    assert_eq!(plan.creates.len(), 1);
}

/// Rule: survive.large
#[test]
fn the_largest_slice_and_service_are_planned() {
    let addresses: Vec<_> = (0..1000)
        .map(|n| format!("192.0.{}.{}", n / 250, n % 250))
        .collect();
    let service_name = "s".repeat(63);
    let ports: Vec<_> = (0..100)
        .map(|n| slice_port(&format!("port-{n}"), n + 1))
        .collect();
    let managed = (0..100).fold(service(&service_name).no_ports(), |service, n| {
        service.port(&format!("p-{n}"), &format!("port-{}", n * 2))
    });
    let source = slice(&"x".repeat(253))
        .ports(&ports)
        .endpoints(addresses.iter().map(String::as_str))
        .annotate(provenance::TRIGGER_TIME, &"ä".repeat(100 * 1024));
    let mut world = World::new().service(managed).slice(source);
    assert_eq!(world.settle(&service_name).len(), 1);
    let copy = world.copy(&service_name);
    assert_eq!(copy.endpoints.as_ref().map(Vec::len), Some(1000));
    assert_eq!(copy.ports.as_ref().map(Vec::len), Some(50));
    for finding in world.findings(&service_name) {
        assert!(
            finding.note.len() <= 1000 && finding.note.contains("use a number"),
            "{}",
            finding.note
        );
    }
}

/// Rule: 2.one-to-one
#[test]
fn source_slices_with_equal_content_get_one_copy_each() {
    let source = [
        slice("a").endpoints(["192.0.2.1"]),
        slice("b").endpoints(["192.0.2.1"]),
    ];
    let plan = plan_of(&service("vip"), &source, &[]);
    assert_eq!(plan.creates.len(), 2);
}

#[test]
fn removing_one_of_two_equal_endpoints_causes_a_write() {
    let twice = slice("kubernetes").endpoints(["192.0.2.1", "192.0.2.1"]);
    let mut world = World::new().service(service("vip")).slice(twice).settled("vip");
    let key = crate::model::SliceKey::new("default", "kubernetes");
    world.edit(&key, |slice| slice.endpoints = Some(vec![endpoint("192.0.2.1")]));
    assert_eq!(world.settle("vip").len(), 1);
}

/// Rule: 3.events-note
#[test]
fn long_note_is_truncated_between_characters() {
    for length in 990..1010 {
        let finding = Finding::new(
            crate::model::Reason::WriteRefused,
            "x".repeat(length) + &"ä".repeat(500),
        );
        assert!(finding.note.len() <= 1000, "{} bytes", finding.note.len());
        assert!(finding.note.starts_with(&"x".repeat(length.min(990))));
    }
    let short = Finding::new(crate::model::Reason::WriteRefused, "ä".repeat(500));
    assert_eq!(
        short.note,
        "ä".repeat(500),
        "a note of exactly 1,000 bytes is truncated"
    );
}

#[test]
fn a_slice_that_names_two_services_belongs_to_its_owner() {
    let existing = slice("x").copied("vip", "gone").of("other");
    let plan = plan_of(
        &service("vip"),
        &[slice("kubernetes")],
        std::slice::from_ref(&existing),
    );
    assert_eq!(plan.deletes.len(), 1, "the plan of the owner");
    let plan = plan_of(&service("other"), &[slice("kubernetes")], &[existing]);
    assert_eq!(plan.deletes, []);
    assert_ne!(copy_name("vip", &slice("a")), copy_name("other", &slice("a")));
    assert_eq!(ServiceKey::new("a", "b").to_string(), "a/b");
}
