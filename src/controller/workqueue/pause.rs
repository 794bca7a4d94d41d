//! The pause of all Services without reserved slots after an API server was overloaded. A Service with reserved slots
//! waits only after a rejection of its own, for 1 s (`RESERVED_RETRY_PAUSE` in the parent module).
//! [`crate::apiserver::http_status`] lists the other effects of a 429.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::pauses::Pauses;

/// The pause that Services without reserved slots share: 1 s, doubling to 30 s, and at least as long as the API server
/// requests.
pub(super) struct Overload {
    pauses: Pauses,
    /// The end of the pause. The pause is over only when [`Overload::over`] has returned, so that no waiter misses its
    /// end.
    until: Option<Instant>,
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            pauses: Pauses::new(Duration::from_secs(1), Duration::from_secs(30), 2.0, 0.0),
            until: None,
        }
    }
}

impl Overload {
    /// Whether a pause is in force.
    pub fn is_pausing(&self) -> bool {
        self.until.is_some()
    }

    /// Records that the API server has rejected a request. Returns the end of the pause. During a pause, further
    /// rejections do not prolong it: those requests were sent before it, or do not wait for it.
    pub fn rejected(&mut self, retry_after: Duration) -> Instant {
        *self.until.get_or_insert_with(|| {
            let own = self.pauses.next_pause();
            Instant::now() + own.max(retry_after)
        })
    }

    /// Records that a write has succeeded. During a pause, a success proves nothing.
    pub fn accepted(&mut self) {
        if self.until.is_none() {
            self.pauses.reset();
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
