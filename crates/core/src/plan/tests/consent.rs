//! A source in another namespace is copied only with consent, and copies are deleted when consent ends.

use proptest::prelude::*;

use crate::index::{Index, Scope};
use crate::model::{
    AllowFrom, ConsentPolicy, CrossNamespace, Grant, MANAGED_BY_US, ObjectMeta, Reason, ReferenceGrant,
    Service, ServiceKey, SliceKey, Unreadable, annotation, label, provenance,
};
use crate::plan::{Plan, Verdicts, plan};
use crate::testing::world::{World, Write};
use crate::testing::{
    Build as _, BuildService as _, BuildSlice as _, defaults, plain_service, service, slice,
};

fn vip() -> ServiceKey {
    ServiceKey::new("default", "vip")
}

/// `default/vip` names the source `web/app`, which has a slice.
fn world() -> World {
    let mut world = World::new()
        .service(service("vip").source("web", "app"))
        .service(app())
        .slice(
            slice("app-x7k2p")
                .namespace("web")
                .of("app")
                .endpoints(["192.0.2.1"]),
        );
    world.defaults.consent.cross_namespace = CrossNamespace::Consent;
    world
}

fn app() -> Service {
    plain_service("app").namespace("web")
}

fn allowed() -> World {
    world().service(app().annotate(annotation::ALLOW_FROM, "other,default"))
}

fn grant(to: Option<&str>) -> ReferenceGrant {
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": "web", "name": "grant"},
        "spec": {
            "from": [{"group": "", "kind": "Service", "namespace": "default"}],
            "to": [{"group": "", "kind": "Service", "name": to}],
        },
    }))
    .unwrap()
}

/// Each way to give consent.
fn consenting() -> [World; 4] {
    let mut by_flag = world();
    let sources = &mut by_flag.defaults.consent.allowed_sources;
    sources.insert(ServiceKey::new("web", "app"), AllowFrom::new("default"));
    let (mut by_grant, mut by_name) = (world(), world());
    by_grant.grants = vec![grant(None)];
    by_name.grants = vec![grant(Some("app"))];
    [allowed(), by_flag, by_grant, by_name]
}

/// The world without consent.
fn withdrawn(world: &World) -> World {
    let mut world = world.clone();
    world.put_service(app());
    world.grants.clear();
    world.defaults.consent.allowed_sources.clear();
    world
}

/// Rule: 9.allow-from, 9.allow-source, 9.reference-grant, 9.withdrawal
#[test]
fn copies_exist_only_while_there_is_consent() {
    for mut world in consenting() {
        world.settle("vip");
        assert_eq!(world.copies("vip").len(), 1);
        let mut world = withdrawn(&world);
        let writes = world.settle("vip");
        assert!(matches!(&writes[..], [Write::Delete(_)]), "{writes:?}");
        assert_eq!(world.reasons("vip"), [Reason::NotPermitted]);
    }
}

/// Rule: 9.withdrawal
#[test]
fn withdrawal_removes_copies_that_are_frozen_or_held() {
    for (name, change) in [
        ("a typo", annotation::ENABLED),
        ("an unknown source", annotation::SOURCE_NAME),
        ("a held copy", annotation::WHEN_SOURCE_EMPTY),
    ] {
        for mut world in consenting() {
            world.settle("vip");
            let value = if change == annotation::WHEN_SOURCE_EMPTY {
                world.edit(&SliceKey::new("web", "app-x7k2p"), |slice| slice.endpoints = None);
                "hold"
            } else {
                "No Name"
            };
            world.put_service(service("vip").source("web", "app").annotate(change, value));
            assert_eq!(world.settle("vip"), [], "{name}");
            assert_eq!(world.copies("vip").len(), 1, "{name}");
            let mut world = withdrawn(&world);
            world.settle("vip");
            assert_eq!(world.copies("vip").len(), 0, "{name}");
        }
    }
}

/// Rule: 9.withdrawal
#[test]
fn withdrawal_removes_copies_of_a_slice_that_cannot_be_decoded() {
    let stays = withdrawn(&allowed().settled("vip"));
    // A slice without its label could belong to the source that the Service names now.
    let other = plain_service("other").namespace("web");
    let moves = stays
        .clone()
        .service(other.annotate(annotation::ALLOW_FROM, "default"))
        .service(service("vip").source("web", "other"));
    for world in [stays, moves] {
        let mut index = world.index();
        let slice = &world.slices[&SliceKey::new("web", "app-x7k2p")];
        let unreadable = crate::model::Unreadable {
            metadata: ObjectMeta {
                labels: None,
                ..slice.metadata.clone()
            },
            condition: None,
            error: "invalid type".to_owned(),
        };
        let names = ["app", "other"].map(str::to_owned).into();
        index.apply_unreadable_slice(&Scope::Named(std::sync::Arc::new(names)), &unreadable);
        let plan = plan(&index.snapshot(&vip()).unwrap(), &Verdicts::Off);
        assert_eq!(plan.withdrawn.len(), 1);
    }
}

/// A user can change the source of a Service faster than the operator can list the slices of each new source.
/// Rule: 9.withdrawal
#[test]
fn withdrawal_does_not_wait_for_the_slices_of_another_source() {
    let mut index = allowed().settled("vip").index();
    index.apply_service(&service("vip").source("default", "new").version(200));
    assert!(
        index.snapshot(&vip()).is_none(),
        "the slices of the new source are not listed"
    );
    assert!(index.apply_service(&app().version(300)).contains(&vip()));
    let plan = plan(&index.snapshot(&vip()).expect("a delete"), &Verdicts::Off);
    assert_eq!(plan.withdrawn.len(), 1);
    assert_eq!(plan.findings, []);
}

/// `web/app` with this `allow-from` value. Only its metadata can be decoded.
fn undecodable(allow_from: Option<&str>) -> Unreadable {
    let mut app = app().version(300);
    if let Some(value) = allow_from {
        app = app.annotate(annotation::ALLOW_FROM, value);
    }
    Unreadable {
        metadata: app.metadata,
        condition: None,
        error: "invalid type".to_owned(),
    }
}

/// The index of an operator that starts while `web/app` cannot be decoded.
fn started_with(world: &World, app: &Unreadable) -> Index {
    let mut world = world.clone();
    world.services.remove(&ServiceKey::new("web", "app"));
    let mut index = world.index();
    index.service_unreadable(app);
    index
}

fn plan_of(index: &Index) -> Plan {
    plan(&index.snapshot(&vip()).unwrap(), &Verdicts::Off)
}

/// Rule: 9.unreadable
#[test]
fn consent_of_an_undecodable_source_does_not_change() {
    for readable in [None, Some("other"), Some("default")] {
        let (mut given, mut refused) = (allowed().settled("vip").index(), world().index());
        assert!(!given.service_unreadable(&undecodable(readable)).contains(&vip()));
        assert!(plan_of(&given).is_done(), "{readable:?}");
        assert!(
            !refused
                .service_unreadable(&undecodable(readable))
                .contains(&vip())
        );
        assert!(plan_of(&refused).creates.is_empty(), "{readable:?}");
        // The next readable state of the source decides.
        assert!(given.apply_service(&app().version(301)).contains(&vip()));
        assert_eq!(plan_of(&given).withdrawn.len(), 1);
    }
}

/// Rule: 9.unreadable
#[test]
fn restart_with_an_undecodable_source_changes_no_copy() {
    for readable in [None, Some("default")] {
        let index = started_with(&allowed().settled("vip"), &undecodable(readable));
        assert!(plan_of(&index).is_done(), "{readable:?}");
        let without = started_with(&allowed(), &undecodable(readable));
        assert!(plan_of(&without).is_done(), "{readable:?}");
    }
    let world = allowed().settled("vip");
    let started = || started_with(&world, &undecodable(None));
    let (mut readable, mut gone) = (started(), started());
    assert!(readable.apply_service(&app().version(301)).contains(&vip()));
    assert!(
        gone.delete_service(&ServiceKey::new("web", "app"))
            .contains(&vip())
    );
    for index in [readable, gone] {
        assert_eq!(plan_of(&index).withdrawn.len(), 1);
    }
}

/// Rule: 9.unreadable
#[test]
fn consent_of_an_undecodable_grant_does_not_change() {
    let mut world = world();
    world.grants = vec![grant(None)];
    let world = world.settled("vip");
    let metadata = grant(None).metadata;
    let mut index = world.index();
    index.apply_unreadable_grant(&metadata);
    assert!(plan_of(&index).is_done());
    index.grants_listed([(metadata.clone(), None)]);
    assert!(plan_of(&index).is_done(), "on a list");
    assert!(index.apply_grant(&metadata, Grant::default()).contains(&vip()));
    index.apply_unreadable_grant(&metadata);
    index.grants_listed([(metadata.clone(), None)]);
    assert_eq!(
        plan_of(&index).withdrawn.len(),
        1,
        "the last readable state allowed nothing"
    );

    // After a restart, a replica does not know what the grant allowed.
    let started = |world: &World| {
        let mut world = world.clone();
        world.grants.clear();
        let mut index = world.index();
        index.grants_listed([(metadata.clone(), None)]);
        index
    };
    let mut without = world.clone();
    without.slices.retain(|_, slice| !slice.is_labeled_as_copy());
    assert!(plan_of(&started(&world)).is_done());
    assert!(plan_of(&started(&without)).is_done());
    let mut index = started(&world);
    assert!(index.delete_grant(&metadata).contains(&vip()));
    assert_eq!(plan_of(&index).withdrawn.len(), 1);
}

/// Rule: 9.unreadable
#[test]
fn a_new_grant_that_cannot_be_decoded_protects_no_copy() {
    let mut index = withdrawn(&allowed().settled("vip")).index();
    index.apply_unreadable_grant(&grant(None).metadata);
    assert_eq!(plan_of(&index).withdrawn.len(), 1);
}

/// Rule: 9.refusal-is-blind
#[test]
fn a_refusal_is_the_same_if_the_source_cannot_be_decoded() {
    let findings = |index: &Index| plan_of(index).findings;
    let mut index = world().index();
    let refused = findings(&index);
    assert_eq!(refused.len(), 1);
    assert!(!index.service_unreadable(&undecodable(None)).contains(&vip()));
    assert_eq!(findings(&index), refused);
    let mut missing = world();
    missing.services.remove(&ServiceKey::new("web", "app"));
    let mut index = missing.index();
    assert!(
        !index
            .service_unreadable(&undecodable(Some("default")))
            .contains(&vip())
    );
    assert_eq!(findings(&index), refused);
    let gone = index.delete_service(&ServiceKey::new("web", "app"));
    assert!(!gone.contains(&vip()));
}

/// Rule: 9.old-view
#[test]
fn deletes_without_consent_depend_on_the_sources_of_the_copies() {
    let missing = |world: &World| {
        let snapshot = world.snapshot(&vip());
        let keys: Vec<_> = world.copies("vip").iter().map(|copy| copy.key()).collect();
        world.index().missing_consent(&snapshot, &keys.iter().collect())
    };
    let mut world = allowed().settled("vip");
    assert!(missing(&world).is_empty(), "there is consent");
    world = withdrawn(&world);
    let app = ServiceKey::new("web", "app");
    assert!(missing(&world).contains(&app));
    // The Service names this source, but has no copy of it.
    let own = slice("own").of("own").endpoints(["192.0.2.1"]);
    let mut moves = self::world()
        .slice(own)
        .service(service("vip").source("default", "own"));
    moves.settle("vip");
    moves.put_service(service("vip").source("web", "app"));
    assert_eq!(missing(&moves), [app].into());
    // With `deny`, only flags decide.
    world.defaults.consent.cross_namespace = CrossNamespace::Deny;
    assert!(missing(&world).is_empty());
    // No Service can have such a name.
    world.defaults.consent.cross_namespace = CrossNamespace::Consent;
    let key = world.copy("vip").key();
    for (what, name) in [
        (provenance::NAMESPACE, "../secrets"),
        (provenance::SLICE, "no name"),
    ] {
        let mut world = world.clone();
        world.put_service(service("vip").annotate(annotation::ENABLED, "tru"));
        world.edit(&key, |slice| {
            let annotations = slice.metadata.annotations.get_or_insert_default();
            annotations.insert(what.into(), name.into());
        });
        assert!(missing(&world).is_empty(), "{name:?}");
        assert_eq!(world.plan("vip").withdrawn.len(), 1, "{name:?}");
    }
}

/// After a restart, a replica knows the copy, but no Service that names the source.
/// Rule: 9.withdrawal
#[test]
fn frozen_copy_of_a_source_in_another_namespace_needs_grants() {
    let mut world = allowed().settled("vip");
    world.put_service(service("vip").annotate(annotation::ENABLED, "tru"));
    let world = withdrawn(&world);
    let mut index = Index::new(world.defaults.clone());
    for service in world.services.values() {
        index.apply_service(service);
    }
    index.services_listed(&world.services.keys().cloned().collect());
    assert!(!index.needs_grants());
    for copy in world.copies("vip") {
        index.list_slice(&Scope::Copies, copy.clone());
    }
    index.slices_listed(&Scope::Copies, &world.slices.keys().cloned().collect());
    assert!(index.needs_grants());
    assert!(index.grants_listed([]).contains(&vip()));
    let plan = plan(&index.snapshot(&vip()).unwrap(), &Verdicts::Off);
    assert_eq!(plan.withdrawn.len(), 1);
}

/// A frozen copy of a slice of `web/<source>`. No watch shows the slice, because nobody asks for the source.
fn frozen(source: &str, slice: &str) -> World {
    let of_source = self::slice(slice).namespace("web").of(source);
    let allowed = |name: &str| {
        let service = plain_service(name).namespace("web");
        service.annotate(annotation::ALLOW_FROM, "default")
    };
    let mut world = allowed_world(source, allowed(source))
        .slice(of_source.endpoints(["192.0.2.7"]))
        .settled("vip");
    world.put_service(service("vip").annotate(annotation::ENABLED, "tru"));
    world
}

fn allowed_world(source: &str, service_of_source: Service) -> World {
    let mut world = world().service(service_of_source);
    world.put_service(service("vip").source("web", source));
    world
}

/// The consent of one Service does not apply to another Service whose name begins with the name of the first.
/// Rule: 9.copies-by-annotation
#[test]
fn a_frozen_copy_needs_consent_from_each_possible_source() {
    let consents = app().annotate(annotation::ALLOW_FROM, "*");
    let world = frozen("app-x7k2p", "app-x7k2p").service(consents);
    assert!(world.plan("vip").is_done(), "both consent");
    let admin = plain_service("app-x7k2p").namespace("web").version(200);
    let mut withdrawn = world.clone();
    withdrawn.put_service(admin.clone());
    assert_eq!(withdrawn.plan("vip").withdrawn.len(), 1);

    let mut index = world.index();
    assert!(index.apply_service(&admin).contains(&vip()));
    // The slice does not belong to `app`, but its name does not rule that out.
    let mut without = world.clone();
    without.services.remove(&ServiceKey::new("web", "app-x7k2p"));
    let mut index = without.index();
    assert!(plan_of(&index).is_done());
    assert!(index.apply_service(&admin).contains(&vip()), "a new Service");
    assert_eq!(plan_of(&index).withdrawn.len(), 1);
}

/// A source without a Service can get consent from a grant.
/// Rule: 9.copies-by-annotation
#[test]
fn a_frozen_copy_of_a_source_without_a_service_keeps_consent() {
    let mut world = frozen("app", "app-x7k2p");
    world.services.remove(&ServiceKey::new("web", "app"));
    assert_eq!(world.plan("vip").withdrawn.len(), 1);
    world.grants = vec![grant(Some("app"))];
    assert!(world.plan("vip").is_done());
}

/// Kubernetes truncates a long Service name in the name of a slice, and adds the random characters without a dash.
/// Rule: 9.copies-by-annotation
#[test]
fn consent_for_a_cut_name_of_a_slice_is_not_guessed() {
    let short = "a".repeat(54);
    let long = format!("{short}-admin");
    let slice = format!("{}x7k2p", &long[..58]);
    let consents = plain_service(&short).namespace("web");
    let consents = consents.annotate(annotation::ALLOW_FROM, "*");
    let mut world = frozen(&long, &slice).service(consents);
    world.put_service(plain_service(&long).namespace("web"));
    assert_eq!(world.plan("vip").withdrawn.len(), 1);
}

/// Rule: 9.copies-by-annotation
#[test]
fn a_frozen_copy_of_a_source_in_its_own_namespace_stays() {
    let own = slice("own-x7k2p").of("own").endpoints(["192.0.2.1"]);
    let mut world = world()
        .slice(own)
        .service(service("vip").source("default", "own"))
        .settled("vip");
    world.put_service(service("vip").annotate(annotation::ENABLED, "tru"));
    assert_eq!(world.settle("vip"), []);
    assert_eq!(world.copies("vip").len(), 1);
}

/// Rule: 9.refusal-is-blind
#[test]
fn refusal_is_the_same_for_existing_and_missing_sources() {
    let seen = |world: &World| {
        (
            world.findings("vip"),
            world.index().endpoints(&vip()),
            world.index().names(),
        )
    };
    let existing = world();
    let mut missing = world();
    missing.services.remove(&ServiceKey::new("web", "app"));
    missing.slices.clear();
    let mut copied = world().slice(slice("app").namespace("web").of("app").endpoints(["192.0.2.9"]));
    copied.put_service(app().annotate(annotation::ALLOW_FROM, "other"));
    assert_eq!(seen(&existing), seen(&missing));
    assert_eq!(seen(&existing), seen(&copied));
}

/// Rule: 9.refusal-is-blind
#[test]
fn change_of_a_source_without_consent_marks_no_service() {
    let mut index = world().index();
    let names = Scope::Named(std::sync::Arc::new(["app", "vip"].map(str::to_owned).into()));
    let changed = slice("app-x7k2p")
        .namespace("web")
        .of("app")
        .version(200)
        .endpoints(["192.0.2.2"]);
    assert!(index.apply_slice(&names, changed).is_empty());
    assert!(
        index
            .apply_service(&app().label("a", "b").version(200))
            .is_empty()
    );
    for (version, others) in [(201, "other"), (202, "another"), (203, "")] {
        let changed = app().annotate(annotation::ALLOW_FROM, others).version(version);
        assert!(index.apply_service(&changed).is_empty(), "{others:?}");
    }
    let metadata = grant(None).metadata;
    let granted = crate::model::Grant::read(&grant(Some("other")));
    assert!(index.apply_grant(&metadata, granted).is_empty());
    index.apply_unreadable_grant(&metadata);
    assert!(index.delete_grant(&metadata).is_empty());
    assert!(index.delete_service(&ServiceKey::new("web", "app")).is_empty());
}

/// Rule: 9.refusal-is-blind
#[test]
fn a_change_of_another_source_marks_no_service_with_consent() {
    let mut index = allowed().settled("vip").index();
    let other = || plain_service("other").namespace("web");
    for (version, others) in [(201, "other"), (202, "another"), (203, "")] {
        let changed = other().annotate(annotation::ALLOW_FROM, others).version(version);
        assert!(index.apply_service(&changed).is_empty(), "{others:?}");
    }
    let granted = crate::model::Grant::read(&grant(Some("other")));
    assert!(index.apply_grant(&grant(None).metadata, granted).is_empty());
    assert!(index.delete_grant(&grant(None).metadata).is_empty());
    assert!(index.delete_service(&ServiceKey::new("web", "other")).is_empty());
    assert!(index.apply_service(&app().version(204)).contains(&vip()));
}

/// Rule: 9.discovery
#[test]
fn nothing_is_touched_before_services_and_grants_are_listed() {
    let world = allowed().settled("vip");
    let mut index = Index::new(world.defaults.clone());
    index.apply_service(&service("vip").source("web", "app"));
    index.services_listed(&[vip()].into());
    for copy in world.copies("vip") {
        index.list_slice(&Scope::Copies, copy.clone());
    }
    index.slices_listed(&Scope::Copies, &world.slices.keys().cloned().collect());
    assert!(index.snapshot(&vip()).is_none(), "grants are not listed");
    assert!(index.grants_absent().contains(&vip()));
    let absent = plan(&index.snapshot(&vip()).unwrap(), &Verdicts::Off);
    assert!(
        absent.is_done(),
        "copies change although the grants can come back"
    );
    assert!(index.grants_listed([]).contains(&vip()));
    let none = plan(&index.snapshot(&vip()).unwrap(), &Verdicts::Off);
    assert_eq!(none.withdrawn.len(), 1);
}

/// Rule: 9.reference-grant
#[test]
fn grants_count_if_they_are_listed_before_services() {
    for world in consenting() {
        let mut index = Index::new(world.defaults.clone());
        index.apply_service(&service("vip").source("web", "app"));
        let read = |grant: &ReferenceGrant| (grant.metadata.clone(), Some(Grant::read(grant)));
        index.grants_listed(world.grants.iter().map(read));
        for service in world.services.values() {
            index.apply_service(service);
        }
        let dirty = index.services_listed(&world.services.keys().cloned().collect());
        assert!(dirty.contains(&vip()));
        assert_eq!(index.names(), world.index().names());
    }
}

/// An index of this world in which the slices of no source are listed.
fn without_names(world: &World) -> Index {
    let mut index = Index::new(world.defaults.clone());
    for service in world.services.values() {
        index.apply_service(service);
    }
    index.services_listed(&world.services.keys().cloned().collect());
    index.grants_listed([]);
    for copy in world.copies("vip") {
        index.list_slice(&Scope::Copies, copy.clone());
    }
    index.slices_listed(&Scope::Copies, &world.slices.keys().cloned().collect());
    index
}

/// `web/app`, with consent and a slice whose name does not begin with the name of the Service.
fn with_unusual_slice() -> World {
    let mut world = allowed();
    world.slices.clear();
    world
        .slice(slice("foo").namespace("web").of("app").endpoints(["192.0.2.1"]))
        .settled("vip")
}

/// Rule: 9.withdrawal
#[test]
fn copy_of_an_unusual_slice_stays_until_its_source_is_listed() {
    assert!(without_names(&with_unusual_slice()).snapshot(&vip()).is_none());
}

/// Rule: 9.withdrawal
#[test]
fn withdrawal_marks_services_with_copies_of_unknown_slices() {
    let world = with_unusual_slice().service(service("vip").source("web", "other"));
    let mut index = without_names(&world);
    assert!(index.apply_service(&app().version(300)).contains(&vip()));
}

/// Rule: 9.withdrawal
#[test]
fn removed_annotation_withdraws_even_without_grants() {
    let world = allowed().settled("vip");
    let mut index = Index::new(world.defaults.clone());
    for service in world.services.values() {
        index.apply_service(service);
    }
    index.services_listed(&world.services.keys().cloned().collect());
    index.grants_absent();
    for copy in world.copies("vip") {
        index.list_slice(&Scope::Copies, copy.clone());
    }
    index.slices_listed(&Scope::Copies, &world.slices.keys().cloned().collect());
    assert!(index.apply_service(&app().version(200)).contains(&vip()));
    let withdrawn = plan(&index.snapshot(&vip()).unwrap(), &Verdicts::Off);
    assert_eq!(withdrawn.withdrawn.len(), 1);
}

/// Rule: 9.ports
#[test]
fn a_port_that_the_source_does_not_have_is_left_out() {
    let ports = |service: Service| service.no_ports().number("https", 6443).number("kubelet", 10250);
    let mut world = allowed().service(ports(service("vip").source("web", "app")));
    world.settle("vip");
    let numbers = |world: &World| -> Vec<_> {
        let copy = world.copy("vip");
        copy.ports.iter().flatten().filter_map(|port| port.port).collect()
    };
    assert_eq!(numbers(&world), [6443]);
    assert_eq!(world.reasons("vip"), [Reason::PortNotPermitted]);
    // A source in the namespace of the Service may be copied with any port.
    let own = slice("own").of("own").endpoints(["192.0.2.1"]);
    let mut world = world
        .slice(own)
        .service(ports(service("vip").source("default", "own")));
    world.settle("vip");
    assert_eq!(numbers(&world), [6443, 10250]);
    assert_eq!(world.reasons("vip"), []);
}

/// Rule: 9.ports
#[test]
fn a_copy_without_a_permitted_port_is_removed() {
    let mut world = allowed().settled("vip");
    world.put_service(
        service("vip")
            .source("web", "app")
            .no_ports()
            .number("kubelet", 10250),
    );
    assert!(matches!(&world.settle("vip")[..], [Write::Delete(_)]));
}

/// Rule: 9.ports
#[test]
fn a_held_copy_gets_no_port_that_it_did_not_have() {
    let held = service("vip")
        .source("web", "app")
        .annotate(annotation::WHEN_SOURCE_EMPTY, "hold");
    let mut world = allowed().service(held.clone()).settled("vip");
    world.slices.remove(&SliceKey::new("web", "app-x7k2p"));
    world.put_service(held.number("kubelet", 10250));
    world.settle("vip");
    let ports: Vec<_> = world
        .copy("vip")
        .ports
        .iter()
        .flatten()
        .filter_map(|port| port.port)
        .collect();
    assert_eq!(ports, [6443]);
}

/// Removes endpoints and ports from the slice, as Kubernetes does when a Service has no Pods.
fn scale_to_zero(world: &mut World) {
    world.edit(&SliceKey::new("web", "app-x7k2p"), |slice| {
        *slice = slice.clone().endpoints([]).ports(&[]);
    });
}

/// Rule: 3.held-ports, 9.ports
#[test]
fn a_held_copy_keeps_its_ports_when_the_slice_loses_them() {
    let held = service("vip")
        .source("web", "app")
        .annotate(annotation::WHEN_SOURCE_EMPTY, "hold");
    let mut world = allowed().service(held.clone()).settled("vip");
    let before = world.copy("vip").clone();
    scale_to_zero(&mut world);
    assert_eq!(world.settle("vip"), []);
    assert_eq!(world.reasons("vip"), [Reason::SourceEmptyHeld]);

    world.put_service(held.number("kubelet", 10250));
    world.settle("vip");
    assert_eq!(
        world.copy("vip").ports,
        before.ports,
        "the new port is not a port of the source"
    );
}

/// Rule: 2.empty-ports
#[test]
fn permitted_ports_of_an_emptied_copy_stay() {
    let mut world = allowed().settled("vip");
    let before = world.copy("vip").clone();
    scale_to_zero(&mut world);
    assert!(matches!(&world.settle("vip")[..], [Write::Update(_)]));
    assert_eq!(world.copy("vip").ports, before.ports);
    assert_eq!(world.reasons("vip"), []);
}

/// Rule: 9.copies-by-annotation
#[test]
fn copy_that_names_another_source_is_repaired_or_removed() {
    let mut world = allowed().settled("vip");
    let key = SliceKey::of(&world.copy("vip").metadata);
    world.edit(&key, |slice| {
        let annotations = slice.metadata.annotations.get_or_insert_default();
        annotations.insert(provenance::NAMESPACE.into(), "secret".into());
    });
    assert_eq!(world.settle("vip"), [Write::Update(key.clone())]);
    world.edit(&key, |slice| {
        let annotations = slice.metadata.annotations.get_or_insert_default();
        annotations.insert(provenance::NAMESPACE.into(), "secret".into());
    });
    world.put_service(service("vip").annotate(annotation::ENABLED, "tru"));
    assert_eq!(world.settle("vip"), [Write::Delete(key)]);
}

fn any_source() -> impl Strategy<Value = ServiceKey> {
    ("[a-z]{1,8}", "[a-z][a-z0-9-]{0,20}[a-z0-9]")
        .prop_filter("another namespace", |(namespace, _)| namespace != "default")
        .prop_map(|(namespace, name)| ServiceKey::new(namespace, name))
}

/// The possible states of a source that does not allow `default` to copy it.
#[derive(Clone, Debug)]
struct SourceState {
    allow_from: Option<String>,
    is_external_name: bool,
    has_selector: bool,
    /// For each slice: whether it is an IPv6 slice, how many addresses it has, and whether it is labeled as a copy.
    slices: Vec<(bool, usize, bool)>,
    /// A grant for Services in another namespace (`true`), or for another source (`false`) whose name begins with this
    /// text.
    grant: Option<(bool, String)>,
}

fn any_state() -> impl Strategy<Value = SourceState> {
    let allow_from = proptest::option::of("[a-z*,]{0,12}").prop_filter("no consent", |value| {
        !value.iter().any(|value| AllowFrom::new(value).allows("default"))
    });
    let slices = proptest::collection::vec((any::<bool>(), 0_usize..3, any::<bool>()), 0..4);
    let grant = proptest::option::of((any::<bool>(), "[a-z]{1,6}"));
    (allow_from, any::<bool>(), any::<bool>(), slices, grant).prop_map(
        |(allow_from, is_external_name, has_selector, slices, grant)| SourceState {
            allow_from,
            is_external_name,
            has_selector,
            slices,
            grant,
        },
    )
}

impl SourceState {
    /// Adds the source to a world.
    fn add_to(self, mut world: World, key: &ServiceKey) -> World {
        let mut source = plain_service(key.name())
            .namespace(key.namespace())
            .edit(|service| {
                let spec = service.spec.get_or_insert_default();
                spec.type_ = self.is_external_name.then(|| "ExternalName".to_owned());
                spec.selector = self
                    .has_selector
                    .then(|| [("app".to_owned(), "x".to_owned())].into());
            });
        if let Some(value) = &self.allow_from {
            source = source.annotate(annotation::ALLOW_FROM, value);
        }
        world.put_service(source);
        for (number, (is_v6, addresses, is_copy)) in self.slices.into_iter().enumerate() {
            let mut slice = slice(&format!("{}-{number}", key.name()))
                .namespace(key.namespace())
                .of(key.name())
                .family(if is_v6 { "IPv6" } else { "IPv4" });
            if is_copy {
                slice = slice.label(label::MANAGED_BY, MANAGED_BY_US);
            }
            let all = if is_v6 {
                ["2001:db8::1", "2001:db8::2"]
            } else {
                ["192.0.2.1", "192.0.2.2"]
            };
            world = world.slice(slice.endpoints(all.into_iter().take(addresses)));
        }
        if let Some((is_for_others, name)) = self.grant {
            let (from, to) = if is_for_others {
                ("others", None)
            } else {
                ("default", Some(format!("{name}-x")))
            };
            let grant = serde_json::json!({
                "metadata": {"namespace": key.namespace(), "name": "grant"},
                "spec": {
                    "from": [{"group": "", "kind": "Service", "namespace": from}],
                    "to": [{"group": "", "kind": "Service", "name": to}],
                },
            });
            world.grants = vec![serde_json::from_value(grant).unwrap()];
        }
        world
    }
}

proptest! {
    /// Events, status, metrics and logs depend only on what this test compares.
    /// Rule: 9.refusal-is-blind
    #[test]
    fn a_refusal_is_byte_equal_whatever_the_source_is(
        source in any_source(),
        state in any_state(),
        deny: bool,
        held: bool,
    ) {
        prop_assume!(state.grant.as_ref().is_none_or(|(_, name)| format!("{name}-x") != source.name()));
        let asks = service("vip").source(source.namespace(), source.name());
        let asks = if held { asks.annotate(annotation::WHEN_SOURCE_EMPTY, "hold") } else { asks };
        let mut missing = World::new().service(asks);
        missing.defaults = crate::model::Defaults {
            consent: ConsentPolicy {
                cross_namespace: if deny { CrossNamespace::Deny } else { CrossNamespace::Consent },
                ..ConsentPolicy::default()
            },
            ..defaults()
        };
        let existing = state.add_to(missing.clone(), &source);
        let seen = |world: &World| {
            let index = world.index();
            let decided = (world.plan("vip"), index.snapshot(&vip()));
            let counted = (index.endpoints(&vip()), index.names(), index.sources(), index.priority(&vip()));
            format!("{decided:?} {counted:?}")
        };
        prop_assert_eq!(seen(&existing), seen(&missing));
        prop_assert_eq!(existing.reasons("vip"), [Reason::NotPermitted]);
        prop_assert!(existing.plan("vip").is_done());
    }

    /// Rule: 9.allow-from, 9.reference-grant, 9.withdrawal
    #[test]
    fn names_after_changes_are_those_of_a_new_list(
        changes in proptest::collection::vec((0_u8..7, "[ab]{1}"), 1..20),
    ) {
        let mut world = world();
        let mut index = world.index();
        for (change, name) in changes {
            let source = plain_service(&name).namespace("web");
            match change {
                0 => world.put_service(source),
                1 => world.put_service(source.annotate(annotation::ALLOW_FROM, "default")),
                2 => _ = world.services.remove(&ServiceKey::new("web", name.as_str())),
                3 => world.put_service(service("vip").source("web", &name)),
                4 => world.grants = vec![grant(Some(&name))],
                5 => world.grants = vec![grant(None)],
                _ => world.grants = Vec::new(),
            }
            for name in ["a", "b", "app"] {
                let key = ServiceKey::new("web", name);
                match world.services.get(&key) {
                    Some(service) => _ = index.apply_service(service),
                    None => _ = index.delete_service(&key),
                }
            }
            index.apply_service(&world.services[&vip()]);
            let metadata = ObjectMeta {
                namespace: Some("web".to_owned()),
                name: Some("grant".to_owned()),
                ..ObjectMeta::default()
            };
            match world.grants.first().map(crate::model::Grant::read) {
                Some(granted) => _ = index.apply_grant(&metadata, granted),
                None => _ = index.delete_grant(&metadata),
            }
            prop_assert_eq!(index.names(), world.index().names());
        }
    }
}
