//! News for all who wait for it. They wake in the order in which they began to wait, so that what happens under paused
//! time happens in the same order again; tokio's `watch` channel wakes its receivers in a random one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::Notify;

/// Tells of news.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: AtomicU64,
    news: Notify,
}

/// Hears of news.
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

    /// What was before is no news to it.
    pub fn subscribe(&self) -> Changes {
        let seen = self.0.count.load(Ordering::SeqCst);
        Changes {
            signal: self.clone(),
            seen,
        }
    }
}

impl Changes {
    /// All so far is seen.
    pub fn catch_up(&mut self) {
        self.seen = self.signal.0.count.load(Ordering::SeqCst);
    }

    /// Waits for news that is not seen yet, and sees it. Cancelling it loses nothing.
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
