//! Token buckets, as in client-go's spam filter: a user who changes Services all the time can fill neither etcd nor a
//! disk, and delays nobody else.
//!
//! This is pure: callers pass in the time.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use endpoint_copier_core::model::ServiceKey;

/// The burst of Events, or of log lines, about one Service.
const BURST: u32 = 25;

/// The time after which a Service regains one of them.
pub const REFILL: Duration = Duration::from_secs(5 * 60);

/// A budget of tokens for each key. A full budget takes no memory, at the latest when another key spends.
#[derive(Debug)]
pub struct Budgets<K> {
    burst: u32,
    refill: Duration,
    /// When each budget is full again.
    full: HashMap<K, Instant>,
}

/// The budgets of Events, or of log lines, about Services.
impl Default for Budgets<ServiceKey> {
    fn default() -> Self {
        Self::new(BURST, REFILL)
    }
}

impl<K: Eq + Hash> Budgets<K> {
    /// Budgets of `burst` tokens, which regain one in each `refill`.
    #[must_use]
    pub fn new(burst: u32, refill: Duration) -> Self {
        Self {
            burst,
            refill,
            full: HashMap::new(),
        }
    }

    /// Takes a token if one is left.
    pub fn spend(&mut self, key: K, now: Instant) -> bool {
        let (burst, refill) = (self.burst, self.refill);
        let full = self.full_again(key, now);
        let may = *full + refill <= now + refill * burst;
        if may {
            *full += refill;
        }
        may
    }

    /// Takes a token, and returns when it may be used: now or, if none is left, when it is its turn.
    pub fn reserve(&mut self, key: K, now: Instant) -> Instant {
        let (burst, refill) = (self.burst, self.refill);
        let full = self.full_again(key, now);
        *full += refill;
        full.checked_sub(refill * burst)
            .map_or(now, |allowed| allowed.max(now))
    }

    /// Gives back a token that is no longer needed.
    pub fn refund<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some(full) = self.full.get_mut(key) {
            *full = full.checked_sub(self.refill).unwrap_or(*full);
        }
    }

    /// When the budget of a key is full again, but no earlier than now.
    fn full_again(&mut self, key: K, now: Instant) -> &mut Instant {
        if !self.full.contains_key(&key) {
            self.full.retain(|_, full| *full > now);
        }
        let full = self.full.entry(key).or_insert(now);
        *full = now.max(*full);
        full
    }

    /// The number of keys whose budget takes memory.
    #[cfg(test)]
    pub fn remembered(&self) -> usize {
        self.full.len()
    }
}
