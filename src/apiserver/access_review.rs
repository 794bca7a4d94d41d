//! Asks an API server two questions: a TokenReview asks who the user of a token is, and a SubjectAccessReview asks
//! whether that user may get a path.
//!
//! The responses are kept as JSON, because the user is passed from one review to the other unchanged. Errors keep the
//! message of a response only if the message names a missing permission: a TokenReview repeats the token, and a proxy
//! may show the request in its error page.

use std::time::Duration;

use http::Request;
use http::header::CONTENT_TYPE;
use kube::Client;
use serde_json::{Value, json};

use super::http_status::{missing_right, status_of, throttled};

/// The verdict of an API server on a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The token is valid, and its user has the permission.
    Allowed,
    /// The token is not valid.
    Unauthenticated,
    /// The token is valid, and its user does not have the permission.
    Forbidden,
}

/// The reason why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum NoVerdict {
    /// The review failed, or the API server rejected it.
    #[error("the request failed")]
    Request(#[source] kube::Error),
    /// The response is not a review of this kind.
    #[error("the response of the API server is not a {0}")]
    Answer(&'static str),
}

impl NoVerdict {
    /// Returns the pause before the next review, if the API server is overloaded.
    #[must_use]
    pub fn throttled(&self) -> Option<Duration> {
        match self {
            Self::Request(error) => status_of(error).and_then(throttled),
            Self::Answer(_) => None,
        }
    }
}

struct ReviewKind {
    kind: &'static str,
    api_version: &'static str,
    plural: &'static str,
}

const TOKEN: ReviewKind = ReviewKind {
    kind: "TokenReview",
    api_version: "authentication.k8s.io/v1",
    plural: "tokenreviews",
};

const ACCESS: ReviewKind = ReviewKind {
    kind: "SubjectAccessReview",
    api_version: "authorization.k8s.io/v1",
    plural: "subjectaccessreviews",
};

/// Asks who the user of this token is, and whether that user may get this path. This call has no time limit of its own.
///
/// # Errors
/// See [`NoVerdict`].
pub async fn may_get(client: &Client, token: &str, path: &str) -> Result<Verdict, NoVerdict> {
    let status = TOKEN.send(client, json!({"token": token})).await?;
    let Some(user) = owner(&status)? else {
        return Ok(Verdict::Unauthenticated);
    };
    let status = ACCESS.send(client, access(user, path)).await?;
    Ok(if is_allowed(&status)? {
        Verdict::Allowed
    } else {
        Verdict::Forbidden
    })
}

impl ReviewKind {
    /// Sends a review, and returns the status in the response.
    async fn send(&self, client: &Client, spec: Value) -> Result<Value, NoVerdict> {
        let Self {
            kind,
            api_version,
            plural,
        } = self;
        let body = json!({"apiVersion": api_version, "kind": kind, "spec": spec});
        let request = Request::post(format!("/apis/{api_version}/{plural}"))
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .map_err(|error| NoVerdict::Request(kube::Error::HttpError(error)))?;
        // The `kube` crate would log a response that it cannot decode.
        let answer = client.request_text(request).await;
        let answer = answer.map_err(|error| NoVerdict::Request(without_text(error)))?;
        let answer: Option<Value> = serde_json::from_str(&answer).ok();
        let status = answer.and_then(|mut answer| Some(answer.get_mut("status")?.take()));
        status.ok_or(NoVerdict::Answer(kind))
    }
}

/// Removes the message of the response from an error, unless the message names a missing permission.
fn without_text(mut error: kube::Error) -> kube::Error {
    if let kube::Error::Api(status) = &mut error {
        let right = missing_right(status).map(str::to_owned);
        status.message = right.unwrap_or_default();
    }
    error
}

/// Returns the user of a token, or `None` if the token is not valid.
fn owner(status: &Value) -> Result<Option<&Value>, NoVerdict> {
    let user = &status["user"];
    match &status["authenticated"] {
        Value::Bool(true) if user["username"].as_str().is_some_and(|name| !name.is_empty()) => Ok(Some(user)),
        // API servers omit `false`.
        Value::Bool(false) | Value::Null if status.is_object() => Ok(None),
        _ => Err(NoVerdict::Answer(TOKEN.kind)),
    }
}

/// Returns the spec of a review that asks whether a user may get a path.
fn access(user: &Value, path: &str) -> Value {
    json!({
        "user": user["username"], "uid": user["uid"], "groups": user["groups"], "extra": user["extra"],
        "nonResourceAttributes": {"path": path, "verb": "get"},
    })
}

fn is_allowed(status: &Value) -> Result<bool, NoVerdict> {
    let allowed = status["allowed"].as_bool();
    let allowed = allowed.ok_or(NoVerdict::Answer(ACCESS.kind))?;
    Ok(allowed && status["denied"] != true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_tokens_have_an_owner() {
        let name = |status: Value| owner(&status).map(|owner| owner.map(|user| user["username"].clone()));
        let valid = json!({"authenticated": true, "user": {"username": "tom"}, "audiences": ["a"]});
        assert_eq!(name(valid).unwrap(), Some(json!("tom")));
        for invalid in [
            json!({"user": {}, "error": "[invalid bearer token]"}),
            json!({"authenticated": false, "user": {"username": "tom"}}),
            json!({}),
        ] {
            assert_eq!(name(invalid.clone()).unwrap(), None, "{invalid}");
        }
        for odd in [
            json!({"authenticated": true}),
            json!({"authenticated": true, "user": {"username": ""}}),
            json!({"authenticated": "true", "user": {"username": "tom"}}),
            json!(null),
            json!([]),
        ] {
            assert!(name(odd.clone()).is_err(), "{odd}");
        }
    }

    #[test]
    fn access_review_is_about_the_whole_user() {
        let user = json!({
            "username": "tom", "uid": "1", "groups": ["a", "b"], "extra": {"scopes": ["x"]},
        });
        let expected = json!({
            "user": "tom", "uid": "1", "groups": ["a", "b"], "extra": {"scopes": ["x"]},
            "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        });
        assert_eq!(access(&user, "/metrics"), expected);
    }

    #[test]
    fn access_is_allowed_only_by_a_clear_yes() {
        for (status, expected) in [
            (json!({"allowed": true}), Some(true)),
            (json!({"allowed": true, "denied": true}), Some(false)),
            (json!({"allowed": false, "reason": "no rule"}), Some(false)),
            (json!({"allowed": "true"}), None),
            (json!({}), None),
            (json!(null), None),
        ] {
            assert_eq!(is_allowed(&status).ok(), expected, "{status}");
        }
    }
}
