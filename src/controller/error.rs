//! The errors that stop the sync of a Service or make a part of it fail, and their consequences.

use std::cmp::Reverse;
use std::time::Duration;

use tokio::time::Instant;

use crate::apiserver::error::one_line;
use crate::apiserver::http_status::{Rejection, missing_right, status_of, throttled};
use crate::controller::outcome::{Backoff, Outcome, Requeue};
use endpoint_copier_core::model::{Finding, Operation, Reason, SliceKey, SyncResult};

/// What to do if RBAC forbids a write. This text is appended to the server's description of the missing permission.
const NAMESPACE_HINT: &str =
    "; to allow it, list this namespace in rbac.namespaces of the chart, or leave that empty";

/// The pause after a create in a terminating namespace. An API server that is behind may mistake a recreated namespace
/// for the deleted one, so the create is tried again.
pub(super) const TERMINATING_PAUSE: Duration = Duration::from_secs(60);

/// An error that stops a sync, or makes a part of it fail.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Some objects that the sync needs are not listed yet. When the lists are complete, the key is marked as dirty.
    #[error("the lists that the sync depends on are not complete yet")]
    Unlisted,
    /// The view of the sync is out of date: the watch does not show a known change yet, or has overtaken a read.
    #[error("the watch does not show the latest change yet")]
    Outdated {
        /// When the sync is tried again.
        until: Instant,
    },
    /// The namespace is being deleted, and the Service with it.
    #[error("cannot {} EndpointSlice {slice}: the namespace is being deleted", operation.as_str())]
    NamespaceTerminating {
        /// The operation of the write.
        operation: Operation,
        /// The copy.
        slice: SliceKey,
    },
    /// The slice is not in the state that the plan was made from.
    #[error("cannot {} EndpointSlice {slice}: it has changed", operation.as_str())]
    Conflict {
        /// The operation of the write.
        operation: Operation,
        /// The copy.
        slice: SliceKey,
    },
    /// The API server refuses a write and will probably refuse it again, or something else undoes it each time.
    #[error("cannot {} EndpointSlice {}: {message}", operation.as_str(), slice.name())]
    Refused {
        /// The operation of the write.
        operation: Operation,
        /// The copy.
        slice: SliceKey,
        /// The reason from the API server, or what undoes the write.
        message: String,
        /// Whether RBAC forbids such writes in the namespace.
        is_forbidden: bool,
        /// When the same write may be tried again. `None` means after the backoff of the key.
        retry_at: Option<Instant>,
    },
    /// A request got no response, or an unexpected one. It may succeed later.
    #[error("cannot {operation} {object}: {message}")]
    Unavailable {
        /// The request.
        operation: &'static str,
        /// The kind and the name of the requested object.
        object: String,
        /// The message of the API server or the client.
        message: String,
        /// The pause that an overloaded API server requests.
        retry_after: Option<Duration>,
    },
    /// This replica no longer leads.
    #[error("the term is over")]
    TermOver,
}

impl SyncError {
    /// Returns the error for a failed write of a copy.
    pub(super) fn write(operation: Operation, slice: &SliceKey, error: &kube::Error) -> Self {
        let slice = slice.clone();
        match status_of(error).map(|status| (Rejection::of(status), status)) {
            Some((Rejection::Conflict, _)) => Self::Conflict { operation, slice },
            Some((Rejection::NamespaceTerminating, _)) => Self::NamespaceTerminating { operation, slice },
            Some((Rejection::Refused, status)) => {
                let right = missing_right(status);
                Self::Refused {
                    operation,
                    slice,
                    is_forbidden: right.is_some(),
                    message: right.map_or_else(
                        || status.message.clone(),
                        |right| format!("{right}{NAMESPACE_HINT}"),
                    ),
                    retry_at: None,
                }
            }
            Some((Rejection::Transient, _)) | None => {
                Self::unavailable(operation.as_str(), format!("EndpointSlice {slice}"), error)
            }
        }
    }

    /// Returns the error for an update that the API server accepted without storing a change.
    pub(super) fn reverted(slice: &SliceKey) -> Self {
        Self::Refused {
            operation: Operation::Update,
            slice: slice.clone(),
            message: "the API server accepted the update but stored no change; find out what reverts it, such as an \
                      admission policy"
                .to_owned(),
            is_forbidden: false,
            retry_at: None,
        }
    }

    /// Returns the error for a failed request that may succeed later.
    pub(super) fn unavailable(operation: &'static str, object: String, error: &kube::Error) -> Self {
        Self::Unavailable {
            operation,
            object,
            message: one_line(error),
            retry_after: status_of(error).and_then(throttled),
        }
    }

    /// Whether the log reports this error as a failure. All other errors are expected, or are reported as findings.
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether the API server refuses the write, so that a retry would probably fail too.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::NamespaceTerminating { .. })
    }

    /// Whether the API server is overloaded, so that no further requests should be sent now.
    pub(super) fn is_overload(&self) -> bool {
        matches!(
            self,
            Self::Unavailable {
                retry_after: Some(_),
                ..
            }
        )
    }

    /// Returns the finding for the user of the Service.
    pub(super) fn finding(&self) -> Option<Finding> {
        matches!(self, Self::Refused { .. }).then(|| Finding::new(Reason::WriteRefused, self.to_string()))
    }

    /// Returns the outcome of a sync with this error. `due` is the time by which the watch should show the written or
    /// conflicting state, or the time of the next sync if the watch already shows the cause of a conflict.
    pub(super) fn outcome(&self, due: Option<Instant>) -> Outcome {
        let (result, requeue) = match self {
            Self::Unlisted | Self::TermOver => (SyncResult::Requeued, Requeue::WhenDirty),
            Self::Outdated { until } => (SyncResult::Requeued, Requeue::Resume(*until)),
            Self::NamespaceTerminating { .. } => {
                let next = Instant::now() + TERMINATING_PAUSE;
                (SyncResult::Refused, Requeue::At(next))
            }
            Self::Conflict { .. } => (
                SyncResult::Requeued,
                due.map_or(Requeue::WhenDirty, Requeue::Resume),
            ),
            Self::Refused { retry_at, .. } => {
                let moment = [*retry_at, due].into_iter().flatten().min();
                let requeue = moment.map_or(Requeue::Backoff(Backoff::Long), Requeue::Resume);
                (SyncResult::Refused, requeue)
            }
            Self::Unavailable { retry_after, .. } => (
                SyncResult::Error,
                retry_after.map_or(Requeue::Backoff(Backoff::Short), Requeue::Overloaded),
            ),
        };
        Outcome::new(result, requeue)
    }

    /// Returns the precedence of this error. If several writes fail, the error with the highest precedence decides the
    /// outcome of the sync. Among refusals, this is an error without a retry time or, if all have one, the error whose
    /// write may be retried first. Among overloads, it is the error with the longest pause.
    pub(super) fn precedence(&self) -> (u8, Reverse<Option<Instant>>, Option<Duration>) {
        match self {
            Self::Unlisted | Self::Outdated { .. } | Self::NamespaceTerminating { .. } => {
                (0, Reverse(None), None)
            }
            Self::Conflict { .. } => (1, Reverse(None), None),
            Self::Refused { retry_at, .. } => (2, Reverse(*retry_at), None),
            Self::Unavailable { retry_after, .. } => (3, Reverse(None), *retry_after),
            Self::TermOver => (4, Reverse(None), None),
        }
    }
}
