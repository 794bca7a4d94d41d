//! Copies that a backup tool has restored: without an owner, and as old as the backup.

use super::following::{copy_key, world};
use crate::model::{
    CrossNamespace, EndpointSlice, Reason, ServiceKey, SliceKey, annotation, label_of, provenance,
};
use crate::testing::world::{World, Write};
use crate::testing::{Build, BuildService, BuildSlice, node, owner, plain_service, service, slice};

/// The label that the backup tool adds.
const RESTORED_BY: &str = "velero.io/restore-name";

/// Changes a copy in the way that a restore from another cluster's backup does.
fn restore(copy: &mut EndpointSlice) {
    *copy = copy
        .clone()
        .endpoints(["203.0.113.1", "203.0.113.2"])
        .annotate(provenance::UID, "uid-before")
        .annotate(provenance::RESOURCE_VERSION, "99999999")
        .label(RESTORED_BY, "monday")
        .edit(|copy| copy.metadata.owner_references = None);
}

/// `vip` with a copy of `kubernetes` from a backup.
fn restored() -> World {
    let mut world = world().settled("vip");
    world.edit(&copy_key("kubernetes"), restore);
    world
}

/// Rule: 2.restored
#[test]
fn restored_copy_gets_its_owner_and_the_endpoints_of_its_source() {
    let before = world().settled("vip");
    let mut world = restored();
    assert_eq!(world.reasons("vip"), []);
    assert_eq!(world.settle("vip"), [Write::Update(copy_key("kubernetes"))]);
    let (now, was) = (world.copy("vip"), before.copy("vip"));
    assert_eq!(now.metadata.owner_references, Some(vec![owner("vip")]));
    assert_eq!(now.endpoints, was.endpoints);
    assert_eq!(now.provenance(), was.provenance());
    assert_eq!(label_of(&now.metadata, RESTORED_BY), Some("monday"));
}

/// Rule: 2.restored
#[test]
fn restored_copy_that_is_right_but_for_its_owner_is_adopted() {
    let mut another = owner("vip");
    another.controller = None;
    for owners in [None, Some(vec![]), Some(vec![another])] {
        let mut world = world().settled("vip");
        world.edit(&copy_key("kubernetes"), |copy| {
            copy.metadata.owner_references = owners;
        });
        assert_eq!(world.settle("vip"), [Write::Update(copy_key("kubernetes"))]);
        assert!(!world.copy("vip").has_no_controller());
    }
}

/// Rule: 2.restored
#[test]
fn restored_copy_that_no_service_wants_is_deleted() {
    type Change = fn(&mut World);
    let vip = ServiceKey::new("default", "vip");
    let changes: [(&str, Change); 3] = [
        ("not managed", |world| world.put_service(plain_service("vip"))),
        ("another source", |world| {
            world.put_service(service("vip").source("web", "app"));
        }),
        ("gone", |world| world.services.clear()),
    ];
    for (what, change) in changes {
        let mut world = restored();
        change(&mut world);
        let plan = world.plan_for(&vip);
        assert_eq!(
            world.apply(plan),
            [Write::Delete(copy_key("kubernetes"))],
            "{what}"
        );
        assert!(world.plan_for(&vip).is_done(), "{what}");
    }
}

/// Rule: 2.restored
#[test]
fn restored_copy_of_a_slice_that_is_gone_is_deleted() {
    let mut world = world()
        .slice(slice("gone").endpoints(["192.0.2.7"]))
        .settled("vip");
    world.edit(&copy_key("gone"), restore);
    world.slices.remove(&SliceKey::new("default", "gone"));
    assert_eq!(world.settle("vip"), [Write::Delete(copy_key("gone"))]);
}

/// Rule: 2.restored, 9.copies-by-annotation
#[test]
fn restored_copy_of_a_source_without_consent_is_deleted() {
    let source = slice("app-x7k2p").namespace("web").of("app");
    for enabled in ["true", "ture"] {
        let vip = service("vip")
            .source("web", "app")
            .annotate(annotation::ENABLED, enabled);
        let mut world = World::new()
            .service(service("vip").source("web", "app"))
            .slice(source.clone().endpoints(["192.0.2.1"]))
            .settled("vip");
        world.defaults.consent.cross_namespace = CrossNamespace::Consent;
        let key = SliceKey::of(&world.copy("vip").metadata);
        world.edit(&key, restore);
        world.put_service(vip);
        assert_eq!(world.settle("vip"), [Write::Delete(key)], "{enabled}");
    }
}

/// Rule: 2.restored, 1.enabled-typo
#[test]
fn restored_copy_stays_while_an_annotation_is_invalid() {
    let mut world = restored();
    world.put_service(service("vip").annotate(annotation::ENABLED, "ture"));
    assert!(world.plan("vip").is_done());
}

/// Rule: 2.restored, 3.held
#[test]
fn restored_copy_is_not_held_while_the_source_is_empty() {
    let mut bare = restored();
    bare.put(slice("kubernetes"));
    bare.settle("vip");
    let mut gone = restored();
    gone.slices.remove(&SliceKey::new("default", "kubernetes"));
    gone.settle("vip");
    for world in [bare, gone] {
        let copies = world.copies("vip");
        assert!(copies.iter().all(|copy| copy.is_empty()), "{copies:#?}");
        assert!(!world.reasons("vip").contains(&Reason::SourceEmptyHeld));
    }
}

/// Rule: 2.restored, 8.never-last
#[test]
fn restored_address_is_not_kept_as_the_last_of_its_family() {
    let mut world = world()
        .service(service("vip").families(&["IPv4", "IPv6"]))
        .nodes([node("a").internal("192.0.2.1").internal("2001:db8::1")])
        .settled("vip");
    world.list_nodes([node("a").internal("192.0.2.1")]);
    let kept = world.clone().settled("vip");
    assert!(
        kept.copies("vip").iter().all(|copy| !copy.is_empty()),
        "an address that the operator wrote is not kept"
    );
    let copies = world.copies("vip");
    let six = copies.iter().find(|copy| copy.address_type == "IPv6");
    let six = SliceKey::of(&six.expect("a copy").metadata);
    world.edit(&six, |copy| {
        *copy = copy.clone().endpoints(["2001:db8::bad"]);
        copy.metadata.owner_references = None;
    });
    world.settle("vip");
    // Neither the source nor Nodes have endpoints of this family, so the restored copy is deleted, not emptied.
    assert!(!world.slices.contains_key(&six));
}

/// Rule: 2.restored
#[test]
fn restored_copy_affects_only_the_service_in_its_namespace() {
    // A restore can map namespaces, and somebody with write access to slices in a namespace can forge a copy there.
    let copy = world().settled("vip").copy("vip").clone();
    let elsewhere = copy.namespace("web").edit(restore);
    let mut world = World::new()
        .service(service("vip"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
        .slice(elsewhere)
        .settled("vip");
    assert_eq!(world.copies("vip").len(), 1);
    let there = ServiceKey::new("web", "vip");
    let plan = world.plan_for(&there);
    let name = copy_key("kubernetes");
    let deleted = SliceKey::new("web", name.name());
    assert_eq!(world.apply(plan), [Write::Delete(deleted)]);
    assert!(world.plan("vip").is_done());
}
