//! Objects that cannot be decoded change nothing.

use std::collections::HashSet;
use std::sync::Arc;

use crate::index::{Index, Scope};
use crate::model::{
    EndpointSlice, ObjectMeta, Reason, ServiceKey, SliceKey, Snapshot, Unreadable, annotation, copy_name,
    label,
};
use crate::plan::{Plan, plan};
use crate::testing::world::World;
use crate::testing::{Build as _, BuildService as _, BuildSlice as _, node, plain_service, service, slice};

fn vip() -> ServiceKey {
    ServiceKey::new("default", "vip")
}

/// `vip` copies `kubernetes`, which has two slices.
fn world() -> World {
    World::new()
        .service(service("vip"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
        .slice(slice("more").endpoints(["192.0.2.2"]))
        .settled("vip")
}

pub(super) fn unreadable(metadata: &ObjectMeta) -> Unreadable {
    Unreadable {
        metadata: metadata.clone(),
        condition: None,
        error: "invalid type".to_owned(),
    }
}

fn named_scope() -> Scope {
    Scope::Named(Arc::new(["kubernetes", "vip"].map(str::to_owned).into()))
}

fn plan_of(index: &Index) -> (Snapshot, Plan) {
    let snapshot = index.snapshot(&vip()).expect("everything is listed");
    let plan = plan(&snapshot, &crate::plan::Verdicts::Off);
    (snapshot, plan)
}

fn reasons(plan: &Plan) -> Vec<Reason> {
    plan.findings.iter().map(|finding| finding.reason).collect()
}

/// The index of a replica that starts and can decode everything except this slice.
pub(super) fn restarted(world: &World, broken: &EndpointSlice) -> Index {
    let mut without = world.clone();
    without.slices.remove(&SliceKey::of(&broken.metadata));
    let mut index = without.index();
    let scope = if broken.is_labeled_as_copy() {
        Scope::Copies
    } else {
        named_scope()
    };
    index.apply_unreadable_slice(&scope, &unreadable(&broken.metadata));
    index
}

#[test]
fn copies_stay_when_their_service_becomes_unreadable() {
    let mut index = world().index();
    let metadata = service("vip").metadata;
    assert_eq!(index.service_unreadable(&unreadable(&metadata)), [vip()].into());
    let (_, plan) = plan_of(&index);
    assert!(plan.is_done(), "{plan:#?}");
    assert_eq!(reasons(&plan), [Reason::Unreadable]);
    assert!(
        index.service_unreadable(&unreadable(&metadata)).is_empty(),
        "nothing new"
    );
    assert_eq!(
        index.apply_service(&service("vip")),
        [vip()].into(),
        "readable again"
    );
    assert!(reasons(&plan_of(&index).1).is_empty());
}

#[test]
fn unreadable_service_with_copies_or_annotations_is_managed() {
    let bare = plain_service("vip").metadata;
    let annotated = plain_service("vip")
        .annotate(annotation::WHEN_SOURCE_EMPTY, "hold")
        .metadata;
    for (settled, metadata, expected) in [
        (true, &bare, vec![Reason::Unreadable]),
        (false, &annotated, vec![Reason::Unreadable]),
        (false, &bare, vec![]),
    ] {
        let mut world = if settled { world() } else { World::new() };
        world.services.remove(&vip());
        let mut index = world.index();
        index.service_unreadable(&unreadable(metadata));
        let (_, plan) = plan_of(&index);
        assert!(plan.is_done(), "{plan:#?}");
        assert_eq!(reasons(&plan), expected, "{settled} {metadata:?}");
    }
}

#[test]
fn service_named_by_flags_is_managed_even_if_unreadable() {
    let mut index = World::new().index();
    let key = ServiceKey::new("default", "kubernetes-vip");
    index.service_unreadable(&unreadable(&plain_service("kubernetes-vip").metadata));
    assert!(index.is_managed(&key));
}

#[test]
fn the_copy_of_an_unreadable_slice_stays_and_the_others_follow() {
    let mut world = world();
    world.put(slice("more").endpoints(["192.0.2.3"]));
    for was_known in [true, false] {
        let broken = slice("kubernetes");
        let index = if was_known {
            let mut index = world.index();
            index.apply_unreadable_slice(&named_scope(), &unreadable(&broken.metadata));
            index
        } else {
            restarted(&world, &broken)
        };
        let (_, plan) = plan_of(&index);
        assert!(plan.creates.is_empty() && plan.deletes.is_empty(), "{plan:#?}");
        let updated = plan
            .updates
            .iter()
            .map(|copy| crate::model::label_of(&copy.metadata, label::SOURCE));
        assert_eq!(updated.collect::<Vec<_>>(), [Some("more")], "known: {was_known}");
        assert!(reasons(&plan).is_empty(), "{plan:#?}");
    }
}

#[test]
fn unreadable_slice_does_not_start_a_hold() {
    let world = World::new()
        .service(service("vip"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
        .settled("vip");
    let (_, plan) = plan_of(&restarted(&world, &slice("kubernetes")));
    assert!(plan.is_done() && plan.findings.is_empty(), "{plan:#?}");
}

/// Rule: 2.empty-beside-others
#[test]
fn empty_copy_is_deleted_beside_that_of_an_unreadable_slice() {
    let mut world = world();
    world.put(slice("more"));
    let (_, plan) = plan_of(&restarted(&world, &slice("kubernetes")));
    let deleted = plan.deletes.iter().map(|delete| delete.key.name());
    let empty = copy_name("vip", &slice("more"));
    assert_eq!(deleted.collect::<Vec<_>>(), [empty.as_str()]);
    assert!(plan.updates.is_empty() && plan.creates.is_empty(), "{plan:#?}");
}

/// A hold of one family ends if the copy of an unreadable slice has endpoints of that family. These slices have no
/// copy.
#[test]
fn unreadable_slice_without_a_copy_does_not_end_a_hold() {
    let mut world = World::new()
        .service(service("vip"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
        .settled("vip");
    world.put(slice("kubernetes"));
    for broken in [slice("more"), slice("v6").family("IPv6")] {
        let (_, plan) = plan_of(&restarted(&world, &broken));
        assert!(plan.is_done(), "{plan:#?}");
        assert_eq!(reasons(&plan), [Reason::SourceEmptyHeld]);
    }
}

#[test]
fn copy_of_an_unreadable_slice_is_deleted_with_the_slice() {
    let world = world();
    let broken = slice("kubernetes");
    let deleted = broken.clone().version(5000).metadata;
    let mut by_event = restarted(&world, &broken);
    assert_eq!(by_event.delete_slice(&named_scope(), &deleted), [vip()].into());
    let mut by_list = restarted(&world, &broken);
    let listed: HashSet<_> = [SliceKey::of(&slice("more").metadata)].into();
    assert_eq!(by_list.slices_listed(&named_scope(), &listed), [vip()].into());
    for index in [by_event, by_list] {
        let (_, plan) = plan_of(&index);
        assert_eq!((plan.deletes.len(), plan.updates.len()), (1, 0), "{plan:#?}");
    }
}

#[test]
fn unreadable_copy_is_neither_written_nor_deleted() {
    let mut world = world();
    let copy = world.copies("vip")[0].clone();
    world.put(slice("kubernetes").endpoints(["192.0.2.9"]));
    world.put(slice("more").endpoints(["192.0.2.9"]));
    let mut index = restarted(&world, &copy);
    let written = |index: &Index| {
        let (_, plan) = plan_of(index);
        assert!(plan.deletes.is_empty(), "{plan:#?}");
        let all = plan.creates.iter().chain(&plan.updates);
        all.map(|slice| SliceKey::of(&slice.metadata)).collect::<Vec<_>>()
    };
    let key = SliceKey::of(&copy.metadata);
    assert!(!written(&index).contains(&key));
    index.list_slice(&Scope::Copies, copy);
    assert!(written(&index).contains(&key), "readable again");
}

/// Rule: 8.unreadable-slice
#[test]
fn copies_from_nodes_stay_when_a_source_slice_is_unreadable() {
    let nodes = || {
        [("a", "1"), ("b", "2")].map(|(name, end)| {
            node(name)
                .internal(&format!("192.0.2.{end}"))
                .internal(&format!("2001:db8::{end}"))
        })
    };
    let single = world()
        .service(service("vip").families(&["IPv4", "IPv6"]))
        .nodes(nodes())
        .settled("vip");
    let own = slice("own").family("IPv6").endpoints(["2001:db8::9"]);
    for (what, world, broken) in [
        ("one of two", single.clone(), slice("more")),
        (
            "a slice of the second family",
            single.clone().slice(own.clone()).settled("vip"),
            own,
        ),
    ] {
        let copies = world.copies("vip").len();
        let (snapshot, plan) = plan_of(&restarted(&world, &broken));
        assert!(plan.is_done(), "{what}: {plan:#?}");
        assert_eq!(snapshot.copies.len(), copies, "{what}");
    }
}
