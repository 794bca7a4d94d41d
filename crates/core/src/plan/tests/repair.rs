//! Copies that somebody edited or deleted by hand.

use super::following::{copy_key, world};
use crate::model::EndpointSlice;
use crate::model::{Reason, label, provenance};
use crate::testing::world::Write;
use crate::testing::{Build, BuildSlice, plain_service};

/// Rule: 3.repair
#[test]
fn a_copy_is_repaired_after_an_edit_by_hand() {
    for (what, edit) in [
        (
            "endpoints",
            (|copy| copy.endpoints = None) as fn(&mut EndpointSlice),
        ),
        ("ports", |copy| copy.ports = None),
        ("service-name", |copy| *copy = copy.clone().of("other")),
        ("no service-name", |copy| {
            *copy = copy.clone().without_label(label::SERVICE_NAME);
        }),
        ("headless", |copy| *copy = copy.clone().label(label::HEADLESS, "")),
        ("source label", |copy| {
            *copy = copy.clone().without_label(label::SOURCE);
        }),
        ("source-slice", |copy| {
            *copy = copy.clone().annotate(provenance::SLICE, "x");
        }),
        ("source-uid", |copy| {
            *copy = copy.clone().annotate(provenance::UID, "x");
        }),
        ("no version", |copy| {
            *copy = copy.clone().without_annotation(provenance::RESOURCE_VERSION);
        }),
        ("an invalid version", |copy| {
            *copy = copy.clone().annotate(provenance::RESOURCE_VERSION, "-1");
        }),
        ("owner", |copy| {
            copy.metadata.owner_references.as_mut().unwrap()[0].uid = "x".to_owned();
        }),
    ] {
        let before = world().settled("vip");
        let mut world = before.clone();
        world.edit(&copy_key("kubernetes"), edit);
        assert_eq!(
            world.settle("vip"),
            [Write::Update(copy_key("kubernetes"))],
            "{what}"
        );
        let (mut is, mut was) = (world.copy("vip").clone(), before.copy("vip").clone());
        (is.metadata.resource_version, was.metadata.resource_version) = (None, None);
        assert_eq!(is, was, "{what}");
    }
}

/// Rule: 3.repair
#[test]
fn a_copy_is_recreated_after_a_deletion_by_hand() {
    let mut world = world().settled("vip");
    world.slices.remove(&copy_key("kubernetes"));
    assert_eq!(world.settle("vip"), [Write::Create(copy_key("kubernetes"))]);
}

/// Rule: 2.others-additions
#[test]
fn additions_of_others_to_a_copy_cause_no_write() {
    let mut world = world().settled("vip");
    world.edit(&copy_key("kubernetes"), |copy| {
        *copy = copy.clone().label("app", "x").annotate("note", "y");
    });
    assert!(world.plan("vip").is_done());
}

#[test]
fn copy_with_owner_edited_to_another_service_is_replaced() {
    let mut world = world().service(plain_service("other")).settled("vip");
    world.edit(&copy_key("kubernetes"), |copy| {
        copy.metadata.owner_references = Some(vec![crate::testing::owner("other")]);
    });
    assert_eq!(world.reasons("vip"), [Reason::NameTaken]);
    assert_eq!(world.settle("other"), [Write::Delete(copy_key("kubernetes"))]);
    assert_eq!(world.settle("vip"), [Write::Create(copy_key("kubernetes"))]);
}

#[test]
fn copy_of_the_wrong_address_type_is_deleted_then_recreated() {
    // The address type is immutable, so the copy cannot be updated.
    let mut world = world().settled("vip");
    world.edit(&copy_key("kubernetes"), |copy| {
        copy.address_type = "IPv6".to_owned();
    });
    let plan = world.plan("vip");
    assert_eq!(world.apply(plan), [Write::Delete(copy_key("kubernetes"))]);
    assert_eq!(world.settle("vip"), [Write::Create(copy_key("kubernetes"))]);
}

#[test]
fn copy_that_is_being_deleted_is_not_deleted_again() {
    for spoil in [
        (|copy| *copy = copy.clone().deleting()) as fn(&mut EndpointSlice),
        |copy| *copy = copy.clone().deleting().family("IPv6"),
    ] {
        let mut world = world().settled("vip");
        world.edit(&copy_key("kubernetes"), spoil);
        if world.copy("vip").address_type == "IPv4" {
            world.put_service(plain_service("vip"));
        }
        assert!(world.plan("vip").is_done(), "{:#?}", world.plan("vip"));
    }
}

/// Rule: 3.other-installation
#[test]
fn edit_that_clients_do_not_notice_is_a_cosmetic_update() {
    for (edit, expected) in [
        (
            (|copy| *copy = copy.clone().annotate(provenance::UID, "x")) as fn(&mut EndpointSlice),
            true,
        ),
        (|copy| copy.metadata.owner_references = None, true),
        (|copy| *copy = copy.clone().label(label::SOURCE, "x"), true),
        (|copy| *copy = copy.clone().of("other"), false),
        (|copy| *copy = copy.clone().label(label::HEADLESS, ""), false),
        (|copy| copy.ports = None, false),
        (|copy| *copy = copy.clone().endpoints(["203.0.113.9"]), false),
    ] {
        let mut world = world().settled("vip");
        world.edit(&copy_key("kubernetes"), edit);
        let plan = world.plan("vip");
        assert_eq!(plan.updates.len(), 1);
        assert_eq!(
            plan.cosmetic.contains(&copy_key("kubernetes")),
            expected,
            "{plan:#?}"
        );
    }
}
