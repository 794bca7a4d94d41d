//! A signal for all waiting tasks. Tasks wake in the order in which they began to wait, which makes runs under paused
//! time reproducible. Tokio's `watch` channel wakes its receivers in random order.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::Notify;

/// The sending side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: AtomicU64,
    news: Notify,
}

/// The receiving side.
#[derive(Clone, Debug)]
pub struct Changes {
    signal: Signal,
    seen: u64,
}

impl Signal {
    pub fn send(&self) {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        self.0.news.notify_waiters();
    }

    /// Subscribes to changes from now on.
    pub fn subscribe(&self) -> Changes {
        let seen = self.0.count.load(Ordering::SeqCst);
        Changes {
            signal: self.clone(),
            seen,
        }
    }
}

impl Changes {
    /// Marks all changes so far as seen.
    pub fn catch_up(&mut self) {
        self.seen = self.signal.0.count.load(Ordering::SeqCst);
    }

    /// Waits for an unseen change, and marks it as seen. Canceling the wait loses no change.
    pub async fn changed(&mut self) {
        let Self { signal, seen } = self;
        loop {
            let news = signal.0.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            let count = signal.0.count.load(Ordering::SeqCst);
            if count != *seen {
                *seen = count;
                return;
            }
            news.await;
        }
    }
}
