//! The set of dirty keys: Services whose copies may have to change.

use std::collections::HashMap;

use tokio::sync::watch;
use tokio::time::Instant;

use endpoint_copier_core::model::ServiceKey;

/// The set into which watches put dirty keys. It holds each key once, so it needs no bound of its own. One worker takes
/// the keys.
#[derive(Clone, Debug, Default)]
pub struct DirtySet {
    keys: watch::Sender<HashMap<ServiceKey, Instant>>,
    /// Notifies of every mark, even of one without keys.
    marks: watch::Sender<()>,
}

impl DirtySet {
    /// Marks keys as dirty from now on. Keys that are dirty already keep their time.
    pub fn mark(&self, keys: impl IntoIterator<Item = ServiceKey>) {
        self.mark_since(keys, Instant::now());
    }

    /// Marks keys as dirty since this moment. Keys that have been dirty for longer keep their time.
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

    /// A receiver that changes with each mark, because the index may have changed.
    #[must_use]
    pub fn marks(&self) -> watch::Receiver<()> {
        self.marks.subscribe()
    }

    /// Takes the keys that have arrived, and waits while there are none. Cancelling loses nothing.
    pub async fn take(&self) -> HashMap<ServiceKey, Instant> {
        // The wait cannot fail, because this holds a sender.
        _ = self.keys.subscribe().wait_for(|dirty| !dirty.is_empty()).await;
        self.keys.send_replace(HashMap::new())
    }
}
