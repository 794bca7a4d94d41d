//! Decides whether a replica sees enough of the cluster to lead.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::telemetry::watch_health::WatchHealth;
use crate::timing::BLIND;
use endpoint_copier_core::model::WatchKind;

/// The interval at which a view is polled until it is current. The interval is short, because the first term waits for
/// the view.
const VIEW_POLL: Duration = Duration::from_millis(5);

/// The interval at which a leader checks for failing lists and watches.
const BLIND_POLL: Duration = Duration::from_secs(1);

/// A replica's view of the cluster.
#[derive(Clone)]
pub struct View {
    is_filled: Arc<dyn Fn() -> bool + Send + Sync>,
    watch_health: WatchHealth,
}

impl View {
    /// Creates a view. `is_filled` returns whether the caches are filled, and `watch_health` says whether the watches
    /// are open and have caught up.
    pub fn new(is_filled: impl Fn() -> bool + Send + Sync + 'static, watch_health: WatchHealth) -> Self {
        Self {
            is_filled: Arc::new(is_filled),
            watch_health,
        }
    }

    /// Whether the caches are filled, and each watch of [`WatchKind::VIEW`] is open and has caught up.
    pub(super) fn is_current(&self) -> bool {
        (self.is_filled)() && self.watch_health.are_current(&WatchKind::VIEW)
    }

    /// Waits until the view is current.
    pub(super) async fn current(&self) {
        while !self.is_current() {
            sleep(VIEW_POLL).await;
        }
    }

    /// Waits until a leader whose term begins now must release the Lease: there is a kind of which no watch works, and
    /// at least one watch has been failing for [`BLIND`]. Returns the names of all such kinds. Does not return before
    /// the term has lasted for [`BLIND`]. Otherwise, if all replicas saw too little, each new leader would release the
    /// Lease immediately.
    pub(super) async fn blind(&self) -> String {
        sleep(BLIND).await;
        loop {
            let failing = self.watch_health.failing(&WatchKind::VIEW, BLIND);
            if !failing.is_empty() {
                return failing.join(", ");
            }
            sleep(BLIND_POLL).await;
        }
    }
}
