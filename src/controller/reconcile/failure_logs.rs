//! Limits the log of failed syncs. An API server that is busy or cannot be reached causes one outage, no matter how
//! many Services are affected and how often each is retried. The Service that the flags name has its own outage, so
//! that failures of other Services do not hide its failures.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::controller::error::SyncError;
use crate::telemetry::failure_log::FailureLog;
use endpoint_copier_core::model::{Priority, ServiceKey};

/// The two outages, and the Services that the outage of `others` affects.
pub(super) struct SyncFailures {
    flagged: FailureLog,
    others: FailureLog,
    keys: Mutex<HashSet<ServiceKey>>,
}

impl Default for SyncFailures {
    fn default() -> Self {
        Self {
            flagged: FailureLog::new("the sync of the Service that the flags name"),
            others: FailureLog::new("the sync of copies"),
            keys: Mutex::default(),
        }
    }
}

impl SyncFailures {
    /// Records the end of a sync of this Service, and its failure if there is one.
    pub fn ended(&self, key: &ServiceKey, priority: Priority, failure: Option<&SyncError>) {
        let mut keys = self.keys.lock();
        match (priority, failure.map(|error| format!("{key}: {error}"))) {
            (Priority::Flagged, Some(error)) => self.flagged.failed(&error),
            (Priority::Flagged, None) => self.flagged.recovered(),
            (_, Some(error)) => {
                keys.insert(key.clone());
                self.others.failed_by(key.to_string(), &error);
            }
            (_, None) if keys.remove(key) && keys.is_empty() => self.others.recovered(),
            (_, None) => {}
        }
    }

    /// Forgets all outages at the end of a term.
    pub fn forget(&self) {
        self.keys.lock().clear();
        self.flagged.forget();
        self.others.forget();
    }
}
