//! Token buckets for Events and log lines, as in client-go's spam filter: a user who changes a Service all the time can
//! fill neither etcd nor a disk.
//!
//! This is pure: callers pass in the time.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use endpoint_copier_core::model::ServiceKey;

/// The burst of Events, or of log lines, about one Service.
const BURST: u32 = 25;

/// The time after which a Service regains one token.
pub const REFILL: Duration = Duration::from_secs(5 * 60);

/// The budget of each Service. A full budget takes no memory, at the latest when another Service spends.
#[derive(Debug, Default)]
pub struct Budgets(HashMap<ServiceKey, Budget>);

#[derive(Debug)]
struct Budget {
    used: u32,
    /// The beginning of the refill period to which the count belongs.
    since: Instant,
}

impl Budgets {
    /// Takes a token of this Service if one is left.
    pub fn spend(&mut self, service: &ServiceKey, now: Instant) -> bool {
        if !self.0.contains_key(service) {
            self.0.retain(|_, budget| budget.refilled(now).used > 0);
        }
        let budget = self
            .0
            .entry(service.clone())
            .or_insert(Budget { used: 0, since: now });
        *budget = budget.refilled(now);
        let may = budget.used < BURST;
        budget.used += u32::from(may);
        may
    }
}

impl Budget {
    fn refilled(&self, now: Instant) -> Self {
        let periods = now.saturating_duration_since(self.since).as_secs() / REFILL.as_secs();
        match u32::try_from(periods) {
            Ok(back) if back < self.used => Self {
                used: self.used - back,
                since: self.since + REFILL * back,
            },
            _ => Self { used: 0, since: now },
        }
    }
}
