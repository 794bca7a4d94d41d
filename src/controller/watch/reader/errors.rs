//! Classifies the errors of the watcher of the `kube` crate.

use kube::core::Status;
use kube::runtime::watcher;

use crate::apiserver::http_status;

/// Returns the status that the API server returned, if it responded.
pub(in crate::controller) fn status_of(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => http_status::status_of(error),
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::NoResourceVersion => None,
    }
}

/// Whether every replica would probably get this response.
pub(super) fn is_for_all(error: &watcher::Error) -> bool {
    status_of(error).is_some_and(http_status::is_client_error)
}

/// Whether the server no longer knows the resourceVersion.
pub(super) fn is_expired(error: &watcher::Error) -> bool {
    let is_list = matches!(error, watcher::Error::InitialListFailed(_));
    !is_list && status_of(error).is_some_and(http_status::is_expired)
}

/// Whether the watch must list again, because resuming from the last resourceVersion would always fail, or would skip
/// an event that could not be decoded.
pub(super) fn must_relist(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchFailed(kube::Error::SerdeError(_)) | watcher::Error::NoResourceVersion => true,
        // The resourceVersion is still valid if the server is only unavailable.
        watcher::Error::WatchError(status) => http_status::overload(status).is_none(),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            http_status::status_of(error).is_some_and(http_status::must_relist)
        }
        watcher::Error::InitialListFailed(_) => false,
    }
}

/// Whether the error is a response of an API server.
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
