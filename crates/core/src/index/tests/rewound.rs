//! etcd was restored from a backup: objects and UIDs are the same, but resourceVersions restart at a lower number.

use super::*;

/// `kubernetes` at version 900, the highest version seen so far.
fn before() -> (Index, Scope, SliceKey) {
    let (mut index, scope) = (filled(), named(&["kubernetes", "vip"]));
    index.list_begins(&scope);
    index.list_slice(&scope, slice("kubernetes").version(900));
    let kubernetes = SliceKey::new("default", "kubernetes");
    index.slices_listed(&scope, &[kubernetes.clone()].into());
    (index, scope, kubernetes)
}

#[test]
fn a_list_resets_the_known_versions() {
    let (mut index, scope, kubernetes) = before();
    assert_eq!(index.snapshot(&key("vip")).unwrap().seen, 900);
    index.list_begins(&scope);
    index.list_slice(&scope, slice("kubernetes").version(100));
    index.slices_listed(&scope, &[kubernetes.clone()].into());
    assert_eq!(index.snapshot(&key("vip")).unwrap().seen, 100);

    // The copy is made from a slice that this watch has not reached yet.
    let mut copied = copy_slice().annotate("endpoint-copier/source-slice", "new");
    copied = copied.annotate("endpoint-copier/source-resource-version", "120");
    index.apply_slice(&Scope::Copies, copied);
    let plan = crate::plan::plan(&index.snapshot(&key("vip")).unwrap(), &crate::plan::Verdicts::Off);
    assert_eq!((plan.deletes.len(), plan.confirm.len()), (0, 1));

    // A GET shows the slice, but no watch has passed it.
    let new = SliceKey::new("default", "new");
    let asked = index.state(&new);
    assert!(
        index
            .observe(&new, &asked, Some(slice("new").version(120)))
            .is_some()
    );
    assert_eq!(source_slices(&index), ["kubernetes", "new"]);
}

#[test]
fn a_get_with_an_older_version_than_at_its_send_is_the_truth() {
    let (mut index, _, kubernetes) = before();
    let asked = index.state(&kubernetes);
    let restored = slice("kubernetes").endpoints(["192.0.2.9"]).version(100);
    assert_eq!(
        index.observe(&kubernetes, &asked, Some(restored)),
        Some(keys(&["vip"]))
    );
    let known = index.slice(&kubernetes).expect("it");
    assert_eq!(known.metadata.resource_version.as_deref(), Some("100"));
}

#[test]
fn a_reused_version_is_news_when_the_content_differs() {
    let (mut index, scope, _) = before();
    let other = slice("kubernetes").endpoints(["192.0.2.9"]).version(900);
    index.list_begins(&scope);
    assert_eq!(index.list_slice(&scope, other), keys(&["vip"]));
}

#[test]
fn another_watch_proves_nothing_for_a_source() {
    let mut index = Index::new(defaults());
    index.apply_service(&service("vip"));
    index.services_listed(&[key("vip")].into());
    index.slices_listed(&Scope::Copies, &HashSet::new());
    let (mine, other) = (named(&["kubernetes"]), named(&["vip"]));
    for scope in [&mine, &other] {
        index.list_begins(scope);
        index.slices_listed(scope, &HashSet::new());
    }
    index.apply_slice(&other, slice("vip-1").of("vip").version(900));
    index.apply_slice(&mine, slice("kubernetes").version(100));
    assert_eq!(index.snapshot(&key("vip")).unwrap().seen, 100);
}

#[test]
fn a_get_is_not_overtaken_by_what_other_watches_show() {
    let mut index = filled();
    index.apply_slice(&named(&["vip"]), slice("vip-1").of("vip").version(900));
    let new = SliceKey::new("default", "new");
    let asked = index.state(&new);
    index.apply_slice(&named(&["vip"]), slice("vip-1").of("vip").version(901));
    assert!(
        index
            .observe(&new, &asked, Some(slice("new").version(120)))
            .is_some(),
        "it would be asked for until its watch has caught up"
    );
}
