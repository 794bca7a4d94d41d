//! Prints the steps, one line each, with the time since the start and the duration.

use std::time::{Duration, Instant};

/// Prints lines as things happen.
pub struct Timeline {
    start: Instant,
}

impl Timeline {
    /// Starts the clock.
    pub fn begin() -> Self {
        println!(
            "\n       at      took   what happens (at: time since the start; took: time since the cause)"
        );
        Self {
            start: Instant::now(),
        }
    }

    /// Prints an action.
    pub fn action(&self, what: &str) {
        println!("{}            {what}", self.at(Instant::now()));
    }

    /// Prints an effect, with the time since its cause.
    pub fn effect(&self, since: Instant, what: &str) {
        let now = Instant::now();
        println!("{}{}   {what}", self.at(now), took(now - since));
    }

    fn at(&self, now: Instant) -> String {
        format!("{:7.3} s", (now - self.start).as_secs_f64())
    }
}

/// Formats a duration in nine columns, in a readable unit.
fn took(time: Duration) -> String {
    if time < Duration::from_millis(100) {
        format!("{:6.1} ms", time.as_secs_f64() * 1000.0)
    } else if time < Duration::from_secs(1) {
        format!("{:6.0} ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{:6.2} s ", time.as_secs_f64())
    }
}
