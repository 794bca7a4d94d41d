//! Slices that cannot be decoded, and for how long they protect their copies.

use super::*;
use crate::model::Unreadable;

/// A slice of which neither the labels nor anything else but the name can be read.
fn without_labels(name: &str) -> Unreadable {
    let mut metadata = slice(name).metadata;
    metadata.labels = None;
    Unreadable {
        metadata,
        error: "invalid type".to_owned(),
    }
}

fn is_protected(index: &Index) -> bool {
    let snapshot = index.snapshot(&key("vip")).expect("everything is listed");
    !snapshot.unreadable.is_empty()
}

#[test]
fn the_list_of_other_names_says_nothing_of_a_slice_without_labels() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    index.slice_unreadable(&scope, &without_labels("kubernetes"));
    index.slices_listed(&named(&["another"]), &HashSet::new());
    assert!(is_protected(&index), "another watch shows it");
    index.observe_unreadable(&without_labels("kubernetes"));
    index.slices_listed(&named(&["another"]), &HashSet::new());
    assert!(is_protected(&index), "a GET shows it too");
    index.slices_listed(&named(&["another", "kubernetes", "vip"]), &HashSet::new());
    assert!(!is_protected(&index), "the list of a watch that replaces its own");
}

#[test]
fn a_slice_without_labels_is_forgotten_when_none_of_its_watch_s_names_is_watched() {
    let mut index = filled();
    index.slice_unreadable(&named(&["kubernetes", "gone"]), &without_labels("kubernetes"));
    index.retain_names(&shards(["kubernetes".to_owned()].into()));
    assert!(is_protected(&index));
    index.retain_names(&shards(["another".to_owned()].into()));
    assert!(
        !index
            .unreadable
            .has_seen(&SliceKey::new("default", "kubernetes"), None)
    );
}
