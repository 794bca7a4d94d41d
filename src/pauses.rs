//! The pauses between attempts at an operation that is retried without a limit. The pauses of probes are in
//! [`crate::timing`].

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// Pauses that grow by a factor, with jitter.
#[derive(Debug)]
pub struct Pauses(ExponentialBackoff);

impl Pauses {
    /// Creates pauses that begin with `first`. `jitter` is the fraction by which a pause may be shorter or longer, even
    /// the longest one.
    #[must_use]
    pub fn new(first: Duration, longest: Duration, factor: f64, jitter: f64) -> Self {
        Self(ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            multiplier: factor,
            max_interval: longest,
            randomization_factor: jitter,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// Returns the next pause.
    pub fn next_pause(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// Records a success, so that the next pause is the first one again.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}
