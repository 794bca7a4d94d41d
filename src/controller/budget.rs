//! A token bucket for Events and log lines, as in client-go's spam filter: a burst, then one token per refill
//! period.
//!
//! Pure: callers pass the time in.

use std::time::Duration;

use tokio::time::Instant;

/// The tokens that are left.
#[derive(Debug)]
pub struct Budget {
    burst: u32,
    refill: Duration,
    /// The tokens in use, and the time at which this was true.
    used: Option<(u32, Instant)>,
}

impl Budget {
    /// Holds `burst` tokens and regains one after each `refill`.
    #[must_use]
    pub fn new(burst: u32, refill: Duration) -> Self {
        Self {
            burst,
            refill,
            used: None,
        }
    }

    /// Takes a token if one is left.
    pub fn spend(&mut self, now: Instant) -> bool {
        let (used, since) = self.refilled(now);
        let may = used < self.burst;
        self.used = Some((used + u32::from(may), since));
        may
    }

    /// Whether all tokens are available, so that the caller can drop this budget.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.refilled(now).0 == 0
    }

    /// The tokens in use after refills, and the time at which the next refill period began.
    fn refilled(&self, now: Instant) -> (u32, Instant) {
        let Some((used, since)) = self.used else {
            return (0, now);
        };
        let back =
            u32::try_from(now.saturating_duration_since(since).as_secs() / self.refill.as_secs().max(1))
                .unwrap_or(u32::MAX);
        if back >= used {
            (0, now)
        } else {
            (used - back, since + self.refill * back)
        }
    }
}

/// The burst of Events, or of log lines, about one Service.
pub const SERVICE_BURST: u32 = 25;

/// The time after which a Service regains one token.
pub const SERVICE_REFILL: Duration = Duration::from_secs(5 * 60);
