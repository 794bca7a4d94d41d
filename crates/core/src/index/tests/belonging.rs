//! The Service that a slice belongs to if watches, GETs and names disagree.

use super::*;

#[test]
fn a_copy_belongs_to_its_owner_whatever_its_label_says() {
    let mut index = filled();
    let dirty = index.apply_slice(&Scope::Copies, copy_slice().of("other"));
    assert!(dirty.contains(&key("vip")), "{dirty:?}");
    assert_eq!(index.snapshot(&key("vip")).unwrap().slices().count(), 1);
}

#[test]
fn a_slice_with_the_name_of_a_copy_is_found_for_its_service() {
    let name = copy_slice().metadata.name.unwrap();
    let stranger = || slice(&name).of("kubernetes");
    for (scope, slice) in [
        (named(&["kubernetes", "vip"]), stranger()),
        (
            Scope::Copies,
            stranger().label(crate::model::label::MANAGED_BY, crate::model::MANAGED_BY_US),
        ),
    ] {
        let mut index = filled();
        assert!(index.apply_slice(&scope, slice.clone()).contains(&key("vip")));
        assert_eq!(
            index.snapshot(&key("vip")).unwrap().slices().count(),
            1,
            "{scope:?}"
        );
        assert!(
            index
                .delete_slice(&scope, &slice.version(101).metadata)
                .contains(&key("vip"))
        );
    }
}

#[test]
fn a_slice_with_only_a_matching_name_is_not_a_source_slice() {
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
    // When a slice leaves a watch, the watch sends the old state with the new version.
    let left = before.clone().version(105);
    for arrives_first in [true, false] {
        let mut index = filled();
        index.apply_service(&service("second").source("default", "other"));
        index.slices_listed(&two, &HashSet::new());
        index.apply_slice(&one, before.clone());
        let mut dirty = Dirty::new();
        if arrives_first {
            dirty.extend(index.apply_slice(&two, after.clone()));
            dirty.extend(index.delete_slice(&one, &left.metadata));
        } else {
            dirty.extend(index.delete_slice(&one, &left.metadata));
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
            "the list of one watch removed a slice that another watch shows"
        );
    }
}

#[test]
fn a_slice_shown_by_two_watches_counts_at_its_newest_version() {
    let scope = named(&["kubernetes", "vip"]);
    let copy = copy_slice();
    let lost = copy
        .clone()
        .without_label(crate::model::label::MANAGED_BY)
        .version(105);
    let mut index = filled();
    index.apply_slice(&Scope::Copies, copy.clone());
    index.apply_slice(&scope, lost.clone());
    let copies_and_others = |index: &Index| {
        let snapshot = index.snapshot(&key("vip")).unwrap();
        (snapshot.copies.len(), snapshot.others.len())
    };
    assert_eq!(
        copies_and_others(&index),
        (0, 1),
        "one slice, at its newest version"
    );
    index.delete_slice(&Scope::Copies, &copy.clone().version(105).metadata);
    assert_eq!(copies_and_others(&index), (0, 1));
    index.apply_slice(&Scope::Copies, copy.version(106));
    assert_eq!(copies_and_others(&index), (1, 0));
}

#[test]
fn a_slice_from_a_get_counts_from_then_on() {
    let mut index = filled();
    let source = SliceKey::new("default", "kubernetes");
    assert_eq!(
        look(&mut index, &source, Some(slice("kubernetes").version(200))),
        keys(&["vip"])
    );
    let scope = named(&["kubernetes", "vip"]);
    assert_eq!(
        index.apply_slice(&scope, slice("kubernetes").version(150)),
        keys(&[]),
        "the watch is behind"
    );
    assert_eq!(source_slices(&index), ["kubernetes"]);
    assert_eq!(look(&mut index, &source, None), keys(&["vip"]));
    assert_eq!(source_slices(&index), [""; 0]);
    assert_eq!(
        look(&mut index, &SliceKey::new("default", "vip-x"), Some(copy_slice())),
        keys(&["vip"])
    );
}

#[test]
fn a_get_does_not_prove_that_the_watch_saw_a_slice() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    index.apply_slice(&scope, slice("kubernetes").version(100));
    look(
        &mut index,
        &SliceKey::new("default", "new"),
        Some(slice("new").version(200)),
    );
    assert_eq!(index.snapshot(&key("vip")).unwrap().seen, 100);
    // A list that is older than the GET removes the slice, so the copy must not be deleted before another GET.
    index.slices_listed(&scope, &[SliceKey::new("default", "kubernetes")].into());
    let mut copied = copy_slice().annotate("endpoint-copier/source-slice", "new");
    copied = copied.annotate("endpoint-copier/source-resource-version", "200");
    index.apply_slice(&Scope::Copies, copied);
    let plan = crate::plan::plan(&index.snapshot(&key("vip")).unwrap(), &crate::plan::Verdicts::Off);
    assert_eq!((plan.deletes.len(), plan.confirm.len()), (0, 1));
}

#[test]
fn a_slice_from_a_get_that_no_watch_covers_is_not_kept() {
    // No watch would report the deletion of this slice.
    let mut index = filled();
    for stranger in [
        slice("x").without_label(crate::model::label::SERVICE_NAME),
        slice("x").of("nobody"),
    ] {
        let x = SliceKey::new("default", "x");
        look(&mut index, &x, Some(slice("x")));
        assert!(index.slice(&x).is_some());
        assert_eq!(
            look(&mut index, &x, Some(stranger.version(300))),
            keys(&["vip"]),
            "it has left the source"
        );
        assert!(index.slice(&x).is_none());
    }
}

#[test]
fn a_get_of_a_slice_that_no_watch_covers_is_not_overtaken() {
    let mut index = filled();
    index.apply_slice(&named(&["kubernetes", "vip"]), slice("kubernetes").version(300));
    let stranger = slice("x")
        .without_label(crate::model::label::SERVICE_NAME)
        .version(200);
    let x = SliceKey::new("default", "x");
    let before = index.state(&x);
    assert!(
        index.observe(&x, &before, Some(stranger)).is_some(),
        "the GET counts as overtaken, so it would be repeated forever"
    );
}

#[test]
fn a_deletion_advances_the_seen_version() {
    let mut index = filled();
    let scope = named(&["kubernetes", "vip"]);
    index.apply_slice(&scope, slice("kubernetes"));
    index.delete_slice(&scope, &slice("kubernetes").version(333).metadata);
    assert_eq!(index.snapshot(&key("vip")).unwrap().seen, 333);
}
