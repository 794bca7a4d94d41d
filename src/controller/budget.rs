//! Token buckets, as in the Event spam filter of client-go. They prevent a user who keeps changing Services from
//! filling etcd with Events or a disk with log lines, and from delaying other users.
//!
//! This module is pure: the current time is an argument.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use endpoint_copier_core::model::ServiceKey;

/// The burst of Events, or of log lines, about one Service.
const SERVICE_BURST: u32 = 25;

/// The interval at which a Service regains one Event or one log line.
pub const SERVICE_REFILL: Duration = Duration::from_secs(5 * 60);

/// A budget of tokens for each key. Full budgets are removed from memory when a token is taken for a new key.
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
        Self::new(SERVICE_BURST, SERVICE_REFILL)
    }
}

impl<K: Eq + Hash> Budgets<K> {
    /// Creates budgets of `burst` tokens. Each budget regains one token per `refill`.
    #[must_use]
    pub fn new(burst: u32, refill: Duration) -> Self {
        Self {
            burst,
            refill,
            full: HashMap::new(),
        }
    }

    /// Takes a token if one is left, and returns whether there was one.
    pub fn spend(&mut self, key: K, now: Instant) -> bool {
        let (burst, refill) = (self.burst, self.refill);
        let full = self.full_again(key, now);
        let is_left = *full + refill <= now + refill * burst;
        if is_left {
            *full += refill;
        }
        is_left
    }

    /// Takes a token, and returns the time from which it may be used: now or, if no token is left, when the budget
    /// regains this token after all tokens that were reserved earlier.
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

    /// Returns when the budget of a key is full: now or later.
    fn full_again(&mut self, key: K, now: Instant) -> &mut Instant {
        if !self.full.contains_key(&key) {
            self.full.retain(|_, full| *full > now);
        }
        let full = self.full.entry(key).or_insert(now);
        *full = now.max(*full);
        full
    }

    /// Returns the number of keys whose budget is kept in memory.
    #[cfg(test)]
    pub fn remembered(&self) -> usize {
        self.full.len()
    }
}
