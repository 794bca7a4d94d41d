//! Token buckets for changes of managed Services themselves, so that a user who keeps editing Services delays nobody
//! else.
//!
//! This is pure: callers pass in the time.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// The time in which a namespace regains one edit.
pub(super) const INTERVAL: Duration = Duration::from_millis(20);

/// The edits that a namespace may make at once.
pub(super) const BURST: u32 = 1_000;

/// When each namespace has its full budget again. A full budget takes no memory, at the latest when another namespace
/// spends.
#[derive(Debug, Default)]
pub(super) struct EditBudgets(HashMap<Box<str>, Instant>);

impl EditBudgets {
    /// Takes an edit out of the budget of a namespace, and returns when it may be handled: now or, if the budget is
    /// spent, when it is its turn.
    pub fn spend(&mut self, namespace: &str, now: Instant) -> Instant {
        if !self.0.contains_key(namespace) {
            self.0.retain(|_, full| *full > now);
        }
        let full = self.0.entry(namespace.into()).or_insert(now);
        *full = now.max(*full) + INTERVAL;
        full.checked_sub(INTERVAL * BURST)
            .map_or(now, |allowed| allowed.max(now))
    }

    /// The number of namespaces whose budget takes memory.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Gives back an edit that no longer needs its own turn.
    pub fn refund(&mut self, namespace: &str) {
        if let Some(full) = self.0.get_mut(namespace) {
            *full = full.checked_sub(INTERVAL).unwrap_or(*full);
        }
    }
}
