//! Tests of the differences that cause an update of a copy, and of what the update preserves.

use super::*;

/// A copy as the API server stores it.
fn stored(source: &EndpointSlice) -> EndpointSlice {
    copy_of(source).uid("uid-copy").version(7)
}

/// Whether no update is needed.
fn same(current: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    serves_alike(current, wanted) && same_metadata(current, wanted)
}

/// Rule: 2.written-when-different
#[test]
fn copy_is_updated_only_if_its_content_differs() {
    let source = slice("kubernetes").endpoints(["192.0.2.1", "192.0.2.2"]);
    let stored = || stored(&source);
    let edit_owner = |copy: &mut EndpointSlice, key: &str| {
        for owner in copy.metadata.owner_references.iter_mut().flatten() {
            match key {
                "uid" => owner.uid = "other".to_owned(),
                _ => owner.block_owner_deletion = Some(true),
            }
        }
    };
    for (what, current, expected) in [
        ("as written", stored(), true),
        (
            "a label that someone else added",
            stored().label("app", "web"),
            true,
        ),
        (
            "an annotation that someone else added",
            stored().annotate("note", "x"),
            true,
        ),
        (
            "an older version of the source",
            stored().annotate(provenance::RESOURCE_VERSION, "99"),
            true,
        ),
        (
            "a version that is not a number",
            stored().annotate(provenance::RESOURCE_VERSION, "new"),
            false,
        ),
        (
            "another order",
            stored().edit(|copy| copy.endpoints.as_mut().unwrap().reverse()),
            true,
        ),
        (
            "service-name",
            stored().label(label::SERVICE_NAME, "other"),
            false,
        ),
        ("source label", stored().label(label::SOURCE, "other"), false),
        ("no source label", stored().without_label(label::SOURCE), false),
        ("headless", stored().label(label::HEADLESS, ""), false),
        (
            "source-slice",
            stored().annotate(provenance::SLICE, "other"),
            false,
        ),
        (
            "source-namespace",
            stored().annotate(provenance::NAMESPACE, "other"),
            false,
        ),
        ("source-uid", stored().annotate(provenance::UID, "other"), false),
        (
            "a trigger time of its own",
            stored().annotate(provenance::TRIGGER_TIME, "now"),
            true,
        ),
        (
            "an address that was taken out",
            stored().annotate(provenance::UNREACHABLE, "192.0.2.1"),
            false,
        ),
        (
            "owner's UID",
            stored().edit(|copy| edit_owner(copy, "uid")),
            false,
        ),
        (
            "blockOwnerDeletion",
            stored().edit(|copy| edit_owner(copy, "block")),
            false,
        ),
        (
            "fewer endpoints",
            stored().edit(|copy| _ = copy.endpoints.as_mut().unwrap().pop()),
            false,
        ),
        ("no endpoints", stored().edit(|copy| copy.endpoints = None), false),
        (
            "a zone",
            stored().edit(|copy| copy.endpoints.as_mut().unwrap()[0].zone = Some("z".into())),
            false,
        ),
        ("a port", stored().ports(&[slice_port("https", 1)]), false),
        ("no ports", stored().ports(&[]), false),
    ] {
        assert_eq!(same(&current, &copy_of(&source)), expected, "{what}");
    }
}

#[test]
fn absent_lists_count_as_empty() {
    let source = slice("kubernetes");
    let service = read(&service("vip").headless().no_ports());
    let wanted = fresh(&service, &source, Vec::new());
    let mut current = wanted.clone().version(7);
    (current.ports, current.endpoints) = (None, None);
    assert!(same(&current, &wanted));
}

/// Rule: 2.written-when-different
#[test]
fn order_of_endpoints_that_share_an_address_does_not_matter() {
    let pod = |name: &str| Endpoint {
        target_ref: serde_json::from_value(json!({"name": name})).unwrap(),
        ..endpoint("192.0.2.1")
    };
    let with =
        |pods: [&str; 2]| slice("kubernetes").edit(|slice| slice.endpoints = Some(pods.map(pod).to_vec()));
    let current = stored(&with(["a", "b"]));
    assert!(
        same(&current, &copy_of(&with(["b", "a"]))),
        "the order of two host-network Pods on one node causes an update"
    );
    assert!(!same(&current, &copy_of(&with(["a", "a"]))));
}

/// Rule: 2.others-additions
#[test]
fn additions_by_others_are_kept_and_reserved_fields_restored() {
    let source = slice("kubernetes").endpoints(["192.0.2.1"]);
    let mut current = stored(&source)
        .label("app", "web")
        .label(label::HEADLESS, "")
        .label(label::SOURCE, "wrong")
        .annotate("note", "kept")
        .annotate(provenance::SLICE, "wrong")
        .annotate(provenance::TRIGGER_TIME, "wrong");
    let watcher = OwnerReference {
        kind: "ConfigMap".to_owned(),
        controller: None,
        ..crate::testing::owner("watcher")
    };
    let former = OwnerReference {
        uid: "former".to_owned(),
        ..crate::testing::owner("vip")
    };
    current.metadata.owner_references = Some(vec![former, watcher.clone()]);

    let written = over(&current, copy_of(&source));
    let mut expected = stored(&source).label("app", "web").annotate("note", "kept");
    expected.metadata.owner_references = Some(vec![watcher, crate::testing::owner("vip")]);
    assert_eq!(written, expected);
    assert!(same(&written, &copy_of(&source)));
}

#[test]
fn held_copy_keeps_endpoints_and_follows_service_ports() {
    let current = stored(&slice("kubernetes").version(55).endpoints(["192.0.2.1"]));
    let held = held(
        &read(&service("vip").headless()),
        &current,
        None,
        vec![slice_port("new", 1)],
    );
    assert_eq!(held.endpoints, current.endpoints);
    assert_eq!(held.ports, Some(vec![slice_port("new", 1)]));
    assert_eq!(held.metadata.annotations, current.metadata.annotations);
    assert_eq!(label_of(&held.metadata, label::HEADLESS), Some(""));
    assert!(!same(&current, &held) && same(&over(&current, held.clone()), &held));
}
