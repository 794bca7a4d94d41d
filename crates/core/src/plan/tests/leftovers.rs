//! Slices of the Go operator, and the conditions for their deletion.

use crate::model::{EndpointSlice, Reason, Service, SliceKey, annotation, copy_name, label};
use crate::plan::Plan;
use crate::testing::world::{World, Write};
use crate::testing::{Build, BuildService, BuildSlice, plain_service, service, slice};

/// The slice that version 0.3 of the Go operator makes for a Service.
fn leftover(name: &str) -> EndpointSlice {
    slice(name)
        .of(name)
        .label(label::SOURCE, "kubernetes")
        .endpoints(["192.0.2.9"])
}

fn world() -> World {
    World::new()
        .service(service("vip").source("default", "kubernetes"))
        .slice(leftover("vip"))
}

fn source() -> EndpointSlice {
    slice("kubernetes").of("kubernetes").endpoints(["192.0.2.1"])
}

fn removed(plan: &Plan) -> Vec<&str> {
    plan.leftovers.iter().map(|delete| delete.key.name()).collect()
}

/// Rule: 3.leftover-slice
#[test]
fn slice_of_the_go_operator_is_deleted_after_the_creates() {
    let mut world = world().slice(source());
    let plan = world.plan("vip");
    assert_eq!((plan.creates.len(), removed(&plan)), (1, vec!["vip"]));
    let writes = world.settle("vip");
    assert!(
        matches!(writes[..], [Write::Create(_), Write::Delete(_)]),
        "{writes:?}"
    );
}

/// A slice of the Go operator is a copy too, and its source might be in another namespace.
/// Rule: 1.copy-is-no-source, 1.source-is-copy
#[test]
fn a_slice_of_the_go_operator_is_no_source() {
    let world = World::new()
        .service(service("vip").source("default", "old").number("any", 22))
        .service(plain_service("old"))
        .slice(leftover("old"));
    assert!(world.plan("vip").is_done());
    assert_eq!(world.reasons("vip"), [Reason::SourceIsCopy]);
    let mut world = world.slice(slice("old-x7k2p").of("old").endpoints(["192.0.2.1"]));
    assert_eq!(world.settle("vip").len(), 1);
    assert_eq!(
        world.copy("vip").source(),
        Some(SliceKey::new("default", "old-x7k2p"))
    );
    assert_eq!(world.reasons("vip"), []);
}

/// Rule: 3.leftover-slice
#[test]
fn leftover_without_a_copy_to_replace_it_stays() {
    assert!(world().plan("vip").is_done(), "the source has no slice");
    let empty = source().endpoints([]);
    assert!(
        world().slice(empty).plan("vip").is_done(),
        "copies of the API source are held while it is empty"
    );
    let follow = |service: Service| service.annotate(annotation::WHEN_SOURCE_EMPTY, "follow");
    let invalid = World::new()
        .service(follow(service("vip").source("default", "other")))
        .service(service("other"))
        .slice(leftover("vip"))
        .slice(source())
        .settled("other");
    assert!(
        invalid.plan("vip").is_done(),
        "all slices of the source are copies, which are never a source"
    );
    let unresolved = follow(service("vip").no_ports().port("https", "nobody"));
    let unresolved = world().service(unresolved).slice(source());
    assert!(unresolved.plan("vip").is_done(), "no port has a number");
    let mut terminating = world().slice(source());
    terminating.put_service(service("vip").source("default", "kubernetes").deleting());
    assert!(terminating.plan("vip").is_done(), "the Service is terminating");
}

/// Rule: 3.leftover-empty
#[test]
fn leftover_is_deleted_when_an_empty_source_is_followed() {
    let follow = service("vip").annotate(annotation::WHEN_SOURCE_EMPTY, "follow");
    let world = world().service(follow);
    let empty = world.clone().slice(source().endpoints([]));
    let taken = slice(&copy_name("vip", &source())).of("vip");
    for world in [world, empty.clone(), empty.slice(taken)] {
        let plan = world.plan("vip");
        assert_eq!((removed(&plan), plan.creates.len()), (vec!["vip"], 0));
    }
}

/// Rule: 1.enabled-false-leftovers
#[test]
fn leftover_is_deleted_with_copies_of_a_disabled_service() {
    let disabled = service("vip").annotate(annotation::ENABLED, "false");
    let mut copied = World::new()
        .service(service("vip"))
        .slice(source())
        .settled("vip")
        .slice(leftover("vip"));
    for service in [disabled.clone(), disabled.deleting()] {
        copied.put_service(service);
        let plan = copied.plan("vip");
        assert_eq!((plan.deletes.len(), removed(&plan)), (1, vec!["vip"]));
        assert!(plan.findings.is_empty(), "{:?}", plan.findings);
    }
    copied.put_service(plain_service("vip"));
    let plan = copied.plan("vip");
    assert_eq!(plan.deletes.len(), 1);
    assert!(removed(&plan).is_empty(), "the annotation is missing");
}

/// Rule: 3.leftover-slice
#[test]
fn a_copy_whose_name_is_taken_replaces_nothing() {
    let mut world = world().slice(source());
    let name = SliceKey::of(&world.plan("vip").creates[0].metadata);
    world.put(slice(name.name()).of("vip"));
    assert!(removed(&world.plan("vip")).is_empty());
}

/// Rule: 3.leftover-slice
#[test]
fn only_what_the_go_operator_made_is_a_leftover() {
    type Edit = fn(EndpointSlice) -> EndpointSlice;
    let cases: [(&str, Edit); 4] = [
        ("another name", |slice| {
            slice.edit(|slice| slice.metadata.name = Some("vip-2".to_owned()))
        }),
        ("no source label", |slice| slice.without_label(label::SOURCE)),
        ("managed by another", |slice| {
            slice.label(label::MANAGED_BY, "someone")
        }),
        ("owned", |slice| {
            slice.edit(|slice| slice.metadata.owner_references = Some(vec![crate::testing::owner("vip")]))
        }),
    ];
    for (what, edit) in cases {
        let mut world = World::new()
            .service(service("vip").source("default", "kubernetes"))
            .slice(source())
            .slice(edit(leftover("vip")));
        assert!(removed(&world.plan("vip")).is_empty(), "{what}");
        assert!(world.reasons("vip").contains(&Reason::ForeignSlices), "{what}");
        world.put_service(service("vip").annotate(annotation::ENABLED, "false"));
        assert!(world.plan("vip").is_done(), "{what}");
    }
    assert!(
        !world()
            .slice(source())
            .reasons("vip")
            .contains(&Reason::ForeignSlices),
        "the leftover is reported as foreign"
    );
}
