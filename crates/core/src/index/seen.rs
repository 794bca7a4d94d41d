//! What a GET shows, beside the watches: it may be newer than they are, or older by the time it is read.

use std::sync::Arc;

use super::{Dirty, Index, Scope, Slices, bears_one_of};
use crate::model::{EndpointSlice, ObjectMeta, SliceKey, version_of};

/// Identity and version of a slice, or that there is none; and how many others had gone by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceState {
    known: Option<(Option<String>, Option<String>)>,
    /// The version at which it was seen unreadable, if it is; 0 if not even that can be read.
    unreadable: Option<u64>,
    removals: u64,
}

impl Index {
    /// What is known of a slice, to tell later whether a watch has overtaken a GET.
    #[must_use]
    pub fn state(&self, key: &SliceKey) -> SliceState {
        let metadata = self.slice(key).map(|slice| &slice.metadata);
        SliceState {
            known: metadata.map(|metadata| (metadata.uid.clone(), metadata.resource_version.clone())),
            unreadable: self.unreadable.get(key).map(|slice| slice.version.unwrap_or(0)),
            removals: self.copies.removals() + self.others.removals() + self.unreadable.removals,
        }
    }

    /// A GET shows this slice, or that there is none of that name. `before`: what was known when it was
    /// sent. Answers the Services concerned, or `None` if a watch has shown something since: then nobody
    /// can say which of both is the latest. Otherwise it is the GET, even where it shows an older version:
    /// that is how an etcd restored from a backup looks.
    #[must_use]
    pub fn observe(
        &mut self,
        key: &SliceKey,
        before: &SliceState,
        slice: Option<EndpointSlice>,
    ) -> Option<Dirty> {
        let is_gone = slice.is_none();
        let is_copy = slice.as_ref().is_some_and(EndpointSlice::is_labelled_as_copy);
        // One that no watch shows is not kept: nobody would say when it is gone.
        let (copy, other) = match slice {
            Some(slice) if is_copy => (Some(slice), None),
            other => (
                None,
                other.filter(|slice| bears_one_of(&self.names_listed, slice)),
            ),
        };
        let now = self.state(key);
        // Unknown then and now, but it may have come and gone meanwhile.
        let may_be_gone = now.known.is_none() && (copy.is_some() || other.is_some());
        let is_overtaken = (&now.known, now.unreadable) != (&before.known, before.unreadable);
        if is_overtaken || may_be_gone && now.removals != before.removals {
            return None;
        }
        let mut dirty = Dirty::new();
        for service in self.unreadable.remove(key) {
            dirty.extend(self.concerned(&Scope::Copies, &[service].into()));
        }
        let learn = |slices: &mut Slices, slice: Option<EndpointSlice>| match slice {
            Some(slice) => slices.insert(slice),
            None if is_gone => slices.remove_for_good(key),
            None => slices.remove(key),
        };
        let (by_copy, by_other) = (learn(&mut self.copies, copy), learn(&mut self.others, other));
        dirty.extend(self.concerned(&Scope::Copies, &by_copy));
        dirty.extend(self.concerned(&Scope::Named(Arc::default()), &by_other));
        Some(dirty)
    }

    /// Whether a state of a slice is older than the latest one known. If that is unreadable, the last readable state does
    /// not count: its version is higher if etcd was restored from a backup between the two.
    pub(super) fn knows_newer_slice(&self, scope: &Scope, metadata: &ObjectMeta) -> bool {
        let key = SliceKey::of(metadata);
        let known = match self.unreadable.shown_by(scope, &key) {
            Some(unreadable) => unreadable.version,
            None => self
                .slices(scope)
                .get(&key)
                .and_then(|slice| version_of(&slice.metadata)),
        };
        // A slice that was recreated is never older. If versions cannot be compared, the latest event wins.
        known
            .zip(version_of(metadata))
            .is_some_and(|(known, new)| known > new)
    }
}
