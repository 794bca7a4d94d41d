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
    !snapshot.source.expect("a source").unreadable.is_empty()
}

#[test]
fn the_list_of_other_names_says_nothing_of_a_slice_without_labels() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    index.slice_unreadable(&scope, &without_labels("kubernetes"));
    index.slices_listed(&named(&["another"]), &HashSet::new());
    assert!(is_protected(&index), "another watch shows it");
    assert_eq!(
        index.observe_unreadable(&without_labels("kubernetes")),
        Some(keys(&[]))
    );
    index.slices_listed(&named(&["another"]), &HashSet::new());
    assert!(is_protected(&index), "a GET shows it too");
    index.slices_listed(&named(&["another", "kubernetes", "vip"]), &HashSet::new());
    assert!(!is_protected(&index), "the list of a watch that replaces its own");
}

fn kubernetes() -> SliceKey {
    SliceKey::new("default", "kubernetes")
}

#[test]
fn a_slice_without_labels_goes_with_the_names_of_its_watch() {
    let mut index = filled();
    index.slice_unreadable(&named(&["kubernetes", "gone"]), &without_labels("kubernetes"));
    // The watch is replaced by one of fewer names, whose list shows that the slice has none of them.
    index.retain_names(&shards(["kubernetes".to_owned()].into()));
    assert!(is_protected(&index));
    let dirty = index.slices_listed(&named(&["kubernetes"]), &HashSet::new());
    assert_eq!(dirty, keys(&["vip"]));
    assert!(!index.unreadable.has_seen(&kubernetes(), None));

    let mut index = filled();
    index.slice_unreadable(&named(&["kubernetes", "gone"]), &without_labels("kubernetes"));
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
    // The watch of its Service will show it, and that it is gone.
    index.apply_slice(&named(&["kubernetes", "vip"]), slice("kubernetes"));
    assert_eq!(
        index.observe_unreadable(&without_labels("kubernetes")),
        Some(keys(&[]))
    );
    assert!(is_protected(&index));
    index.slices_listed(&named(&["kubernetes", "vip"]), &HashSet::new());
    assert!(!is_protected(&index));
}

/// After a restart no readable state of it is known.
#[test]
fn the_end_of_an_unreadable_slice_marks_its_service() {
    let scope = named(&["kubernetes", "vip"]);
    let labelled = Unreadable {
        metadata: slice("kubernetes").metadata,
        error: String::new(),
    };
    for unreadable in [labelled, without_labels("kubernetes")] {
        let shown = || {
            let mut index = filled();
            assert_eq!(index.slice_unreadable(&scope, &unreadable), keys(&[]));
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
    index.slice_unreadable(&scope, &without_labels("kubernetes"));
    let mut of_vip = without_labels("kubernetes");
    of_vip.metadata.labels = slice("kubernetes").of("vip").metadata.labels;
    assert!(index.slice_unreadable(&scope, &of_vip).contains(&key("vip")));
}

/// A GET that was sent before the watch showed that the slice is gone would keep it forever.
#[test]
fn the_end_of_an_unreadable_slice_overtakes_a_get() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    index.slice_unreadable(&scope, &without_labels("kubernetes"));
    let before = index.state(&kubernetes());
    index.delete_slice(&scope, &slice("kubernetes").version(200).metadata);
    assert_ne!(index.state(&kubernetes()), before);
}
