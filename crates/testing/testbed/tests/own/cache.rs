//! A server with a stale watch cache.

use crate::{SLICES, Watch, call, event, get, names, slice};
use http::Method;
use std::time::Duration;
use testbed::{ApiServer, Store};
use tokio::time::timeout;

#[tokio::test(start_paused = true)]
async fn only_watches_and_cached_reads_use_a_stale_cache() {
    let store = Store::new();
    let server = ApiServer::new(&store);
    store.put(slice("old")).unwrap();
    let mut watch = Watch::open(&server, &format!("{SLICES}?watch=1")).await;
    assert_eq!(watch.event().await, event("ADDED", "old"));
    server.lag();
    call(&server, Method::POST, SLICES, Some(&slice("new")))
        .await
        .unwrap();
    assert_eq!(names(&get(&server, SLICES).await.1), ["new", "old"]);
    assert_eq!(get(&server, &format!("{SLICES}/new")).await.0, 200);
    assert_eq!(
        names(&get(&server, &format!("{SLICES}?resourceVersion=0")).await.1),
        ["old"]
    );
    assert_eq!(
        get(&server, &format!("{SLICES}/new?resourceVersion=0")).await.0,
        404
    );
    assert!(timeout(Duration::from_secs(60), watch.next()).await.is_err());
    // Another server of the same store is up to date.
    let other = ApiServer::new(&store);
    assert_eq!(
        names(&get(&other, &format!("{SLICES}?resourceVersion=0")).await.1),
        ["new", "old"]
    );
    server.release();
    assert_eq!(watch.event().await, event("ADDED", "new"));
    assert_eq!(
        names(&get(&server, &format!("{SLICES}?resourceVersion=0")).await.1),
        ["new", "old"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stale_cache_cannot_serve_a_newer_version() {
    let store = Store::new();
    let server = ApiServer::new(&store);
    server.lag();
    store.put(slice("new")).unwrap();
    let path = format!("{SLICES}?resourceVersion={}", store.revision());
    assert_eq!(get(&server, &path).await.0, 504);
    let waiting = tokio::spawn({
        let (server, path) = (server.clone(), path.clone());
        async move { get(&server, &path).await.0 }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.release();
    assert_eq!(waiting.await.unwrap(), 200);
}
