//! Copies of an empty source are emptied or deleted, unless they are held.

use k8s_openapi::api::discovery::v1::EndpointConditions;

use crate::model::{EndpointSlice, Service};
use crate::model::{Reason, SliceKey, annotation, annotation_of, copy_name, label, label_of, provenance};
use crate::testing::world::{World, Write};
use crate::testing::{Build, BuildService, BuildSlice, plain_service, service, slice, slice_port};

fn hold(service: Service) -> Service {
    service.annotate(annotation::WHEN_SOURCE_EMPTY, "hold")
}

/// `vip` with a copy of the API source.
fn copied() -> World {
    World::new()
        .service(service("vip"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
        .settled("vip")
}

/// A slice of `web/app`.
fn app_slice(name: &str) -> EndpointSlice {
    slice(name).of("app").namespace("web")
}

/// `vip` with copies of two slices of `web/app`.
fn copied_app(service: Service) -> World {
    World::new()
        .service(service.source("web", "app"))
        .slice(app_slice("app-aaaaa").endpoints(["192.0.2.1"]))
        .slice(app_slice("app-bbbbb").endpoints(["192.0.2.2"]))
        .settled("vip")
}

fn key(name: &str) -> SliceKey {
    SliceKey::new("default", name)
}

fn app_key(name: &str) -> SliceKey {
    SliceKey::new("web", name)
}

fn copy_of(source: &EndpointSlice) -> SliceKey {
    key(&copy_name("vip", source))
}

/// The two ways in which the API source becomes empty: its slice is gone, or has no endpoints.
fn emptied() -> [World; 2] {
    let (mut gone, mut bare) = (copied(), copied());
    gone.slices.remove(&key("kubernetes"));
    bare.edit(&key("kubernetes"), |slice| slice.endpoints = Some(Vec::new()));
    [gone, bare]
}

/// Rule: 3.held
#[test]
fn empty_api_server_list_holds_the_last_good_copy() {
    for mut world in emptied() {
        let before = world.copy("vip").clone();
        assert_eq!(world.settle("vip"), []);
        assert_eq!(*world.copy("vip"), before);
        assert!(
            world.reasons("vip").contains(&Reason::SourceEmptyHeld),
            "{:?}",
            world.findings("vip")
        );
    }
}

/// Rule: 3.held
#[test]
fn copies_of_the_api_source_are_held_in_any_namespace() {
    let key = crate::model::ServiceKey::new("apps", "vip");
    let mut world = World::new()
        .service(service("vip").namespace("apps").source("default", "kubernetes"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]));
    world.apply(world.plan_for(&key));
    world.slices.remove(&SliceKey::new("default", "kubernetes"));
    let plan = world.plan_for(&key);
    assert!(plan.is_done(), "{plan:#?}");
    assert!(
        plan.findings
            .iter()
            .any(|finding| finding.reason == Reason::SourceEmptyHeld)
    );
}

#[test]
fn copies_follow_again_when_the_source_has_endpoints() {
    for mut world in emptied() {
        world.settle("vip");
        world.put(slice("kubernetes").endpoints(["192.0.2.2"]));
        assert_eq!(
            world.settle("vip"),
            [Write::Update(copy_of(&slice("kubernetes")))]
        );
        assert_eq!(world.reasons("vip"), []);
    }
}

/// Rule: 3.empty-followed
#[test]
fn source_with_only_unready_endpoints_is_not_empty() {
    let mut world = copied();
    world.edit(&key("kubernetes"), |slice| {
        for endpoint in slice.endpoints.iter_mut().flatten() {
            endpoint.conditions = Some(EndpointConditions {
                ready: Some(false),
                ..EndpointConditions::default()
            });
        }
    });
    assert_eq!(world.settle("vip").len(), 1);
    assert_eq!(world.reasons("vip"), []);
}

/// Empties these slices of `web/app`.
fn empty_app(world: &mut World, names: &[&str]) {
    for name in names {
        world.edit(&app_key(name), |slice| slice.endpoints = None);
    }
}

/// Rule: 2.empty-in-place, 3.empty-followed
#[test]
fn copies_of_an_empty_source_are_emptied_in_place() {
    let mut world = copied_app(service("vip"));
    empty_app(&mut world, &["app-aaaaa", "app-bbbbb"]);
    let writes = world.settle("vip");
    assert!(
        matches!(writes[..], [Write::Update(_), Write::Update(_)]),
        "{writes:?}"
    );
    assert!(world.copies("vip").iter().all(|copy| copy.is_empty()));
    world.slices.retain(|key, _| key.namespace() == "default");
    assert_eq!(world.settle("vip").len(), 2);
    assert_eq!(world.reasons("vip"), [Reason::SourceNotFound]);
}

/// Rule: 2.empty-no-create
#[test]
fn empty_slice_never_causes_a_create() {
    for annotated in [service("vip"), hold(service("vip"))] {
        let mut world = World::new()
            .service(annotated.source("web", "app"))
            .slice(app_slice("app-aaaaa"))
            .slice(app_slice("app-bbbbb"));
        assert_eq!(world.settle("vip"), [], "all slices are empty");
        world.edit(&app_key("app-aaaaa"), |slice| {
            *slice = slice.clone().endpoints(["192.0.2.1"]);
        });
        let copy = copy_of(&app_slice("app-aaaaa"));
        assert_eq!(world.settle("vip"), [Write::Create(copy)]);
    }
}

/// Rule: 2.empty-beside-others
#[test]
fn empty_copy_is_deleted_while_another_slice_has_endpoints() {
    let copies = ["app-aaaaa", "app-bbbbb"].map(|name| copy_of(&app_slice(name)));
    for annotated in [service("vip"), hold(service("vip"))] {
        let mut world = copied_app(annotated);
        empty_app(&mut world, &["app-bbbbb"]);
        assert_eq!(world.settle("vip"), [Write::Delete(copies[1].clone())]);
        assert_eq!(world.reasons("vip"), []);
    }
    // The order of a plan is creates, updates, deletes, so that there are always endpoints.
    let mut world = copied_app(service("vip"));
    empty_app(&mut world, &["app-aaaaa", "app-bbbbb"]);
    world.settle("vip");
    world.edit(&app_key("app-bbbbb"), |slice| {
        *slice = slice.clone().endpoints(["192.0.2.3"]);
    });
    let [first, second] = copies;
    assert_eq!(world.settle("vip"), [Write::Update(second), Write::Delete(first)]);
}

/// Rule: 2.empty-beside-others
#[test]
fn moved_endpoints_are_copied_before_the_old_copy_is_deleted() {
    let mut world = World::new()
        .service(service("vip").source("web", "app"))
        .slice(app_slice("app-aaaaa").endpoints(["192.0.2.1"]))
        .settled("vip");
    empty_app(&mut world, &["app-aaaaa"]);
    world.put(app_slice("app-bbbbb").endpoints(["192.0.2.1"]));
    assert_eq!(
        world.settle("vip"),
        [
            Write::Create(copy_of(&app_slice("app-bbbbb"))),
            Write::Delete(copy_of(&app_slice("app-aaaaa"))),
        ]
    );
}

/// Rule: 2.empty-beside-others
#[test]
fn empty_copy_stays_beside_a_slice_of_the_other_family() {
    let mut world = World::new()
        .service(service("vip").families(&["IPv4", "IPv6"]).source("web", "app"))
        .slice(app_slice("app-aaaaa").endpoints(["192.0.2.1"]))
        .slice(app_slice("app-six").family("IPv6").endpoints(["2001:db8::1"]))
        .settled("vip");
    empty_app(&mut world, &["app-aaaaa"]);
    let copy = copy_of(&app_slice("app-aaaaa"));
    assert_eq!(world.settle("vip"), [Write::Update(copy)]);
}

/// Rule: 2.empty-in-place
#[test]
fn copy_whose_name_is_taken_does_not_replace_an_empty_one() {
    let mut world = World::new()
        .service(service("vip").source("web", "app"))
        .slice(app_slice("app-aaaaa").endpoints(["192.0.2.1"]))
        .settled("vip");
    let taken = copy_of(&app_slice("app-bbbbb"));
    world.put(slice(taken.name()).of("vip"));
    world.put(app_slice("app-bbbbb").endpoints(["192.0.2.1"]));
    empty_app(&mut world, &["app-aaaaa"]);
    let copy = copy_of(&app_slice("app-aaaaa"));
    assert_eq!(world.settle("vip"), [Write::Update(copy)]);
    let reasons = world.reasons("vip");
    assert_eq!(reasons, [Reason::NameTaken, Reason::ForeignSlices]);

    world.edit(&app_key("app-bbbbb"), |slice| slice.endpoints = None);
    assert_eq!(
        world.reasons("vip"),
        [Reason::ForeignSlices],
        "all slices are empty"
    );
}

/// Removes endpoints and ports from slices of `web/app`, as Kubernetes does when a Service has no Pods.
fn scale_to_zero(world: &mut World, names: &[&str]) {
    for name in names {
        world.edit(&app_key(name), |slice| {
            *slice = slice.clone().endpoints([]).ports(&[]);
        });
    }
}

/// `vip`, which refers to the port of `web/app` by name.
fn with_named_app_port() -> Service {
    service("vip")
        .source("web", "app")
        .no_ports()
        .port("https", "https")
}

/// Rule: 2.empty-in-place, 2.empty-ports
#[test]
fn an_emptied_copy_keeps_the_ports_that_its_slice_lost() {
    let mut world = World::new()
        .service(with_named_app_port())
        .slice(app_slice("app-aaaaa").endpoints(["192.0.2.1"]))
        .settled("vip");
    let before = world.copy("vip").clone();
    scale_to_zero(&mut world, &["app-aaaaa"]);
    let copy = copy_of(&app_slice("app-aaaaa"));
    assert_eq!(world.settle("vip"), [Write::Update(copy)]);
    assert_eq!(world.copy("vip").ports, before.ports);
    assert_eq!(world.reasons("vip"), []);
}

/// Rule: 2.empty-in-place, 2.empty-ports
#[test]
fn an_empty_copy_beside_a_held_one_keeps_its_ports() {
    let mut world = copied_app(hold(with_named_app_port()));
    // This is the state after a change from `follow` to `hold`.
    world.edit(&copy_of(&app_slice("app-bbbbb")), |copy| copy.endpoints = None);
    scale_to_zero(&mut world, &["app-aaaaa", "app-bbbbb"]);
    assert_eq!(world.settle("vip"), []);
    assert_eq!(world.reasons("vip"), [Reason::SourceEmptyHeld]);
}

/// Rule: 2.empty-ports
#[test]
fn ports_of_an_empty_slice_beside_others_do_not_matter() {
    let mut world = World::new()
        .service(with_named_app_port())
        .slice(app_slice("app-aaaaa").endpoints(["192.0.2.1"]))
        .slice(app_slice("app-bbbbb").ports(&[]));
    assert_eq!(world.settle("vip").len(), 1);
    assert_eq!(world.reasons("vip"), []);
    world.slices.remove(&app_key("app-aaaaa"));
    assert_eq!(
        world.reasons("vip"),
        [],
        "a slice without ports is reported although it has no endpoints"
    );
}

/// Rule: 3.when-source-empty
#[test]
fn annotation_overrides_whether_copies_are_held() {
    for (value, own_writes, app_writes) in [("hold", 0, 0), ("follow", 1, 1), ("", 0, 1), ("keep", 0, 1)] {
        let annotated = || service("vip").annotate(annotation::WHEN_SOURCE_EMPTY, value);
        let mut own = copied();
        own.put_service(annotated());
        own.edit(&key("kubernetes"), |slice| slice.endpoints = None);
        assert_eq!(
            own.settle("vip").len(),
            own_writes,
            "default/kubernetes, {value:?}"
        );
        let understood = value != "keep";
        assert_eq!(
            own.reasons("vip").contains(&Reason::InvalidAnnotation),
            !understood,
            "{value:?}"
        );

        let mut other = World::new()
            .service(annotated().source("web", "app"))
            .slice(app_slice("app-aaaaa").endpoints(["192.0.2.1"]))
            .settled("vip");
        empty_app(&mut other, &["app-aaaaa"]);
        assert_eq!(other.settle("vip").len(), app_writes, "web/app, {value:?}");
    }
}

/// Rule: 2.empty-in-place
#[test]
fn an_empty_copy_stays_beside_a_held_one() {
    let mut world = copied_app(hold(service("vip")));
    // This is the state that an older release leaves behind.
    world.edit(&copy_of(&app_slice("app-bbbbb")), |copy| copy.endpoints = None);
    empty_app(&mut world, &["app-aaaaa", "app-bbbbb"]);
    assert_eq!(world.settle("vip"), [], "while copies are held");
    world.slices.remove(&app_key("app-bbbbb"));
    assert_eq!(
        world.settle("vip").len(),
        1,
        "the slice of the empty copy is gone"
    );
    assert_eq!(world.reasons("vip"), [Reason::SourceEmptyHeld]);
}

/// Rule: 3.held-deleted
#[test]
fn held_copy_deleted_by_hand_is_not_recreated() {
    for mut world in emptied() {
        world.slices.remove(&copy_of(&slice("kubernetes")));
        assert_eq!(world.settle("vip"), []);
        assert!(!world.reasons("vip").contains(&Reason::SourceEmptyHeld));
    }
}

#[test]
fn source_that_was_always_empty_gets_no_copy() {
    let mut world = World::new().service(service("vip")).slice(slice("kubernetes"));
    assert_eq!(world.settle("vip"), []);
}

/// Rule: 3.held-per-family
#[test]
fn each_family_is_held_separately() {
    let mut world = World::new()
        .service(service("vip").families(&["IPv4", "IPv6"]))
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
        .slice(slice("kubernetes-6").family("IPv6").endpoints(["2001:db8::1"]))
        .settled("vip");
    world.edit(&key("kubernetes"), |slice| slice.endpoints = None);
    world.put(slice("kubernetes-6").family("IPv6").endpoints(["2001:db8::2"]));
    assert_eq!(world.settle("vip").len(), 1, "IPv6 has changed, IPv4 is empty");
    let note = &world.findings("vip")[0].note;
    assert!(note.contains("IPv4") && !note.contains("IPv6"), "{note}");
}

#[test]
fn family_that_the_service_no_longer_has_is_not_held() {
    let mut world = copied();
    world.edit(&key("kubernetes"), |slice| slice.endpoints = None);
    world.put_service(service("vip").families(&["IPv6"]));
    assert_eq!(
        world.settle("vip"),
        [Write::Delete(copy_of(&slice("kubernetes")))]
    );
}

/// Rule: 3.held-not-across
#[test]
fn copies_of_another_source_are_not_held() {
    for (source, name) in [
        (slice("app-aaaaa").of("app").namespace("web"), ("web", "app")),
        (slice("app").of("app"), ("default", "app")),
        (
            slice("kubernetes").of("kubernetes").namespace("web"),
            ("web", "kubernetes"),
        ),
    ] {
        let mut world = World::new()
            .service(hold(service("vip").source(name.0, name.1)))
            .slice(source.endpoints(["192.0.2.1"]))
            .settled("vip");
        assert_eq!(world.copies("vip").len(), 1);
        world.put_service(service("vip"));
        assert_eq!(world.settle("vip").len(), 1, "{name:?}");
        assert_eq!(world.copies("vip").len(), 0, "{name:?}");
    }
}

#[test]
fn source_of_a_deleted_slice_is_recognized_by_its_name() {
    let long = "s".repeat(60);
    let longest = "s".repeat(63);
    for (source, slice_name, held) in [
        ("app", "app", true),
        ("app", "app-x7k2p", true),
        ("app", "app-api-x7k2p", false),
        ("app", "application", false),
        ("app", "app-", false),
        (&long, &*format!("{}x7k2p", &long[..58]), true),
        (&longest, &*format!("{}x7k2p", &longest[..58]), true),
        (&long, &*format!("{}x7-2p", &long[..58]), false),
    ] {
        let mut world = World::new()
            .service(hold(service("vip").source("default", source)))
            .slice(slice(slice_name).of(source).endpoints(["192.0.2.1"]))
            .settled("vip");
        world.slices.remove(&key(slice_name));
        world.settle("vip");
        assert_eq!(
            world.copies("vip").len(),
            usize::from(held),
            "{slice_name} of {source}"
        );
    }
}

/// Rule: 3.held-not-across
#[test]
fn copy_of_a_slice_named_after_another_service_is_not_held() {
    for (exists, held) in [(true, false), (false, true)] {
        let mut world = World::new()
            .service(hold(service("vip").source("web", "db-replica")))
            .slice(
                slice("db-replica")
                    .of("db-replica")
                    .namespace("web")
                    .endpoints(["192.0.2.1"]),
            )
            .settled("vip");
        let other = plain_service("db-replica").namespace("web");
        if exists {
            world.put_service(other.clone());
        }
        world.put_service(hold(service("vip").source("web", "db")));
        world.settle("vip");
        assert_eq!(
            world.copies("vip").len(),
            usize::from(held),
            "the Service exists: {exists}"
        );
        let marked = world.index().apply_service(&other);
        let vip = crate::model::ServiceKey::new("default", "vip");
        assert_eq!(marked.contains(&vip), held, "the Service exists: {exists}");
    }
}

/// Rule: 3.held-not-across
#[test]
fn copies_for_another_uid_of_the_service_are_not_held() {
    for mut world in emptied() {
        world.put_service(service("vip").uid("new"));
        world.settle("vip");
        assert!(
            world
                .copies("vip")
                .iter()
                .all(|copy| copy.endpoints.iter().all(Vec::is_empty)),
            "{:#?}",
            world.copies("vip")
        );
    }
}

/// Rule: 3.held-ports
#[test]
fn the_ports_of_a_held_copy_follow_the_service() {
    for mut world in emptied() {
        world.put_service(service("vip").no_ports().number("https", 8443).headless());
        assert_eq!(world.settle("vip").len(), 1);
        let copy = world.copy("vip");
        assert_eq!(copy.ports, Some(vec![slice_port("https", 8443)]));
        assert_eq!(copy.endpoints.as_ref().unwrap().len(), 1);
    }
}

/// `vip`, which refers to its source's `api` port by name.
fn with_named_port() -> Service {
    service("vip").no_ports().port("https", "api")
}

fn settled_with_named_port() -> World {
    let source = slice("kubernetes").ports(&[slice_port("api", 6443)]);
    World::new()
        .service(with_named_port())
        .slice(source.endpoints(["192.0.2.1"]))
        .settled("vip")
}

#[test]
fn port_of_a_held_copy_keeps_its_last_known_number() {
    let mut world = settled_with_named_port();
    world.put(slice("kubernetes").ports(&[]));
    assert_eq!(world.settle("vip"), []);
    assert_eq!(world.reasons("vip"), [Reason::SourceEmptyHeld]);
    world.slices.remove(&key("kubernetes"));
    assert_eq!(world.settle("vip"), []);

    world.put_service(with_named_port().port("metrics", "m"));
    assert_eq!(world.settle("vip"), []);
    assert!(world.reasons("vip").contains(&Reason::PortUnresolved));
}

#[test]
fn ports_that_an_empty_slice_lists_are_used() {
    let ports = |numbers: [(&str, i32); 2]| numbers.map(|(name, number)| slice_port(name, number));
    let mut world = settled_with_named_port();
    world.put(slice("kubernetes").ports(&ports([("api", 7443), ("m", 9090)])));
    world.put_service(with_named_port().port("metrics", "m").port("other", "nobody"));
    assert_eq!(world.settle("vip").len(), 1);
    assert_eq!(
        world.copy("vip").ports,
        Some(vec![slice_port("https", 7443), slice_port("metrics", 9090)]),
        "one port is unknown"
    );
}

#[test]
fn held_copy_without_source_version_is_written_at_most_once() {
    for mut world in emptied() {
        let copy = copy_of(&slice("kubernetes"));
        world.edit(&copy, |copy| {
            *copy = copy.clone().without_annotation(provenance::RESOURCE_VERSION);
        });
        world.settle("vip");
    }
}

/// Rule: 3.held-repair
#[test]
fn source_annotations_of_a_held_copy_are_repaired() {
    let [_, mut world] = emptied();
    let copy = copy_of(&slice("kubernetes"));
    let before = world.copy("vip").metadata.clone();
    for (annotation, text) in [
        (provenance::SLICE, "a b"),
        (provenance::SLICE, "other"),
        (provenance::NAMESPACE, "other"),
        (provenance::UID, "other"),
    ] {
        world.edit(&copy, |copy| *copy = copy.clone().annotate(annotation, text));
        assert_eq!(
            world.settle("vip"),
            [Write::Update(copy.clone())],
            "{annotation}: {text}"
        );
        let after = &world.copy("vip").metadata;
        let label = label_of(after, label::SOURCE);
        assert_eq!(label, Some("kubernetes"), "{annotation}: {text}");
        for annotation in [provenance::SLICE, provenance::NAMESPACE, provenance::UID] {
            assert_eq!(
                annotation_of(after, annotation),
                annotation_of(&before, annotation),
                "{text}"
            );
        }
    }
}

/// Rule: 3.when-source-empty
#[test]
fn held_copy_is_emptied_or_deleted_when_the_service_follows() {
    let [mut gone, mut bare] = emptied();
    let follow = service("vip").annotate(annotation::WHEN_SOURCE_EMPTY, "follow");
    gone.put_service(follow.clone());
    assert_eq!(gone.settle("vip"), [Write::Delete(copy_of(&slice("kubernetes")))]);
    bare.put_service(follow);
    assert_eq!(bare.settle("vip"), [Write::Update(copy_of(&slice("kubernetes")))]);
}

#[test]
fn empty_source_without_a_copy_to_hold_is_reported() {
    let empty = || {
        World::new()
            .service(service("vip").source("default", "kubernetes"))
            .slice(slice("kubernetes"))
    };
    assert_eq!(empty().reasons("vip"), [Reason::SourceEmpty], "a new Service");
    let mut world = World::new()
        .service(service("vip").source("default", "kubernetes"))
        .slice(slice("kubernetes").endpoints(["192.0.2.1"]))
        .settled("vip");
    world.put(slice("kubernetes"));
    assert_eq!(world.reasons("vip"), [Reason::SourceEmptyHeld]);
    let plan = world.plan("vip");
    assert!(plan.is_done(), "{plan:#?}");
    let held = SliceKey::of(&world.copies("vip")[0].metadata);
    world.slices.remove(&held);
    assert_eq!(
        world.reasons("vip"),
        [Reason::SourceEmpty],
        "the copy was deleted by hand"
    );
    let follows = service("vip")
        .source("default", "kubernetes")
        .annotate(annotation::WHEN_SOURCE_EMPTY, "follow");
    assert!(
        World::new()
            .service(follows)
            .slice(slice("kubernetes"))
            .reasons("vip")
            .is_empty(),
        "an empty source is reported although the Service follows it"
    );
}
