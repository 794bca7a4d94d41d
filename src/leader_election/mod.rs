//! Leader election: replicas compete for the Lease, and the winner gets a [`term::Term`]. `LeaseLock` is the lock of
//! the `kube_leader_election` crate, and [`cas::LeaseCas`] is its client. The default times are in [`crate::timing`].
//!
//! ```text
//!   watch of the Lease ──> ObservedLease ──> may we try? ──> LeaseLock behind LeaseCas ──> Term
//!                             ^                               │
//!                             └── what its GET showed ────────┘
//! ```

use kube::Client;

pub mod cas;
mod elector;
pub mod known_version;
pub mod lease;
mod lock_error;
pub mod observed_lease;
mod observer;
pub mod presented_lease;
pub mod term;
pub mod validity;
pub mod view;
mod without_election;

pub use elector::LeaderElector;
pub use lease::Lease;
pub use observer::LeaseObserver;
pub use view::View;
pub use without_election::without_election;

/// The client and the identity with which a replica competes for the Lease.
#[derive(Clone)]
pub struct Candidacy {
    /// A separate client, so that other requests do not delay a renewal.
    pub client: Client,
    /// The namespace of the Lease.
    pub namespace: String,
    /// The `holderIdentity` of the Lease while this replica leads.
    pub identity: String,
}

#[cfg(test)]
mod tests;
