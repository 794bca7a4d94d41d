//! Garbage collection and namespaces: the work of a cluster's controller manager.

use crate::{SLICES, call, service, slice};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use testbed::{ApiServer, Store, builders};
use tokio::time::Instant;

fn owned(name: &str, owners: &[(&str, &Value)]) -> Value {
    let owners: Vec<Value> = owners
        .iter()
        .map(|(name, uid)| json!({"apiVersion": "v1", "kind": "Service", "name": name, "uid": uid}))
        .collect();
    let mut object = slice(name);
    object["metadata"]["ownerReferences"] = owners.into();
    object
}

fn has(store: &Store, name: &str) -> bool {
    store.get("endpointslices", "default", name).is_some()
}

#[tokio::test(start_paused = true)]
async fn dependents_of_a_deleted_owner_are_deleted_after_the_delay() {
    let store = Store::new();
    let uid = store.put(service("vip")).unwrap()["metadata"]["uid"].clone();
    store.put(owned("copy", &[("vip", &uid)])).unwrap();
    store.put(slice("free")).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(has(&store, "copy"));
    store.delete("services", "default", "vip").unwrap();
    assert!(has(&store, "copy"));
    let started = Instant::now();
    store.until(|s| !has(s, "copy")).await;
    assert_eq!(started.elapsed().as_millis(), 50);
    assert!(has(&store, "free"));
}

#[tokio::test(start_paused = true)]
async fn an_owner_with_the_same_name_but_another_uid_does_not_count() {
    let store = Store::new();
    store.collect_after(Some(Duration::from_secs(5)));
    let uid = store.put(service("vip")).unwrap()["metadata"]["uid"].clone();
    // A recreated object with the same name is a different object.
    store.delete("services", "default", "vip").unwrap();
    store.put(service("vip")).unwrap();
    store.put(owned("copy", &[("vip", &uid)])).unwrap();
    store.until(|s| !has(s, "copy")).await;
}

#[tokio::test(start_paused = true)]
async fn an_object_stays_while_one_of_its_two_owners_exists() {
    let store = Store::new();
    let uid = |name: &str| store.put(service(name)).unwrap()["metadata"]["uid"].clone();
    let (one, two) = (uid("one"), uid("two"));
    store.put(owned("copy", &[("one", &one), ("two", &two)])).unwrap();
    store.delete("services", "default", "one").unwrap();
    let owners = |s: &Store| {
        s.get("endpointslices", "default", "copy").unwrap()["metadata"]["ownerReferences"].clone()
    };
    store.until(|s| owners(s).as_array().unwrap().len() == 1).await;
    assert_eq!(owners(&store)[0]["uid"], two);
}

#[tokio::test(start_paused = true)]
async fn collection_can_be_switched_off() {
    let store = Store::new();
    store.collect_after(None);
    store.put(owned("copy", &[("vip", &json!("gone"))])).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(has(&store, "copy"));
    store.collect_now();
    assert!(!has(&store, "copy"));
}

#[tokio::test(start_paused = true)]
async fn foreground_and_orphan_policies_are_followed() {
    let store = Store::new();
    let server = ApiServer::new(&store);
    for (policy, copy_stays) in [("Foreground", false), ("Orphan", true)] {
        let uid = store.put(service("vip")).unwrap()["metadata"]["uid"].clone();
        store.put(owned("copy", &[("vip", &uid)])).unwrap();
        let options = json!({"propagationPolicy": policy});
        let path = "/api/v1/namespaces/default/services/vip";
        call(&server, Method::DELETE, path, Some(&options)).await.unwrap();
        assert!(
            store.get("services", "default", "vip").is_some(),
            "removed in spite of its finalizer"
        );
        store
            .until(|s| s.get("services", "default", "vip").is_none())
            .await;
        assert_eq!(has(&store, "copy"), copy_stays, "{policy}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_namespace_is_emptied_and_removed() {
    let store = Store::new();
    let server = ApiServer::new(&store);
    store.put(builders::namespace("short")).unwrap();
    let mut object = slice("a");
    object["metadata"]["namespace"] = "short".into();
    store.put(object.clone()).unwrap();
    store.delete("namespaces", "", "short").unwrap();
    let path = SLICES.replace("default", "short");
    assert_eq!(
        call(&server, Method::POST, &path, Some(&object)).await.unwrap().0,
        403
    );
    store.until(|s| s.get("namespaces", "", "short").is_none()).await;
    assert_eq!(
        call(&server, Method::POST, &path, Some(&object)).await.unwrap().0,
        404
    );
    let error = store.delete("namespaces", "", "default").unwrap_err();
    assert_eq!(error.code, 403);
}
