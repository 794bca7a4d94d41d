//! Services that a GET shows beside the watch.

use super::*;

/// A GET that the watch does not overtake.
fn look(index: &mut Index, service: Option<&Service>) -> Dirty {
    let before = index.service_version(&key("vip"));
    let dirty = index.observe_service(&key("vip"), &before, service);
    dirty.expect("nothing has overtaken it")
}

fn uid(index: &Index) -> Option<String> {
    index.managed().next().map(|service| service.uid.clone())
}

#[test]
fn a_late_watch_does_not_undo_what_a_get_has_shown() {
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
    assert!(!index.knows_newer_service(&read.metadata), "made again");
}

#[test]
fn a_list_of_services_is_the_truth_even_where_it_is_older() {
    let mut index = filled();
    look(&mut index, Some(&service("vip").uid("new").version(200)));
    index.apply_service(&service("vip").version(100));
    assert_eq!(uid(&index).as_deref(), Some("uid-vip"));
}

#[test]
fn a_get_of_a_service_that_the_watch_has_overtaken_changes_nothing() {
    let read = service("vip").uid("read").version(150);
    // Changed, and changed back, meanwhile.
    let mut index = filled();
    let before = index.service_version(&key("vip"));
    index.apply_service(&service("vip").version(200));
    assert_eq!(index.observe_service(&key("vip"), &before, Some(&read)), None);
    assert_eq!(index.observe_service(&key("vip"), &before, None), None);
    assert_eq!(uid(&index).as_deref(), Some("uid-vip"));
    // Made and deleted meanwhile.
    let mut index = filled();
    index.delete_service(&key("vip"));
    let before = index.service_version(&key("vip"));
    index.apply_service(&read);
    index.delete_service(&key("vip"));
    assert_eq!(index.observe_service(&key("vip"), &before, Some(&read)), None);
    assert_eq!(uid(&index), None, "a ghost");
}

#[test]
fn names_that_a_get_brings_are_noticed_when_the_watch_comes_to_them() {
    let mut index = filled();
    let before = index.services_changed();
    let read = service("vip").source("web", "app").version(200);
    look(&mut index, Some(&read));
    assert_eq!(index.apply_service(&read), keys(&[]), "no news for the watch");
    assert_ne!(index.services_changed(), before);
    assert!(index.names().contains("app"));
}
