//! Errors with the wording of the API server: a `Status` object with a reason, a code and details.
//!
//! Texts and codes are those of kube-apiserver 1.36. Clients evaluate `reason` and `code`, and people read `message`.

use crate::{field::FieldError, kinds::Kind};
use serde_json::{Value, json};

/// An error response.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// HTTP status code, also in the Status object.
    pub code: u16,
    /// Machine-readable reason, or empty if the real server gives none.
    pub reason: &'static str,
    /// The human-readable message.
    pub message: String,
    /// `details` of the Status object.
    pub details: Option<Value>,
    /// Seconds for a `Retry-After` header.
    pub retry_after: Option<u32>,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.code, self.reason, self.message)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    /// An error with no details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
            retry_after: None,
        }
    }

    fn of_object(code: u16, reason: &'static str, kind: &Kind, name: &str, message: String) -> Self {
        Self {
            details: Some(details(name, kind.group, kind.plural)),
            ..Self::new(code, reason, message)
        }
    }

    /// 404 for an object.
    #[must_use]
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.qualified_resource());
        Self::of_object(404, "NotFound", kind, name, message)
    }

    /// 404 for a path that names no resource.
    #[must_use]
    pub fn no_such_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self {
            details: Some(json!({})),
            ..Self::new(404, "NotFound", message)
        }
    }

    /// 405 for a method that a path does not support.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self {
            details: Some(json!({})),
            ..Self::new(405, "MethodNotAllowed", message)
        }
    }

    /// 415 for a content type that is not supported.
    #[must_use]
    pub fn unsupported_media_type() -> Self {
        let message = "415: Unsupported Media Type";
        Self {
            details: Some(json!({})),
            ..Self::new(415, "UnsupportedMediaType", message)
        }
    }

    /// 409 for a name that is in use.
    #[must_use]
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.qualified_resource());
        Self::of_object(409, "AlreadyExists", kind, name, message)
    }

    /// 409 for a failed precondition.
    #[must_use]
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let resource = kind.qualified_resource();
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Self::of_object(409, "Conflict", kind, name, message)
    }

    /// 409 for a failed precondition of a DELETE. Its message names the kind, whereas the messages of other conflicts
    /// name the resource.
    #[must_use]
    pub fn delete_conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            kind.qualified_kind()
        );
        Self {
            details: Some(details(name, kind.group, kind.kind)),
            ..Self::new(409, "Conflict", message)
        }
    }

    /// 409 for a resourceVersion that is not the latest.
    #[must_use]
    pub fn stale(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 403 for a request that is not allowed.
    #[must_use]
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let resource = kind.qualified_resource();
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {name:?} is forbidden: {why}")
        };
        Self::of_object(403, "Forbidden", kind, name, message)
    }

    /// 400 for a malformed request.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 422 for an object.
    #[must_use]
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_named(kind.group, kind.kind, name, errors)
    }

    /// 422 for something that is not a stored kind, such as the options of a request.
    #[must_use]
    pub fn invalid_named(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let texts: Vec<String> = errors
            .iter()
            .map(|e| format!("{}: {}", e.field, e.body()))
            .collect();
        let texts = if texts.len() == 1 {
            texts[0].clone()
        } else {
            format!("[{}]", texts.join(", "))
        };
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.cause.reason(), "message": e.body(), "field": e.field}))
            .collect();
        let qualified = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let mut details = details(name, group, kind);
        details["causes"] = Value::from(causes);
        Self {
            details: Some(details),
            ..Self::new(
                422,
                "Invalid",
                format!("{qualified} {name:?} is invalid: {texts}"),
            )
        }
    }

    /// 410 for a resourceVersion that is older than the history.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 504 for a future resourceVersion.
    #[must_use]
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        Self {
            details: Some(json!({"causes": [cause], "retryAfterSeconds": 1})),
            retry_after: Some(1),
            ..Self::new(504, "Timeout", message)
        }
    }

    /// 401 for a request without a valid token.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// The `Status` object of the response.
    #[must_use]
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

/// `details` without its empty members, as on the real server.
#[must_use]
pub fn details(name: &str, group: &str, kind: &str) -> Value {
    let mut details = json!({});
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details[key] = value.into();
        }
    }
    details
}
