//! Paths that are not resources, tokens, and discovery.

use crate::target::{Target, slice};
use http::Method;
use http_body_util::BodyExt;

pub async fn an_unknown_resource_is_not_found(t: Target) {
    t.get(&t.all("foos")).await.fails(404, "NotFound");
    t.get("/apis/discovery.k8s.io/v1/foos")
        .await
        .fails(404, "NotFound");
    assert_eq!(t.get("/nowhere").await.code, 404);
}

pub async fn a_wrong_method_is_not_allowed(t: Target) {
    let status = t
        .post(&t.one("endpointslices", "a"), &slice("a"))
        .await
        .fails(405, "MethodNotAllowed");
    assert_eq!(
        status["message"],
        "the server does not allow this method on the requested resource"
    );
    t.put(&t.all("endpointslices"), &slice("a"))
        .await
        .fails(405, "MethodNotAllowed");
    t.delete("/version").await.fails(405, "MethodNotAllowed");
}

pub async fn a_request_without_a_token_is_unauthorized(t: Target) {
    let status = t
        .with_token(None)
        .await
        .get(&t.all("leases"))
        .await
        .fails(401, "Unauthorized");
    assert_eq!(status["message"], "Unauthorized");
}

pub async fn an_unknown_token_is_unauthorized(t: Target) {
    t.with_token(Some("wrong"))
        .await
        .get(&t.all("leases"))
        .await
        .fails(401, "Unauthorized");
}

pub async fn discovery_lists_the_resources(t: Target) {
    assert_eq!(t.get("/api").await.expect(200)["versions"][0], "v1");
    let groups = t.get("/apis").await.expect(200);
    let groups: Vec<&str> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g["name"].as_str().unwrap())
        .collect();
    for group in ["coordination.k8s.io", "discovery.k8s.io", "events.k8s.io"] {
        assert!(groups.contains(&group), "{group}");
    }
    let version = t.get("/apis/discovery.k8s.io").await.expect(200);
    assert_eq!(version["preferredVersion"]["version"], "v1");
    for (path, resource) in [
        ("/api/v1", "services"),
        ("/api/v1", "services/status"),
        ("/apis/discovery.k8s.io/v1", "endpointslices"),
        ("/apis/coordination.k8s.io/v1", "leases"),
    ] {
        let list = t.get(path).await.expect(200);
        let mut resources = list["resources"].as_array().unwrap().iter();
        let found = resources.find(|r| r["name"] == resource).expect(resource);
        assert_eq!(found["namespaced"], true);
    }
}

pub async fn version_and_health_paths_exist(t: Target) {
    assert_eq!(t.get("/version").await.expect(200)["major"], "1");
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(t.get(path).await.expect(200), "ok");
    }
}

pub async fn an_unsupported_media_type_is_not_acceptable(t: Target) {
    let accept = [("accept", "text/html")];
    let response = t.send(Method::GET, &t.all("leases"), &accept, Vec::new()).await;
    assert_eq!(response.status(), 406);
    response.into_body().collect().await.unwrap();
}
