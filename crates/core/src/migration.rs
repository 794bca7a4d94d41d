//! The door to everything that exists only for clusters on which the Go operator ran: what it left is removed once our
//! copies are there, since kube-proxy would go on sending traffic to what its slices list.
//!
//! - Here: which slices are its own. Version 0.3 made them.
//! - `controller::migration` of the operator removes the `Endpoints` objects that version 0.2 made.
//! - `cli::migration` of the operator accepts its flags.
//!
//! All three may be removed in release 1.0, with `Plan::leftovers` and the finding `LegacyEndpoints`. The Lease, the
//! annotations and the chart values stay: they are ours.

use crate::model::{EndpointSlice, ServiceKey, SliceKey, label, label_of};

/// Whether the Go operator made a slice for a Service: named exactly as the Service, with its source in a label, without a
/// controller in the managed-by label, and without an owner.
#[must_use]
pub fn is_leftover(slice: &EndpointSlice, service: &ServiceKey) -> bool {
    SliceKey::of(&slice.metadata) == SliceKey::new(service.namespace(), service.name())
        && label_of(&slice.metadata, label::SOURCE).is_some()
        && label_of(&slice.metadata, label::MANAGED_BY).is_none()
        && slice.metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
}
