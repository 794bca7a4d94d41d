//! What the errors of kube's watcher mean for a watch.

use std::time::Duration;

use kube::runtime::watcher;

use crate::apiserver::overload;

/// Whether every replica gets this answer: an API server refuses the request (4xx), for example because a right is
/// missing, or because a selector is too long. Code 0 stands for an answer that cannot be decoded.
pub(super) fn is_for_all(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => (400..500).contains(&status.code),
        _ => false,
    }
}

/// Whether a server is not there, as far as whoever stands before it can tell. Otherwise it has too much to do.
pub(super) fn is_unavailable(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 503,
        _ => false,
    }
}

/// The `Retry-After` of an overloaded API server; `None` if the error is another one.
pub(super) fn overloaded(error: &watcher::Error) -> Option<Duration> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => overload(error),
        watcher::Error::WatchError(status) => overload(&kube::Error::Api(status.clone())),
        watcher::Error::NoResourceVersion => None,
    }
}

/// The server no longer knows the resourceVersion.
pub(super) fn is_expired(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

/// Whether the watch must list again: resuming from the last resourceVersion would always fail, or would skip an event
/// that could not be decoded.
pub(super) fn must_relist(error: &watcher::Error) -> bool {
    match error {
        // kube reads a line that it cannot decode as a Status without a code, whatever the line says.
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => matches!(status.code, 0 | 400 | 410),
        watcher::Error::WatchFailed(kube::Error::SerdeError(_)) | watcher::Error::WatchError(_) => true,
        watcher::Error::NoResourceVersion => true,
        _ => false,
    }
}

/// Whether it is an API server that says what is wrong.
pub(super) fn is_answer(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => {
            matches!(error, kube::Error::Api(_) | kube::Error::SerdeError(_))
        }
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => true,
    }
}
