//! Waits for conditions. Tests poll a condition instead of sleeping for a fixed time.

use std::time::{Duration, Instant};

/// The longest wait for a condition. Conditions are usually met much earlier, except on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls a condition until it is true or the limit has passed. Returns whether it became true.
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

/// Polls a condition until it is true, and fails the test if it does not become true within [`PATIENCE`].
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    assert!(within(PATIENCE, condition).await, "never: {what}");
}
