//! PUT.

use crate::target::{Target, annotated, lease, slice, version};
use serde_json::json;

pub async fn a_put_replaces_the_object_and_raises_the_version(t: Target) {
    let made = t.made("endpointslices", &annotated(&slice("a"), "1")).await;
    let mut object = slice("a");
    object["endpoints"] = json!([{"addresses": ["192.0.2.9"]}]);
    object["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    let put = t.put(&t.one("endpointslices", "a"), &object).await.expect(200);
    assert!(version(&put) > version(&made));
    assert_eq!(put["endpoints"][0]["addresses"][0], "192.0.2.9");
    assert!(put["metadata"]["annotations"].is_null());
}

pub async fn a_stale_version_is_a_conflict(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    t.put(&t.one("endpointslices", "a"), &annotated(&made, "1"))
        .await
        .expect(200);
    let reply = t.put(&t.one("endpointslices", "a"), &annotated(&made, "2")).await;
    let status = reply.fails(409, "Conflict");
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on endpointslices.discovery.k8s.io \"a\": the object has been modified; \
         please apply your changes to the latest version and try again"
    );
}

pub async fn another_uid_is_a_conflict(t: Target) {
    let mut made = t.made("endpointslices", &slice("a")).await;
    made["metadata"]["uid"] = "other".into();
    let status = t
        .put(&t.one("endpointslices", "a"), &made)
        .await
        .fails(409, "Conflict");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("Precondition failed: UID in precondition: other")
    );
}

pub async fn a_missing_slice_is_not_found(t: Target) {
    t.put(&t.one("endpointslices", "a"), &slice("a"))
        .await
        .fails(404, "NotFound");
    let mut object = slice("a");
    object["metadata"]["uid"] = "x".into();
    object["metadata"]["resourceVersion"] = "1".into();
    let code = t.put(&t.one("endpointslices", "a"), &object).await.code;
    assert!(code == 404 || code == 409, "{code}");
}

pub async fn a_missing_lease_is_created(t: Target) {
    let mut object = lease("a");
    object["metadata"]["resourceVersion"] = "3".into();
    let made = t.put(&t.one("leases", "a"), &object).await.expect(201);
    assert_eq!(made["spec"]["holderIdentity"], "me");
}

pub async fn a_missing_lease_with_a_uid_is_a_conflict(t: Target) {
    let mut object = lease("a");
    object["metadata"]["uid"] = "x".into();
    t.put(&t.one("leases", "a"), &object).await.fails(409, "Conflict");
}

pub async fn a_put_of_a_lease_needs_its_version(t: Target) {
    t.made("leases", &lease("a")).await;
    t.put(&t.one("leases", "a"), &annotated(&lease("a"), "1"))
        .await
        .invalid(&["metadata.resourceVersion"]);
}

pub async fn a_put_of_a_slice_needs_no_version(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    let put = t
        .put(&t.one("endpointslices", "a"), &annotated(&slice("a"), "1"))
        .await
        .expect(200);
    assert!(version(&put) > version(&made));
}

pub async fn a_put_without_a_change_writes_nothing(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    let put = t.put(&t.one("endpointslices", "a"), &made).await.expect(200);
    assert_eq!(version(&put), version(&made));
    let put = t
        .put(&t.one("endpointslices", "a"), &slice("a"))
        .await
        .expect(200);
    assert_eq!(version(&put), version(&made));
}

pub async fn another_name_in_the_body_is_a_bad_request(t: Target) {
    t.made("endpointslices", &slice("a")).await;
    t.put(&t.one("endpointslices", "a"), &slice("b"))
        .await
        .fails(400, "BadRequest");
    t.put(&t.one("endpointslices", "a"), &slice(""))
        .await
        .fails(400, "BadRequest");
}

pub async fn uid_and_creation_time_do_not_change(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    let mut object = annotated(&slice("a"), "1");
    object["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z".into();
    let put = t.put(&t.one("endpointslices", "a"), &object).await.expect(200);
    assert_eq!(put["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(
        put["metadata"]["creationTimestamp"],
        made["metadata"]["creationTimestamp"]
    );
}
