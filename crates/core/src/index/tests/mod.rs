//! Changes to the index. Each change returns the keys of the Services that it affects.

use super::*;
use crate::model::{ConsentPolicy, Priority, annotation, copy_name};
use crate::testing::{Build, BuildService, BuildSlice, defaults, endpoint, plain_service, service, slice};

mod belonging;
mod bounded;
mod gone;
mod laws;
mod nodes;
mod probed;
mod quota;
mod replaced;
mod rewound;
mod services;
mod sources;
mod unreadable;

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn keys(names: &[&str]) -> Dirty {
    names.iter().map(|name| key(name)).collect()
}

fn named(names: &[&str]) -> Scope {
    Scope::Named(Arc::new(names.iter().map(|&name| name.to_owned()).collect()))
}

/// One watch for all these names.
fn shards(names: BTreeSet<String>) -> BTreeSet<Arc<BTreeSet<String>>> {
    [Arc::new(names)].into()
}

/// An index that has listed everything. Its only object is the Service `vip`, which copies `kubernetes`.
fn filled() -> Index {
    let mut index = Index::new(defaults());
    index.apply_service(&service("vip"));
    index.services_listed(&[key("vip")].into());
    index.slices_listed(&Scope::Copies, &HashSet::new());
    index.slices_listed(&named(&["kubernetes", "vip"]), &HashSet::new());
    index
}

/// Names of the slices of the source of `vip`.
fn source_slices(index: &Index) -> Vec<String> {
    let snapshot = index.snapshot(&key("vip")).expect("everything is listed");
    let source = snapshot.source.expect("a source");
    let names = source.slices.keys().map(SliceKey::name);
    names.map(str::to_owned).collect()
}

/// A copy for `vip`, as the operator writes it.
fn copy_slice() -> EndpointSlice {
    slice(&copy_name("vip", &slice("kubernetes"))).copied("vip", "kubernetes")
}

/// A user can change the source of a Service faster than sources can be listed.
#[test]
fn names_added_after_the_first_list_do_not_delay_filling() {
    let mut index = Index::new(defaults());
    index.apply_service(&service("vip").source("default", "first"));
    index.services_listed(&[key("vip")].into());
    index.slices_listed(&Scope::Copies, &HashSet::new());
    assert!(index.is_filled().is_err(), "the first source is not listed");
    index.apply_service(&service("vip").source("default", "second").version(2));
    index.slices_listed(&named(&["first", "vip"]), &HashSet::new());
    assert_eq!(index.is_filled(), Ok(()));
    assert!(
        index.snapshot(&key("vip")).is_none(),
        "the Service is planned before its own source is listed"
    );
}

#[test]
fn nothing_is_planned_before_all_needed_lists_arrive() {
    let mut index = Index::new(defaults());
    index.apply_service(&service("vip"));
    let vip = key("vip");
    assert!(index.snapshot(&vip).is_none());
    assert_eq!(index.services_listed(&[vip.clone()].into()), keys(&["vip"]));
    assert!(index.snapshot(&vip).is_none());
    assert_eq!(
        index.slices_listed(&Scope::Copies, &HashSet::new()),
        keys(&["vip"])
    );
    assert!(
        index.snapshot(&vip).is_none(),
        "planned while its source looks empty"
    );
    assert!(index.is_filled().is_err());
    assert_eq!(
        index.slices_listed(&named(&["kubernetes"]), &HashSet::new()),
        keys(&["vip"])
    );
    assert!(index.snapshot(&vip).is_some());
    assert!(
        index.is_filled().is_err(),
        "slices that others created for vip are not listed yet"
    );
    index.slices_listed(&named(&["vip"]), &HashSet::new());
    assert_eq!(index.is_filled(), Ok(()));
}

#[test]
fn a_source_named_for_the_first_time_never_looks_empty() {
    let mut index = filled();
    let dirty = index.apply_service(&service("vip").source("web", "app"));
    assert_eq!(dirty, keys(&["vip"]));
    assert!(index.snapshot(&key("vip")).is_none());
    assert!(index.names().contains("app"));
    let scope = named(&["app"]);
    index.list_slice(&scope, slice("app-1").of("app").namespace("web"));
    assert!(index.snapshot(&key("vip")).is_none(), "the list is not complete");
    let dirty = index.slices_listed(&scope, &[SliceKey::new("web", "app-1")].into());
    assert_eq!(dirty, keys(&["vip"]));
    assert_eq!(source_slices(&index), ["app-1"]);
}

#[test]
fn a_name_that_was_dropped_has_to_be_listed_again() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    index.apply_slice(&scope, slice("kubernetes"));
    assert_eq!(source_slices(&index), ["kubernetes"]);

    index.apply_service(&service("vip").annotate("endpoint-copier/default-service-name", "no name"));
    assert!(!index.names().contains("kubernetes"));
    index.retain_names(&shards(index.names()));
    assert!(
        index.slice(&SliceKey::new("default", "kubernetes")).is_none(),
        "a slice is kept although its name is no longer watched"
    );

    index.apply_service(&service("vip"));
    assert!(
        index.snapshot(&key("vip")).is_none(),
        "planned while its source looks empty"
    );
    index.list_slice(&scope, slice("kubernetes"));
    let dirty = index.slices_listed(&scope, &[SliceKey::new("default", "kubernetes")].into());
    assert_eq!(dirty, keys(&["vip"]));
    assert_eq!(source_slices(&index), ["kubernetes"]);
}

#[test]
fn names_that_stay_keep_their_slices() {
    let mut index = filled();
    let (scope, mut listed) = (named(&["kubernetes"]), HashSet::new());
    let taken = slice(&copy_name("vip", &slice("kubernetes"))).of("kubernetes");
    for slice in [slice("kubernetes"), taken] {
        listed.insert(SliceKey::of(&slice.metadata));
        index.list_slice(&scope, slice);
    }
    index.slices_listed(&scope, &listed);
    index.apply_slice(&named(&["vip"]), slice("theirs").of("vip"));
    index.retain_names(&shards(["kubernetes".to_owned()].into()));
    assert_eq!(source_slices(&index).len(), 2);
    assert!(index.slice(&SliceKey::new("default", "theirs")).is_none());
}

/// Rule: 3.source-service
#[test]
fn a_changed_service_marks_itself_and_the_services_that_copy_it() {
    let mut index = filled();
    assert_eq!(index.apply_service(&service("vip")), keys(&[]), "no change");
    assert_eq!(
        index.apply_service(&service("vip").version(7).label("a", "b")),
        keys(&[]),
        "no relevant change"
    );
    assert_eq!(index.apply_service(&service("vip").uid("new")), keys(&["vip"]));
    assert_eq!(index.apply_service(&service("vip").deleting()), keys(&["vip"]));
    assert_eq!(
        index.apply_service(&plain_service("other")),
        keys(&[]),
        "it is not managed"
    );
    assert_eq!(
        index.apply_service(&plain_service("kubernetes")),
        keys(&["vip"]),
        "the source appears"
    );
    assert_eq!(
        index.delete_service(&key("kubernetes")),
        keys(&["vip"]),
        "the source is deleted"
    );
    assert_eq!(
        index.delete_service(&key("kubernetes")),
        keys(&[]),
        "it does not exist"
    );
    assert_eq!(index.delete_service(&key("vip")), keys(&["vip"]));
}

/// Rule: 3.managed-service
#[test]
fn a_service_with_copies_is_dirty_when_created_or_deleted() {
    let mut index = filled();
    index.services_listed(&HashSet::new());
    index.apply_slice(&Scope::Copies, copy_slice());
    assert_eq!(index.apply_service(&plain_service("vip")), keys(&["vip"]));
    assert_eq!(index.delete_service(&key("vip")), keys(&["vip"]));
}

/// Rule: 3.while-none-ran
#[test]
fn a_service_that_is_not_on_the_list_is_gone() {
    let mut index = filled();
    index.apply_service(&plain_service("kubernetes"));
    assert_eq!(
        index.services_listed(&[key("vip")].into()),
        keys(&["vip"]),
        "its source no longer exists"
    );
    assert_eq!(index.services_listed(&HashSet::new()), keys(&["vip"]));
    assert!(!index.is_managed(&key("vip")));
}

/// Rule: 3.source-slice
#[test]
fn a_source_slice_marks_every_service_that_copies_it() {
    let mut index = filled();
    index.apply_service(&service("second"));
    index.apply_service(&service("third").source("default", "other"));
    let scope = named(&["kubernetes", "vip"]);
    let source = slice("kubernetes");
    assert_eq!(
        index.apply_slice(&scope, source.clone()),
        keys(&["second", "vip"])
    );
    assert_eq!(index.apply_slice(&scope, source.clone()), keys(&[]), "no change");
    assert_eq!(
        index.apply_slice(&scope, source.clone().version(99)),
        keys(&[]),
        "an older version"
    );
    assert_eq!(
        index.apply_slice(&scope, slice("x").namespace("web")),
        keys(&[]),
        "another namespace"
    );
    assert_eq!(
        index.apply_slice(&scope, source.clone().version(101)),
        keys(&["second", "vip"])
    );
    assert_eq!(
        index.delete_slice(&scope, &source.metadata),
        keys(&[]),
        "an old deletion"
    );
    assert_eq!(
        index.delete_slice(&scope, &source.version(102).metadata),
        keys(&["second", "vip"])
    );
}

#[test]
fn a_list_replaces_the_known_state_even_if_it_is_older() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    index.apply_slice(&scope, slice("kubernetes").version(200));
    index.apply_slice(&scope, slice("lost").version(201));
    let dirty = index.list_slice(&scope, slice("kubernetes").version(100));
    assert_eq!(dirty, keys(&["vip"]));
    let dirty = index.slices_listed(&scope, &[SliceKey::new("default", "kubernetes")].into());
    assert_eq!(dirty, keys(&["vip"]));
    assert_eq!(source_slices(&index), ["kubernetes"]);
}

#[test]
fn a_copy_marks_its_service_when_it_is_changed_or_deleted() {
    for service in [Some(service("vip")), Some(plain_service("vip")), None] {
        let mut index = filled();
        index.services_listed(&HashSet::new());
        if let Some(service) = &service {
            index.apply_service(service);
        }
        let copy = copy_slice();
        assert_eq!(index.apply_slice(&Scope::Copies, copy.clone()), keys(&["vip"]));
        assert_eq!(index.all(), keys(&["vip"]));
        assert_eq!(
            index.delete_slice(&Scope::Copies, &copy.version(101).metadata),
            keys(&["vip"])
        );
    }
}

#[test]
fn a_changed_slice_without_a_version_is_noticed() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    let bare = |slice: EndpointSlice| slice.edit(|slice| slice.metadata.resource_version = None);
    index.apply_slice(&scope, bare(slice("kubernetes")));
    assert_eq!(
        index.apply_slice(&scope, bare(slice("kubernetes").endpoints(["192.0.2.1"]))),
        keys(&["vip"])
    );
}

/// Rule: survive.odd-objects
#[test]
fn empty_objects_do_no_harm() {
    let mut index = filled();
    index.apply_service(&Service::default());
    for scope in [Scope::Copies, named(&[""])] {
        index.apply_slice(&scope, EndpointSlice::default());
        index.list_slice(&scope, EndpointSlice::default());
        index.delete_slice(&scope, &EndpointSlice::default().metadata);
        index.slices_listed(&scope, &HashSet::new());
    }
    look(&mut index, &SliceKey::new("", ""), Some(EndpointSlice::default()));
    assert!(index.snapshot(&ServiceKey::new("", "")).is_some());
}

#[test]
fn the_names_in_use_are_the_sources_and_the_managed_services() {
    let mut index = Index::new(defaults());
    index.apply_service(&service("vip"));
    index.apply_service(&service("web-vip").source("web", "app"));
    index.apply_service(&service("typo").source("web", "no name"));
    index.apply_service(&plain_service("other"));
    let expected = ["app", "kubernetes", "typo", "vip", "web-vip"].map(str::to_owned);
    assert_eq!(index.names(), expected.into());
    index.apply_service(&plain_service("web-vip"));
    assert!(!index.names().contains("app") && !index.names().contains("web-vip"));
}

/// Rule: 1.enabled-false-leftovers
#[test]
fn a_disabled_service_is_watched_and_its_leftover_marks_it() {
    let disabled = service("vip").annotate(annotation::ENABLED, "false");
    let leftover = || slice("vip").of("vip").label(label::SOURCE, "kubernetes");
    let mut index = Index::new(defaults());
    index.services_listed(&HashSet::new());
    assert_eq!(index.apply_service(&disabled), keys(&["vip"]));
    assert_eq!(index.names(), ["vip".to_owned()].into());
    assert_eq!((index.managed_services(), index.managed().count()), (0, 0));
    assert!(!index.is_managed(&key("vip")));
    assert_eq!(index.endpoints(&key("vip")), None);
    assert_eq!(index.all(), keys(&["vip"]));
    assert_eq!(index.list_slice(&named(&["vip"]), leftover()), keys(&["vip"]));
    let changed = index.names_changed();
    assert_eq!(index.apply_service(&plain_service("vip")), keys(&["vip"]));
    assert!(index.names().is_empty() && index.names_changed() > changed);
    assert_eq!(index.all(), Dirty::new());
}

/// Rule: survive.api-servers-first
#[test]
fn copies_of_the_api_source_are_urgent_only_in_its_namespace() {
    let mut index = Index::new(Defaults {
        source: ServiceKey::new("web", "app"),
        ..defaults()
    });
    index.apply_service(&service("vip").source("default", "kubernetes"));
    index.apply_service(&service("of-the-default-source"));
    index.apply_service(&service("tenant").namespace("web").source("default", "kubernetes"));
    for (key, expected) in [
        (key("kubernetes-vip"), Priority::Flagged),
        (key("vip"), Priority::ApiServers),
        (key("of-the-default-source"), Priority::Other),
        (ServiceKey::new("web", "tenant"), Priority::Other),
        (key("nobody"), Priority::Other),
    ] {
        assert_eq!(index.priority(&key), expected, "{key}");
    }
}

/// Rule: 2.create-confirmed
#[test]
fn a_source_is_in_doubt_while_its_watch_relists() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    let is_in_doubt = |index: &Index| {
        index
            .snapshot(&key("vip"))
            .expect("everything is listed")
            .in_doubt
    };
    assert!(!is_in_doubt(&index));
    index.list_begins(&scope);
    assert!(is_in_doubt(&index));
    index.slices_listed(&scope, &HashSet::new());
    assert!(!is_in_doubt(&index));
    index.list_begins(&named(&["kubernetes"]));
    assert!(
        !is_in_doubt(&index),
        "the source is in doubt although the old watch continues"
    );
}

#[test]
fn grants_are_needed_while_a_source_is_in_another_namespace() {
    let consent = ConsentPolicy::default();
    let mut index = Index::new(Defaults {
        consent,
        ..defaults()
    });
    let elsewhere = |name: &str| service(name).source("web", "app");
    assert!(!index.needs_grants());
    index.apply_service(&elsewhere("vip"));
    index.apply_service(&elsewhere("other"));
    assert!(index.needs_grants());
    // The same request again, and another source in another namespace.
    index.apply_service(&elsewhere("vip").version(300));
    index.apply_service(&service("vip").source("db", "app"));
    index.delete_service(&key("other"));
    assert!(index.needs_grants());
    index.apply_service(&service("vip").source("default", "app"));
    assert!(!index.needs_grants(), "in the same namespace");
    index.apply_service(&service("vip").namespace("web"));
    assert!(!index.needs_grants(), "the default source needs no grant");
}

/// Applies the result of a GET that no watch overtakes.
fn look(index: &mut Index, key: &SliceKey, slice: Option<EndpointSlice>) -> Dirty {
    let before = index.state(key);
    index.observe(key, &before, slice).unwrap_or_default()
}

#[test]
fn a_get_that_a_watch_has_overtaken_changes_nothing() {
    let names = Scope::Named(Arc::new(BTreeSet::from(["kubernetes".to_owned()])));
    let key = SliceKey::new("default", "kubernetes");
    let source = |version| slice("kubernetes").of("kubernetes").version(version);
    let new = || {
        let mut index = Index::new(defaults());
        index.slices_listed(&names, &HashSet::new());
        index
    };
    // The GET returned 404, and then the slice was created. The watch event arrives before the response.
    let mut index = new();
    let before = index.state(&key);
    index.apply_slice(&names, source(10));
    assert_eq!(index.observe(&key, &before, None), None);
    assert!(index.slice(&key).is_some());
    // The slice was created, the GET was answered, and the slice was deleted. The watch event arrives before the
    // response.
    let mut index = new();
    let before = index.state(&key);
    index.apply_slice(&names, source(10));
    index.delete_slice(&names, &source(11).metadata);
    assert_eq!(index.observe(&key, &before, Some(source(10))), None);
    assert!(index.slice(&key).is_none(), "the slice is deleted");
}
