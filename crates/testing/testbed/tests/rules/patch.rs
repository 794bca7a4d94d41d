//! PATCH.

use crate::target::{Target, service, slice, version};
use http::Method;
use serde_json::{Value, json};

pub async fn a_merge_patch_sets_and_removes_fields(t: Target) {
    let mut object = slice("a");
    object["metadata"]["annotations"] = json!({"keep": "1", "drop": "2"});
    let made = t.made("endpointslices", &object).await;
    let patch = json!({"metadata": {"annotations": {"drop": null, "new": "3"}}});
    let patched = t.merge(&t.one("endpointslices", "a"), &patch).await.expect(200);
    assert_eq!(
        patched["metadata"]["annotations"],
        json!({"keep": "1", "new": "3"})
    );
    assert_eq!(patched["endpoints"], made["endpoints"]);
    assert!(version(&patched) > version(&made));
}

pub async fn a_merge_patch_replaces_lists(t: Target) {
    t.made("endpointslices", &slice("a")).await;
    let patch = json!({"endpoints": [{"addresses": ["192.0.2.7"]}]});
    let patched = t.merge(&t.one("endpointslices", "a"), &patch).await.expect(200);
    assert_eq!(
        patched["endpoints"],
        json!([{"addresses": ["192.0.2.7"], "conditions": {}}])
    );
}

pub async fn a_stale_version_is_a_conflict(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    let path = t.one("endpointslices", "a");
    let patch = |value: &str| {
        let version = &made["metadata"]["resourceVersion"];
        json!({"metadata": {"resourceVersion": version, "annotations": {"a": value}}})
    };
    t.merge(&path, &patch("1")).await.expect(200);
    t.merge(&path, &patch("2")).await.fails(409, "Conflict");
}

pub async fn another_uid_is_invalid(t: Target) {
    t.made("endpointslices", &slice("a")).await;
    let patch = json!({"metadata": {"uid": "other"}});
    t.merge(&t.one("endpointslices", "a"), &patch)
        .await
        .invalid(&["metadata.uid"]);
}

pub async fn a_missing_object_is_not_found(t: Target) {
    t.merge(&t.one("leases", "a"), &json!({"spec": {}}))
        .await
        .fails(404, "NotFound");
}

pub async fn a_patch_without_a_change_writes_nothing(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    let patch = json!({"addressType": "IPv4"});
    let patched = t.merge(&t.one("endpointslices", "a"), &patch).await.expect(200);
    assert_eq!(version(&patched), version(&made));
}

pub async fn a_json_patch_is_applied_step_by_step(t: Target) {
    t.made("endpointslices", &slice("a")).await;
    let patch = json!([
        {"op": "test", "path": "/addressType", "value": "IPv4"},
        {"op": "add", "path": "/metadata/labels", "value": {"x": "1"}},
        {"op": "remove", "path": "/ports/0"},
    ]);
    let path = t.one("endpointslices", "a");
    let patched = t
        .patch(&path, "application/json-patch+json", &patch)
        .await
        .expect(200);
    assert_eq!(patched["metadata"]["labels"], json!({"x": "1"}));
    assert_eq!(patched["ports"], Value::Null);
    let patch = json!([{"op": "test", "path": "/addressType", "value": "IPv6"}]);
    assert_eq!(
        t.patch(&path, "application/json-patch+json", &patch).await.code,
        422
    );
}

pub async fn a_strategic_merge_patch_adds_annotations(t: Target) {
    t.made("services", &service("a")).await;
    let patch = json!({"metadata": {"annotations": {"a": "1"}}});
    let content_type = "application/strategic-merge-patch+json";
    let patched = t
        .patch(&t.one("services", "a"), content_type, &patch)
        .await
        .expect(200);
    assert_eq!(patched["metadata"]["annotations"]["a"], "1");
}

pub async fn a_strategic_merge_patch_changes_one_condition(t: Target) {
    let made = t.made("services", &service("a")).await;
    let path = t.one("services", "a/status");
    let condition = |name: &str, status: &str, time: &str| {
        let message = "m";
        json!({"type": name, "status": status, "lastTransitionTime": time, "reason": "R", "message": message})
    };
    let (x, y) = (
        condition("x", "True", "2026-01-01T00:00:00Z"),
        condition("y", "True", "2026-01-01T00:00:00Z"),
    );
    let both = json!({"status": {"conditions": [x, y]}});
    t.merge(&path, &both).await.expect(200);
    let apply = async |conditions: Value| {
        let patch = json!({"status": {"conditions": conditions}});
        let content_type = "application/strategic-merge-patch+json";
        let patched = t.patch(&path, content_type, &patch).await.expect(200);
        assert_eq!(patched["spec"], made["spec"]);
        patched["status"]["conditions"].clone()
    };
    let without_time = json!({"type": "x", "status": "False", "reason": "R", "message": "m"});
    let changed = condition("x", "False", "2026-01-01T00:00:00Z");
    assert_eq!(
        apply(json!([without_time])).await,
        json!([changed, y]),
        "the time has changed"
    );
    let z = condition("z", "True", "2026-01-01T00:00:01Z");
    assert_eq!(apply(json!([z])).await, json!([z, changed, y]));
    assert_eq!(
        apply(json!([{"type": "y", "$patch": "delete"}])).await,
        json!([z, changed])
    );
    assert_eq!(
        apply(json!([{"type": "y", "$patch": "delete"}])).await,
        json!([z, changed])
    );
    let stale = json!({
        "metadata": {"resourceVersion": made["metadata"]["resourceVersion"]},
        "status": {"conditions": [y]},
    });
    let content_type = "application/strategic-merge-patch+json";
    t.patch(&path, content_type, &stale).await.fails(409, "Conflict");
}

pub async fn another_media_type_is_refused(t: Target) {
    t.made("leases", &crate::target::lease("a")).await;
    let reply = t
        .patch(&t.one("leases", "a"), "application/json", &json!({}))
        .await;
    reply.fails(415, "UnsupportedMediaType");
}

pub async fn bad_json_is_a_bad_request(t: Target) {
    t.made("leases", &crate::target::lease("a")).await;
    let headers = [("content-type", "application/merge-patch+json")];
    let response = t
        .send(Method::PATCH, &t.one("leases", "a"), &headers, b"{".to_vec())
        .await;
    assert_eq!(response.status(), 400);
}

pub async fn the_status_subresource_changes_only_the_status(t: Target) {
    let mut object = service("a");
    object["spec"]["type"] = "LoadBalancer".into();
    t.made("services", &object).await;
    let patch = json!({
        "spec": {"sessionAffinity": "ClientIP"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    });
    let main = t.merge(&t.one("services", "a"), &patch).await.expect(200);
    assert_eq!(main["spec"]["sessionAffinity"], "ClientIP");
    assert_eq!(main["status"]["loadBalancer"], json!({}));
    let patch = json!({
        "spec": {"sessionAffinity": "None"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    });
    let status = t.merge(&t.one("services", "a/status"), &patch).await.expect(200);
    assert_eq!(status["spec"]["sessionAffinity"], "ClientIP");
    assert_eq!(status["status"]["loadBalancer"]["ingress"][0]["ip"], "192.0.2.1");
}
