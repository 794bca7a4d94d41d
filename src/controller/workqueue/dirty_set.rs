//! Where watches leave the keys of Services whose copies may have to change.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use endpoint_copier_core::model::ServiceKey;

/// Where watches leave dirty keys. It holds each key once, so it needs no bound of its own.
#[derive(Clone, Debug, Default)]
pub struct DirtySet(Arc<DirtySetInner>);

#[derive(Debug, Default)]
struct DirtySetInner {
    keys: Mutex<HashMap<ServiceKey, Instant>>,
    arrived: Notify,
}

impl DirtySet {
    /// Marks keys as dirty, since now unless they are so already.
    pub fn mark(&self, keys: impl IntoIterator<Item = ServiceKey>) {
        let now = Instant::now();
        let mut any = false;
        let mut dirty = self.0.keys.lock();
        for key in keys {
            dirty.entry(key).or_insert(now);
            any = true;
        }
        drop(dirty);
        if any {
            self.0.arrived.notify_one();
        }
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
