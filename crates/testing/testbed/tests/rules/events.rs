//! Events: one object, two views.

use crate::target::Target;
use serde_json::{Value, json};

fn newer(t: &Target, name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name},
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Warning", "reason": "Reason", "note": "what to do",
        "action": "Sync", "reportingController": "operator", "reportingInstance": "operator-1",
        "regarding": {"kind": "Service", "namespace": t.namespace, "name": "vip", "uid": "u"},
    })
}

pub async fn both_views_show_one_event(t: Target) {
    let made = t.made("events.events.k8s.io", &newer(&t, "a")).await;
    assert_eq!(made["note"], "what to do");
    let older = t.get(&t.one("events", "a")).await.expect(200);
    assert_eq!(older["apiVersion"], "v1");
    assert_eq!(older["message"], "what to do");
    assert_eq!(older["reportingComponent"], "operator");
    assert_eq!(older["involvedObject"]["name"], "vip");
    assert_eq!(older["source"], json!({}));
    let object = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "b"}, "type": "Normal", "reason": "R",
        "message": "m", "count": 2, "source": {"component": "c"}, "firstTimestamp": "2026-01-01T00:00:00Z",
        "involvedObject": {"kind": "Service", "namespace": t.namespace, "name": "vip"},
    });
    t.made("events", &object).await;
    let newer = t.get(&t.one("events.events.k8s.io", "b")).await.expect(200);
    assert_eq!(newer["note"], "m");
    assert_eq!(newer["deprecatedCount"], 2);
    assert_eq!(newer["deprecatedSource"], json!({"component": "c"}));
    assert_eq!(newer["regarding"]["name"], "vip");
}

pub async fn field_selectors_find_the_events_of_a_service(t: Target) {
    t.made("events.events.k8s.io", &newer(&t, "a")).await;
    let mut other = newer(&t, "b");
    other["regarding"]["name"] = "other".into();
    t.made("events.events.k8s.io", &other).await;
    for (resource, selector) in [
        (
            "events",
            "involvedObject.name%3Dvip,involvedObject.kind%3DService,involvedObject.uid%3Du",
        ),
        ("events.events.k8s.io", "regarding.name%3Dvip"),
        ("events", "involvedObject.name!%3Dother"),
    ] {
        let path = format!("{}?fieldSelector={selector}", t.all(resource));
        let list = t.get(&path).await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{selector}");
        assert_eq!(list["items"][0]["metadata"]["name"], "a");
    }
}

pub async fn the_newer_view_rejects_invalid_events(t: Target) {
    for (field, value, named) in [
        ("eventTime", Value::Null, "eventTime"),
        ("type", json!("Bad"), "type"),
        ("reason", json!(""), "reason"),
        ("action", json!(""), "action"),
        ("reportingController", json!(""), "reportingController"),
        ("reportingInstance", json!(""), "reportingInstance"),
        ("note", json!("x".repeat(1025)), "message"),
        ("deprecatedCount", json!(3), "count"),
    ] {
        let mut object = newer(&t, "a");
        object[field] = value;
        t.post(&t.all("events.events.k8s.io"), &object)
            .await
            .invalid(&[named]);
    }
    let mut object = newer(&t, "a");
    object["note"] = "x".repeat(1024).into();
    t.made("events.events.k8s.io", &object).await;
}

pub async fn an_event_must_be_in_the_namespace_of_its_object(t: Target) {
    let object = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "b"}, "reason": "R", "message": "m",
        "involvedObject": {"kind": "Service", "namespace": "default", "name": "vip"},
    });
    t.post(&t.all("events"), &object)
        .await
        .invalid(&["involvedObject.namespace"]);
}
