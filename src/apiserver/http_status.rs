//! The meaning of the responses of an API server.
//!
//! Not every response is a `Status` of the API. Under load, an API server returns 429 in plain text, and a proxy in
//! front of it may return HTML. If a watch gets such a response, the `kube` crate treats it as an event that cannot be
//! decoded, and logs the whole body. So `error` converts each unsuccessful response into the error that its code means,
//! before the `kube` crate sees the response.
//!
//! The code that receives a 429 decides what to do. Most code waits at least as long as `Retry-After` requests, up to a
//! minute:
//!
//! - Writes, and the GETs before them, pause in `controller::workqueue::pause`.
//! - Watches back off in `controller::watch::backoff`.
//! - Pages after the first one of a list are requested again in `apiserver::pages`.
//! - `controller::events` pauses, retries an Event about a finding up to three times, and drops other Events.
//! - The comparison of the sources, the discovery of ReferenceGrants and the probe Lease pause in their own loops.
//! - Token reviews pause in `admin::authorization`.
//!
//! Three parts do not wait that long:
//!
//! - Probes (`apiserver::probe_client`), because a server that returns 429 is alive.
//! - The election, because its requests are few and its deadline is short.
//! - The few Services for which `controller::workqueue` reserves slots. They wait 1 s.
//!
//! `apiserver::channel` keeps its connection to a server that returns 429.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::response::Parts;
use kube::core::Status;
use kube::core::response::StatusDetails;

use crate::timing::MAX_RETRY_AFTER;

/// The maximum number of characters that are kept from a body that is not a `Status`. An error page may be long.
const MAX_BODY_TEXT: usize = 200;

/// What a rejected write means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The object is not in the state that the write expects.
    Conflict,
    /// The namespace is being deleted, or does not exist.
    NamespaceTerminating,
    /// The same write will be rejected again.
    Refused,
    /// The same write may succeed later.
    Transient,
}

impl Rejection {
    /// Returns the meaning of this status.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let details = status.details.as_ref();
        match status.code {
            // A POST into a namespace that does not exist.
            404 if details.is_some_and(|details| details.kind == "namespaces") => Self::NamespaceTerminating,
            403 if is_namespace_terminating(status) => Self::NamespaceTerminating,
            404 | 409 => Self::Conflict,
            // The token may be renewed and the overload may pass; 410 is about lists.
            401 | 408 | 410 | 429 => Self::Transient,
            400..=499 => Self::Refused,
            _ => Self::Transient,
        }
    }
}

/// Returns the status in the response of an API server, if there was a response.
#[must_use]
pub fn status_of(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// Whether the API server has answered a call, with success or an error. If not, the call may still have been carried
/// out.
#[must_use]
pub fn is_answer<T>(result: &kube::Result<T>) -> bool {
    matches!(result, Ok(_) | Err(kube::Error::Api(_)))
}

/// Whether this object does not exist. An API server names the missing object. A 404 that does not name it may come
/// from a proxy in between, and is no reason to delete a copy.
#[must_use]
pub fn is_missing(status: &Status, name: &str) -> bool {
    let details = status.details.as_ref();
    status.code == 404 && details.is_some_and(|details| details.name == name)
}

/// Whether nothing can be created because the namespace is being deleted.
#[must_use]
pub fn is_namespace_terminating(status: &Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    causes.any(|cause| cause.reason == "NamespaceTerminating")
}

/// Whether the object already exists, or has changed since it was read.
#[must_use]
pub fn is_conflict(status: &Status) -> bool {
    status.code == 409
}

/// Whether a permission is missing or an admission policy rejected the request; see [`missing_right`].
#[must_use]
pub fn is_forbidden(status: &Status) -> bool {
    status.code == 403
}

/// Returns the missing permission, as the API server states it, without the name of the object. Returns `None` if no
/// permission is missing: an admission policy also causes a 403, and only the text distinguishes the two.
#[must_use]
pub fn missing_right(status: &Status) -> Option<&str> {
    let (_, right) = status.message.split_once(" is forbidden: ")?;
    (is_forbidden(status) && right.starts_with("User ") && right.contains(" cannot ")).then_some(right)
}

/// Whether the API server does not serve the resource of a list or watch.
#[must_use]
pub fn is_not_served(status: &Status) -> bool {
    status.code == 404
}

/// Whether the API server no longer knows the resourceVersion or the continue token of a list or watch.
#[must_use]
pub fn is_expired(status: &Status) -> bool {
    status.code == 410
}

/// Whether the same watch would be rejected again. Code 0 stands for an event that cannot be decoded: the `kube` crate
/// reads such an event as a `Status` without a code.
#[must_use]
pub fn must_relist(status: &Status) -> bool {
    matches!(status.code, 0 | 400 | 410)
}

/// Whether every replica probably gets this response to the same request: 4xx usually rejects the request itself, for
/// example because a permission is missing or a selector is too long.
#[must_use]
pub fn is_client_error(status: &Status) -> bool {
    (400..500).contains(&status.code)
}

/// Whether a create probably had no effect and may be sent again. After any other error, the create may have had an
/// effect, or would fail again.
#[must_use]
pub fn may_create_again(status: &Status) -> bool {
    matches!(status.code, 401 | 429 | 500 | 503)
}

/// Returns the `Retry-After` of a 429 or 503 response: at most [`MAX_RETRY_AFTER`], and zero if the response has none.
/// Returns `None` for any other status.
#[must_use]
pub fn overload(status: &Status) -> Option<Duration> {
    let details = status.details.as_ref();
    let seconds = details.map_or(0, |details| details.retry_after_seconds);
    matches!(status.code, 429 | 503).then(|| Duration::from_secs(seconds.into()).min(MAX_RETRY_AFTER))
}

/// Returns the pause after an overloaded API server has rejected a call, or `None` if the server is not overloaded.
/// Unlike [`overload`], this ignores a 503 without `Retry-After`: that server is unavailable, and a retry should
/// succeed soon after it recovers.
#[must_use]
pub fn throttled(status: &Status) -> Option<Duration> {
    overload(status).filter(|pause| status.code == 429 || !pause.is_zero())
}

/// Converts an unsuccessful response into an error.
pub(super) fn error(parts: &Parts, body: &[u8]) -> kube::Error {
    let code = parts.status.as_u16();
    // Every field of a Status has a default, so any JSON object decodes as one. Compare the code.
    let decoded: Option<Status> = serde_json::from_slice(body).ok();
    let mut status = decoded.filter(|status| status.code == code).unwrap_or_else(|| {
        let text = String::from_utf8_lossy(body);
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Status::failure(
            &shorten(text),
            parts.status.canonical_reason().unwrap_or_default(),
        )
        .with_code(code)
    });
    let header = parts
        .headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(seconds) = header {
        status.details.get_or_insert_with(no_details).retry_after_seconds = seconds;
    }
    kube::Error::Api(status.boxed())
}

fn no_details() -> StatusDetails {
    StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: String::new(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    }
}

fn shorten(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_BODY_TEXT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn read(code: u16, retry_after: Option<&str>, body: &str) -> Status {
        let mut answer = Response::builder().status(code);
        if let Some(seconds) = retry_after {
            answer = answer.header(RETRY_AFTER, seconds);
        }
        let (parts, ()) = answer.body(()).unwrap().into_parts();
        match error(&parts, body.as_bytes()) {
            kube::Error::Api(status) => *status,
            other => panic!("{other}"),
        }
    }

    fn retry_after(status: &Status) -> u32 {
        status
            .details
            .as_ref()
            .map_or(0, |details| details.retry_after_seconds)
    }

    #[test]
    fn a_status_of_the_api_is_kept() {
        let said = r#"{"kind":"Status","code":409,"reason":"Conflict","message":"no","details":{"name":"a","retryAfterSeconds":7}}"#;
        let status = read(409, None, said);
        assert_eq!(
            (status.code, &*status.reason, &*status.message),
            (409, "Conflict", "no")
        );
        assert_eq!(status.details.as_ref().unwrap().name, "a");
        assert_eq!(retry_after(&status), 7);
    }

    #[test]
    fn a_plain_text_response_becomes_its_status_code() {
        let status = read(429, Some("3"), "Too many requests,\n please try again later.\n");
        assert_eq!(status.code, 429);
        assert_eq!(status.message, "Too many requests, please try again later.");
        assert_eq!(retry_after(&status), 3);
    }

    #[test]
    fn an_overload_lasts_60_s_at_most() {
        for (code, asked, granted) in [
            (429, "3600", Some(60)),
            (503, "3600", Some(60)),
            (429, "3", Some(3)),
            (500, "3600", None),
        ] {
            let pause = overload(&read(code, Some(asked), ""));
            assert_eq!(pause, granted.map(Duration::from_secs), "{code} {asked}");
        }
    }

    #[test]
    fn json_that_is_no_status_becomes_its_status_code() {
        for body in ["{}", "[]", "null", r#"{"code":200}"#, r#"{"metadata":{}}"#, ""] {
            assert_eq!(read(503, None, body).code, 503, "{body}");
        }
    }

    fn status(code: u16, details: serde_json::Value) -> Status {
        serde_json::from_value(serde_json::json!({
            "status": "Failure", "code": code, "message": "no", "reason": "because", "details": details,
        }))
        .unwrap()
    }

    /// Rule: 2.write-refused
    #[test]
    fn a_rejected_write_is_a_conflict_a_refusal_or_transient() {
        for (code, expected) in [
            (400, Rejection::Refused),
            (401, Rejection::Transient),
            (403, Rejection::Refused),
            (404, Rejection::Conflict),
            (405, Rejection::Refused),
            (409, Rejection::Conflict),
            (410, Rejection::Transient),
            (413, Rejection::Refused),
            (422, Rejection::Refused),
            (429, Rejection::Transient),
            (500, Rejection::Transient),
            (503, Rejection::Transient),
            (504, Rejection::Transient),
        ] {
            let status = status(code, serde_json::json!({}));
            assert_eq!(Rejection::of(&status), expected, "{code}");
        }
    }

    #[test]
    fn a_missing_right_is_distinguished_from_an_admission_policy() {
        let right = r#"endpointslices.discovery.k8s.io "vip-1" is forbidden: User "system:serviceaccount:a:b" cannot update resource "endpointslices" in API group "discovery.k8s.io" in the namespace "blue""#;
        let policy = r#"endpointslices.discovery.k8s.io "vip-1" is forbidden: ValidatingAdmissionPolicy 'slices' with binding 'slices' denied request: slices cannot be created"#;
        for (code, message, expected) in [(403, right, true), (403, policy, false), (422, right, false)] {
            let mut status = status(code, serde_json::json!({}));
            message.clone_into(&mut status.message);
            let found = missing_right(&status);
            assert_eq!(found.is_some(), expected, "{code} {message}");
            assert!(found.is_none_or(|right| !right.contains("vip-1")), "{found:?}");
        }
    }

    /// Rule: 2.namespace-terminating
    #[test]
    fn a_terminating_namespace_is_no_refusal_of_the_service() {
        let terminating = serde_json::json!({"causes": [
            {"reason": "NamespaceTerminating", "message": "…", "field": "metadata.namespace"},
        ]});
        let gone = serde_json::json!({"kind": "namespaces", "name": "gone"});
        for status in [status(403, terminating), status(404, gone)] {
            assert_eq!(Rejection::of(&status), Rejection::NamespaceTerminating);
        }
    }

    #[test]
    fn a_long_error_page_is_shortened() {
        let status = read(502, Some("soon"), &"ä ".repeat(1000));
        assert_eq!(status.message.chars().count(), MAX_BODY_TEXT + 1);
        assert_eq!(retry_after(&status), 0);
    }
}
