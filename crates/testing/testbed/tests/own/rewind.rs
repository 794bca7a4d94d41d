//! A store that returns to an earlier version, as etcd does when a backup is restored. A test cannot make a real API
//! server do this.

use crate::{SLICES, Watch, event, get, names, slice};
use serde_json::Value;
use std::time::Duration;
use testbed::{ApiServer, Store};
use tokio::time::timeout;

fn version(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.expect("a version").parse().expect("a number")
}

#[tokio::test(start_paused = true)]
async fn a_rewound_store_continues_from_the_restored_version() {
    let store = Store::new();
    let server = ApiServer::new(&store);
    let kept = store.put(slice("kept")).unwrap();
    let backup = store.revision();
    let mut changed = kept.clone();
    changed["endpoints"][0]["addresses"][0] = "192.0.2.9".into();
    store.put(changed).unwrap();
    let lost = store.put(slice("lost")).unwrap();

    store.rewind(backup).unwrap();
    let (_, present) = get(&server, SLICES).await;
    assert_eq!(names(&present), ["kept"]);
    assert_eq!(version(&present), backup);
    assert_eq!(
        store.get("endpointslices", "default", "kept"),
        Some(kept),
        "the restored object is not the same"
    );
    let again = store.put(slice("lost")).unwrap();
    assert_eq!(version(&again), backup + 1);
    assert_ne!(
        again["metadata"]["uid"], lost["metadata"]["uid"],
        "a UID is used twice"
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_future_version_is_silent_until_it_is_passed() {
    let store = Store::new();
    let server = ApiServer::new(&store);
    let backup = store.revision();
    store.put(slice("lost")).unwrap();
    let mut open = Watch::open(&server, &format!("{SLICES}?watch=1")).await;
    assert_eq!(open.event().await, event("ADDED", "lost"));
    store.put(slice("too")).unwrap();
    assert_eq!(open.event().await, event("ADDED", "too"));
    let from = store.revision();

    store.rewind(backup).unwrap();
    let path = format!("{SLICES}?watch=1&allowWatchBookmarks=true&resourceVersion={from}");
    let mut later = Watch::open(&server, &path).await;
    store.put(slice("first")).unwrap();
    let silence = Duration::from_secs(120);
    for watch in [&mut open, &mut later] {
        assert!(
            timeout(silence, watch.next()).await.is_err(),
            "a watch sent an event or a bookmark"
        );
    }
    store.put(slice("second")).unwrap();
    store.put(slice("third")).unwrap();
    for watch in [&mut open, &mut later] {
        assert_eq!(watch.event().await, event("ADDED", "third"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_without_a_restart_serves_its_old_cache() {
    let store = Store::new();
    let server = ApiServer::new(&store);
    let backup = store.revision();
    store.put(slice("lost")).unwrap();
    server.lag();
    store.rewind(backup).unwrap();
    let cached = format!("{SLICES}?resourceVersion=0");
    assert_eq!(names(&get(&server, &cached).await.1), ["lost"]);
    assert_eq!(names(&get(&server, SLICES).await.1), [""; 0], "a consistent read");
    server.release();
    assert_eq!(names(&get(&server, &cached).await.1), [""; 0]);
}

#[test]
fn a_compacted_version_cannot_be_restored() {
    let store = Store::new();
    let backup = store.revision();
    store.put(slice("kept")).unwrap();
    store.compact();
    assert_eq!(store.rewind(backup).unwrap_err().to_status()["code"], 410);
    assert!(store.get("endpointslices", "default", "kept").is_some());
}
