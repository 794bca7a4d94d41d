//! The sources in use, the comparison of a consistent list with the watches, and the addresses of API servers.

use super::*;
use crate::index::Listing;
use crate::testing::{endpoint, slice_port};
use k8s_openapi::api::discovery::v1::EndpointConditions;

/// A list of namespace `default` at a version. Its request is sent now.
fn listing(index: &Index, version: u64, slices: &[&EndpointSlice]) -> Listing {
    let mut listing = index.listing("default".to_owned(), ["kubernetes".to_owned()].into());
    listing.version = Some(version);
    for slice in slices {
        listing.add(&slice.metadata);
    }
    listing
}

fn with(slices: &[&EndpointSlice]) -> Index {
    let mut index = filled();
    for &slice in slices {
        index.apply_slice(&named(&["kubernetes"]), slice.clone());
    }
    index
}

#[test]
fn a_watch_that_shows_what_a_list_shows_or_more_is_not_behind() {
    let (old, new) = (slice("kubernetes").version(5), slice("kubernetes").version(7));
    let shows = |index: Index, version, slices: &[&EndpointSlice]| {
        let listing = listing(&index, version, slices);
        index.shows(&listing)
    };
    assert!(shows(with(&[&new]), 7, &[&new]));
    assert!(shows(with(&[&new]), 6, &[&old]), "the watch is ahead");
    assert!(
        shows(with(&[&new]), 6, &[]),
        "the slice was created after the list"
    );
    assert!(shows(filled(), 9, &[]));
}

#[test]
fn a_watch_that_lacks_any_change_is_behind() {
    let (old, new) = (slice("kubernetes").version(5), slice("kubernetes").version(7));
    let shows = |index: Index, slices: &[&EndpointSlice]| {
        let listing = listing(&index, 7, slices);
        index.shows(&listing)
    };
    assert!(!shows(with(&[&old]), &[&new]));
    assert!(!shows(filled(), &[&new]));
    assert!(!shows(with(&[&old]), &[]));
    assert!(!shows(with(&[&old]), &[&new.clone().uid("recreated")]));
    let other = slice("vip-1").of("vip").version(900);
    assert!(
        !shows(with(&[&other]), &[&new]),
        "a slice of another Service counts"
    );
}

#[test]
fn a_slice_deleted_before_the_list_arrives_is_not_missed() {
    let (first, second) = (slice("kubernetes").version(5), slice("kubernetes-2").version(9));
    let mut index = with(&[&first]);
    let listed = listing(&index, 6, &[&first]);
    index.delete_slice(&named(&["kubernetes"]), &first.clone().version(8).metadata);
    index.apply_slice(&named(&["kubernetes"]), second.clone());
    assert!(index.shows(&listed));
    assert!(
        !index.shows(&listing(&index, 10, &[&first, &second])),
        "a removal before the request for this list counts"
    );
}

#[test]
fn a_name_that_is_dropped_while_it_is_listed_is_not_missed() {
    let source = slice("kubernetes").version(5);
    let mut index = with(&[&source]);
    let listing = listing(&index, 5, &[&source]);
    index.apply_service(&service("vip").source("default", "app"));
    assert!(index.shows(&listing));
    index.retain_names(&shards(["app".to_owned()].into()));
    assert!(index.slice(&SliceKey::new("default", "kubernetes")).is_none());
    assert!(index.shows(&listing));
}

#[test]
fn a_list_ignores_slices_of_other_services_and_namespaces() {
    let elsewhere = slice("kubernetes").namespace("blue").version(5);
    let other = slice("vip-by-hand").of("vip").version(5);
    let index = with(&[&elsewhere, &other]);
    assert!(index.shows(&listing(&index, 9, &[])));
    let mut blue = listing(&index, 9, &[]);
    blue.namespace = "blue".to_owned();
    assert!(!index.shows(&blue), "the list of that namespace lacks the slice");
}

#[test]
fn sources_in_use_are_those_of_listed_managed_services() {
    let mut index = filled();
    index.apply_slice(&named(&["kubernetes"]), slice("kubernetes"));
    index.apply_service(&service("web").source("blue", "app"));
    let default: std::collections::BTreeMap<_, _> =
        [("default".to_owned(), ["kubernetes".to_owned()].into())].into();
    assert_eq!(index.sources(), default);
    let app = slice("app-1").of("app").namespace("blue");
    index.list_slice(&named(&["app"]), app.clone());
    index.slices_listed(&named(&["app"]), &[SliceKey::of(&app.metadata)].into());
    assert_eq!(index.sources().len(), 2);
    index.delete_service(&key("web"));
    assert_eq!(index.sources(), default);
}

/// Rule: survive.check-scope
#[test]
fn namespaces_without_an_existing_source_are_not_in_use() {
    let mut index = filled();
    index.apply_service(&service("web").source("invented", "app"));
    index.apply_service(&service("shop").source("blue", "app"));
    index.apply_service(&service("cart").source("blue", "not-there-yet"));
    index.slices_listed(&named(&["app", "not-there-yet"]), &HashSet::new());
    assert!(index.sources().is_empty(), "{:?}", index.sources());
    index.apply_service(&plain_service("app").namespace("blue"));
    let names: BTreeSet<_> = ["app", "not-there-yet"].map(str::to_owned).into();
    assert_eq!(index.sources(), [("blue".to_owned(), names)].into());
}

/// Rule: survive.selector-first
#[test]
fn pinned_names_are_from_the_flags_or_always_watched() {
    let mut index = Index::new(Defaults {
        source: ServiceKey::new("blue", "app"),
        managed: Some(key("vip")),
        ..defaults()
    });
    index.always_watch("kubernetes");
    let names = ["app", "kubernetes", "vip"].map(str::to_owned);
    assert_eq!(index.pinned_names(), names.into());
}

#[test]
fn a_name_that_is_always_watched_needs_no_service() {
    let mut index = Index::new(defaults());
    assert!(index.names().is_empty());
    index.always_watch("kubernetes");
    assert_eq!(index.names(), ["kubernetes".to_owned()].into());
}

/// Rule: survive.api-servers-learned
#[test]
fn addresses_are_ready_endpoints_at_the_named_port() {
    let ready = |ready| {
        Some(EndpointConditions {
            ready,
            ..EndpointConditions::default()
        })
    };
    let mut unready = endpoint("192.0.2.9");
    unready.conditions = ready(Some(false));
    let mut silent = endpoint("192.0.2.2");
    silent.conditions = ready(None);
    let kubernetes = slice("kubernetes")
        .edit(|slice| slice.endpoints = Some(vec![endpoint("192.0.2.1"), silent, unready]));
    let six = slice("kubernetes-6")
        .family("IPv6")
        .endpoints(["2001:db8::1"])
        .ports(&[slice_port("https", 443)]);
    let unnamed = slice("kubernetes-x")
        .endpoints(["192.0.2.7"])
        .ports(&[slice_port("http", 80)]);
    let elsewhere = slice("kubernetes").namespace("blue").endpoints(["192.0.2.8"]);
    let names = slice("kubernetes-n")
        .family("FQDN")
        .endpoints(["api.example.com"]);
    let index = with(&[&kubernetes, &six, &unnamed, &elsewhere, &names]);
    let own = [("192.0.2.1", 6443), ("192.0.2.2", 6443)].map(|(address, port)| (address.to_owned(), port));
    let others = [("2001:db8::1".to_owned(), 443)];
    assert_eq!(
        index.addresses_of(&key("kubernetes"), "https"),
        [own.into(), others.into()],
        "those in the slice with the name of the Service, and those in others"
    );
}

/// Rule: survive.selector-fair
#[test]
fn names_are_grouped_by_namespace_and_flagged_service() {
    let mut index = Index::new(Defaults {
        managed: Some(key("front")),
        ..defaults()
    });
    index.apply_service(&service("front").source("blue", "app"));
    index.apply_service(&service("vip"));
    index.apply_service(&service("web").namespace("blue").source("blue", "app"));
    index.apply_service(&plain_service("other"));
    let by_namespace = |namespace: &str| Requester::Namespace(namespace.to_owned());
    let expected = [
        (Requester::Flagged, ["app", "front"]),
        (by_namespace("blue"), ["app", "web"]),
        (by_namespace("default"), ["kubernetes", "vip"]),
    ];
    let expected = expected.map(|(requester, names)| (requester, names.map(str::to_owned).into()));
    let names = index.names_by_requester();
    assert_eq!(names, expected.into());
    let all: BTreeSet<_> = names.into_values().flatten().collect();
    assert_eq!(all, index.names());
}
