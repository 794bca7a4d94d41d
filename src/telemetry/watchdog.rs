//! Records when a loop last made progress, to distinguish a loop that is stuck from one that has nothing to do.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a loop with work has made no progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no progress for {} s", .0.as_secs())]
pub struct Stuck(pub Duration);

/// The progress of one loop. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Watchdog(Arc<Mutex<Option<Instant>>>);

impl Watchdog {
    /// Records that there is work. If there was none before, the time without progress starts now.
    pub fn busy(&self) {
        self.0.lock().get_or_insert_with(Instant::now);
    }

    /// Records progress, whether it was a success or a failure.
    pub fn tick(&self) {
        if let Some(last) = &mut *self.0.lock() {
            *last = Instant::now();
        }
    }

    /// Records that there is nothing to do.
    pub fn idle(&self) {
        *self.0.lock() = None;
    }

    /// Whether there was progress within `limit`, or there is nothing to do.
    ///
    /// # Errors
    /// If there was none, returns the time since the last progress or, without any progress, since the work began.
    pub fn check(&self, limit: Duration) -> Result<(), Stuck> {
        let last = *self.0.lock();
        match last.map(|last| last.elapsed()).filter(|age| *age > limit) {
            None => Ok(()),
            Some(age) => Err(Stuck(age)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(26);

    #[tokio::test(start_paused = true)]
    async fn only_work_without_progress_is_stuck() {
        let (watchdog, second) = (Watchdog::default(), Duration::from_secs(1));
        watchdog.tick();
        tokio::time::advance(LIMIT + second).await;
        assert_eq!(watchdog.check(LIMIT), Ok(()), "stuck without work");
        watchdog.busy();
        tokio::time::advance(LIMIT).await;
        watchdog.busy();
        assert_eq!(watchdog.check(LIMIT), Ok(()), "stuck within the limit");
        tokio::time::advance(second).await;
        assert_eq!(
            watchdog.check(LIMIT),
            Err(Stuck(LIMIT + second)),
            "more work counted as progress"
        );
        watchdog.clone().tick();
        assert_eq!(watchdog.check(LIMIT), Ok(()));
        watchdog.idle();
        tokio::time::advance(LIMIT + second).await;
        assert_eq!(watchdog.check(LIMIT), Ok(()));
    }
}
