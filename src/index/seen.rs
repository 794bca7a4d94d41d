//! What a GET shows, beside the watches: it may be newer than they are, or older by the time it is read.

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Dirty, Index, bears_one_of};
use crate::model::{SliceKey, claims_to_be_ours};

/// Identity and version of a slice, or that there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceState(Option<(Option<String>, Option<String>)>);

impl Index {
    /// What is known of a slice, to tell later whether a watch has overtaken a GET.
    #[must_use]
    pub fn state(&self, key: &SliceKey) -> SliceState {
        let metadata = self.slice(key).map(|slice| &slice.metadata);
        SliceState(metadata.map(|metadata| (metadata.uid.clone(), metadata.resource_version.clone())))
    }

    /// A GET shows this slice, or that there is none of that name. `before`: what was known when it was
    /// sent. Answers the Services concerned, or `None` if a watch has shown something since: then nobody
    /// can say which of both is the latest.
    #[must_use]
    pub fn observe(
        &mut self,
        key: &SliceKey,
        before: &SliceState,
        slice: Option<EndpointSlice>,
    ) -> Option<Dirty> {
        let is_copy = slice.as_ref().is_some_and(claims_to_be_ours);
        // One that no watch shows is not kept: nobody would say when it is gone.
        let (copy, other) = match slice {
            Some(slice) if is_copy => (Some(slice), None),
            other => (
                None,
                other.filter(|slice| bears_one_of(&self.names_listed, slice)),
            ),
        };
        // Nor can a watch have passed it.
        let has_passed = copy.as_ref().is_some_and(|slice| self.copies.has_passed(slice))
            || other.as_ref().is_some_and(|slice| self.others.has_passed(slice));
        if has_passed || self.state(key) != *before {
            return None;
        }
        let (by_copy, by_other) = (self.copies.learn(key, copy), self.others.learn(key, other));
        let mut dirty = self.concerned_by_copies(&by_copy);
        dirty.extend(self.concerned_by_others(&by_other));
        Some(dirty)
    }
}
