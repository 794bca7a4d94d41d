//! The errors of `kube_leader_election::LeaseLock`.

use kube_leader_election::Error;

use crate::apiserver::error::one_line;
use crate::apiserver::http_status;

/// Formats an error on one line. The text of these errors already contains the error of the API call, and `source()`
/// does not return that error.
pub(super) fn in_one_line(error: &Error) -> String {
    let (Error::GetLease(cause)
    | Error::CreateLease(cause)
    | Error::AcquireLease(cause)
    | Error::RenewLease(cause)
    | Error::ReleaseLease(cause)) = error
    else {
        return one_line(error);
    };
    let (text, end) = (error.to_string(), format!(": {cause}"));
    let own = text.strip_suffix(&end).unwrap_or(&text);
    format!("{own}: {}", one_line(cause))
}

/// Whether the API server rejected a write because another writer was faster.
pub(super) fn is_conflict(error: &Error) -> bool {
    matches!(
        error,
        Error::CreateLease(kube::Error::Api(status))
            | Error::AcquireLease(kube::Error::Api(status))
            | Error::RenewLease(kube::Error::Api(status))
            | Error::ReleaseLease(kube::Error::Api(status)) if http_status::is_conflict(status)
    )
}
