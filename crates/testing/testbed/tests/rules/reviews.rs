//! TokenReviews and SubjectAccessReviews.

use crate::target::Target;
use serde_json::{Value, json};

const TOKENS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

fn token(token: &str) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}})
}

fn access(spec: &Value) -> Value {
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec})
}

pub async fn a_valid_token_has_a_user(t: Target) {
    let review = t.post(TOKENS, &token(&t.token())).await.expect(201);
    let status = &review["status"];
    assert_eq!(status["authenticated"], true, "{review}");
    assert_eq!(status["user"]["username"], "admin");
    let groups = status["user"]["groups"].as_array().unwrap();
    assert!(groups.contains(&json!("system:authenticated")), "{groups:?}");
}

pub async fn an_unknown_token_has_no_user(t: Target) {
    let review = t.post(TOKENS, &token("wrong")).await.expect(201);
    let status = &review["status"];
    assert_ne!(status["authenticated"], true);
    assert_eq!(status["user"], json!({}), "{review}");
    assert!(status["error"].as_str().unwrap().contains("invalid bearer token"));
}

pub async fn a_token_is_required(t: Target) {
    let status = t.post(TOKENS, &token("")).await.fails(400, "BadRequest");
    assert_eq!(
        status["message"],
        "token is required for TokenReview in authentication"
    );
}

pub async fn the_permission_for_a_path_is_reviewed(t: Target) {
    let path = json!({"path": "/metrics", "verb": "get"});
    let spec = json!({
        "user": "admin", "groups": ["system:masters"], "uid": null, "extra": null, "nonResourceAttributes": path,
    });
    let review = t.post(ACCESS, &access(&spec)).await.expect(201);
    assert_eq!(review["status"]["allowed"], true, "{review}");
    t.post(ACCESS, &access(&json!({"nonResourceAttributes": path})))
        .await
        .invalid(&["spec.user"]);
}

pub async fn a_review_can_only_be_created(t: Target) {
    for path in [TOKENS, ACCESS] {
        t.get(path).await.fails(405, "MethodNotAllowed");
        t.put(path, &json!({})).await.fails(405, "MethodNotAllowed");
    }
}
