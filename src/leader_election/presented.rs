//! What the lock is shown, and the compare-and-swap that its PATCH becomes: the decisions of [`super::cas`].
//!
//! Pure: no clock, no async. The model in `crates/testing/election-model` calls the same functions as [`super::cas`].

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::lease::Lease;
use super::observed_lease::ObservedLease;
use endpoint_copier_core::model::version;

/// What the lock is to see in the answer to its GET, and so what it does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PresentedLease {
    /// No Lease: it makes one.
    Absent,
    /// Ours: it renews.
    Ours,
    /// Another's that has run out, or nobody's: it takes it.
    Free,
    /// Another's: it leaves it alone.
    Held,
}

impl PresentedLease {
    /// For the candidate `us`, with what it knows after it has seen this answer; `leads`: it has a valid term.
    /// `overtaken`: the answer was passed over, so what is known says nothing of what was read.
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
            // A Lease that was deleted under its holder is shown as if it were still there.
            return if free { Self::Absent } else { Self::Held };
        };
        match lease.spec.holder_identity.as_deref() {
            Some(holder) if holder == us => Self::Ours,
            _ if free => Self::Free,
            _ => Self::Held,
        }
    }
}

/// The Lease that a PATCH is meant for: the one that was read before, as it was then.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadVersion {
    version: String,
    uid: String,
}

impl ReadVersion {
    /// The version of this Lease. `None` if uid or resourceVersion is absent: then no API server has stored
    /// it, and a PATCH could not be bound to it.
    #[must_use]
    pub fn of(lease: &Lease) -> Option<Self> {
        let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        Some(Self {
            version: given(&lease.metadata.resource_version)?,
            uid: given(&lease.metadata.uid)?,
        })
    }

    /// Whether both are versions of the same Lease, not of one that was deleted and created again.
    pub(super) fn is_of_same(&self, other: &Self) -> bool {
        self.uid == other.uid
    }

    /// Whether it is a later version of the same Lease.
    pub(super) fn is_after(&self, other: &Self) -> bool {
        let versions = [self, other].map(|basis| version(Some(&basis.version)));
        self.is_of_same(other) && matches!(versions, [Some(ours), Some(theirs)] if ours > theirs)
    }

    /// Puts it into the metadata of a PATCH, so that the API server refuses it when the Lease has changed.
    pub fn bind(&self, metadata: &mut serde_json::Map<String, Value>) {
        metadata.insert("resourceVersion".to_owned(), json!(self.version));
        metadata.insert("uid".to_owned(), json!(self.uid));
    }
}
