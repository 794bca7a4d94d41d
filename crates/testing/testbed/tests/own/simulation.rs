//! The tower service under a paused clock, with kube's client.

use crate::{LEASES, SLICES, Watch, event, get, slice};
use futures::TryStreamExt;
use k8s_openapi::api::{coordination::v1::Lease, discovery::v1::EndpointSlice};
use kube::{Api, Client, api::PostParams, runtime::watcher};
use serde_json::json;
use std::{pin::pin, time::Duration};
use testbed::{ApiServer, Store, builders};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn the_kube_client_works_without_a_connection() {
    let server = ApiServer::new(&Store::new());
    let client = Client::new(server.clone(), "default");
    let leases: Api<Lease> = Api::default_namespaced(client);
    let lease: Lease = serde_json::from_value(crate::lease("a")).unwrap();
    let made = leases.create(&PostParams::default(), &lease).await.unwrap();
    assert!(made.metadata.uid.is_some());
    let again = leases.create(&PostParams::default(), &lease).await;
    assert!(matches!(again, Err(kube::Error::Api(status)) if status.is_already_exists()));
}

#[tokio::test(start_paused = true)]
async fn the_kube_watcher_follows_the_store() {
    let store = Store::new();
    store.put(builders::kubernetes_slice(&["192.0.2.1"])).unwrap();
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let client = Client::new(ApiServer::new(&store), "default");
        let slices: Api<EndpointSlice> = Api::all(client);
        let mut events = pin!(watcher(slices, config));
        let mut seen = Vec::new();
        while let Some(event) = events.try_next().await.unwrap() {
            match event {
                watcher::Event::Init => {}
                watcher::Event::InitApply(_) => seen.push("present"),
                watcher::Event::InitDone => {
                    seen.push("done");
                    store.put(slice("new")).unwrap();
                }
                watcher::Event::Apply(_) => {
                    seen.push("apply");
                    store.delete("endpointslices", "default", "new").unwrap();
                }
                watcher::Event::Delete(_) => {
                    seen.push("delete");
                    break;
                }
            }
        }
        assert_eq!(seen, ["present", "done", "apply", "delete"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_gets_bookmarks_and_ends_by_the_paused_clock() {
    let server = ApiServer::new(&Store::new());
    let started = Instant::now();
    let path = format!("{SLICES}?watch=1&resourceVersion=4&allowWatchBookmarks=true&timeoutSeconds=290");
    let mut watch = Watch::open(&server, &path).await;
    let mut bookmarks = Vec::new();
    while let Some(event) = watch.next().await {
        assert_eq!(event.unwrap()["type"], "BOOKMARK");
        bookmarks.push(started.elapsed().as_secs());
    }
    assert_eq!(bookmarks, [60, 120, 180, 240, 288]);
    assert_eq!(started.elapsed(), Duration::from_secs(290));
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_before_a_compaction_gets_410() {
    let store = Store::new();
    let server = ApiServer::new(&store);
    let from = store.revision();
    store.put(slice("a")).unwrap();
    store.compact();
    let mut watch = Watch::open(&server, &format!("{SLICES}?watch=1&resourceVersion={from}")).await;
    let error = watch.next().await.unwrap().unwrap();
    assert_eq!(error["type"], "ERROR");
    assert_eq!(error["object"]["code"], 410);
    assert_eq!(error["object"]["reason"], "Expired");
    assert!(watch.next().await.is_none());
    let (code, _) = get(
        &server,
        &format!("{SLICES}?resourceVersion={from}&resourceVersionMatch=Exact"),
    )
    .await;
    assert_eq!(code, 410);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_from_before_a_compaction_gets_410() {
    let store = Store::new();
    let server = ApiServer::new(&store);
    for name in ["a", "b"] {
        store.put(slice(name)).unwrap();
    }
    let (_, first) = get(&server, &format!("{SLICES}?limit=1")).await;
    store.put(slice("c")).unwrap();
    store.compact();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (code, status) = get(&server, &format!("{SLICES}?limit=1&continue={token}")).await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
}

#[tokio::test(start_paused = true)]
async fn a_short_history_drops_the_oldest_changes() {
    let store = Store::new();
    store.remember(2);
    let from = store.revision();
    for name in ["a", "b", "c"] {
        store.put(slice(name)).unwrap();
    }
    let server = ApiServer::new(&store);
    let mut watch = Watch::open(&server, &format!("{SLICES}?watch=1&resourceVersion={from}")).await;
    assert_eq!(watch.event().await.0, "ERROR");
}

#[tokio::test(start_paused = true)]
async fn two_servers_of_one_store_show_the_same_objects() {
    let store = Store::new();
    let (one, two) = (ApiServer::named(&store, "one"), ApiServer::named(&store, "two"));
    let mut watch = Watch::open(&one, &format!("{SLICES}?watch=1&resourceVersion=4")).await;
    crate::call(&two, http::Method::POST, SLICES, Some(&slice("a")))
        .await
        .unwrap();
    assert_eq!(watch.event().await, event("ADDED", "a"));
    assert_eq!(get(&one, &format!("{SLICES}/a")).await.0, 200);
    assert_eq!(one.requests().len(), 2);
    assert_eq!(two.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn stores_with_one_seed_give_the_same_uids() {
    let uid = || Store::seeded(7).put(slice("a")).unwrap()["metadata"]["uid"].clone();
    assert_eq!(uid(), uid());
    let other = Store::seeded(8).put(slice("a")).unwrap();
    assert_ne!(uid(), other["metadata"]["uid"]);
}

#[tokio::test(start_paused = true)]
async fn the_log_names_user_and_request() {
    let store = Store::new();
    let server = ApiServer::new(&store).as_user("someone");
    crate::call(&server, http::Method::POST, LEASES, Some(&crate::lease("a")))
        .await
        .unwrap();
    get(&server, &format!("{LEASES}?fieldSelector=metadata.name%3Da")).await;
    get(&server, &format!("{LEASES}/b")).await;
    let log = store.requests().all();
    let seen: Vec<_> = log
        .iter()
        .map(|r| (r.verb, r.name.as_str(), r.status.unwrap(), r.is_write()))
        .collect();
    assert_eq!(
        seen,
        [
            ("create", "a", 201, true),
            ("list", "a", 200, false),
            ("get", "b", 404, false)
        ]
    );
    assert_eq!(log[0].user, "someone");
    assert_eq!(log[0].body.as_ref().unwrap()["kind"], "Lease");
    assert_eq!(log[0].namespace, "default");
}

#[tokio::test(start_paused = true)]
async fn a_test_can_wait_for_a_request_or_a_write() {
    let store = Store::new();
    let server = ApiServer::new(&store);
    let later = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        crate::call(&server, http::Method::POST, LEASES, Some(&crate::lease("a")))
            .await
            .unwrap();
    });
    store
        .requests()
        .until(|log| {
            log.iter()
                .any(|r| r.is("create", "leases") && r.status == Some(201))
        })
        .await;
    store.until(|s| s.get("leases", "default", "a").is_some()).await;
    later.await.unwrap();
}
