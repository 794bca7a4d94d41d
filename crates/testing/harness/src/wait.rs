//! Waiting for conditions: no test sleeps where it can ask.

use std::time::{Duration, Instant};

/// The longest that anything may take. Conditions are met far earlier; a busy machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until the answer is yes; whether it ever was.
pub async fn within(limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition().await {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks until the answer is yes, and fails the test if it never is.
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    assert!(within(PATIENCE, condition).await, "never: {what}");
}
