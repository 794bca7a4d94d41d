//! Results of GETs of Services, in addition to the watch.

use super::*;

/// Applies the result of a GET that the watch does not overtake.
fn look(index: &mut Index, service: Option<&Service>) -> Dirty {
    let before = index.service_version(&key("vip"));
    let dirty = index.observe_service(&key("vip"), &before, service.map(Ok));
    dirty.expect("no watch has overtaken the GET")
}

fn uid(index: &Index) -> Option<String> {
    index.managed().next().map(|service| service.uid.clone())
}

/// Rule: 2.late-watch
#[test]
fn a_late_watch_does_not_undo_a_newer_get() {
    let mut index = filled();
    let read = service("vip").uid("new").version(200);
    assert_eq!(look(&mut index, Some(&read)), keys(&["vip"]));
    assert_eq!(uid(&index).as_deref(), Some("new"));
    for (version, is_late) in [(150, true), (200, false), (201, false)] {
        let shown = service("vip").version(version);
        assert_eq!(index.knows_newer_service(&shown.metadata), is_late, "{version}");
    }
    assert!(!index.knows_newer_service(&service("other").metadata));
    look(&mut index, None);
    let recreated = service("vip").uid("recreated").version(150);
    assert!(!index.knows_newer_service(&recreated.metadata));
    assert!(!index.is_service_gone(&recreated.metadata));
}

/// Rule: 2.gone
#[test]
fn a_service_missing_in_a_get_stays_gone_until_the_watch_agrees() {
    let mut index = filled();
    let read = service("vip").uid("read").version(200);
    look(&mut index, Some(&read));
    assert!(!index.is_service_gone(&read.metadata));
    assert_eq!(look(&mut index, None), keys(&["vip"]));
    assert!(index.is_service_gone(&read.clone().version(300).metadata));
    // The watch first shows the deletion of an earlier Service with this name.
    index.service_deleted(&service("vip").version(150).metadata);
    assert!(index.is_service_gone(&read.metadata));
    index.service_deleted(&read.clone().version(400).metadata);
    assert!(
        !index.is_service_gone(&read.metadata),
        "the UID still counts as deleted"
    );
}

/// Rule: 2.gone
#[test]
fn a_list_that_begins_after_a_get_decides_which_services_exist() {
    let read = service("vip");
    // The list began before the GET. If a Service on the list is gone according to the GET, the watch will show its
    // deletion.
    let mut index = filled();
    look(&mut index, None);
    index.services_listed(&[key("vip")].into());
    assert!(index.is_service_gone(&read.metadata));
    // The watch shows nothing more about a Service that is not on the list.
    index.services_listed(&HashSet::new());
    assert!(!index.is_service_gone(&read.metadata));
    // etcd was restored from a backup: the Service exists again, with the same UID.
    let mut index = filled();
    look(&mut index, None);
    index.services_list_begins();
    assert!(!index.is_service_gone(&read.metadata));
    let mut index = filled();
    look(&mut index, None);
    look(&mut index, Some(&read));
    assert!(!index.is_service_gone(&read.metadata), "a later GET shows it");
}

#[test]
fn a_list_of_services_counts_even_if_it_is_older() {
    let mut index = filled();
    look(&mut index, Some(&service("vip").uid("new").version(200)));
    index.apply_service(&service("vip").version(100));
    assert_eq!(uid(&index).as_deref(), Some("uid-vip"));
}

#[test]
fn a_service_get_older_than_the_watch_changes_nothing() {
    let read = service("vip").uid("read").version(150);
    // The Service was changed and changed back in the meantime.
    let mut index = filled();
    let before = index.service_version(&key("vip"));
    index.apply_service(&service("vip").version(200));
    assert_eq!(index.observe_service(&key("vip"), &before, Some(Ok(&read))), None);
    assert_eq!(index.observe_service(&key("vip"), &before, None), None);
    assert_eq!(uid(&index).as_deref(), Some("uid-vip"));
    // The Service was created and deleted in the meantime.
    let mut index = filled();
    index.delete_service(&key("vip"));
    let before = index.service_version(&key("vip"));
    index.apply_service(&read);
    index.delete_service(&key("vip"));
    assert_eq!(index.observe_service(&key("vip"), &before, Some(Ok(&read))), None);
    assert_eq!(uid(&index), None, "the Service is deleted");
}

#[test]
fn names_from_a_get_are_counted_before_the_watch_shows_them() {
    let mut index = filled();
    let before = index.names_changed();
    let read = service("vip").source("web", "app").version(200);
    look(&mut index, Some(&read));
    assert_eq!(index.apply_service(&read), keys(&[]), "no change for the watch");
    assert_ne!(index.names_changed(), before);
    assert!(index.names().contains("app"));
}

/// After each counted change, the names of all managed Services are collected again. There can be thousands of managed
/// Services, and a user can change a Service constantly.
#[test]
fn changes_without_effect_on_names_are_not_counted() {
    let mut index = filled();
    let mut changed = |change: &mut dyn FnMut(&mut Index)| {
        let before = index.names_changed();
        change(&mut index);
        index.names_changed() != before
    };
    let plain = plain_service("plain");
    assert!(!changed(&mut |index| _ = index.apply_service(&plain)));
    assert!(!changed(
        &mut |index| _ = index.apply_service(&service("vip").headless())
    ));
    assert!(!changed(&mut |index| _ = index.delete_service(&key("plain"))));
    assert!(changed(&mut |index| _ = index.apply_service(&service("second"))));
    assert!(changed(
        &mut |index| _ = index.apply_service(&service("second").source("web", "app"))
    ));
    assert!(changed(
        &mut |index| _ = index.apply_service(&plain_service("second"))
    ));
    assert!(changed(&mut |index| _ = index.delete_service(&key("vip"))));
}
