//! Where watches leave the keys of Services whose copies may have to change.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use endpoint_copier_core::model::ServiceKey;

/// Where watches leave dirty keys. It holds each key once, so it needs no bound of its own.
#[derive(Clone, Debug, Default)]
pub struct DirtySet(Arc<DirtySetInner>);

#[derive(Debug, Default)]
struct DirtySetInner {
    keys: Mutex<HashMap<ServiceKey, Instant>>,
    arrived: Notify,
    /// Every mark, also one of no keys.
    marks: watch::Sender<()>,
}

impl DirtySet {
    /// Marks keys as dirty, since now unless they are so already.
    pub fn mark(&self, keys: impl IntoIterator<Item = ServiceKey>) {
        self.mark_since(keys, Instant::now());
    }

    /// Marks keys as dirty, since this moment unless they are so already for longer.
    pub fn mark_since(&self, keys: impl IntoIterator<Item = ServiceKey>, since: Instant) {
        let mut any = false;
        let mut dirty = self.0.keys.lock();
        for key in keys {
            let known = dirty.entry(key).or_insert(since);
            *known = since.min(*known);
            any = true;
        }
        drop(dirty);
        if any {
            self.0.arrived.notify_one();
        }
        self.0.marks.send_replace(());
    }

    /// Changes with each mark: the index may have changed.
    #[must_use]
    pub fn marks(&self) -> watch::Receiver<()> {
        self.0.marks.subscribe()
    }

    /// Takes what has arrived; waits while that is nothing. Cancelling it loses nothing.
    pub async fn take(&self) -> HashMap<ServiceKey, Instant> {
        loop {
            let keys = std::mem::take(&mut *self.0.keys.lock());
            if !keys.is_empty() {
                return keys;
            }
            self.0.arrived.notified().await;
        }
    }
}
