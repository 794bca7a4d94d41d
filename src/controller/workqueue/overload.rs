//! The pause that an overloaded API server gets from all Services but those that lead to the API servers.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use tokio::time::{Instant, sleep_until};

/// The common pause: 1 s doubling to 30 s, and never less than the API server asks for.
pub(super) struct Overload {
    backoff: ExponentialBackoff,
    /// A pause lasts until then. It is over when [`Overload::over`] has returned, and not before, so that whoever
    /// waits for its end does not miss it.
    until: Option<Instant>,
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            backoff: super::backoff(Duration::from_secs(1), Duration::from_secs(30), 0.0),
            until: None,
        }
    }
}

impl Overload {
    /// Whether a pause lasts.
    pub fn is_pausing(&self) -> bool {
        self.until.is_some()
    }

    /// The API server has rejected a request. Returns the end of the pause. During a pause, further rejections do
    /// not prolong it: these requests were sent before it, or do not wait for it.
    pub fn rejected(&mut self, retry_after: Duration) -> Instant {
        *self.until.get_or_insert_with(|| {
            let own = self.backoff.next_backoff().unwrap_or(self.backoff.max_interval);
            Instant::now() + own.max(retry_after)
        })
    }

    /// A write has succeeded. During a pause that proves nothing.
    pub fn accepted(&mut self) {
        if self.until.is_none() {
            self.backoff.reset();
        }
    }

    /// Waits until the pause is over. Never returns while there is none.
    pub async fn over(&mut self) {
        match self.until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
        self.until = None;
    }
}
