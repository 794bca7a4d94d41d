//! Slices of others are never touched.

use crate::model::EndpointSlice;
use crate::model::{
    ENDPOINT_SLICE_CONTROLLER, MANAGED_BY_US, MIRRORING_CONTROLLER, Reason, SliceKey, annotation, copy_name,
    label, provenance,
};
use crate::testing::world::{World, Write};
use crate::testing::{Build, BuildService, BuildSlice, owner, plain_service, service, slice};

/// The name that the copy of `default/kubernetes` for `vip` will have.
fn name_of_copy() -> String {
    copy_name("vip", &slice("kubernetes"))
}

/// Slices with the name of a copy, each without one of the marks that make a slice a copy.
fn almost_ours() -> Vec<(&'static str, EndpointSlice)> {
    let name = name_of_copy();
    let ours = || {
        slice(&name)
            .copied("vip", "kubernetes")
            .endpoints(["203.0.113.1"])
    };
    let owned = |change: fn(&mut crate::model::OwnerReference)| {
        let mut owner = owner("vip");
        change(&mut owner);
        ours().edit(|slice| slice.metadata.owner_references = Some(vec![owner]))
    };
    let unowned = || ours().edit(|slice| slice.metadata.owner_references = None);
    vec![
        ("no managed-by label", ours().without_label(label::MANAGED_BY)),
        (
            "another manager",
            ours().label(label::MANAGED_BY, "endpointslice-controller.k8s.io"),
        ),
        (
            "no source namespace",
            ours().without_annotation(provenance::NAMESPACE),
        ),
        ("no source slice", ours().without_annotation(provenance::SLICE)),
        ("no source UID", ours().without_annotation(provenance::UID)),
        (
            "no owner and no Service",
            unowned().without_label(label::SERVICE_NAME),
        ),
        ("no owner and another Service", unowned().of("other")),
        ("no owner and a Service with an illegal name", unowned().of("Vip")),
        (
            "no owner and another source",
            unowned().annotate(provenance::SLICE, "more"),
        ),
        (
            "no owner and a source in another namespace",
            unowned().annotate(provenance::NAMESPACE, "web"),
        ),
        ("no owner and another address type", unowned().family("IPv6")),
        (
            "an owner of another kind",
            owned(|owner| owner.kind = "Endpoints".to_owned()),
        ),
        (
            "an owner of another API",
            owned(|owner| owner.api_version = "example.com/v1".to_owned()),
        ),
    ]
}

/// Rule: 2.ours, 3.foreign-untouched
#[test]
fn slice_that_lacks_our_marks_is_left_alone() {
    for (what, existing) in almost_ours() {
        for service in [
            service("vip"),
            plain_service("vip"),
            service("vip").source("default", "vip"),
            service("vip").source("web", "nothing"),
        ] {
            let world = World::new()
                .service(service.clone())
                .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
                .slice(existing.clone());
            let plan = world.plan("vip");
            assert!(
                plan.is_done(),
                "{what}, {:?}: {plan:#?}",
                service.metadata.annotations
            );
        }
    }
}

/// Rule: 2.name-taken
#[test]
fn a_name_taken_by_a_slice_that_is_not_ours_is_reported() {
    for (what, existing) in almost_ours() {
        let unlabeled = existing
            .clone()
            .without_label(label::SERVICE_NAME)
            .label(label::MANAGED_BY, MANAGED_BY_US);
        let of_another = existing
            .clone()
            .of("other")
            .label(label::MANAGED_BY, MANAGED_BY_US);
        for existing in [existing, unlabeled, of_another] {
            if existing.owner_of_copy().is_some() {
                continue;
            }
            let world = World::new()
                .service(service("vip"))
                .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
                .slice(existing);
            let findings = world.findings("vip");
            let finding = findings
                .iter()
                .find(|finding| finding.reason == Reason::NameTaken);
            let note = &finding.unwrap_or_else(|| panic!("{what}: {findings:?}")).note;
            assert!(note.contains(&name_of_copy()), "{note}");
        }
    }
}

/// Rule: 2.name-taken
#[test]
fn a_name_that_is_free_again_is_used() {
    for (_, existing) in almost_ours() {
        let mut world = World::new()
            .service(service("vip"))
            .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
            .slice(existing);
        world.settle("vip");
        let key = SliceKey::new("default", name_of_copy());
        world.slices.remove(&key);
        assert_eq!(world.settle("vip"), [Write::Create(key)]);
    }
}

#[test]
fn taken_name_does_not_block_the_other_copies() {
    let (_, existing) = almost_ours().swap_remove(0);
    let mut world = World::new()
        .service(service("vip"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
        .slice(slice("more").endpoints(["192.0.2.2"]))
        .slice(existing);
    assert_eq!(world.settle("vip").len(), 1);
}

/// Rule: 3.foreign-reported
#[test]
fn slices_of_others_for_a_managed_service_are_reported() {
    let world = World::new()
        .service(service("vip"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
        .slice(slice("theirs").of("vip").endpoints(["203.0.113.1"]))
        .slice(slice("elsewhere").of("vip").namespace("web"))
        .settled("vip");
    let findings = world.findings("vip");
    assert_eq!(world.reasons("vip"), [Reason::ForeignSlices]);
    assert!(findings[0].note.contains("theirs"), "{}", findings[0].note);
    assert!(!findings[0].note.contains("elsewhere"), "{}", findings[0].note);
}

/// Rule: 3.foreign-remedy
#[test]
fn note_on_slices_of_others_has_the_command_that_helps() {
    let selects = "kubernetes.io/service-name=vip,endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io";
    let cases = [
        (
            vec![Some(MIRRORING_CONTROLLER)],
            "kubectl delete endpoints vip --namespace default; slices: a",
        ),
        (
            vec![Some(ENDPOINT_SLICE_CONTROLLER); 2],
            &format!("kubectl delete endpointslices --namespace default --selector {selects}; slices: a, b"),
        ),
        (
            vec![Some("acme.example.com"), None],
            "slices: a (managed by acme.example.com), b",
        ),
        (vec![Some(MANAGED_BY_US)], "slices: a"),
    ];
    for (managers, expected) in cases {
        let mut world = World::new()
            .service(service("vip"))
            .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
            .settled("vip");
        for (name, manager) in ["a", "b"].into_iter().zip(managers) {
            let foreign = slice(name).of("vip");
            world.put(match manager {
                Some(manager) => foreign.label(label::MANAGED_BY, manager),
                None => foreign,
            });
        }
        let findings = world.findings("vip");
        assert_eq!(world.reasons("vip"), [Reason::ForeignSlices], "{findings:#?}");
        assert!(findings[0].note.ends_with(expected), "{expected}: {findings:#?}");
    }
}

/// Rule: 3.foreign-remedy
#[test]
fn each_kind_of_writer_has_a_finding_of_its_own() {
    let mut world = World::new()
        .service(service("vip"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]));
    let managers = [
        MIRRORING_CONTROLLER,
        ENDPOINT_SLICE_CONTROLLER,
        "acme.example.com",
    ];
    for (name, manager) in ["a", "b", "c"].into_iter().zip(managers) {
        world.put(slice(name).of("vip").label(label::MANAGED_BY, manager));
    }
    world.put(
        slice("another")
            .of("vip")
            .label(label::MANAGED_BY, MIRRORING_CONTROLLER),
    );
    world.settle("vip");
    assert_eq!(world.reasons("vip"), [Reason::ForeignSlices; 3]);
}

#[test]
fn the_note_on_many_slices_of_others_still_says_what_to_do() {
    let mut world = World::new().service(service("vip")).slice(slice("kubernetes"));
    for n in 0..300 {
        world = world.slice(slice(&format!("{}{n}", "x".repeat(240))).of("vip"));
    }
    let findings = world.findings("vip");
    let note = &findings
        .iter()
        .find(|finding| finding.reason == Reason::ForeignSlices)
        .unwrap()
        .note;
    assert!(note.len() <= 1000, "{} bytes", note.len());
    assert!(
        note.contains("297 more") && note.contains("kubectl delete endpointslices"),
        "{note}"
    );
}

#[test]
fn slices_of_an_unmanaged_service_are_not_reported() {
    let selector = |service: crate::model::Service| {
        service.edit(|service| {
            service.spec_mut().selector = Some([("app".to_owned(), "web".to_owned())].into());
        })
    };
    for service in [
        plain_service("vip"),
        selector(service("vip")),
        // If a note named these slices, a user who follows the note would delete the only endpoints of the Service.
        selector(service("vip")).annotate(annotation::ENABLED, "yes"),
    ] {
        let world = World::new().service(service).slice(slice("vip-x7k2p").of("vip"));
        assert!(!world.reasons("vip").contains(&Reason::ForeignSlices));
    }
}
