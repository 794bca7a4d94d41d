//! The pauses between the attempts of one watch.

use std::time::Duration;

use tokio::time::Instant;

use crate::pauses::Pauses;
use crate::timing::{MAX_OVERLOAD_PAUSE, MAX_RELIST_PAUSE, MAX_WATCH_PAUSE, WATCH_PAUSE};
use endpoint_copier_core::model::WatchKind;

/// After this time without failures, the next failure counts as the first. A watch that has been open for this long
/// counts as having worked.
pub(super) const HEALTHY: Duration = Duration::from_secs(10);

/// Pauses that double from [`WATCH_PAUSE`].
pub struct WatchBackoff {
    pauses: Pauses,
    last_failure: Option<Instant>,
}

impl WatchBackoff {
    /// Creates a backoff for failures.
    pub fn failures() -> Self {
        Self::up_to(MAX_WATCH_PAUSE)
    }

    /// Creates a backoff for rejections by an overloaded API server.
    pub fn overload() -> Self {
        Self::up_to(MAX_OVERLOAD_PAUSE)
    }

    fn up_to(longest: Duration) -> Self {
        Self {
            pauses: pauses(longest),
            last_failure: None,
        }
    }

    /// Returns the pause after a failure, which is at least `at_least`. Opening a stream is not a success, because the
    /// stream may break immediately. Only time without failures resets the pauses.
    pub fn next(&mut self, at_least: Duration) -> Duration {
        if self.last_failure.is_some_and(|last| last.elapsed() > HEALTHY) {
            self.pauses.reset();
        }
        let pause = self.pauses.next_pause().max(at_least);
        self.last_failure = Some(Instant::now() + pause);
        pause
    }
}

/// The pauses before the lists of a watch that must relist repeatedly, because each watch request after a list fails
/// immediately.
pub struct Relists {
    pauses: Pauses,
    in_a_row: u32,
}

/// After this many lists in a row without a working watch in between, the server may be at fault.
const MANY_RELISTS: u32 = 3;

impl Relists {
    /// Creates the pauses of a watch. The pauses of Lease watches stay short, because their lists cost no more than a
    /// GET, and other replicas wait for what this one writes.
    pub fn of(watch: WatchKind) -> Self {
        let is_cheap = matches!(watch, WatchKind::Lease | WatchKind::ProbeLease);
        Self {
            pauses: pauses(if is_cheap {
                MAX_WATCH_PAUSE
            } else {
                MAX_RELIST_PAUSE
            }),
            in_a_row: 0,
        }
    }

    /// Returns the pause before the next list. `has_worked` says whether a watch has worked since the last list.
    pub fn next(&mut self, has_worked: bool) -> Duration {
        if has_worked {
            self.pauses.reset();
            self.in_a_row = 0;
        }
        self.in_a_row += 1;
        self.pauses.next_pause()
    }

    /// Whether there were at least `MANY_RELISTS` lists in a row without a working watch in between.
    pub fn are_many(&self) -> bool {
        self.in_a_row >= MANY_RELISTS
    }
}

/// Pauses that double from [`WATCH_PAUSE`], with jitter.
pub fn pauses(longest: Duration) -> Pauses {
    Pauses::new(WATCH_PAUSE, longest, 2.0, 0.3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_from_100_ms_to_500_ms_with_jitter() {
        let mut backoff = WatchBackoff::failures();
        let pauses: Vec<_> = (0..20).map(|_| backoff.next(Duration::ZERO)).collect();
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
    async fn a_stream_that_breaks_at_once_does_not_reset_pauses() {
        let mut backoff = WatchBackoff::failures();
        for _ in 0..10 {
            let pause = backoff.next(Duration::ZERO);
            tokio::time::advance(pause + Duration::from_millis(50)).await;
        }
        assert!(backoff.next(Duration::ZERO) >= Duration::from_millis(350));
    }

    #[tokio::test(start_paused = true)]
    async fn overload_pauses_double_to_30_s_and_honor_retry_after() {
        let mut backoff = WatchBackoff::overload();
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
    async fn a_healthy_period_resets_the_pauses() {
        let mut backoff = WatchBackoff::failures();
        for _ in 0..10 {
            backoff.next(Duration::ZERO);
        }
        tokio::time::advance(HEALTHY + Duration::from_secs(2)).await;
        assert!(backoff.next(Duration::ZERO) <= Duration::from_millis(130));
    }
}
