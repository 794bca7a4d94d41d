//! Responses: JSON bodies in the form that the client accepts, errors, and malformed bodies.

use crate::{kinds::Kind, status::ApiError, table};
use bytes::Bytes;
use futures::Stream;
use http::response::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use serde_json::{Value, json};

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of every response.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The form that the `Accept` header requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Whole objects.
    Plain,
    /// `kubectl get`: rows and columns.
    Table,
    /// Only the metadata of objects.
    Metadata,
    /// A form that this server does not support, for example if the client accepts only protobuf.
    NotAcceptable,
}

impl Shape {
    /// The shape of the first acceptable media type, as on the real server. Weights are ignored.
    pub fn negotiate(accept: &str) -> Self {
        if accept.trim().is_empty() {
            return Self::Plain;
        }
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            if !matches!(media, "application/json" | "application/*" | "*/*") {
                continue;
            }
            match parts.find_map(|p| p.strip_prefix("as=")) {
                None => return Self::Plain,
                Some("Table") => return Self::Table,
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Self::Metadata,
                Some(_) => {}
            }
        }
        Self::NotAcceptable
    }

    /// One object or a list, in this shape.
    pub fn render(self, kind: &Kind, object: Value, now: jiff::Timestamp) -> Value {
        match self {
            Self::Table => table::render(kind, &object, now, true),
            Self::Metadata => metadata(&object),
            Self::Plain | Self::NotAcceptable => object,
        }
    }
}

/// The metadata of an object, or of each object in a list.
pub(crate) fn metadata(object: &Value) -> Value {
    let list = object["items"].as_array();
    let kind = list.map_or("PartialObjectMetadata", |_| "PartialObjectMetadataList");
    let mut rendered =
        json!({ "kind": kind, "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] });
    if let Some(items) = list {
        rendered["items"] = items.iter().map(metadata).collect();
    }
    rendered
}

fn response(code: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A JSON response.
pub(crate) fn json(code: u16, value: &Value) -> Response<Body> {
    response(code, full(value.to_string()))
}

/// A text response.
pub(crate) fn text(code: u16, text: &'static str) -> Response<Body> {
    let mut response = response(code, full(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// A stream of lines.
pub(crate) fn stream(lines: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Response<Body> {
    use futures::StreamExt;
    response(
        200,
        BodyExt::boxed_unsync(StreamBody::new(lines.map(|line| line.map(Frame::data)))),
    )
}

/// An error as a `Status`.
pub(crate) fn error(error: &ApiError) -> Response<Body> {
    let mut response = json(error.code, &error.to_status());
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// 406 for a client that does not accept JSON.
pub(crate) fn not_acceptable() -> ApiError {
    ApiError::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json",
    )
}

/// The response that a fault requests. A 429 is plain text, because an overloaded API server does not send a `Status`.
pub(crate) fn fault(code: u16, retry_after: Option<u32>) -> Response<Body> {
    if code != 429 {
        return error(&injected(code, retry_after));
    }
    let mut response = text(code, "Too many requests, please try again later.\n");
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The error that a fault requests, worded like that of a real server.
fn injected(code: u16, retry_after: Option<u32>) -> ApiError {
    let (reason, message) = match code {
        400 => ("BadRequest", "injected: bad request"),
        401 => ("Unauthorized", "Unauthorized"),
        403 => ("Forbidden", "injected: forbidden"),
        404 => ("NotFound", "injected: not found"),
        409 => ("Conflict", "injected: the object has been modified"),
        410 => ("Expired", "injected: too old resource version"),
        422 => ("Invalid", "injected: invalid"),
        500 => ("InternalError", "Internal error occurred: injected"),
        503 => (
            "ServiceUnavailable",
            "injected: the server is currently unable to handle the request",
        ),
        504 => ("Timeout", "Timeout: injected"),
        _ => ("", "injected"),
    };
    ApiError {
        retry_after,
        ..ApiError::new(code, reason, message)
    }
}

/// A 200 response that is not JSON.
pub(crate) fn nonsense() -> Response<Body> {
    response(200, full("<html><body>Please log in to continue</body></html>"))
}

/// The first half of a response. The response states the length of that half, so it looks complete.
pub(crate) async fn truncated(response: Response<Body>) -> Response<Body> {
    let (parts, bytes) = collected(response).await;
    Response::from_parts(parts, full(bytes.slice(..bytes.len() / 2)))
}

/// Makes each slice or Node in a response undecodable, whether it is the only object or an item of a list. With
/// `labels`, even the labels cannot be decoded.
pub(crate) async fn undecodable(response: Response<Body>, labels: bool) -> Response<Body> {
    let (parts, bytes) = collected(response).await;
    let mut answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let objects = match &mut answer {
        Value::Object(list) if list.contains_key("items") => {
            list["items"].as_array_mut().into_iter().flatten().collect()
        }
        object => vec![object],
    };
    for object in objects {
        // A Node has a status, but a slice has none.
        if object["status"].is_object() {
            object["status"]["addresses"] = json!(0);
        } else {
            object["endpoints"] = json!(0);
        }
        if labels {
            object["metadata"]["labels"] = json!(0);
        }
    }
    Response::from_parts(parts, full(answer.to_string()))
}

async fn collected(response: Response<Body>) -> (Parts, Bytes) {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes);
    (parts, bytes.unwrap_or_default())
}
