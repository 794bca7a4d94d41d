//! A view that might be outdated: a GET decides before a plan overwrites what was written from a newer view.

use std::collections::BTreeSet;

use crate::model::{SliceKey, copy_name, provenance};
use crate::plan::{Plan, plan};
use crate::testing::world::World;
use crate::testing::{Build, BuildSlice, plain_service, service, slice};

/// A copy that was made from version 200 of the source, while this replica sees version `seen` of the source.
fn ahead_of(seen: u64) -> World {
    World::new()
        .service(service("vip").annotate(crate::model::annotation::WHEN_SOURCE_EMPTY, "follow"))
        .slice(slice("kubernetes").version(200).endpoints(["192.0.2.1"]))
        .settled("vip")
        .slice(slice("kubernetes").version(seen).endpoints(["192.0.2.9"]))
}

fn source() -> SliceKey {
    SliceKey::new("default", "kubernetes")
}

/// The plans for `vip` before and after a GET of the source.
fn plans(world: &World) -> (Plan, Plan) {
    let mut snapshot = world.snapshot(&crate::model::ServiceKey::new("default", "vip"));
    let before = plan(&snapshot, &crate::plan::Verdicts::Off);
    snapshot.confirmed = BTreeSet::from([source()]);
    (before, plan(&snapshot, &crate::plan::Verdicts::Off))
}

/// Rule: 2.newer-claim
#[test]
fn copy_that_claims_newer_source_waits_for_read_of_source() {
    let (before, after) = plans(&ahead_of(150));
    assert!(
        before.updates.is_empty() && before.deletes.is_empty(),
        "{before:#?}"
    );
    assert_eq!(before.confirm, BTreeSet::from([source()]));
    assert_eq!(
        (after.updates.len(), after.confirm.len()),
        (1, 0),
        "after the read"
    );
}

#[test]
fn copy_of_same_or_older_version_is_overwritten_at_once() {
    for seen in [200, 201] {
        let (before, _) = plans(&ahead_of(seen));
        assert_eq!(
            (before.updates.len(), before.confirm.len()),
            (1, 0),
            "seen: {seen}"
        );
    }
}

/// Rule: 2.newer-claim
#[test]
fn version_of_another_uid_is_ignored() {
    let world = ahead_of(150).slice(slice("kubernetes").version(150).uid("new").endpoints([]));
    let (before, _) = plans(&world);
    assert_eq!((before.updates.len(), before.confirm.len()), (1, 0));
}

/// A user who is allowed to edit a copy must not be able to make the operator read slices of other namespaces.
#[test]
fn a_newer_claim_makes_the_plan_read_its_own_source_only() {
    let mut world = ahead_of(150);
    let copy = SliceKey::of(&world.copy("vip").metadata);
    world.edit(&copy, |copy| {
        let annotations = copy.metadata.annotations.get_or_insert_default();
        annotations.insert(provenance::NAMESPACE.into(), "secret".into());
        annotations.insert(provenance::SLICE.into(), "db-x7k2p".into());
    });
    let (before, after) = plans(&world);
    assert_eq!(before.confirm, BTreeSet::from([source()]));
    assert_eq!((after.updates.len(), after.confirm.len()), (1, 0));
}

#[test]
fn copy_with_the_same_content_needs_no_read() {
    let world = ahead_of(150).slice(slice("kubernetes").version(150).endpoints(["192.0.2.1"]));
    let expected = Plan {
        endpoints: 1,
        removes_leftovers: true,
        ..Plan::default()
    };
    assert_eq!(plans(&world).0, expected);
}

#[test]
fn copy_newer_than_view_is_not_deleted_before_source_read() {
    let mut world = ahead_of(150);
    world.slices.remove(&source());
    let (before, after) = plans(&world);
    assert!(before.deletes.is_empty(), "{before:#?}");
    assert_eq!(before.confirm, BTreeSet::from([source()]));
    assert_eq!(after.deletes.len(), 1);
}

/// Rule: 2.newer-claim
#[test]
fn copy_of_a_seemingly_empty_slice_waits_for_a_read() {
    let giving = slice("more").version(300).endpoints(["192.0.2.2"]);
    for (version, uid, expected) in [
        (150, "uid-kubernetes", (0, 1)),
        (201, "uid-kubernetes", (1, 0)),
        // The watch has shown all changes up to version 300, so the slice whose UID the copy names is gone.
        (150, "old", (1, 0)),
    ] {
        let seen = slice("kubernetes").version(version).uid(uid);
        let world = ahead_of(200).settled("vip").slice(giving.clone()).slice(seen);
        let (before, after) = plans(&world);
        assert_eq!(
            (before.deletes.len(), before.confirm.len()),
            expected,
            "{version} {uid}"
        );
        assert_eq!(after.deletes.len(), 1);
    }
}

#[test]
fn slice_missing_from_newer_view_needs_no_read() {
    let mut world = ahead_of(150).slice(slice("other").version(300));
    world.slices.remove(&source());
    let (before, _) = plans(&world);
    assert_eq!((before.deletes.len(), before.confirm.len()), (1, 0));
}

#[test]
fn copies_of_an_unmanaged_service_are_deleted_without_a_read() {
    let mut world = ahead_of(150);
    world.slices.remove(&source());
    world.put_service(plain_service("vip"));
    let (before, _) = plans(&world);
    assert_eq!((before.deletes.len(), before.confirm.len()), (1, 0));
}

#[test]
fn other_updates_do_not_wait_for_the_read() {
    let world = World::new()
        .service(service("vip"))
        .slice(slice("kubernetes").version(200).endpoints(["192.0.2.1"]))
        .slice(slice("more").endpoints(["192.0.2.3"]))
        .settled("vip")
        .slice(slice("kubernetes").version(150).endpoints(["192.0.2.9"]))
        .slice(slice("more").version(120).endpoints(["192.0.2.4"]));
    let (before, _) = plans(&world);
    assert_eq!((before.updates.len(), before.confirm.len()), (1, 1));
}

#[test]
fn claim_edited_by_hand_causes_only_one_read() {
    let mut world = ahead_of(200).settled("vip");
    let copy = SliceKey::new("default", copy_name("vip", &slice("kubernetes")));
    let huge = u64::MAX.to_string();
    world.edit(&copy, |copy| {
        *copy = copy.clone().annotate(provenance::RESOURCE_VERSION, &huge);
    });
    world.edit(&source(), |slice| slice.endpoints = None);
    let (before, _) = plans(&world);
    assert_eq!(before.confirm.len(), 1);
    assert_eq!(world.settle("vip").len(), 1);
}

/// A source slice without a copy.
fn uncopied() -> World {
    World::new()
        .service(service("vip"))
        .slice(slice("kubernetes").version(100).endpoints(["192.0.2.1"]))
}

/// Rule: 2.create-confirmed
#[test]
fn copy_from_doubtful_view_waits_for_read_of_slice() {
    let mut snapshot = uncopied().snapshot(&crate::model::ServiceKey::new("default", "vip"));
    let planned = |snapshot: &_| {
        let plan = plan(snapshot, &crate::plan::Verdicts::Off);
        (plan.creates.len(), plan.confirm.contains(&source()))
    };
    assert_eq!(planned(&snapshot), (1, false), "without doubt");
    snapshot.in_doubt = true;
    assert_eq!(planned(&snapshot), (0, true));
    snapshot.confirmed = BTreeSet::from([source()]);
    assert_eq!(planned(&snapshot), (1, false));
}

/// Rule: 2.create-confirmed
#[test]
fn a_copy_of_a_newer_source_puts_creates_in_doubt() {
    for (version, creates) in [("100", 1), ("101", 0)] {
        let claimed = slice("claims").copied("vip", "other");
        let claimed = claimed.annotate(provenance::RESOURCE_VERSION, version);
        let (before, after) = plans(&uncopied().slice(claimed));
        assert_eq!(before.creates.len(), creates, "{version}");
        assert_eq!(after.creates.len(), 1, "{version}");
    }
}
