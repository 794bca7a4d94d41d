//! A change goes in, the keys that it concerns come out.

use super::*;
use crate::plan::copy;
use crate::testing::{Build, BuildService, BuildSlice, defaults, plain_service, service, slice};

mod laws;

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn keys(names: &[&str]) -> Dirty {
    names.iter().map(|name| key(name)).collect()
}

fn named(names: &[&str]) -> Scope {
    Scope::Named(Arc::new(names.iter().map(|&name| name.to_owned()).collect()))
}

/// An index that has listed everything: `vip`, which copies `kubernetes`.
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
    source
        .slices
        .iter()
        .filter_map(|slice| slice.metadata.name.clone())
        .collect()
}

/// A copy for `vip` as the operator makes it.
fn copy_slice() -> EndpointSlice {
    slice(&copy::name("vip", &slice("kubernetes"))).copied("vip", "kubernetes")
}

#[test]
fn nothing_is_decided_before_services_copies_and_the_source_are_listed() {
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
    assert!(index.snapshot(&vip).is_none(), "its source would only look empty");
    assert!(!index.is_filled());
    assert_eq!(
        index.slices_listed(&named(&["kubernetes"]), &HashSet::new()),
        keys(&["vip"])
    );
    assert!(index.snapshot(&vip).is_some());
    assert!(!index.is_filled(), "slices of others for vip are not known");
    index.slices_listed(&named(&["vip"]), &HashSet::new());
    assert!(index.is_filled());
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
    assert!(index.snapshot(&key("vip")).is_none(), "half a list is none");
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
    index.retain_names(&index.names());
    assert!(
        index.slice(&SliceKey::new("default", "kubernetes")).is_none(),
        "it is forgotten"
    );

    index.apply_service(&service("vip"));
    assert!(
        index.snapshot(&key("vip")).is_none(),
        "the source would look empty"
    );
    index.list_slice(&scope, slice("kubernetes"));
    let dirty = index.slices_listed(&scope, &[SliceKey::new("default", "kubernetes")].into());
    assert_eq!(dirty, keys(&["vip"]));
    assert_eq!(source_slices(&index), ["kubernetes"]);
}

#[test]
fn names_that_stay_keep_their_slices() {
    let mut index = filled();
    let taken = slice(&copy::name("vip", &slice("kubernetes"))).of("kubernetes");
    index.apply_slice(&named(&["kubernetes"]), slice("kubernetes"));
    index.apply_slice(&named(&["kubernetes"]), taken);
    index.apply_slice(&named(&["vip"]), slice("theirs").of("vip"));
    index.retain_names(&["kubernetes".to_owned()].into());
    assert_eq!(source_slices(&index).len(), 2);
    assert!(index.slice(&SliceKey::new("default", "theirs")).is_none());
}

#[test]
fn a_change_of_a_service_concerns_itself_and_those_that_copy_it() {
    let mut index = filled();
    assert_eq!(index.apply_service(&service("vip")), keys(&[]), "no change");
    assert_eq!(
        index.apply_service(&service("vip").version(7).label("a", "b")),
        keys(&[]),
        "none that counts"
    );
    assert_eq!(index.apply_service(&service("vip").uid("new")), keys(&["vip"]));
    assert_eq!(index.apply_service(&service("vip").deleting()), keys(&["vip"]));
    assert_eq!(
        index.apply_service(&plain_service("other")),
        keys(&[]),
        "it asks for nothing"
    );
    assert_eq!(
        index.apply_service(&plain_service("kubernetes")),
        keys(&["vip"]),
        "the source appears"
    );
    assert_eq!(
        index.delete_service(&key("kubernetes")),
        keys(&["vip"]),
        "the source goes"
    );
    assert_eq!(
        index.delete_service(&key("kubernetes")),
        keys(&[]),
        "it is gone already"
    );
    assert_eq!(index.delete_service(&key("vip")), keys(&["vip"]));
}

#[test]
fn a_service_that_is_not_on_the_list_is_gone() {
    let mut index = filled();
    index.apply_service(&plain_service("kubernetes"));
    assert_eq!(
        index.services_listed(&[key("vip")].into()),
        keys(&["vip"]),
        "its source is gone"
    );
    assert_eq!(index.services_listed(&HashSet::new()), keys(&["vip"]));
    assert!(!index.is_managed(&key("vip")));
}

#[test]
fn a_source_slice_concerns_every_service_that_copies_it() {
    let mut index = filled();
    index.apply_service(&service("second"));
    index.apply_service(&service("third").source("default", "other"));
    let scope = named(&["kubernetes", "vip"]);
    let source = slice("kubernetes");
    assert_eq!(
        index.apply_slice(&scope, source.clone()),
        keys(&["second", "vip"])
    );
    assert_eq!(index.apply_slice(&scope, source.clone()), keys(&[]), "no news");
    assert_eq!(
        index.apply_slice(&scope, source.clone().version(99)),
        keys(&[]),
        "old news"
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
    assert_eq!(index.delete_slice(&scope, &source), keys(&[]), "an old deletion");
    assert_eq!(
        index.delete_slice(&scope, &source.version(102)),
        keys(&["second", "vip"])
    );
}

#[test]
fn a_list_is_the_truth_even_where_it_is_older() {
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
fn a_copy_concerns_its_service_while_it_is_there_and_when_it_goes() {
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
            index.delete_slice(&Scope::Copies, &copy.version(101)),
            keys(&["vip"])
        );
    }
}

#[test]
fn a_copy_belongs_to_its_owner_whatever_its_label_says() {
    let mut index = filled();
    let dirty = index.apply_slice(&Scope::Copies, copy_slice().of("other"));
    assert!(dirty.contains(&key("vip")), "{dirty:?}");
    assert_eq!(index.snapshot(&key("vip")).unwrap().slices.len(), 1);
}

#[test]
fn a_slice_with_the_name_of_a_copy_is_seen_whatever_it_belongs_to() {
    let name = copy_slice().metadata.name.unwrap();
    let stranger = || slice(&name).of("kubernetes");
    for (scope, slice) in [
        (named(&["kubernetes", "vip"]), stranger()),
        (
            Scope::Copies,
            stranger().label(crate::model::label::MANAGED_BY, crate::model::MANAGED_BY),
        ),
    ] {
        let mut index = filled();
        assert!(index.apply_slice(&scope, slice.clone()).contains(&key("vip")));
        assert_eq!(index.snapshot(&key("vip")).unwrap().slices.len(), 1, "{scope:?}");
        assert!(
            index
                .delete_slice(&scope, &slice.version(101))
                .contains(&key("vip"))
        );
    }
}

#[test]
fn a_slice_by_its_name_alone_is_no_slice_of_the_source() {
    let mut index = filled();
    index.apply_service(&service("second").source("default", "vip"));
    index.slices_listed(&named(&["second"]), &HashSet::new());
    let name = copy_slice().metadata.name.unwrap();
    index.apply_slice(&named(&["kubernetes", "vip"]), slice(&name).of("kubernetes"));
    let source = index.snapshot(&key("second")).unwrap().source.unwrap();
    assert!(source.slices.is_empty());
}

#[test]
fn a_slice_that_moves_between_two_watches_is_in_one_of_them() {
    let (one, two) = (named(&["kubernetes"]), named(&["other"]));
    let (before, after) = (slice("x").version(100), slice("x").of("other").version(105));
    // A watch tells that a slice has left it by the old state at the new version.
    let left = before.clone().version(105);
    for arrives_first in [true, false] {
        let mut index = filled();
        index.apply_service(&service("second").source("default", "other"));
        index.slices_listed(&two, &HashSet::new());
        index.apply_slice(&one, before.clone());
        let mut dirty = Dirty::new();
        if arrives_first {
            dirty.extend(index.apply_slice(&two, after.clone()));
            dirty.extend(index.delete_slice(&one, &left));
        } else {
            dirty.extend(index.delete_slice(&one, &left));
            dirty.extend(index.apply_slice(&two, after.clone()));
        }
        assert_eq!(dirty, keys(&["second", "vip"]), "arrives first: {arrives_first}");
        assert_eq!(source_slices(&index), [""; 0]);
        let source = index.snapshot(&key("second")).unwrap().source.unwrap();
        assert_eq!(source.slices.len(), 1, "arrives first: {arrives_first}");

        index.slices_listed(&one, &HashSet::new());
        assert_eq!(
            index
                .snapshot(&key("second"))
                .unwrap()
                .source
                .unwrap()
                .slices
                .len(),
            1,
            "not this watch's to lose"
        );
    }
}

#[test]
fn a_slice_that_becomes_ours_or_no_longer_is_counts_at_its_newest() {
    let scope = named(&["kubernetes", "vip"]);
    let copy = copy_slice();
    let lost = copy
        .clone()
        .without_label(crate::model::label::MANAGED_BY)
        .version(105);
    let mut index = filled();
    index.apply_slice(&Scope::Copies, copy.clone());
    index.apply_slice(&scope, lost.clone());
    let ours_of = |index: &Index| {
        let slices = index.snapshot(&key("vip")).unwrap().slices;
        slices
            .iter()
            .map(|slice| crate::model::ours(slice).is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(ours_of(&index), [false], "one slice, as it is now");
    index.delete_slice(&Scope::Copies, &copy.clone().version(105));
    assert_eq!(ours_of(&index), [false]);
    index.apply_slice(&Scope::Copies, copy.version(106));
    assert_eq!(ours_of(&index), [true]);
}

#[test]
fn a_slice_that_was_read_counts_from_then_on() {
    let mut index = filled();
    let source = SliceKey::new("default", "kubernetes");
    assert_eq!(
        index.observe(&source, Some(slice("kubernetes").version(200))),
        keys(&["vip"])
    );
    let scope = named(&["kubernetes", "vip"]);
    assert_eq!(
        index.apply_slice(&scope, slice("kubernetes").version(150)),
        keys(&[]),
        "the watch is behind"
    );
    assert_eq!(source_slices(&index), ["kubernetes"]);
    assert_eq!(index.observe(&source, None), keys(&["vip"]));
    assert_eq!(source_slices(&index), [""; 0]);
    assert_eq!(
        index.observe(&SliceKey::new("default", "vip-x"), Some(copy_slice())),
        keys(&["vip"])
    );
}

#[test]
fn what_was_read_is_no_proof_that_the_watch_saw_it() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    index.apply_slice(&scope, slice("kubernetes").version(100));
    index.observe(&SliceKey::new("default", "new"), Some(slice("new").version(200)));
    assert_eq!(index.snapshot(&key("vip")).unwrap().seen, 100);
    // A list that was taken before the read takes the slice away again: its copy must raise a question.
    index.slices_listed(&scope, &[SliceKey::new("default", "kubernetes")].into());
    let mut copied = copy_slice().annotate("endpoint-copier/source-slice", "new");
    copied = copied.annotate("endpoint-copier/source-resource-version", "200");
    index.apply_slice(&Scope::Copies, copied);
    let plan = crate::plan::plan(&index.snapshot(&key("vip")).unwrap());
    assert_eq!((plan.deletes.len(), plan.confirm.len()), (0, 1));
}

#[test]
fn a_slice_that_was_read_and_that_no_watch_shows_is_not_kept() {
    // Nobody would say when it is gone.
    let mut index = filled();
    for stranger in [
        slice("x").without_label(crate::model::label::SERVICE_NAME),
        slice("x").of("nobody"),
    ] {
        let x = SliceKey::new("default", "x");
        index.observe(&x, Some(slice("x")));
        assert!(index.slice(&x).is_some());
        assert_eq!(
            index.observe(&x, Some(stranger.version(300))),
            keys(&["vip"]),
            "it has left the source"
        );
        assert!(index.slice(&x).is_none());
    }
}

#[test]
fn a_deletion_counts_as_seen() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    index.apply_slice(&scope, slice("kubernetes"));
    index.delete_slice(&scope, &slice("kubernetes").version(333));
    assert_eq!(index.snapshot(&key("vip")).unwrap().seen, 333);
}

#[test]
fn slices_without_a_version_are_always_news() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    let bare = |slice: EndpointSlice| slice.edit(|slice| slice.metadata.resource_version = None);
    index.apply_slice(&scope, bare(slice("kubernetes")));
    assert_eq!(
        index.apply_slice(&scope, bare(slice("kubernetes").endpoints(["192.0.2.1"]))),
        keys(&["vip"])
    );
}

#[test]
fn objects_with_nothing_in_them_do_no_harm() {
    let mut index = filled();
    index.apply_service(&Service::default());
    for scope in [Scope::Copies, named(&[""])] {
        index.apply_slice(&scope, EndpointSlice::default());
        index.list_slice(&scope, EndpointSlice::default());
        index.delete_slice(&scope, &EndpointSlice::default());
        index.slices_listed(&scope, &HashSet::new());
    }
    index.observe(&SliceKey::new("", ""), Some(EndpointSlice::default()));
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

#[test]
fn copies_of_the_default_source_are_urgent() {
    let mut index = filled();
    index.apply_service(&service("web-vip").source("web", "app"));
    assert!(index.is_urgent(&key("vip")));
    assert!(!index.is_urgent(&key("web-vip")) && !index.is_urgent(&key("nobody")));
}
