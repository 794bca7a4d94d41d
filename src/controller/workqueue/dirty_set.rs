//! Where watches leave the keys of Services whose copies may have to change.

use std::collections::HashMap;

use tokio::sync::watch;
use tokio::time::Instant;

use endpoint_copier_core::model::ServiceKey;

/// Where watches leave dirty keys. It holds each key once, so it needs no bound of its own. One worker takes them.
#[derive(Clone, Debug, Default)]
pub struct DirtySet {
    keys: watch::Sender<HashMap<ServiceKey, Instant>>,
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
        self.keys.send_if_modified(|dirty| {
            for key in keys {
                let known = dirty.entry(key).or_insert(since);
                *known = since.min(*known);
            }
            !dirty.is_empty()
        });
        self.marks.send_replace(());
    }

    /// Changes with each mark: the index may have changed.
    #[must_use]
    pub fn marks(&self) -> watch::Receiver<()> {
        self.marks.subscribe()
    }

    /// Takes the keys that have arrived; waits while there are none. Cancelling it loses nothing.
    pub async fn take(&self) -> HashMap<ServiceKey, Instant> {
        // This holds a sender, so the wait cannot fail.
        _ = self.keys.subscribe().wait_for(|dirty| !dirty.is_empty()).await;
        self.keys.send_replace(HashMap::new())
    }
}
