//! TokenReviews and SubjectAccessReviews, which are answered and not stored.

use crate::{
    answer::{self, Body},
    field::FieldError,
    kinds::Kind,
    object,
    server::Incoming,
    status::ApiError,
    store::Store,
    writing::read_object,
};
use http::Response;
use serde_json::{Value, json};

/// The response to a review: the review itself, with its status.
pub(crate) fn answer(store: &Store, kind: &Kind, incoming: &Incoming) -> Result<Response<Body>, ApiError> {
    let mut review = read_object(kind, incoming)?;
    let status = if kind.kind == "TokenReview" {
        token(store, &review["spec"])?
    } else {
        access(store, kind, &review["spec"])?
    };
    review["status"] = status;
    Ok(answer::json(201, &review))
}

/// The status of a `TokenReview`.
fn token(store: &Store, spec: &Value) -> Result<Value, ApiError> {
    match spec["token"].as_str() {
        None | Some("") => Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        )),
        Some(token) => Ok(match store.user_of(token) {
            Some(user) => json!({
                "authenticated": true,
                "user": {"username": user, "groups": ["system:authenticated"]},
            }),
            None => json!({"user": {}, "error": "[invalid bearer token, Token could not be validated.]"}),
        }),
    }
}

/// The status of a `SubjectAccessReview` of a path. Reviews of resources get 404.
fn access(store: &Store, kind: &Kind, spec: &Value) -> Result<Value, ApiError> {
    let attributes = &spec["nonResourceAttributes"];
    if attributes.is_null() {
        return Err(ApiError::no_such_resource());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let user = text(&spec["user"]);
    if user.is_empty() && object::array(&spec["groups"]).is_empty() {
        let why = "at least one of user or group must be specified";
        let error = FieldError::invalid("spec.user", &spec["user"], why);
        return Err(ApiError::invalid(kind, "", &[error]));
    }
    let (path, verb) = (text(&attributes["path"]), text(&attributes["verb"]));
    let allowed = store.rbac().allows_path(&user, &path, &verb);
    Ok(json!({"allowed": allowed}))
}
