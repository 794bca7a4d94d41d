//! The decisions of [`super::cas`]: the Lease that the lock (`kube_leader_election::LeaseLock`) sees, and the version
//! that makes the lock's PATCH a compare-and-swap.
//!
//! This module is pure: it uses no clock and no async code. The model in `crates/testing/election-model` calls the same
//! functions as [`super::cas`].

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::lease::Lease;
use super::observed_lease::ObservedLease;
use endpoint_copier_core::model::version;

/// The Lease that the lock sees in the response to its GET. This Lease decides what the lock does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PresentedLease {
    /// There is no Lease, so the lock creates one.
    Absent,
    /// The Lease is ours, so the lock renews it.
    Ours,
    /// The Lease does not name us, and the candidate may take it, so the lock does.
    Free,
    /// Another replica holds the Lease, or may still hold or recreate it, so the lock does nothing.
    Held,
}

impl PresentedLease {
    /// Returns the Lease to present to the lock of the candidate `us`, given what the candidate knows after this
    /// response. `leads` says whether the candidate has a valid term. `overtaken` says whether the response was
    /// ignored, in which case the known state may differ from what was read.
    pub fn of(
        answer: Option<&Lease>,
        overtaken: bool,
        known: &ObservedLease,
        us: &str,
        default_duration: Duration,
        leads: bool,
        now: Instant,
    ) -> Self {
        let free = !overtaken && known.may_race(us, default_duration, leads, now);
        let Some(lease) = answer else {
            // A Lease that was deleted while it had a holder is presented as held until a candidate may try to take it.
            return if free { Self::Absent } else { Self::Held };
        };
        match lease.spec.holder_identity.as_deref() {
            Some(holder) if holder == us => Self::Ours,
            _ if free => Self::Free,
            _ => Self::Held,
        }
    }
}

/// The version of the Lease that a PATCH is based on. The API server applies the PATCH only to this version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadVersion {
    version: String,
    uid: String,
}

impl ReadVersion {
    /// Returns the version of this Lease, or `None` if the uid or the resourceVersion is missing. No API server has
    /// stored such a Lease, and a PATCH could not be bound to it.
    #[must_use]
    pub fn of(lease: &Lease) -> Option<Self> {
        let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        Some(Self {
            version: given(&lease.metadata.resource_version)?,
            uid: given(&lease.metadata.uid)?,
        })
    }

    /// Whether both versions belong to the same Lease, which was not deleted and recreated in between.
    pub(super) fn is_of_same(&self, other: &Self) -> bool {
        self.uid == other.uid
    }

    /// Whether this is a later version of the same Lease than `other`.
    pub(super) fn is_after(&self, other: &Self) -> bool {
        let versions = [self, other].map(|read_version| version(Some(&read_version.version)));
        self.is_of_same(other) && matches!(versions, [Some(ours), Some(theirs)] if ours > theirs)
    }

    /// Writes the version into the metadata of a PATCH, so that the API server rejects the PATCH if the Lease has
    /// changed.
    pub fn bind(&self, metadata: &mut serde_json::Map<String, Value>) {
        metadata.insert("resourceVersion".to_owned(), json!(self.version));
        metadata.insert("uid".to_owned(), json!(self.uid));
    }
}
