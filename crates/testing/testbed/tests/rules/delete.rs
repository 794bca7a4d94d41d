//! DELETE.

use crate::target::{Target, annotated, service, slice, version};
use serde_json::json;

pub async fn the_deletion_of_a_slice_returns_a_status(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    let status = t.delete(&t.one("endpointslices", "a")).await.expect(200);
    assert_eq!(status["kind"], "Status");
    assert_eq!(status["status"], "Success");
    assert_eq!(status["details"]["uid"], made["metadata"]["uid"]);
    assert_eq!(status["details"]["kind"], "endpointslices");
    t.get(&t.one("endpointslices", "a")).await.fails(404, "NotFound");
}

pub async fn the_deletion_of_a_service_returns_the_service(t: Target) {
    let made = t.made("services", &service("a")).await;
    let gone = t.delete(&t.one("services", "a")).await.expect(200);
    assert_eq!(gone["kind"], "Service");
    assert_eq!(gone["metadata"]["uid"], made["metadata"]["uid"]);
}

pub async fn a_missing_object_is_not_found(t: Target) {
    let status = t.delete(&t.one("services", "a")).await.fails(404, "NotFound");
    assert_eq!(status["message"], "services \"a\" not found");
    assert_eq!(status["details"], json!({"name": "a", "kind": "services"}));
}

pub async fn another_uid_is_a_conflict(t: Target) {
    t.made("endpointslices", &slice("a")).await;
    let options = json!({"preconditions": {"uid": "other"}});
    let status = t
        .delete_with(&t.one("endpointslices", "a"), &options)
        .await
        .fails(409, "Conflict");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("the UID in the precondition (other) does not match"),
        "{message}"
    );
    t.get(&t.one("endpointslices", "a")).await.expect(200);
}

pub async fn another_version_is_a_conflict(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    t.put(&t.one("endpointslices", "a"), &annotated(&made, "1"))
        .await
        .expect(200);
    let version = &made["metadata"]["resourceVersion"];
    let options = json!({"preconditions": {"resourceVersion": version}});
    t.delete_with(&t.one("endpointslices", "a"), &options)
        .await
        .fails(409, "Conflict");
}

pub async fn an_object_with_matching_preconditions_is_deleted(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    let (uid, version) = (&made["metadata"]["uid"], &made["metadata"]["resourceVersion"]);
    let options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
        "preconditions": {"uid": uid, "resourceVersion": version},
    });
    t.delete_with(&t.one("endpointslices", "a"), &options)
        .await
        .expect(200);
    t.get(&t.one("endpointslices", "a")).await.fails(404, "NotFound");
}

pub async fn an_object_stays_until_its_finalizers_are_removed(t: Target) {
    let mut object = slice("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let made = t.made("endpointslices", &object).await;
    let path = t.one("endpointslices", "a");
    let going = t.delete(&path).await.expect(200);
    assert_eq!(going["kind"], "EndpointSlice");
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    assert!(version(&going) > version(&made));
    let again = t.delete(&path).await.expect(200);
    assert_eq!(version(&again), version(&going));
    t.merge(&path, &json!({"metadata": {"finalizers": null}}))
        .await
        .expect(200);
    t.get(&path).await.fails(404, "NotFound");
}

pub async fn a_terminating_object_gets_no_new_finalizer(t: Target) {
    let mut object = slice("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    t.made("endpointslices", &object).await;
    let path = t.one("endpointslices", "a");
    t.delete(&path).await.expect(200);
    let patch = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    t.merge(&path, &patch).await.invalid(&["metadata.finalizers"]);
}

pub async fn a_collection_is_deleted_by_selector(t: Target) {
    for (name, label) in [("a", "yes"), ("b", "no"), ("c", "yes")] {
        let mut object = slice(name);
        object["metadata"]["labels"] = json!({"go": label});
        t.made("endpointslices", &object).await;
    }
    let path = format!("{}?labelSelector=go%3Dyes", t.all("endpointslices"));
    let gone = t.delete(&path).await.expect(200);
    assert_eq!(gone["kind"], "EndpointSliceList");
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    let left = t.get(&t.all("endpointslices")).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
}
