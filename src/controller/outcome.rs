//! The outcome of a sync, and when its key is processed again.

use std::time::Duration;

use tokio::time::Instant;

use endpoint_copier_core::model::{ReconcileResult, SyncResult};

/// The outcome of a sync.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// The result for the copies.
    pub result: SyncResult,
    /// When the key is processed again.
    pub requeue: Requeue,
    /// Whether a request was sent to the API server. Requests that write Events do not count.
    pub has_sent: bool,
    /// Whether a write succeeded.
    pub has_written: bool,
}

/// When a key is processed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// When it becomes dirty.
    WhenDirty,
    /// At this time, or earlier if it becomes dirty. The work is done.
    At(Instant),
    /// At this time, or earlier if it becomes dirty, to continue with unfinished work.
    Resume(Instant),
    /// After a delay that grows with each failure, or earlier if it becomes dirty.
    Backoff(Backoff),
    /// After the pause that all keys without reserved slots in the queue share while the API server is overloaded. Keys
    /// with reserved slots have their own pause. The value is the pause that the server requests.
    Overloaded(Duration),
}

/// The backoff of a key after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// About 100 ms, doubling to less than 1 s: the API server could not be reached or failed, and the copies should be
    /// correct as soon as it is available again.
    Short,
    /// 5 s, doubling to 30 s: the API server refuses a delete, another slice has the name of a copy, or a condition
    /// cannot be written.
    Long,
}

impl Outcome {
    /// Creates the outcome of a sync that sent nothing.
    #[must_use]
    pub fn new(result: SyncResult, requeue: Requeue) -> Self {
        Self {
            result,
            requeue,
            has_sent: false,
            has_written: false,
        }
    }

    /// Returns the result as controller-runtime would count it.
    #[must_use]
    pub fn reconcile_result(&self) -> ReconcileResult {
        match self.requeue {
            Requeue::WhenDirty | Requeue::At(_) => ReconcileResult::Success,
            Requeue::Resume(_) => ReconcileResult::RequeueAfter,
            Requeue::Backoff(_) | Requeue::Overloaded(_) => ReconcileResult::Error,
        }
    }
}

impl Requeue {
    /// Returns the same requeue, but no later than `moment`. A key that is to resume or to be retried is not affected.
    #[must_use]
    pub fn or_at(self, moment: Option<Instant>) -> Self {
        match (self, moment) {
            (Self::WhenDirty, Some(moment)) => Self::At(moment),
            (Self::At(at), Some(moment)) => Self::At(at.min(moment)),
            (requeue, _) => requeue,
        }
    }
}
