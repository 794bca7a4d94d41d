//! What the watch has yet to show: our writes, the changes that caused conflicts, and slices of other owners that have
//! the names of copies. All of these are forgotten when the term ends.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::controller::apply::Expectation;
use crate::controller::error::SyncError;
use endpoint_copier_core::index::Index;
use endpoint_copier_core::model::{ServiceKey, SliceKey};

/// Slices, and the states that the watch will show.
pub(super) type Expected = Vec<(SliceKey, Expectation)>;

/// The states that the watch is expected to show, by Service. A new leader may have hundreds of them for a short time;
/// a `BTreeMap` frees their memory afterward.
#[derive(Default)]
pub(super) struct Expectations(Mutex<BTreeMap<ServiceKey, PendingWrites>>);

struct PendingWrites {
    expected: Expected,
    /// The time by which the watch should show the states.
    until: Instant,
}

impl Expectations {
    /// Replaces the expectations of a Service.
    pub fn expect(&self, key: &ServiceKey, expected: Expected, until: Instant) {
        let mut pending = self.0.lock();
        if expected.is_empty() {
            pending.remove(key);
        } else {
            pending.insert(key.clone(), PendingWrites { expected, until });
        }
    }

    /// Returns the expectations that the index should fulfill by now but does not.
    ///
    /// # Errors
    ///
    /// Returns an error if the index does not fulfill all expectations yet, but the watch still has time.
    pub fn overdue(&self, key: &ServiceKey, index: &Index) -> Result<Expected, SyncError> {
        let mut all = self.0.lock();
        let Some(pending) = all.get_mut(key) else {
            return Ok(Expected::new());
        };
        pending
            .expected
            .retain(|(slice, expectation)| !expectation.is_fulfilled(index.slice(slice).map(AsRef::as_ref)));
        if pending.expected.is_empty() {
            all.remove(key);
            Ok(Expected::new())
        } else if Instant::now() < pending.until {
            Err(SyncError::Outdated { until: pending.until })
        } else {
            Ok(pending.expected.clone())
        }
    }

    /// Whether the index fulfills all expectations of a Service.
    pub fn are_fulfilled(&self, key: &ServiceKey, index: &Index) -> bool {
        self.overdue(key, index).is_ok_and(|overdue| overdue.is_empty())
    }

    /// Forgets all expectations at the end of a term.
    pub fn forget(&self) {
        self.0.lock().clear();
    }
}
