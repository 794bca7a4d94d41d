//! Slices that a GET has shown to be deleted while a watch still shows older states of them.

use super::*;

fn kubernetes() -> SliceKey {
    SliceKey::new("default", "kubernetes")
}

/// An index to which a watch showed `kubernetes`, and then a GET showed that the slice is deleted.
fn gone() -> (Index, Scope) {
    let (mut index, scope) = (filled(), named(&["kubernetes", "vip"]));
    index.apply_slice(&scope, slice("kubernetes"));
    assert_eq!(look(&mut index, &kubernetes(), None), keys(&["vip"]));
    (index, scope)
}

/// Rule: 2.gone
#[test]
fn a_late_watch_does_not_restore_a_deleted_slice() {
    let (mut index, scope) = gone();
    let late = slice("kubernetes").version(300);
    assert_eq!(index.apply_slice(&scope, late.clone()), keys(&[]));
    assert!(source_slices(&index).is_empty());
    index.delete_slice(&scope, &late.clone().version(400).metadata);
    index.apply_slice(&scope, late);
    assert_eq!(
        source_slices(&index),
        ["kubernetes"],
        "the UID still counts as deleted"
    );
}

/// Rule: 2.gone
#[test]
fn a_recreated_slice_counts() {
    let (mut index, scope) = gone();
    let recreated = slice("kubernetes").uid("recreated").version(90);
    assert_eq!(index.apply_slice(&scope, recreated), keys(&["vip"]));
    assert_eq!(source_slices(&index), ["kubernetes"]);
}

/// Rule: 2.gone
#[test]
fn a_list_in_progress_does_not_restore_a_deleted_slice() {
    let (mut index, scope) = gone();
    index.list_slice(&scope, slice("kubernetes").version(300));
    index.slices_listed(&scope, &[kubernetes()].into());
    assert!(source_slices(&index).is_empty());
    // The watch continues from the list, and has not shown the deletion yet.
    index.apply_slice(&scope, slice("kubernetes").version(350));
    assert!(source_slices(&index).is_empty());
    index.slices_listed(&scope, &HashSet::new());
    index.apply_slice(&scope, slice("kubernetes"));
    assert_eq!(
        source_slices(&index),
        ["kubernetes"],
        "the UID still counts as deleted after the list"
    );
}

/// After etcd was restored from a backup, the slice exists again with its old UID.
/// Rule: 2.gone
#[test]
fn a_later_list_or_get_restores_a_deleted_slice() {
    let (mut index, scope) = gone();
    index.list_begins(&named(&["other"]));
    index.list_slice(&scope, slice("kubernetes"));
    assert!(
        source_slices(&index).is_empty(),
        "another watch has begun to list"
    );
    index.list_begins(&scope);
    index.list_slice(&scope, slice("kubernetes"));
    assert_eq!(source_slices(&index), ["kubernetes"]);

    let (mut index, scope) = gone();
    look(&mut index, &kubernetes(), Some(slice("kubernetes").version(50)));
    assert_eq!(source_slices(&index), ["kubernetes"]);
    index.apply_slice(&scope, slice("kubernetes").version(300));
    let known = index.slice(&kubernetes()).expect("the slice is known");
    assert_eq!(known.metadata.resource_version.as_deref(), Some("300"));
}

/// Rule: 2.gone
#[test]
fn a_late_watch_does_not_restore_a_deleted_copy() {
    let mut index = filled();
    let copy = copy_slice();
    let key = SliceKey::of(&copy.metadata);
    index.apply_slice(&Scope::Copies, copy.clone());
    look(&mut index, &key, None);
    index.apply_slice(&Scope::Copies, copy.clone().version(300));
    assert!(index.slice(&key).is_none());
    index.list_begins(&Scope::Copies);
    index.list_slice(&Scope::Copies, copy);
    assert!(index.slice(&key).is_some());
}
