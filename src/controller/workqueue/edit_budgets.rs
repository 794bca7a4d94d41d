//! Token buckets for changes of managed Services themselves: a user who edits Services all the time delays nobody else.
//!
//! Pure: the current time is an argument.

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

    /// Returns an edit that needs no turn of its own any more.
    pub fn refund(&mut self, namespace: &str) {
        if let Some(full) = self.0.get_mut(namespace) {
            *full = full.checked_sub(INTERVAL).unwrap_or(*full);
        }
    }
}
