//! What is logged of a watch that fails: once when it begins, once a minute while it lasts, and once when it
//! is over, which is when a watch has begun again and not when the next object happens to change.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// The pause between two lines on one outage.
const REPEAT: Duration = Duration::from_secs(60);

/// The outage of one watch, or that there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Outage(Arc<Mutex<Option<Since>>>);

#[derive(Debug)]
struct Since {
    began: Instant,
    said: Instant,
}

impl Outage {
    /// The watch of these resources has failed, or failed again.
    pub fn failed(&self, resource: &str, error: &str) {
        let mut outage = self.0.lock();
        let now = Instant::now();
        match outage.as_mut() {
            None => {
                warn!(resource, error, "watch failed; trying again");
                *outage = Some(Since {
                    began: now,
                    said: now,
                });
            }
            Some(since) if now >= since.said + REPEAT => {
                warn!(
                    resource,
                    error,
                    seconds = since.began.elapsed().as_secs(),
                    "still not watching"
                );
                since.said = now;
            }
            Some(_) => debug!(resource, error, "watch failed again"),
        }
    }

    /// A watch of these resources has begun.
    pub fn over(&self, resource: &str) {
        if let Some(since) = self.0.lock().take() {
            info!(
                resource,
                seconds = since.began.elapsed().as_secs(),
                "watching again"
            );
        }
    }
}
