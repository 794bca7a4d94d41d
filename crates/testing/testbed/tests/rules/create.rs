//! POST.

use crate::target::{Target, lease, service, slice, version};
use http::Method;
use serde_json::{Value, json};

pub async fn a_new_object_gets_a_uid_a_version_and_a_time(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    let metadata = &made["metadata"];
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(version(&made) > 0);
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(metadata["namespace"], t.namespace);
    assert_eq!(metadata["generation"], 1);
    let read = t.get(&t.one("endpointslices", "a")).await.expect(200);
    assert_eq!(read["metadata"]["uid"], metadata["uid"]);
    assert_eq!(version(&read), version(&made));
}

pub async fn a_taken_name_causes_already_exists(t: Target) {
    t.made("endpointslices", &slice("a")).await;
    let status = t
        .post(&t.all("endpointslices"), &slice("a"))
        .await
        .fails(409, "AlreadyExists");
    assert_eq!(
        status["message"],
        "endpointslices.discovery.k8s.io \"a\" already exists"
    );
    assert_eq!(
        status["details"],
        json!({"name": "a", "group": "discovery.k8s.io", "kind": "endpointslices"})
    );
}

pub async fn a_name_is_made_from_generate_name(t: Target) {
    let mut object = slice("");
    object["metadata"] = json!({"generateName": "g-"});
    let first = t.made("endpointslices", &object).await;
    let second = t.made("endpointslices", &object).await;
    let name = first["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("g-") && name.len() == 7, "{name}");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    assert_eq!(first["metadata"]["generateName"], "g-");
}

pub async fn a_resource_version_is_refused(t: Target) {
    let mut object = slice("a");
    object["metadata"]["resourceVersion"] = "5".into();
    let status = t.post(&t.all("endpointslices"), &object).await.fails(500, "");
    assert_eq!(
        status["message"],
        "resourceVersion should not be set on objects to be created"
    );
}

pub async fn a_missing_namespace_is_not_found(t: Target) {
    let path = "/apis/discovery.k8s.io/v1/namespaces/nowhere/endpointslices";
    let status = t.post(path, &slice("a")).await.fails(404, "NotFound");
    assert_eq!(status["message"], "namespaces \"nowhere\" not found");
    assert_eq!(status["details"]["kind"], "namespaces");
}

pub async fn a_create_in_a_terminating_namespace_is_forbidden(t: Target) {
    // A finalizer on its content keeps the namespace, even if a namespace controller runs.
    let mut held = slice("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    t.made("endpointslices", &held).await;
    let gone = t
        .delete(&format!("/api/v1/namespaces/{}", t.namespace))
        .await
        .expect(200);
    assert_eq!(gone["status"]["phase"], "Terminating");
    assert!(gone["metadata"]["deletionTimestamp"].is_string());
    let status = t
        .post(&t.all("endpointslices"), &slice("a"))
        .await
        .fails(403, "Forbidden");
    let cause = &status["details"]["causes"][0];
    assert_eq!(cause["reason"], "NamespaceTerminating");
    assert_eq!(cause["field"], "metadata.namespace");
    let held = t.get(&t.one("endpointslices", "held")).await.expect(200);
    assert_eq!(held["metadata"]["finalizers"][0], "example.com/hold");
}

pub async fn another_namespace_in_the_body_is_a_bad_request(t: Target) {
    let mut object = slice("a");
    object["metadata"]["namespace"] = "other".into();
    t.post(&t.all("endpointslices"), &object)
        .await
        .fails(400, "BadRequest");
}

pub async fn another_kind_in_the_body_is_a_bad_request(t: Target) {
    t.post(&t.all("endpointslices"), &service("a"))
        .await
        .fails(400, "BadRequest");
}

pub async fn bad_json_is_a_bad_request(t: Target) {
    let headers = [("content-type", "application/json")];
    let response = t
        .send(Method::POST, &t.all("leases"), &headers, b"{".to_vec())
        .await;
    assert_eq!(response.status(), 400);
}

pub async fn a_wrong_type_is_a_bad_request(t: Target) {
    let mut object = lease("a");
    object["spec"]["leaseDurationSeconds"] = "6".into();
    t.post(&t.all("leases"), &object).await.fails(400, "BadRequest");
    let mut object = slice("a");
    object["endpoints"] = json!({"addresses": []});
    t.post(&t.all("endpointslices"), &object)
        .await
        .fails(400, "BadRequest");
}

pub async fn an_unknown_media_type_is_refused(t: Target) {
    let headers = [("content-type", "text/plain")];
    let response = t
        .send(Method::POST, &t.all("leases"), &headers, b"{}".to_vec())
        .await;
    assert_eq!(response.status(), 415);
}

pub async fn an_object_without_a_name_is_invalid(t: Target) {
    let reply = t
        .post(&t.all("endpointslices"), &json!({"addressType": "IPv4"}))
        .await;
    reply.invalid(&["metadata.name"]);
    t.post(&t.all("endpointslices"), &json!({}))
        .await
        .invalid(&["metadata.name", "addressType"]);
}

pub async fn names_must_be_dns_names(t: Target) {
    for bad in ["A", "a_b", "-a", "a..b", &"a".repeat(254)] {
        t.post(&t.all("endpointslices"), &slice(bad))
            .await
            .invalid(&["metadata.name"]);
    }
    for good in ["a.b-c.d", &"a".repeat(253)] {
        t.made("endpointslices", &slice(good)).await;
    }
}

pub async fn a_long_field_manager_is_invalid(t: Target) {
    let path = |length| format!("{}?fieldManager={}", t.all("leases"), "m".repeat(length));
    t.post(&path(129), &lease("a")).await.invalid(&["fieldManager"]);
    t.post(&path(128), &lease("a")).await.expect(201);
}

pub async fn fields_that_the_server_sets_are_ignored(t: Target) {
    let mut object = slice("a");
    for (field, value) in [
        ("uid", json!("00000000-0000-4000-8000-000000000000")),
        ("creationTimestamp", json!("2001-01-01T00:00:00Z")),
        ("deletionTimestamp", json!("2001-01-01T00:00:00Z")),
        ("generation", json!(7)),
    ] {
        object["metadata"][field] = value;
    }
    let made = t.made("endpointslices", &object).await;
    assert_ne!(made["metadata"]["uid"], object["metadata"]["uid"]);
    assert_ne!(
        made["metadata"]["creationTimestamp"],
        object["metadata"]["creationTimestamp"]
    );
    assert_eq!(made["metadata"]["deletionTimestamp"], Value::Null);
    assert_eq!(made["metadata"]["generation"], 1);
}
