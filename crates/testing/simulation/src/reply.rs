//! Responses that do not come from an API server.

use bytes::Bytes;
use http::Response;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde_json::json;
use tokio::sync::oneshot;
use tower::BoxError;

/// A response as a client gets it.
pub type Reply = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// Sends no response, and returns when the caller no longer waits. The caller sees an open connection.
pub async fn hold(mut reply: oneshot::Sender<Result<Reply, BoxError>>) {
    reply.closed().await;
}

/// The body of a complete response.
pub fn full(body: Bytes) -> UnsyncBoxBody<Bytes, BoxError> {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

fn whole(code: u16, body: Bytes) -> Reply {
    let mut response = Response::new(full(body));
    *response.status_mut() = http::StatusCode::from_u16(code).expect("a code");
    response
}

/// An error response with this status code.
///
/// # Panics
/// If `code` is not a status code.
pub fn refusal(code: u16) -> Reply {
    if code == 404 {
        // This is the form that proxies use. A 404 in the form that API servers use would say that the object does not
        // exist.
        return whole(code, Bytes::from_static(b"404 page not found\n"));
    }
    let reason = match code {
        403 => "Forbidden",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        _ => "Timeout",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("injected {code}"), "reason": reason, "code": code,
    });
    whole(code, status.to_string().into())
}

/// A successful response that no client can decode.
pub fn nonsense() -> Reply {
    whole(200, Bytes::from_static(b"<html>who knows</html>"))
}
