//! Limits the log of failed syncs. If the API server cannot be reached or is busy, that is one outage, no
//! matter how many Services it affects and how often each is retried. The Service that the flags name has its
//! own outage, so that no other failure hides it.

use std::collections::HashSet;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::debug;

use crate::controller::apply::{Applied, Failure, Kind};
use crate::controller::workqueue::{Requeue, Severity};
use crate::telemetry::failure_log::FailureLog;
use endpoint_copier_core::model::{Finding, Priority, Reason, ServiceKey};

/// The outages, and the Services affected by the common one.
pub(super) struct Failing {
    flagged: FailureLog,
    others: FailureLog,
    keys: Mutex<HashSet<ServiceKey>>,
}

impl Default for Failing {
    fn default() -> Self {
        Self {
            flagged: FailureLog::new("the sync of the Service that the flags name"),
            others: FailureLog::new("the sync of copies"),
            keys: Mutex::default(),
        }
    }
}

impl Failing {
    /// The sync of this Service has failed.
    pub fn failed(&self, key: &ServiceKey, priority: Priority, error: &str) {
        let error = format!("{key}: {error}");
        if priority == Priority::Flagged {
            self.flagged.failed(&error);
        } else {
            self.keys.lock().insert(key.clone());
            self.others.failed_by(key.to_string(), &error);
        }
    }

    /// It has ended in another way.
    pub fn ended(&self, key: &ServiceKey, priority: Priority) {
        let mut keys = self.keys.lock();
        if priority == Priority::Flagged {
            self.flagged.recovered();
        } else if keys.remove(key) && keys.is_empty() {
            self.others.recovered();
        }
    }

    /// The term is over.
    pub fn forget(&self) {
        self.keys.lock().clear();
        self.flagged.forget();
        self.others.forget();
    }
}

/// What failed, if it was a failure that passes.
pub(super) fn passing(applied: &Applied) -> Option<String> {
    let mut failures = applied.failures.iter();
    let failure = failures.find(|failure| failure.kind == Kind::Passing)?;
    let operation = failure.operation.as_str();
    Some(format!(
        "cannot {operation} EndpointSlice {}: {}",
        failure.key, failure.message
    ))
}

/// A log line, or a finding where its user can do something.
pub(super) fn report_failure(key: &ServiceKey, failure: &Failure) -> Option<Finding> {
    let Failure {
        key: slice,
        operation,
        kind,
        message,
        until: _,
        overload: _,
    } = failure;
    let operation = operation.as_str();
    match kind {
        Kind::TermOver => {}
        Kind::Conflict => debug!(%slice, operation, "conflict: looking again"),
        Kind::NamespaceTerminating => debug!(service = %key, "the namespace is being deleted"),
        Kind::Passing => debug!(%slice, operation, error = message, "write failed, will be tried again"),
        Kind::Refused => {
            return Some(Finding::new(
                Reason::WriteRefused,
                format!(
                    "the API server refuses to {operation} EndpointSlice {}: {message}",
                    slice.name()
                ),
            ));
        }
    }
    None
}

/// Failures by how much they decide about the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Silent,
    Conflict,
    Refused,
    Passing,
    TermOver,
}

/// When to try again what the API server has refused; `expectations`: when writes are due that the watch is to show. A delete
/// that was refused takes the delay of its key.
pub(super) fn after_refusals(failures: &[Failure], expectations: Option<Instant>) -> Requeue {
    let refused = failures.iter().filter(|failure| failure.kind == Kind::Refused);
    let moments: Option<Vec<_>> = refused.map(|failure| failure.until).collect();
    let first = moments.and_then(|moments| moments.into_iter().min());
    match (first, expectations) {
        (Some(first), Some(due)) => Requeue::Resume(first.min(due)),
        (Some(moment), None) | (None, Some(moment)) => Requeue::Resume(moment),
        (None, None) => Requeue::Later(Severity::Final),
    }
}

/// Of one failure.
pub(super) fn rank(kind: Kind) -> Rank {
    match kind {
        Kind::NamespaceTerminating => Rank::Silent,
        Kind::Conflict => Rank::Conflict,
        Kind::Refused => Rank::Refused,
        Kind::Passing => Rank::Passing,
        Kind::TermOver => Rank::TermOver,
    }
}
