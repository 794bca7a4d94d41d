//! Slices that cannot be decoded, and how long their copies stay protected.

use super::*;
use crate::model::Unreadable;

/// A slice of which only the name can be read.
fn without_labels(name: &str) -> Unreadable {
    let mut metadata = slice(name).metadata;
    metadata.labels = None;
    Unreadable {
        metadata,
        condition: None,
        error: "invalid type".to_owned(),
    }
}

/// An unreadable state of `kubernetes`, at this version.
fn at(version: u64) -> Unreadable {
    let metadata = slice("kubernetes").version(version).metadata;
    let error = "invalid type".to_owned();
    let condition = None;
    Unreadable {
        metadata,
        condition,
        error,
    }
}

fn is_protected(index: &Index) -> bool {
    let snapshot = index.snapshot(&key("vip")).expect("everything is listed");
    !snapshot.source.expect("a source").unreadable.is_empty()
}

#[test]
fn a_list_of_other_names_keeps_a_slice_without_labels() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    index.apply_unreadable_slice(&scope, &without_labels("kubernetes"));
    index.slices_listed(&named(&["another"]), &HashSet::new());
    assert!(is_protected(&index), "another watch shows it");
    assert_eq!(
        index.observe_unreadable(&without_labels("kubernetes")),
        Some(keys(&[]))
    );
    index.slices_listed(&named(&["another"]), &HashSet::new());
    assert!(is_protected(&index), "a GET shows it too");
    index.slices_listed(&named(&["another", "kubernetes", "vip"]), &HashSet::new());
    assert!(
        !is_protected(&index),
        "a watch that replaces the one of the slice has listed"
    );
}

fn kubernetes() -> SliceKey {
    SliceKey::new("default", "kubernetes")
}

#[test]
fn a_slice_without_labels_is_forgotten_with_its_names() {
    let mut index = filled();
    index.apply_unreadable_slice(&named(&["kubernetes", "gone"]), &without_labels("kubernetes"));
    // A watch with fewer names replaces the current one. Its list shows that the slice belongs to no Service with one
    // of these names.
    index.retain_names(&shards(["kubernetes".to_owned()].into()));
    assert!(is_protected(&index));
    let dirty = index.slices_listed(&named(&["kubernetes"]), &HashSet::new());
    assert_eq!(dirty, keys(&["vip"]));
    assert!(!index.unreadable.has_seen(&kubernetes(), None));

    let mut index = filled();
    index.apply_unreadable_slice(&named(&["kubernetes", "gone"]), &without_labels("kubernetes"));
    index.retain_names(&shards(["another".to_owned()].into()));
    assert!(!index.unreadable.has_seen(&kubernetes(), None));
}

#[test]
fn a_slice_that_only_a_get_shows_is_not_kept() {
    let mut index = filled();
    assert_eq!(index.observe_unreadable(&without_labels("kubernetes")), None);
    let mut of_another = without_labels("kubernetes");
    of_another.metadata.labels = slice("kubernetes").of("another").metadata.labels;
    assert_eq!(index.observe_unreadable(&of_another), None);
    assert!(!index.unreadable.has_seen(&kubernetes(), None));
    // The watch of its Service will show the slice and its deletion.
    index.apply_slice(&named(&["kubernetes", "vip"]), slice("kubernetes"));
    assert_eq!(
        index.observe_unreadable(&without_labels("kubernetes")),
        Some(keys(&[]))
    );
    assert!(is_protected(&index));
    index.slices_listed(&named(&["kubernetes", "vip"]), &HashSet::new());
    assert!(!is_protected(&index));
}

/// After a restart, no readable state of the slice is known.
#[test]
fn the_end_of_an_unreadable_slice_marks_its_service() {
    let scope = named(&["kubernetes", "vip"]);
    let labeled = Unreadable {
        metadata: slice("kubernetes").metadata,
        condition: None,
        error: String::new(),
    };
    for unreadable in [labeled, without_labels("kubernetes")] {
        let shown = || {
            let mut index = filled();
            assert_eq!(index.apply_unreadable_slice(&scope, &unreadable), keys(&[]));
            index
        };
        let later = slice("kubernetes").version(200);
        assert_eq!(shown().delete_slice(&scope, &later.metadata), keys(&["vip"]));
        let mut without = without_labels("kubernetes").metadata;
        without.resource_version = Some("200".to_owned());
        assert_eq!(shown().delete_slice(&scope, &without), keys(&["vip"]));
        assert_eq!(shown().slices_listed(&scope, &HashSet::new()), keys(&["vip"]));
        assert!(look(&mut shown(), &kubernetes(), None).contains(&key("vip")));
        assert_eq!(shown().list_slice(&scope, later), keys(&["vip"]));
    }
}

#[test]
fn an_unreadable_slice_that_moves_marks_its_former_service() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    index.apply_unreadable_slice(&scope, &without_labels("kubernetes"));
    let mut of_vip = without_labels("kubernetes");
    of_vip.metadata.labels = slice("kubernetes").of("vip").metadata.labels;
    assert!(
        index
            .apply_unreadable_slice(&scope, &of_vip)
            .contains(&key("vip"))
    );
}

/// The result of a GET that was sent before the watch showed the deletion must not be kept forever.
#[test]
fn the_end_of_an_unreadable_slice_overtakes_a_get() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    index.apply_unreadable_slice(&scope, &without_labels("kubernetes"));
    let before = index.state(&kubernetes());
    index.delete_slice(&scope, &slice("kubernetes").version(200).metadata);
    assert_ne!(index.state(&kubernetes()), before);
}

#[test]
fn unreadable_slice_in_restored_etcd_can_change_or_be_deleted() {
    let scope = named(&["kubernetes", "vip"]);
    let restored = || {
        let mut index = filled();
        index.apply_slice(&scope, slice("kubernetes").endpoints(["192.0.2.1"]).version(900));
        index.list_begins(&scope);
        index.list_unreadable_slice(&scope, &at(100));
        index.slices_listed(&scope, &[kubernetes()].into());
        index
    };
    let (mut changed, mut gone) = (restored(), restored());
    let emptied = slice("kubernetes").endpoints([]).version(110);
    assert_eq!(changed.apply_slice(&scope, emptied.clone()), keys(&["vip"]));
    assert!(changed.slice(&kubernetes()).unwrap().is_empty());
    assert_eq!(gone.delete_slice(&scope, &emptied.metadata), keys(&["vip"]));
    assert_eq!(gone.slice(&kubernetes()), None);
}

#[test]
fn a_late_watch_does_not_undo_a_newer_get() {
    let (mut index, scope) = (filled(), named(&["kubernetes", "vip"]));
    let shown = slice("kubernetes").endpoints(["192.0.2.1"]).version(200);
    look(&mut index, &kubernetes(), Some(shown));
    index.apply_unreadable_slice(&scope, &at(150));
    assert!(!is_protected(&index), "it has become readable");
    index.apply_slice(&scope, slice("kubernetes").endpoints([]).version(160));
    assert!(!index.slice(&kubernetes()).unwrap().is_empty());

    assert!(index.observe_unreadable(&at(300)).is_some());
    index.apply_slice(&scope, slice("kubernetes").version(250));
    index.delete_slice(&scope, &slice("kubernetes").version(250).metadata);
    assert!(is_protected(&index), "it has become unreadable");
}

#[test]
fn an_unreadable_slice_overtakes_a_get() {
    let (mut index, scope) = (filled(), named(&["kubernetes", "vip"]));
    let before = index.state(&kubernetes());
    index.apply_unreadable_slice(&scope, &at(200));
    let shown = slice("kubernetes").version(150);
    assert_eq!(index.observe(&kubernetes(), &before, Some(shown)), None);
    assert!(is_protected(&index));
}

/// The slice moves between watches: the new watch shows the slice before the old watch shows that the slice has left.
#[test]
fn an_unreadable_slice_that_moves_stays_protected() {
    let (one, two) = (named(&["other"]), named(&["kubernetes", "vip"]));
    let copy = copy_slice();
    let unreadable_copy = Unreadable {
        metadata: copy.clone().version(105).metadata,
        condition: None,
        error: String::new(),
    };
    let mut index = filled();
    index.slices_listed(&one, &HashSet::new());
    index.apply_slice(&one, slice("kubernetes").of("other").version(100));
    index.apply_unreadable_slice(&two, &at(105));
    index.delete_slice(&one, &slice("kubernetes").of("other").version(105).metadata);
    assert_eq!(
        index.slice(&kubernetes()),
        None,
        "the last readable state still counts"
    );
    assert!(is_protected(&index));

    let name = SliceKey::of(&copy.metadata);
    let before = copy.without_label(label::MANAGED_BY);
    index.apply_slice(&two, before.clone().version(100));
    index.apply_unreadable_slice(&Scope::Copies, &unreadable_copy);
    index.delete_slice(&two, &before.version(105).metadata);
    assert!(index.snapshot(&key("vip")).unwrap().unreadable.contains(&name));
}

/// If the index dropped the copy, the Service would wait for it, and none of its other copies would be written.
#[test]
fn a_copy_without_labels_that_a_get_shows_is_kept() {
    let copy = copy_slice().version(100);
    let mut unreadable = without_labels(copy.metadata.name.as_deref().unwrap());
    unreadable.metadata.resource_version = Some("200".to_owned());
    let mut known_readable = filled();
    known_readable.apply_slice(&Scope::Copies, copy.clone());
    let mut known_unreadable = filled();
    known_unreadable.apply_unreadable_slice(&Scope::Copies, &unreadable);
    for mut index in [known_readable, known_unreadable] {
        assert!(index.observe_unreadable(&unreadable).is_some());
        index.slices_listed(&named(&["kubernetes", "vip"]), &HashSet::new());
        let name = SliceKey::of(&copy.metadata);
        assert!(index.snapshot(&key("vip")).unwrap().unreadable.contains(&name));
        index.slices_listed(&Scope::Copies, &HashSet::new());
        assert!(!index.unreadable.has_seen(&name, None));
    }
}
