//! The errors that stop the sync of a Service, or make a part of it fail; and what follows from each.

use std::cmp::Reverse;
use std::time::Duration;

use tokio::time::Instant;

use crate::apiserver::error::one_line;
use crate::apiserver::status::{Rejection, status_of, throttled};
use crate::controller::outcome::{Backoff, Outcome, Requeue};
use endpoint_copier_core::model::{Finding, Operation, Reason, SliceKey, SyncResult};

/// An error that stops a sync, or makes a part of it fail.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Too little is listed yet. The lists mark the key again.
    #[error("the lists that the sync depends on are not complete yet")]
    Unlisted,
    /// The watch has until this moment to show a change that is known already.
    #[error("the watch does not show the latest change yet")]
    Outdated {
        /// The end of the wait.
        until: Instant,
    },
    /// The namespace is being deleted, and the Service with it.
    #[error("cannot {} EndpointSlice {slice}: the namespace is being deleted", operation.as_str())]
    NamespaceTerminating {
        /// The write.
        operation: Operation,
        /// The copy.
        slice: SliceKey,
    },
    /// The slice is not in the state that the plan was made from.
    #[error("cannot {} EndpointSlice {slice}: it has changed", operation.as_str())]
    Conflict {
        /// The write.
        operation: Operation,
        /// The copy.
        slice: SliceKey,
    },
    /// The API server refuses a write, now and later.
    #[error("the API server refuses to {} EndpointSlice {}: {message}", operation.as_str(), slice.name())]
    Refused {
        /// The write.
        operation: Operation,
        /// The copy.
        slice: SliceKey,
        /// The reason that the API server gives.
        message: String,
        /// When the same write may be tried again; `None`: after the backoff of the key.
        retry_at: Option<Instant>,
    },
    /// A request is not answered, or not well: it may succeed later.
    #[error("cannot {operation} {object}: {message}")]
    Unavailable {
        /// The request.
        operation: &'static str,
        /// Kind and name of what it is about.
        object: String,
        /// The message of the API server or the client.
        message: String,
        /// The pause that an overloaded API server asks for.
        retry_after: Option<Duration>,
    },
    /// This replica does not lead any more.
    #[error("the term is over")]
    TermOver,
}

impl SyncError {
    /// A write of a copy that failed.
    pub(super) fn write(operation: Operation, slice: &SliceKey, error: &kube::Error) -> Self {
        let slice = slice.clone();
        match status_of(error).map(|status| (Rejection::of(status), status)) {
            Some((Rejection::Conflict, _)) => Self::Conflict { operation, slice },
            Some((Rejection::NamespaceTerminating, _)) => Self::NamespaceTerminating { operation, slice },
            Some((Rejection::Refused, status)) => Self::Refused {
                operation,
                slice,
                message: status.message.clone(),
                retry_at: None,
            },
            Some((Rejection::Transient, _)) | None => {
                Self::unavailable(operation.as_str(), format!("EndpointSlice {slice}"), error)
            }
        }
    }

    /// Any other request that failed.
    pub(super) fn unavailable(operation: &'static str, object: String, error: &kube::Error) -> Self {
        Self::Unavailable {
            operation,
            object,
            message: one_line(error),
            retry_after: status_of(error).and_then(throttled),
        }
    }

    /// Whether this is a failure for the log. The others are expected, or are findings.
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether no more requests should be sent now.
    pub(super) fn is_overload(&self) -> bool {
        matches!(
            self,
            Self::Unavailable {
                retry_after: Some(_),
                ..
            }
        )
    }

    /// The finding for the user of the Service.
    pub(super) fn finding(&self) -> Option<Finding> {
        matches!(self, Self::Refused { .. }).then(|| Finding::new(Reason::WriteRefused, self.to_string()))
    }

    /// How a sync ends because of this. `due`: by then the watch shows what was written, or what was in conflict.
    pub(super) fn outcome(&self, due: Option<Instant>) -> Outcome {
        let (result, requeue) = match self {
            Self::Unlisted | Self::TermOver => (SyncResult::Requeued, Requeue::WhenDirty),
            Self::Outdated { until } => (SyncResult::Requeued, Requeue::Resume(*until)),
            Self::NamespaceTerminating { .. } => (SyncResult::Refused, Requeue::WhenDirty),
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

    /// Of several failed writes, the one with the highest precedence decides how the sync ends. Of refusals, that is the one
    /// that may be tried first; of overloads, the one with the longest pause.
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
