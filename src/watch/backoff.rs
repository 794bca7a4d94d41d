//! The pause between two attempts of one watch: 100 ms to 650 ms, so that all is right within a second
//! of the API server's return, the attempt itself included.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use tokio::time::Instant;

pub(super) const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_millis(500);

/// A time without failures after which the next one counts as the first.
const HEALTHY: Duration = Duration::from_secs(10);

pub(super) struct ReadBackoff {
    policy: ExponentialBackoff,
    last_failure: Option<Instant>,
}

impl Default for ReadBackoff {
    fn default() -> Self {
        let policy = ExponentialBackoff {
            current_interval: SHORTEST,
            initial_interval: SHORTEST,
            multiplier: 2.0,
            max_interval: LONGEST,
            randomization_factor: 0.3,
            // A watch is never given up.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self {
            policy,
            last_failure: None,
        }
    }
}

impl ReadBackoff {
    /// Whether the last failure is so long ago that the next one is another matter.
    fn is_rested(&self) -> bool {
        self.last_failure.is_some_and(|last| last.elapsed() > HEALTHY)
    }

    /// The pause after a failure that happened now. One stream that opens well and breaks at once,
    /// time after time, is no success: only time without failures resets it.
    pub fn next(&mut self) -> Duration {
        if self.is_rested() {
            self.policy.reset();
        }
        let pause = self.policy.next_backoff().unwrap_or(LONGEST);
        self.last_failure = Some(Instant::now() + pause);
        pause
    }
}

/// The backoff of a watch that an overloaded API server rejects: 100 ms, doubling to 30 s, and never less
/// than the API
/// server asks for.
pub(super) struct OverloadBackoff {
    policy: ExponentialBackoff,
    next_failure_counts_until: Option<Instant>,
}

impl Default for OverloadBackoff {
    fn default() -> Self {
        let policy = ExponentialBackoff {
            current_interval: SHORTEST,
            initial_interval: SHORTEST,
            multiplier: 2.0,
            max_interval: Duration::from_secs(30),
            randomization_factor: 0.3,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self {
            policy,
            next_failure_counts_until: None,
        }
    }
}

impl OverloadBackoff {
    /// The pause after a failure at this time.
    pub fn next(&mut self, retry_after: Duration) -> Duration {
        let now = Instant::now();
        if self.next_failure_counts_until.is_none_or(|until| now > until) {
            self.policy.reset();
        }
        let own = self.policy.next_backoff().unwrap_or(self.policy.max_interval);
        let pause = own.max(retry_after);
        self.next_failure_counts_until = Some(now + pause + HEALTHY);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_from_a_tenth_of_a_second_to_two_thirds_and_stay_there() {
        let mut backoff = ReadBackoff::default();
        let pauses: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(
            pauses[0] >= Duration::from_millis(70) && pauses[0] <= Duration::from_millis(130),
            "{pauses:?}"
        );
        assert!(
            pauses.iter().all(|pause| *pause <= Duration::from_millis(650)),
            "{pauses:?}"
        );
        assert!(
            pauses[10..]
                .iter()
                .all(|pause| *pause >= Duration::from_millis(350)),
            "{pauses:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_opens_and_breaks_at_once_does_not_reset_the_pauses() {
        let mut backoff = ReadBackoff::default();
        for _ in 0..10 {
            let pause = backoff.next();
            tokio::time::advance(pause + Duration::from_millis(50)).await;
        }
        assert!(backoff.next() >= Duration::from_millis(350));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_of_an_overload_double_to_30_s_and_are_as_long_as_asked() {
        let mut backoff = OverloadBackoff::default();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let pause = backoff.next(Duration::ZERO);
            tokio::time::advance(pause).await;
            pauses.push(pause.as_secs_f64());
        }
        assert!(pauses[0] < 0.2 && pauses[4] > 1.0, "{pauses:?}");
        assert!(
            pauses[9..].iter().all(|pause| (21.0..=39.0).contains(pause)),
            "{pauses:?}"
        );
        tokio::time::advance(HEALTHY + Duration::from_secs(1)).await;
        assert_eq!(backoff.next(Duration::from_secs(7)), Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_healthy_time_resets_the_pauses() {
        let mut backoff = ReadBackoff::default();
        for _ in 0..10 {
            backoff.next();
        }
        tokio::time::advance(HEALTHY + Duration::from_secs(2)).await;
        assert!(backoff.next() <= Duration::from_millis(130));
    }
}
