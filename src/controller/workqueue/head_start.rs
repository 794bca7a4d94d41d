//! The head start of keys with reserved slots over all other keys.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest head start. A write takes a few milliseconds. If a write hangs, other keys wait no longer than this.
const LONGEST: Duration = Duration::from_millis(20);

/// The minimum time from the start of one head start to the start of the next. Even if keys with reserved slots are
/// always in progress, they delay other keys for at most a fifth of the time.
const INTERVAL: Duration = Duration::from_millis(100);

/// Briefly keeps other keys from starting while keys with reserved slots are in progress. Otherwise, after a change to
/// a source that hundreds of managed Services copy, requests for keys with reserved slots would compete with hundreds
/// of others.
#[derive(Debug, Default)]
pub(super) struct HeadStart {
    began: Option<Instant>,
    /// When the current head start ends. `None` after [`HeadStart::end`], and once [`HeadStart::over`] has returned.
    until: Option<Instant>,
}

impl HeadStart {
    /// Whether other keys wait.
    pub fn is_on(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Begins a head start, unless the last one began less than [`INTERVAL`] ago.
    pub fn begin(&mut self) {
        let now = Instant::now();
        if self.began.is_none_or(|began| now - began >= INTERVAL) {
            (self.began, self.until) = (Some(now), Some(now + LONGEST));
        }
    }

    /// Ends the head start, because no key with a reserved slot is in progress.
    pub fn end(&mut self) {
        self.until = None;
    }

    /// Waits until the head start is over. Never returns while there is none.
    pub async fn over(&mut self) {
        match self.until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
        self.until = None;
    }
}
