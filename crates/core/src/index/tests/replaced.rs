//! Replacement of a watch of names. Until the replacement is complete, two watches show slices with the same Service
//! name.

use super::*;

/// Returns an index with a watch of `kubernetes` at version 100, and a second watch that has begun to list.
fn replacing() -> (Index, Scope, Scope) {
    let mut index = Index::new(defaults());
    index.apply_service(&service("vip"));
    index.services_listed(&[key("vip")].into());
    index.slices_listed(&Scope::Copies, &HashSet::new());
    let (old, new) = (named(&["kubernetes"]), named(&["kubernetes", "vip"]));
    index.list_begins(&old);
    index.list_slice(&old, slice("kubernetes").version(100));
    index.slices_listed(&old, &[SliceKey::new("default", "kubernetes")].into());
    index.list_begins(&new);
    (index, old, new)
}

fn seen(index: &Index) -> u64 {
    index.snapshot(&key("vip")).expect("its source is listed").seen
}

/// Rule: survive.selector-moved
#[test]
fn a_partial_list_does_not_prove_a_deletion() {
    let (mut index, _, new) = replacing();
    index.list_slice(&new, slice("a").of("vip").version(300));
    assert_eq!(seen(&index), 100, "the old watch has reached this version");
    index.list_slice(&new, slice("kubernetes").version(100));
    index.slices_listed(
        &new,
        &["a", "kubernetes"]
            .map(|name| SliceKey::new("default", name))
            .into(),
    );
    assert_eq!(seen(&index), 300);
    // The same applies when a watch relists.
    index.list_begins(&new);
    index.list_slice(&new, slice("a").of("vip").version(400));
    assert_eq!(seen(&index), 0);
}

/// Rule: survive.selector-moved
#[test]
fn the_old_watch_counts_until_the_new_one_has_listed() {
    let (mut index, old, new) = replacing();
    index.apply_slice(&old, slice("second").version(120));
    assert_eq!(source_slices(&index), ["kubernetes", "second"]);
    index.delete_slice(&old, &slice("kubernetes").version(130).metadata);
    assert_eq!(source_slices(&index), ["second"]);
    index.list_slice(&new, slice("second").version(120));
    index.slices_listed(&new, &[SliceKey::new("default", "second")].into());
    assert_eq!(source_slices(&index), ["second"]);
}

/// Rule: survive.selector-moved
#[test]
fn a_replaced_watch_does_not_restore_a_deleted_slice() {
    let (mut index, old, new) = replacing();
    index.slices_listed(&new, &HashSet::new());
    assert!(source_slices(&index).is_empty());
    // The old watch has not shown the deletion yet.
    assert!(
        index
            .apply_slice(&old, slice("kubernetes").version(110))
            .is_empty()
    );
    assert!(source_slices(&index).is_empty());
    let deletion = slice("kubernetes").version(150);
    index.apply_slice(&new, slice("kubernetes").uid("recreated").version(140));
    assert!(index.delete_slice(&old, &deletion.metadata).is_empty());
    assert_eq!(source_slices(&index), ["kubernetes"]);
    assert_eq!(seen(&index), 140);
}

/// Rule: survive.selector-moved
#[test]
fn a_name_whose_watch_has_ended_has_to_be_listed_again() {
    let (mut index, old, new) = replacing();
    index.slices_listed(&new, &HashSet::new());
    let (Scope::Named(old), Scope::Named(new)) = (old, new) else {
        unreachable!()
    };
    index.retain_names(&[old.clone(), new].into());
    assert!(index.snapshot(&key("vip")).is_some());
    // Events of the remaining watch have been ignored until now.
    index.retain_names(&[old].into());
    assert!(index.snapshot(&key("vip")).is_none());
}
