//! Applies the results of GETs to the index. A GET can be newer than the watches, or outdated when its response
//! arrives.

use std::sync::Arc;

use super::{Dirty, Index, Scope, Slices, belongs_to_any_of};
use crate::model::{EndpointSlice, ObjectMeta, SliceKey, version_of};

/// The identity and version of a slice, or its absence, and the number of slices removed so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceState {
    known: Option<(Option<String>, Option<String>)>,
    /// The version of the slice if it is unreadable, or 0 if the version cannot be read either.
    unreadable: Option<u64>,
    removals: u64,
}

impl Index {
    /// The known state of a slice, to detect later whether a watch has overtaken a GET.
    #[must_use]
    pub fn state(&self, key: &SliceKey) -> SliceState {
        let metadata = self.slice(key).map(|slice| &slice.metadata);
        SliceState {
            known: metadata.map(|metadata| (metadata.uid.clone(), metadata.resource_version.clone())),
            unreadable: self.unreadable.get(key).map(|slice| slice.version.unwrap_or(0)),
            removals: self.copies.removals() + self.others.removals() + self.unreadable.removals,
        }
    }

    /// Records the result of a GET: this slice, or `None` if no slice has this name. `before` is the state known when
    /// the GET was sent. Returns the affected Services, or `None` if a watch has shown a change since the GET was sent,
    /// because it is unknown whether the change or the GET is newer. Without such a change, the GET is treated as newer
    /// even if it shows an older version, as it does after etcd was restored from a backup.
    #[must_use]
    pub fn observe(
        &mut self,
        key: &SliceKey,
        before: &SliceState,
        slice: Option<EndpointSlice>,
    ) -> Option<Dirty> {
        let is_gone = slice.is_none();
        let is_copy = slice.as_ref().is_some_and(EndpointSlice::is_labeled_as_copy);
        // A slice that no watch covers is not kept, because no watch would report its deletion.
        let (copy, other) = match slice {
            Some(slice) if is_copy => (Some(slice), None),
            other => (
                None,
                other.filter(|slice| belongs_to_any_of(&self.names_listed, slice)),
            ),
        };
        let now = self.state(key);
        // The slice was unknown before and is unknown now, but it could have been created and deleted in between.
        let may_be_gone = now.known.is_none() && (copy.is_some() || other.is_some());
        let is_overtaken = (&now.known, now.unreadable) != (&before.known, before.unreadable);
        if is_overtaken || may_be_gone && now.removals != before.removals {
            return None;
        }
        let (copy, other) = (
            copy.map(|slice| self.abridged(slice)),
            other.map(|slice| self.abridged(slice)),
        );
        let mut dirty = Dirty::new();
        for service in self.unreadable.remove(key) {
            dirty.extend(self.concerned(&Scope::Copies, &[service].into()));
        }
        let learn = |slices: &mut Slices, slice: Option<EndpointSlice>| match slice {
            Some(slice) => slices.insert(slice),
            None if is_gone => slices.remove_for_good(key),
            None => slices.remove(key),
        };
        let named = Scope::Named(Arc::default());
        let by_copy = self.change(&Scope::Copies, key, |slices| learn(slices, copy));
        let by_other = self.change(&named, key, |slices| learn(slices, other));
        dirty.extend(self.concerned(&Scope::Copies, &by_copy));
        dirty.extend(self.concerned(&named, &by_other));
        Some(dirty)
    }

    /// Whether a state of a slice is older than the latest one known. If the latest state is unreadable, the last
    /// readable state is ignored, because its version can be higher if etcd was restored from a backup in between.
    pub(super) fn knows_newer_slice(&self, scope: &Scope, metadata: &ObjectMeta) -> bool {
        let key = SliceKey::of(metadata);
        let known = match self.unreadable.shown_by(scope, &key) {
            Some(unreadable) => unreadable.version,
            None => self
                .slices(scope)
                .get(&key)
                .and_then(|slice| version_of(&slice.metadata)),
        };
        // A slice that was recreated never has a lower version. If versions cannot be compared, the latest event wins.
        known
            .zip(version_of(metadata))
            .is_some_and(|(known, new)| known > new)
    }
}
