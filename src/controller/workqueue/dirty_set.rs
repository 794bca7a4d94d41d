//! Where watches leave the keys of Services whose copies may have to change.

use std::collections::HashMap;

use tokio::sync::watch;
use tokio::time::Instant;

use endpoint_copier_core::model::ServiceKey;

/// Where watches leave dirty keys. It holds each key once, so it needs no bound of its own. One worker takes them.
#[derive(Clone, Debug, Default)]
pub struct DirtySet(watch::Sender<HashMap<ServiceKey, Instant>>);

impl DirtySet {
    /// Marks keys as dirty, since now unless they are so already.
    pub fn mark(&self, keys: impl IntoIterator<Item = ServiceKey>) {
        let now = Instant::now();
        self.0.send_if_modified(|dirty| {
            for key in keys {
                dirty.entry(key).or_insert(now);
            }
            !dirty.is_empty()
        });
    }

    /// Takes the keys that have arrived; waits while there are none. Cancelling it loses nothing.
    pub async fn take(&self) -> HashMap<ServiceKey, Instant> {
        // This holds a sender, so the wait cannot fail.
        _ = self.0.subscribe().wait_for(|dirty| !dirty.is_empty()).await;
        self.0.send_replace(HashMap::new())
    }
}
