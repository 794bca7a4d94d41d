//! The state of the probe Lease that a replica has seen in its watch and in reads.

use tokio::sync::watch;

use super::Probes;
use super::lease::{Annotations, LeaseEvent};

/// The newest state of the Lease that this replica knows.
#[derive(Clone, Debug)]
pub(super) struct SeenLease {
    pub lease: Annotations,
    /// The version that the watch has reached. Reads may be ahead of it.
    pub watched: u64,
}

/// Receives the states of the Lease from its watch and from reads, and keeps the newest one.
#[derive(Clone)]
pub(super) struct LeaseView {
    pub probes: Probes,
    pub seen: watch::Sender<Option<SeenLease>>,
}

impl LeaseView {
    /// Records an event of the watch.
    pub fn show(&self, shown: LeaseEvent) {
        let (watched, lease) = match shown {
            LeaseEvent::Listed(lease) => (lease.version, lease),
            // A read may have been ahead of the watch.
            LeaseEvent::Changed(lease) if lease.version < self.known().version => {
                (lease.version, self.known())
            }
            LeaseEvent::Changed(lease) => (lease.version, lease),
        };
        self.see(SeenLease { lease, watched });
    }

    /// Records the result of a GET, unless a newer state is already known: the watch may be ahead of the GET.
    pub fn read(&self, lease: Annotations) {
        // A Lease that does not exist has no version.
        if lease.version == 0 || lease.version >= self.known().version {
            self.replace(lease);
        }
    }

    /// Records the result of a GET, whatever is known: after a restore of etcd, versions are lower.
    pub fn replace(&self, lease: Annotations) {
        let watched = self.seen.borrow().as_ref().map_or(0, |seen| seen.watched);
        self.see(SeenLease { lease, watched });
    }

    fn known(&self) -> Annotations {
        let seen = self.seen.borrow();
        seen.as_ref().map(|seen| seen.lease.clone()).unwrap_or_default()
    }

    fn see(&self, seen: SeenLease) {
        let now = self.probes.now();
        self.probes.hearing().lock().see(&seen.lease.values, now);
        self.seen.send_replace(Some(seen));
        self.probes.refresh();
    }
}
