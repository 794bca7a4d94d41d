//! The results of applying a plan: writes, expectations of the watch, and failures.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use endpoint_copier_core::model::{EndpointSlice, Operation, SliceKey, version_of};

use crate::controller::error::SyncError;

/// A state of a slice that the watch will show, for example after a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The slice at this resourceVersion or a newer one.
    Version(u64),
    /// A state newer than this version, or no slice.
    NewerThan(u64),
    /// Any slice with the name of the copy.
    Exists,
    /// Any state except a slice with this UID.
    Gone(String),
}

impl Expectation {
    /// Whether the watch shows the expected state or a later one. `slice` is what the watch shows.
    #[must_use]
    pub fn is_fulfilled(&self, slice: Option<&EndpointSlice>) -> bool {
        let version = slice.and_then(|slice| version_of(&slice.metadata));
        match self {
            Self::Version(written) => version.is_some_and(|version| version >= *written),
            Self::NewerThan(seen) => slice.is_none() || version.is_some_and(|version| version > *seen),
            Self::Exists => slice.is_some(),
            Self::Gone(uid) => slice.is_none_or(|slice| slice.metadata.uid.as_ref() != Some(uid)),
        }
    }
}

/// The results of applying a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// The numbers of successful creates, updates and deletes.
    pub by_operation: [usize; 3],
    /// The states that the watch must show before the next plan.
    pub expectations: Vec<(SliceKey, Expectation)>,
    /// Writes that failed.
    pub failures: Vec<SyncError>,
    /// Whether one of the failures is not a refusal.
    has_failed: bool,
    /// Whether an overloaded API server caused one of the failures.
    is_overloaded: bool,
    /// Whether repairs of contested copies are left for later.
    pub leaves_repairs: bool,
    /// Addresses that successful writes took out of the copies (marked as not ready), and why.
    pub taken_out: BTreeMap<IpAddr, String>,
    /// Addresses that successful writes put back.
    pub returned: BTreeSet<IpAddr>,
}

impl Applied {
    /// Records which of the addresses in `taken_out` and `returned` a written copy takes out or puts back.
    pub(super) fn written(
        &mut self,
        copy: &EndpointSlice,
        taken_out: &BTreeMap<IpAddr, String>,
        returned: &BTreeSet<IpAddr>,
    ) {
        for address in copy.unreachable() {
            if let Some(why) = taken_out.get(&address) {
                self.taken_out.insert(address, why.clone());
            }
        }
        if !returned.is_empty() {
            let addresses = copy.addresses();
            self.returned
                .extend(addresses.filter(|address| returned.contains(address)));
        }
    }

    /// Records a write that failed.
    pub(super) fn fail(&mut self, error: SyncError) {
        self.has_failed |= !error.is_refusal();
        self.is_overloaded |= error.is_overload();
        self.failures.push(error);
    }

    /// Whether something was written.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.by_operation != [0; 3]
    }

    /// Whether a copy was created.
    #[must_use]
    pub fn has_created(&self) -> bool {
        self.by_operation[Operation::Create as usize] > 0
    }

    /// Whether nothing was written and nothing failed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_written() && self.failures.is_empty()
    }

    /// Whether a write has failed for a reason other than a refusal. A refused write does not count, because a retry
    /// would probably be refused too.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether an overloaded API server has rejected a write.
    pub(super) fn is_overloaded(&self) -> bool {
        self.is_overloaded
    }
}
