//! The head start of keys with reserved slots over all other keys.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest head start. A write takes a few milliseconds. If one hangs, the others do not wait for it.
const LONGEST: Duration = Duration::from_millis(20);

/// The time from the beginning of a head start to that of the next. Keys with reserved slots that are always in
/// progress delay the others for a fifth of the time.
const APART: Duration = Duration::from_millis(100);

/// Keeps other keys from starting for a moment while keys with reserved slots are in progress. So when a source with
/// hundreds of followers changes, the first requests to the API server do not compete with hundreds of others.
#[derive(Debug, Default)]
pub(super) struct HeadStart {
    began: Option<Instant>,
    /// The end of the current head start, until [`HeadStart::over`] has returned.
    until: Option<Instant>,
}

impl HeadStart {
    /// Whether other keys wait.
    pub fn is_on(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Begins a head start, unless the last one began a moment ago.
    pub fn begin(&mut self) {
        let now = Instant::now();
        if self.began.is_none_or(|began| now - began >= APART) {
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
