//! What the Go operator left: its slices stand beside ours, and kube-proxy would go on sending traffic
//! to what they list.

use crate::model::{EndpointSlice, ServiceKey, SliceKey, label, label_of};

/// Whether a slice is one that version 0.3 made: named exactly as the Service, with its source in a
/// label, without a controller in the managed-by label, and without an owner.
pub(super) fn is_slice(slice: &EndpointSlice, service: &ServiceKey) -> bool {
    SliceKey::of(&slice.metadata).0 == service.0
        && label_of(&slice.metadata, label::SOURCE).is_some()
        && label_of(&slice.metadata, label::MANAGED_BY).is_none()
        && slice.metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
}
