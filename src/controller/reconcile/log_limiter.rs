//! Log lines about one Service are rate limited like its Events, so a user who changes it all the time cannot
//! fill a disk. Further lines are logged at debug.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::controller::budget::{Budget, SERVICE_BURST, SERVICE_REFILL};
use endpoint_copier_core::model::ServiceKey;

/// The log budget of each Service. It outlives the terms of this replica.
#[derive(Default)]
pub(super) struct LogLimiter(Mutex<HashMap<ServiceKey, Budget>>);

impl LogLimiter {
    /// Whether a line about a Service may be logged now. If so, it counts against the budget.
    pub fn may_log(&self, service: &ServiceKey) -> bool {
        let (mut budgets, now) = (self.0.lock(), Instant::now());
        if !budgets.contains_key(service) {
            budgets.retain(|_, budget| !budget.is_full(now));
        }
        let budget = budgets
            .entry(service.clone())
            .or_insert_with(|| Budget::new(SERVICE_BURST, SERVICE_REFILL));
        budget.spend(now)
    }
}
