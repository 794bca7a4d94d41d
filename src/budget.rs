//! How much may be said: so much at once, and then a little after each pause. As in client-go's spam filter.
//!
//! Pure: moments go in.

use std::time::Duration;

use tokio::time::Instant;

/// What is left to say.
#[derive(Debug)]
pub struct Budget {
    burst: u32,
    refill: Duration,
    /// So much is used, as of a moment.
    used: Option<(u32, Instant)>,
}

impl Budget {
    /// So much at once, and one more after each `refill`.
    #[must_use]
    pub fn new(burst: u32, refill: Duration) -> Self {
        Self {
            burst,
            refill,
            used: None,
        }
    }

    /// Takes one, if more than `reserve` are left.
    pub fn spend(&mut self, reserve: u32, now: Instant) -> bool {
        let (used, since) = self.refilled(now);
        let may = used + reserve < self.burst;
        self.used = Some((used + u32::from(may), since));
        may
    }

    /// Whether as much is left as there ever is, so that nothing need be remembered.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.refilled(now).0 == 0
    }

    /// How much is used after what has come back meanwhile, and since when the next one is on its way.
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

/// What is said about one Service: so much at once, be it Events or log lines …
pub const SERVICE_BURST: u32 = 25;

/// … and one more after each of these.
pub const SERVICE_REFILL: Duration = Duration::from_secs(5 * 60);
