//! WATCH.

use crate::target::{Target, annotated, slice, version};
use serde_json::{Value, json};

async fn newest(t: &Target) -> u64 {
    version(&t.get(&t.all("endpointslices")).await.expect(200))
}

pub async fn changes_arrive_in_order_with_their_versions(t: Target) {
    let from = newest(&t).await;
    let mut watch = t
        .watch(&t.all("endpointslices"), &format!("resourceVersion={from}"))
        .await;
    let path = t.one("endpointslices", "a");
    let made = t.made("endpointslices", &slice("a")).await;
    let put = t.put(&path, &annotated(&made, "1")).await.expect(200);
    t.put(&path, &put).await.expect(200);
    t.delete(&path).await.expect(200);
    let added = watch.expect("ADDED", "a").await;
    assert_eq!(version(&added), version(&made));
    assert_eq!(added["kind"], "EndpointSlice");
    assert_eq!(version(&watch.expect("MODIFIED", "a").await), version(&put));
    let gone = watch.expect("DELETED", "a").await;
    assert!(
        version(&gone) > version(&put),
        "a deletion without its own version"
    );
    assert_eq!(gone["metadata"]["annotations"]["a"], "1");
    // A new watch from any of these versions shows the later changes.
    let from = format!("resourceVersion={}", version(&put));
    let mut late = t.watch(&t.all("endpointslices"), &from).await;
    assert_eq!(version(&late.expect("DELETED", "a").await), version(&gone));
}

pub async fn a_watch_without_a_version_starts_at_the_present(t: Target) {
    t.made("endpointslices", &slice("a")).await;
    t.made("endpointslices", &slice("b")).await;
    for query in ["", "resourceVersion="] {
        let mut watch = t.watch(&t.all("endpointslices"), query).await;
        watch.expect("ADDED", "a").await;
        watch.expect("ADDED", "b").await;
        let name = format!("c{}", query.len());
        t.made("endpointslices", &slice(&name)).await;
        watch.expect("ADDED", &name).await;
        t.delete(&t.one("endpointslices", &name)).await.expect(200);
    }
}

pub async fn an_object_that_no_longer_matches_is_shown_as_deleted(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    let query = format!("labelSelector=x%3D1&resourceVersion={}", version(&made));
    let mut watch = t.watch(&t.all("endpointslices"), &query).await;
    let path = t.one("endpointslices", "a");
    let label = |value: Value| json!({"metadata": {"labels": {"x": value}}});
    let entered = t.merge(&path, &label("1".into())).await.expect(200);
    let left = t.merge(&path, &label("2".into())).await.expect(200);
    t.merge(&path, &label("3".into())).await.expect(200);
    let back = t.merge(&path, &label("1".into())).await.expect(200);
    assert_eq!(version(&watch.expect("ADDED", "a").await), version(&entered));
    let gone = watch.expect("DELETED", "a").await;
    assert_eq!(version(&gone), version(&left));
    assert_eq!(gone["metadata"]["labels"]["x"], "1");
    assert_eq!(version(&watch.expect("ADDED", "a").await), version(&back));
}

pub async fn a_namespace_and_a_name_select_objects(t: Target) {
    let from = newest(&t).await;
    let query = format!("fieldSelector=metadata.name%3Db&resourceVersion={from}");
    let mut watch = t.watch(&t.all("endpointslices"), &query).await;
    let mut other = slice("b");
    other["metadata"]["namespace"] = "default".into();
    other["metadata"]["name"] = format!("b-of-{}", t.namespace).into();
    let elsewhere = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    t.post(elsewhere, &other).await.expect(201);
    t.made("endpointslices", &slice("a")).await;
    t.made("endpointslices", &slice("b")).await;
    watch.expect("ADDED", "b").await;
}

pub async fn a_watch_ends_cleanly_at_its_timeout(t: Target) {
    let from = newest(&t).await;
    let query = format!("resourceVersion={from}&timeoutSeconds=1");
    let mut watch = t.watch(&t.all("endpointslices"), &query).await;
    assert_eq!(watch.next().await, None);
}

pub async fn a_bookmark_arrives_before_the_end(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    let before = version(&made) - 1;
    // A real server checks about once a second whether bookmarks are due.
    let query = format!("resourceVersion={before}&timeoutSeconds=6&allowWatchBookmarks=true");
    let mut watch = t.watch(&t.all("endpointslices"), &query).await;
    watch.expect("ADDED", "a").await;
    let mut bookmarks = 0;
    while let Some(event) = watch.next().await {
        assert_eq!(event["type"], "BOOKMARK", "{event:#}");
        assert!(version(&event["object"]) >= version(&made));
        assert_eq!(event["object"]["kind"], "EndpointSlice");
        bookmarks += 1;
    }
    assert!(bookmarks > 0);
}

/// Older API servers refuse `sendInitialEvents` unless the `WatchList` feature gate is enabled. By default, it is
/// disabled in 1.30, 1.31 and 1.33.
pub async fn the_end_of_the_initial_events_is_marked(t: Target) {
    t.made("endpointslices", &slice("a")).await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    if t.is_older().await {
        let path = format!("{}?watch=true&timeoutSeconds=1&{query}", t.all("endpointslices"));
        let reply = t.get(&path).await;
        if reply.code != 200 {
            reply.invalid(&["sendInitialEvents"]);
            return;
        }
    }
    let mut watch = t.watch(&t.all("endpointslices"), query).await;
    let added = watch.expect("ADDED", "a").await;
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(
        mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert!(version(&mark["object"]) >= version(&added));
}

pub async fn initial_events_need_a_version_match(t: Target) {
    let path = format!("{}?watch=true&sendInitialEvents=true", t.all("endpointslices"));
    t.get(&path).await.invalid(&["resourceVersionMatch"]);
}

pub async fn a_bad_version_is_an_error(t: Target) {
    let path = format!("{}?watch=true&resourceVersion=abc", t.all("endpointslices"));
    assert_eq!(t.get(&path).await.code, 500);
}
