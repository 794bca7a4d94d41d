//! The errors of the lock.

use kube_leader_election::Error;

use crate::apiserver::error::one_line;
use crate::apiserver::http_status;

/// Formats an error on one line. Its text contains the error of the call, which `source()` does not return.
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

/// Whether another replica was faster.
pub(super) fn is_conflict(error: &Error) -> bool {
    matches!(
        error,
        Error::CreateLease(kube::Error::Api(status))
            | Error::AcquireLease(kube::Error::Api(status))
            | Error::RenewLease(kube::Error::Api(status)) if http_status::is_conflict(status)
    )
}
