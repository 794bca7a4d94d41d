//! What became of a plan, for those who decide what comes next.

use std::time::Duration;

use tokio::time::Instant;

use endpoint_copier_core::model::Operation;
use endpoint_copier_core::model::SliceKey;

/// What a write that was answered will look like in the watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The slice at this resourceVersion or a newer one.
    Version(u64),
    /// Something newer than this, or nothing.
    NewerThan(u64),
    /// Any slice of that name.
    Exists,
    /// Not the slice of this UID.
    Gone(String),
}

/// How a write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The object is not what we saw: look again.
    Conflict,
    /// The API server will not have it, now or later (400, 403, 405, 413, 422, …).
    Refused,
    /// The namespace is being deleted, and the Service with it.
    NamespaceTerminating,
    /// Overload, time-out, no connection, nonsense: try again.
    Passing,
    /// We no longer lead.
    TermOver,
}

/// A write that failed.
#[derive(Debug)]
pub struct Failure {
    /// The slice.
    pub key: SliceKey,
    /// What was tried.
    pub operation: Operation,
    /// What to make of it.
    pub kind: Kind,
    /// What the API server or the client says.
    pub message: String,
    /// It was refused: the same may be tried again at this moment.
    pub until: Option<Instant>,
    /// The API server is overloaded, and asks for this pause.
    pub overload: Option<Duration>,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// How many writes succeeded: creates, updates, deletes.
    pub by_operation: [usize; 3],
    /// What to wait for before the next plan.
    pub expectations: Vec<(SliceKey, Expectation)>,
    /// What failed.
    pub failures: Vec<Failure>,
}

impl Failure {
    /// A write that was tried, or is not to be.
    pub(super) fn new(key: SliceKey, operation: Operation, kind: Kind, message: String) -> Self {
        Self {
            key,
            operation,
            kind,
            message,
            until: None,
            overload: None,
        }
    }
}

impl Applied {
    pub(super) fn has_failed_as(&self, kind: Kind) -> bool {
        self.failures.iter().any(|failure| failure.kind == kind)
    }

    /// The pause that an overloaded API server asks for.
    #[must_use]
    pub fn overload(&self) -> Option<Duration> {
        self.failures.iter().filter_map(|failure| failure.overload).max()
    }

    /// Something was written.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.by_operation != [0; 3]
    }

    /// Whether a copy was created that did not exist before.
    #[must_use]
    pub fn has_created(&self) -> bool {
        self.by_operation[Operation::Create as usize] > 0
    }

    /// There was nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_written() && self.failures.is_empty()
    }
}
