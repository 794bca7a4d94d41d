//! When a loop last made a step, to distinguish one that is stuck from one that has nothing to do.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A loop that has work and makes no step, for this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no progress for {} s", .0.as_secs())]
pub struct Stuck(pub Duration);

/// The steps of one loop. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Watchdog(Arc<Mutex<Option<Instant>>>);

impl Watchdog {
    /// There is work; since now, unless there was some before.
    pub fn busy(&self) {
        self.0.lock().get_or_insert_with(Instant::now);
    }

    /// A step was made, well or badly.
    pub fn tick(&self) {
        if let Some(last) = &mut *self.0.lock() {
            *last = Instant::now();
        }
    }

    /// There is nothing to do.
    pub fn idle(&self) {
        *self.0.lock() = None;
    }

    /// Whether the last step is within `limit`, or there is nothing to do.
    ///
    /// # Errors
    /// How long ago it is.
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
    async fn only_work_without_a_step_is_stuck() {
        let (watchdog, second) = (Watchdog::default(), Duration::from_secs(1));
        watchdog.tick();
        tokio::time::advance(LIMIT + second).await;
        assert_eq!(watchdog.check(LIMIT), Ok(()), "nothing to do");
        watchdog.busy();
        tokio::time::advance(LIMIT).await;
        watchdog.busy();
        assert_eq!(watchdog.check(LIMIT), Ok(()), "just within the limit");
        tokio::time::advance(second).await;
        assert_eq!(
            watchdog.check(LIMIT),
            Err(Stuck(LIMIT + second)),
            "more work is no step"
        );
        watchdog.clone().tick();
        assert_eq!(watchdog.check(LIMIT), Ok(()));
        watchdog.idle();
        tokio::time::advance(LIMIT + second).await;
        assert_eq!(watchdog.check(LIMIT), Ok(()));
    }
}
