//! Copies follow their source and their Service.

use crate::model::{EndpointSlice, Service};
use crate::model::{Reason, ServiceKey, SliceKey, annotation, copy_name, label};
use crate::testing::world::{World, Write};
use crate::testing::{Build, BuildService, BuildSlice, defaults, plain_service, service, slice};

/// A managed Service and the slice of the API source.
pub(super) fn world() -> World {
    World::new()
        .service(service("vip"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1", "192.0.2.2"]))
}

fn key(name: &str) -> SliceKey {
    SliceKey::new("default", name)
}

/// The key of the IPv4 copy of `default/<source>` for the Service `vip`.
pub(super) fn copy_key(source: &str) -> SliceKey {
    key(&copy_name("vip", &slice(source)))
}

fn addresses(slice: &EndpointSlice) -> Vec<&str> {
    slice
        .endpoints
        .iter()
        .flatten()
        .flat_map(|endpoint| &endpoint.addresses)
        .map(String::as_str)
        .collect()
}

/// Rule: 2.one-to-one
#[test]
fn a_managed_service_gets_one_copy_of_each_slice_of_its_source() {
    let mut world = world()
        .slice(slice("more").endpoints(["192.0.2.3"]))
        .slice(slice("other").of("other").endpoints(["192.0.2.4"]))
        .slice(slice("elsewhere").namespace("web").endpoints(["192.0.2.5"]));
    let mut writes = world.settle("vip");
    writes.sort();
    let mut expected = vec![
        Write::Create(copy_key("kubernetes")),
        Write::Create(copy_key("more")),
    ];
    expected.sort();
    assert_eq!(writes, expected);
    assert_eq!(
        addresses(&world.slices[&copy_key("kubernetes")]),
        ["192.0.2.1", "192.0.2.2"]
    );
    assert_eq!(addresses(&world.slices[&copy_key("more")]), ["192.0.2.3"]);
    assert_eq!(world.reasons("vip"), []);
}

/// Rule: 2.post
#[test]
fn a_created_copy_has_neither_uid_nor_version() {
    let plan = world().plan("vip");
    let [copy] = &plan.creates[..] else {
        panic!("{:?}", plan.creates)
    };
    assert_eq!(
        (&copy.metadata.uid, &copy.metadata.resource_version),
        (&None, &None)
    );
}

/// Rule: 2.family
#[test]
fn slices_of_families_that_the_service_lacks_are_not_copied() {
    for (families, expected) in [
        (&["IPv4"][..], &["a4"][..]),
        (&["IPv6"], &["a6"]),
        (&["IPv4", "IPv6"], &["a4", "a6"]),
    ] {
        let world = World::new()
            .service(service("vip").families(families))
            .slice(slice("a4").endpoints(["192.0.2.1"]))
            .slice(slice("a6").family("IPv6").endpoints(["2001:db8::1"]))
            .slice(slice("name").family("FQDN").endpoints(["api.example.com"]))
            .settled("vip");
        let mut copied: Vec<_> = world
            .copies("vip")
            .into_iter()
            .map(|copy| {
                copy.metadata
                    .labels
                    .as_ref()
                    .unwrap()
                    .get(label::SOURCE)
                    .unwrap()
                    .as_ref()
            })
            .collect();
        copied.sort_unstable();
        assert_eq!(copied, expected, "{families:?}");
    }
}

/// Rule: 1.source-named
#[test]
fn a_source_in_another_namespace_is_copied() {
    let world = World::new()
        .service(service("vip").source("web", "app"))
        .slice(slice("app-1").of("app").namespace("web").endpoints(["192.0.2.9"]))
        .slice(slice("app-1").of("app").endpoints(["192.0.2.8"]))
        .settled("vip");
    assert_eq!(addresses(world.copy("vip")), ["192.0.2.9"]);
}

/// Rule: 3.source-slice
#[test]
fn changed_source_slice_causes_one_update() {
    let mut world = world().slice(slice("more")).settled("vip");
    world.edit(&key("kubernetes"), |slice| {
        _ = slice.endpoints.as_mut().unwrap().pop();
    });
    assert_eq!(world.settle("vip"), [Write::Update(copy_key("kubernetes"))]);
    assert_eq!(addresses(&world.slices[&copy_key("kubernetes")]), ["192.0.2.1"]);
}

/// Rule: 2.put
#[test]
fn update_has_the_uid_and_version_of_the_slice_that_was_seen() {
    let mut world = world().settled("vip");
    world.edit(&key("kubernetes"), |slice| slice.endpoints = None);
    world.put_service(service("vip").annotate(annotation::WHEN_SOURCE_EMPTY, "follow"));
    let plan = world.plan("vip");
    let seen = &world.copy("vip").metadata;
    let [update] = &plan.updates[..] else {
        panic!("{:?}", plan.updates)
    };
    assert_eq!(update.metadata.uid, seen.uid);
    assert_eq!(update.metadata.resource_version, seen.resource_version);
}

/// Rule: 2.touch-no-write
#[test]
fn source_touched_without_a_change_causes_no_write() {
    let mut world = world().settled("vip");
    let touches: [fn(&mut EndpointSlice); 4] = [
        |_| {},
        |slice| {
            *slice = slice.clone().label("app", "x").annotate("note", "y");
        },
        |slice| slice.endpoints.as_mut().unwrap().reverse(),
        |slice| slice.metadata.finalizers = Some(Vec::new()),
    ];
    for touch in touches {
        world.edit(&key("kubernetes"), touch);
        let plan = world.plan("vip");
        assert!(plan.is_done(), "{plan:#?}");
    }
}

/// Rule: 3.source-slice
#[test]
fn copy_of_a_deleted_source_slice_is_deleted() {
    let mut world = world()
        .slice(slice("more").endpoints(["192.0.2.3"]))
        .settled("vip");
    world.slices.remove(&key("more"));
    assert_eq!(world.settle("vip"), [Write::Delete(copy_key("more"))]);
}

/// Rule: 3.source-slice
#[test]
fn recreated_source_slice_causes_an_update() {
    let mut world = world().settled("vip");
    world.slices.remove(&key("kubernetes"));
    world.put(slice("kubernetes").endpoints(["192.0.2.7"]));
    assert_eq!(world.settle("vip"), [Write::Update(copy_key("kubernetes"))]);
    assert_eq!(addresses(world.copy("vip")), ["192.0.2.7"]);
}

/// Rule: 3.re-annotated, 3.order
#[test]
fn change_of_source_creates_before_it_deletes() {
    let mut world = world()
        .slice(slice("app-1").of("app").namespace("web").endpoints(["192.0.2.9"]))
        .settled("vip");
    let old = copy_key("kubernetes");
    world.put_service(service("vip").source("web", "app"));
    let writes = world.settle("vip");
    assert!(
        matches!(&writes[..], [Write::Create(_), Write::Delete(gone)] if *gone == old),
        "{writes:?}"
    );
}

/// Rule: 1.enabled-false, 1.refused-says-so
#[test]
fn copies_are_deleted_when_the_service_is_no_longer_managed() {
    let copied = world().settled("vip");
    let without = |service| {
        let mut world = copied.clone();
        world.services.clear();
        put_if_some(&mut world, service);
        world
    };
    for (what, service) in [
        ("no annotation", Some(plain_service("vip"))),
        (
            "false",
            Some(service("vip").annotate(annotation::ENABLED, "false")),
        ),
        ("deleted", None),
        (
            "a selector",
            Some(service("vip").edit(|service| {
                let selector = [("app".to_owned(), "web".to_owned())];
                service.spec_mut().selector = Some(selector.into());
            })),
        ),
        (
            "ExternalName",
            Some(service("vip").edit(|service| service.spec_mut().type_ = Some("ExternalName".to_owned()))),
        ),
        ("itself", Some(service("vip").source("default", "vip"))),
    ] {
        let mut world = without(service);
        assert_eq!(
            world.settle("vip"),
            [Write::Delete(copy_key("kubernetes"))],
            "{what}"
        );
    }
}

fn put_if_some(world: &mut World, service: Option<Service>) {
    if let Some(service) = service {
        world.put_service(service);
    }
}

/// Rule: 1.enabled-typo, 1.source-namespace-alone
#[test]
fn a_typo_in_an_annotation_leaves_copies_as_they_are() {
    for service in [
        service("vip").annotate(annotation::ENABLED, ""),
        service("vip").annotate(annotation::ENABLED, "ture"),
        service("vip").annotate(annotation::SOURCE_NAME, "not a name"),
        service("vip").annotate(annotation::SOURCE_NAMESPACE, "web"),
    ] {
        let mut world = world().settled("vip");
        world.put_service(service.clone());
        world.edit(&key("kubernetes"), |slice| {
            _ = slice.endpoints.as_mut().unwrap().pop();
        });
        let plan = world.plan("vip");
        assert!(plan.is_done(), "{:?}: {plan:#?}", service.metadata.annotations);
        assert_eq!(world.reasons("vip"), [Reason::InvalidAnnotation]);

        let fresh = World::new().service(service).slice(slice("kubernetes"));
        assert!(fresh.plan("vip").is_done(), "there is no copy");
    }
}

/// Rule: 1.flags-service-absent
#[test]
fn flag_service_needs_no_annotation_and_may_be_absent() {
    let mut world = world();
    let managed = defaults().managed.unwrap();
    assert_eq!(world.plan_for(&managed), crate::plan::Plan::default());
    world.put_service(
        plain_service("kubernetes-vip")
            .edit(|service| service.spec_mut().ports = None)
            .number("https", 6443),
    );
    assert_eq!(world.settle("kubernetes-vip").len(), 1);
}

/// Rule: 2.older-uid
#[test]
fn recreated_service_takes_over_its_copies() {
    let mut world = world().settled("vip");
    world.put_service(service("vip").uid("new"));
    assert_eq!(world.settle("vip"), [Write::Update(copy_key("kubernetes"))]);
    let owners = world.copy("vip").metadata.owner_references.as_ref().unwrap();
    assert_eq!(
        owners.iter().map(|owner| owner.uid.as_str()).collect::<Vec<_>>(),
        ["new"]
    );
}

/// Rule: 3.deletion-timestamp
#[test]
fn terminating_service_gets_updates_and_deletes_only() {
    let mut world = world()
        .slice(slice("gone").endpoints(["192.0.2.3"]))
        .settled("vip");
    world.put_service(service("vip").deleting());
    world.slices.remove(&key("gone"));
    world.put(slice("new").endpoints(["192.0.2.4"]));
    world.edit(&key("kubernetes"), |slice| {
        _ = slice.endpoints.as_mut().unwrap().pop();
    });
    assert_eq!(
        world.settle("vip"),
        [
            Write::Update(copy_key("kubernetes")),
            Write::Delete(copy_key("gone"))
        ]
    );
}

/// Rule: 3.managed-service
#[test]
fn changed_port_of_the_service_causes_an_update() {
    let mut world = world().settled("vip");
    world.put_service(service("vip").number("metrics", 9090));
    assert_eq!(world.settle("vip"), [Write::Update(copy_key("kubernetes"))]);
    assert_eq!(world.copy("vip").ports.as_ref().unwrap().len(), 2);
}

/// Rule: 1.copy-is-no-source, 1.source-is-copy
#[test]
fn a_slice_that_we_manage_is_never_a_source() {
    let mut world = world()
        .service(service("second").source("default", "vip"))
        .settled("vip");
    assert!(world.plan("second").is_done());
    assert_eq!(world.reasons("second"), [Reason::SourceIsCopy]);

    world.put(slice("own").of("vip").endpoints(["192.0.2.9"]));
    world.settle("second");
    assert_eq!(addresses(world.copy("second")), ["192.0.2.9"]);
    assert_eq!(world.reasons("second"), []);
}

/// Rule: 1.copy-is-no-source
#[test]
fn slice_with_only_our_label_is_never_a_source() {
    let world = World::new()
        .service(service("vip"))
        .slice(slice("odd").label(label::MANAGED_BY, crate::model::MANAGED_BY_US));
    let odd = &world.slices[&key("odd")];
    assert_eq!(odd.owner_of_copy(), None);
    assert!(world.plan("vip").is_done());
    assert_eq!(world.reasons("vip"), [Reason::SourceIsCopy]);
}

#[test]
fn two_services_with_one_source_have_separate_copies() {
    let mut world = world().service(service("second"));
    assert_eq!(world.settle("vip").len(), 1);
    assert_eq!(world.settle("second").len(), 1);
    assert!(world.plan("vip").is_done());
    assert_eq!(world.copies("vip").len() + world.copies("second").len(), 2);
    assert!(world.index().is_managed(&ServiceKey::new("default", "second")));
}
