//! The set of dirty keys: Services whose copies, or whose conditions, may have to change.

use std::collections::HashMap;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use endpoint_copier_core::model::ServiceKey;

/// The minimum time between two scans of the whole index.
const SCAN_PAUSE: Duration = Duration::from_millis(100);

/// When a key became dirty, and whether an edit is the only reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The time of the first change that is not handled yet.
    pub since: Instant,
    /// Whether only the managed Service itself has changed (an edit). Each namespace has a budget of edits.
    pub is_edit: bool,
}

impl Mark {
    /// Combines two marks: the earlier time wins, and the result is an edit only if both are.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            since: self.since.min(other.since),
            is_edit: self.is_edit && other.is_edit,
        }
    }
}

/// The set into which watches, reads, probes and syncs put dirty keys. It holds each key at most once, so its size
/// needs no limit. One worker takes the keys.
#[derive(Clone, Debug, Default)]
pub struct DirtySet {
    keys: watch::Sender<HashMap<ServiceKey, Mark>>,
    /// Notifies receivers of each call that marks keys, even if the call has no keys.
    marks: watch::Sender<()>,
}

impl DirtySet {
    /// Marks keys as dirty from now on. Keys that are already dirty keep their time.
    pub fn mark(&self, keys: impl IntoIterator<Item = ServiceKey>) {
        self.mark_since(keys, Instant::now());
    }

    /// Marks keys as dirty since the time `since`. Keys that have been dirty for longer keep their time.
    pub fn mark_since(&self, keys: impl IntoIterator<Item = ServiceKey>, since: Instant) {
        let mark = Mark {
            since,
            is_edit: false,
        };
        self.insert(keys.into_iter().map(|key| (key, mark)));
    }

    /// Marks keys as dirty from now on, because the Service `edited` was changed. This is an edit only for `edited`
    /// itself.
    pub fn mark_edit(&self, keys: impl IntoIterator<Item = ServiceKey>, edited: &ServiceKey) {
        let since = Instant::now();
        let mark = |key: &ServiceKey| Mark {
            since,
            is_edit: key == edited,
        };
        self.insert(keys.into_iter().map(|key| (key.clone(), mark(&key))));
    }

    fn insert(&self, marks: impl Iterator<Item = (ServiceKey, Mark)>) {
        self.keys.send_if_modified(|dirty| {
            for (key, mark) in marks {
                dirty
                    .entry(key)
                    .and_modify(|known| *known = known.and(mark))
                    .or_insert(mark);
            }
            !dirty.is_empty()
        });
        self.marks.send_replace(());
    }

    /// Returns a receiver of marks. A mark means that the index may have changed: a mark follows each change that a
    /// watch or a read makes to a Service or slice in the index.
    #[must_use]
    pub fn marks(&self) -> Marks {
        Marks {
            marks: self.marks.subscribe(),
            next_scan: Instant::now(),
        }
    }

    /// Waits until there are dirty keys, and takes all of them. Nothing is lost if the wait is canceled.
    pub async fn take(&self) -> HashMap<ServiceKey, Mark> {
        // The wait cannot fail, because `self` holds a sender.
        _ = self.keys.subscribe().wait_for(|dirty| !dirty.is_empty()).await;
        self.keys.send_replace(HashMap::new())
    }
}

/// The marks of a [`DirtySet`], for tasks that read the index.
#[derive(Debug)]
pub struct Marks {
    marks: watch::Receiver<()>,
    next_scan: Instant,
}

impl Marks {
    /// Waits for a new mark. Nothing is lost if the wait is canceled.
    pub async fn next(&mut self) {
        if self.marks.changed().await.is_err() {
            pending::<()>().await;
        }
    }

    /// Waits as [`Marks::next`] does, and until at least 100 ms have passed since this method last returned. A burst of
    /// changes then costs at most one scan of the index per 100 ms, not one for each change.
    pub async fn next_scan(&mut self) {
        // The pause follows the mark, so that no timer fires while nothing changes.
        self.next().await;
        self.marks.mark_changed();
        sleep_until(self.next_scan).await;
        self.marks.mark_unchanged();
        self.next_scan = Instant::now() + SCAN_PAUSE;
    }
}
