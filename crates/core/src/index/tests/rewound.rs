//! etcd was restored from a backup: objects and UIDs are the same, but resourceVersions restart at a lower number.

use super::*;

/// `kubernetes` at version 900, the highest version seen so far.
fn before_the_restore() -> (Index, Scope, SliceKey) {
    let (mut index, scope) = (filled(), named(&["kubernetes", "vip"]));
    index.list_begins(&scope);
    index.list_slice(&scope, slice("kubernetes").version(900));
    let kubernetes = SliceKey::new("default", "kubernetes");
    index.slices_listed(&scope, &[kubernetes.clone()].into());
    (index, scope, kubernetes)
}

#[test]
fn a_list_resets_the_known_versions() {
    let (mut index, scope, kubernetes) = before_the_restore();
    assert_eq!(index.snapshot(&key("vip")).unwrap().seen, 900);
    index.list_begins(&scope);
    index.list_slice(&scope, slice("kubernetes").version(100));
    index.slices_listed(&scope, &[kubernetes.clone()].into());
    assert_eq!(index.snapshot(&key("vip")).unwrap().seen, 100);

    // The copy is made from a slice that the watch has not shown yet.
    let mut copied = copy_slice().annotate("endpoint-copier/source-slice", "new");
    copied = copied.annotate("endpoint-copier/source-resource-version", "120");
    index.apply_slice(&Scope::Copies, copied);
    let plan = crate::plan::plan(&index.snapshot(&key("vip")).unwrap(), &crate::plan::Verdicts::Off);
    assert_eq!((plan.deletes.len(), plan.confirm.len()), (0, 1));

    // A GET shows the slice, and no watch has shown a change since then.
    let new = SliceKey::new("default", "new");
    let before = index.state(&new);
    assert!(
        index
            .observe(&new, &before, Some(slice("new").version(120)))
            .is_some()
    );
    assert_eq!(source_slices(&index), ["kubernetes", "new"]);
}

#[test]
fn a_get_with_a_version_older_than_the_known_one_counts() {
    let (mut index, _, kubernetes) = before_the_restore();
    let before = index.state(&kubernetes);
    let restored = slice("kubernetes").endpoints(["192.0.2.9"]).version(100);
    assert_eq!(
        index.observe(&kubernetes, &before, Some(restored)),
        Some(keys(&["vip"]))
    );
    let known = index.slice(&kubernetes).expect("the slice is known");
    assert_eq!(known.metadata.resource_version.as_deref(), Some("100"));
}

#[test]
fn a_reused_version_counts_as_changed_if_content_differs() {
    let (mut index, scope, _) = before_the_restore();
    let other = slice("kubernetes").endpoints(["192.0.2.9"]).version(900);
    index.list_begins(&scope);
    assert_eq!(index.list_slice(&scope, other), keys(&["vip"]));
}

#[test]
fn another_watch_does_not_advance_the_version_of_a_source() {
    let mut index = Index::new(defaults());
    index.apply_service(&service("vip"));
    index.services_listed(&[key("vip")].into());
    index.slices_listed(&Scope::Copies, &HashSet::new());
    let (own, other) = (named(&["kubernetes"]), named(&["vip"]));
    for scope in [&own, &other] {
        index.list_begins(scope);
        index.slices_listed(scope, &HashSet::new());
    }
    index.apply_slice(&other, slice("vip-1").of("vip").version(900));
    index.apply_slice(&own, slice("kubernetes").version(100));
    assert_eq!(index.snapshot(&key("vip")).unwrap().seen, 100);
}

#[test]
fn a_get_is_not_overtaken_by_events_of_other_watches() {
    let mut index = filled();
    index.apply_slice(&named(&["vip"]), slice("vip-1").of("vip").version(900));
    let new = SliceKey::new("default", "new");
    let before = index.state(&new);
    index.apply_slice(&named(&["vip"]), slice("vip-1").of("vip").version(901));
    assert!(
        index
            .observe(&new, &before, Some(slice("new").version(120)))
            .is_some(),
        "the GET counts as overtaken, so it would be repeated until the watch has caught up"
    );
}
