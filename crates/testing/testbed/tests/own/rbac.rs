//! RBAC as a filter.

use crate::{LEASES, SLICES, call, get, lease};
use http::Method;
use serde_json::json;
use testbed::{ApiServer, Rule, Store};

fn server(rules: Vec<Rule>) -> ApiServer {
    let server = ApiServer::new(&Store::new()).as_user("operator");
    server.restrict("operator", rules);
    server
}

#[tokio::test]
async fn a_request_without_a_rule_is_forbidden() {
    let server = server(vec![Rule::new(
        &["discovery.k8s.io"],
        &["endpointslices"],
        &["list"],
    )]);
    assert_eq!(get(&server, SLICES).await.0, 200);
    let (code, status) = get(&server, &format!("{SLICES}/a")).await;
    assert_eq!(code, 403);
    assert_eq!(status["reason"], "Forbidden");
    assert_eq!(
        status["message"],
        "endpointslices.discovery.k8s.io \"a\" is forbidden: User \"operator\" cannot get resource \
         \"endpointslices\" in API group \"discovery.k8s.io\" in the namespace \"default\""
    );
    let (_, status) = get(&server, "/api/v1/services").await;
    assert_eq!(
        status["message"],
        "services is forbidden: User \"operator\" cannot list resource \"services\" in API group \"\" at the \
         cluster scope"
    );
    // Other users are not restricted, and discovery is not restricted for anyone.
    assert_eq!(get(&server.as_user("admin"), "/api/v1/services").await.0, 200);
    assert_eq!(get(&server, "/apis").await.0, 200);
}

#[tokio::test]
async fn a_resource_name_applies_to_paths_and_field_selectors() {
    let rule = Rule::new(
        &["coordination.k8s.io"],
        &["leases"],
        &["get", "list", "watch", "create"],
    );
    let server = server(vec![rule.names(&["mine"]).namespaces(&["default"])]);
    assert_eq!(get(&server, &format!("{LEASES}/mine")).await.0, 404);
    assert_eq!(get(&server, &format!("{LEASES}/other")).await.0, 403);
    assert_eq!(get(&server, LEASES).await.0, 403);
    let selected = format!("{LEASES}?fieldSelector=metadata.name%3Dmine");
    assert_eq!(get(&server, &selected).await.0, 200);
    assert_eq!(
        get(&server, &format!("{selected}&watch=1&timeoutSeconds=1"))
            .await
            .0,
        200
    );
    assert_eq!(
        get(&server, &selected.replace("default", "kube-system")).await.0,
        403
    );
    // The name of an object that is being created is not known when rules are evaluated.
    assert_eq!(
        call(&server, Method::POST, LEASES, Some(&lease("mine")))
            .await
            .unwrap()
            .0,
        403
    );
}

#[tokio::test]
async fn a_subresource_is_a_resource_of_its_own() {
    let server = server(vec![Rule::new(&[""], &["services"], &["*"])]);
    let service = "/api/v1/namespaces/default/services/a";
    assert_eq!(get(&server, service).await.0, 404);
    let patch = json!({"status": {}});
    assert_eq!(
        call(&server, Method::PATCH, &format!("{service}/status"), Some(&patch))
            .await
            .unwrap()
            .0,
        403
    );
}

#[tokio::test]
async fn the_report_counts_rules_and_lists_refusals() {
    let used = Rule::new(&["*"], &["*"], &["list"]);
    let unused = Rule::new(&["*"], &["*"], &["delete"]);
    let server = server(vec![used.clone(), unused.clone()]);
    get(&server, LEASES).await;
    get(&server, SLICES).await;
    get(&server, &format!("{LEASES}/a")).await;
    let report = server.rbac_report("operator");
    assert_eq!(report.used, [(used, 2), (unused, 0)]);
    assert_eq!(report.refused.len(), 1);
    server.store().allow_all("operator");
    assert_eq!(get(&server, &format!("{LEASES}/a")).await.0, 404);
}
