//! Turns answers that are not successful into errors, whoever wrote them.
//!
//! Not every answer is a `Status` of the API. Under load, an API server answers 429 in plain text, and a
//! proxy in front of it may answer in HTML. kube takes such an answer to a watch for an event that it cannot
//! decode, and logs the whole body. This layer converts each answer into the error that its code means,
//! before kube sees it.

use http::header::RETRY_AFTER;
use http::response::Parts;
use kube::core::Status;
use kube::core::response::StatusDetails;

/// The most characters that are kept of a body that is not a `Status`. An error page may be long.
const LONGEST_BODY: usize = 200;

/// Converts an answer into an error.
pub(super) fn error(parts: &Parts, body: &[u8]) -> kube::Error {
    let code = parts.status.as_u16();
    // Every field of a Status has a default, so any JSON object decodes as one: compare the code.
    let said: Option<Status> = serde_json::from_slice(body).ok();
    let mut status = said.filter(|status| status.code == code).unwrap_or_else(|| {
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
    if let Some((end, _)) = text.char_indices().nth(LONGEST_BODY) {
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
    fn an_answer_in_plain_text_is_its_code() {
        let status = read(429, Some("3"), "Too many requests,\n please try again later.\n");
        assert_eq!(status.code, 429);
        assert_eq!(status.message, "Too many requests, please try again later.");
        assert_eq!(retry_after(&status), 3);
    }

    #[test]
    fn json_that_is_no_status_is_its_code_too() {
        for body in ["{}", "[]", "null", r#"{"code":200}"#, r#"{"metadata":{}}"#, ""] {
            assert_eq!(read(503, None, body).code, 503, "{body}");
        }
    }

    #[test]
    fn an_error_page_is_cut() {
        let status = read(502, Some("soon"), &"ä ".repeat(1000));
        assert_eq!(status.message.chars().count(), LONGEST_BODY + 1);
        assert_eq!(retry_after(&status), 0);
    }
}
