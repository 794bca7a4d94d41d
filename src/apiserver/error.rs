//! Formats errors for people, finds the causes of errors, and limits the time of calls.

use std::error::Error;
use std::io;
use std::time::Duration;

use tokio::time::timeout;

/// Iterates over an error and its causes.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| {
        // `source()` of an io::Error skips the error that it wraps, which may be the one that the caller wants.
        let wrapped = error.downcast_ref().and_then(io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        }
    })
}

/// Formats an error and its causes on one line. A `Status` of the API server appears as its code, its reason and, if
/// there is one, its message.
#[must_use]
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for error in causes(error) {
        let text = error.to_string();
        for part in &mut parts {
            cut(part, &text);
        }
        if let Some(kube::Error::Api(status)) = error.downcast_ref() {
            // The error's own text would contain all fields of the Status.
            parts.push(format!("{} {}", status.code, status.reason));
            parts.push(status.message.clone());
            break;
        }
        parts.push(text);
    }
    parts.retain(|part| !part.is_empty());
    parts.dedup();
    parts.join(": ").replace(RUSTLS_LINK, "").replace('\n', " ")
}

/// Whether an error or one of its causes is of this type.
#[must_use]
pub fn is_caused_by<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(<dyn Error>::is::<E>)
}

/// A link that rustls adds to its errors.
const RUSTLS_LINK: &str = ": https://docs.rs/rustls/latest/rustls/manual/_03_howto/index.html#unexpected-eof";

/// Removes the text of the cause from the end of an error, because many errors end with it.
fn cut(text: &mut String, cause: &str) {
    if let Some(own) = text.strip_suffix(cause).filter(|_| !cause.is_empty()) {
        *text = own.trim_end_matches([':', ' ']).to_owned();
    }
}

/// Returns the error for a request whose response did not arrive within the caller's time limit.
pub fn no_response() -> kube::Error {
    kube::Error::Service("no response in time".into())
}

/// Waits for the response to a call, up to `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = kube::Result<T>>,
) -> kube::Result<T> {
    timeout(limit, call).await.unwrap_or_else(|_| Err(no_response()))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use kube::runtime::watcher;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer: {0}")]
    struct Wrapping(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Silent(#[source] std::io::Error);

    #[test]
    fn each_cause_appears_once_even_if_an_error_contains_it() {
        assert_eq!(
            one_line(&Wrapping(std::io::Error::other("inner"))),
            "outer: inner"
        );
        assert_eq!(one_line(&Silent(std::io::Error::other("inner"))), "outer: inner");
    }

    #[test]
    fn a_status_is_shown_as_its_code_reason_and_message() {
        let status = Status {
            code: 401,
            ..Status::failure("who are you", "Unauthorized")
        };
        let error = watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()));
        assert_eq!(
            one_line(&error),
            "failed to perform initial object list: 401 Unauthorized: who are you"
        );
        let status = Status::failure("", "Bad Gateway").with_code(502);
        assert_eq!(one_line(&kube::Error::Api(status.boxed())), "502 Bad Gateway");
    }

    #[test]
    fn a_cause_is_found_behind_an_error_of_the_kube_crate() {
        let error = kube::Error::Service(Box::new(std::io::Error::other("inner")));
        assert!(is_caused_by::<std::io::Error>(&error));
        assert!(!is_caused_by::<std::fmt::Error>(&error));
        assert!(is_caused_by::<Wrapping>(&Wrapping(std::io::Error::other(
            "inner"
        ))));
    }

    #[test]
    fn an_error_is_one_line_without_the_link_of_rustls() {
        assert_eq!(one_line(&std::io::Error::other("a\nb")), "a b");
        let closed = std::io::Error::other(format!("the peer closed it{RUSTLS_LINK}"));
        assert_eq!(one_line(&closed), "the peer closed it");
    }
}
