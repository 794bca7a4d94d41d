//! Everything that exists only for clusters on which the Go operator ran. Its objects are removed once our copies
//! exist, because otherwise kube-proxy would keep sending traffic to the endpoints in its slices. Those of a Service
//! with `enabled: "false"` are removed too, because nothing else would do it.
//!
//! - This module knows which slices the Go operator made. Version 0.3 made them.
//! - `controller::migration` of the operator removes the `Endpoints` objects that version 0.2 made.
//! - `cli::migration` of the operator accepts its flags.
//!
//! All three may be removed in release 1.0, with `Plan::leftovers` and the finding `LegacyEndpoints`. The Lease, the
//! annotations and the chart values stay, because this operator uses them too.

use crate::model::{EndpointSlice, ServiceKey, SliceKey, label, label_of};

/// Whether the Go operator made a slice for a Service: its name is that of the Service, a label names its source, its
/// managed-by label names no controller, and it has no owner.
#[must_use]
pub fn is_leftover(slice: &EndpointSlice, service: &ServiceKey) -> bool {
    slice.key() == SliceKey::new(service.namespace(), service.name())
        && label_of(&slice.metadata, label::SOURCE).is_some()
        && label_of(&slice.metadata, label::MANAGED_BY).is_none()
        && slice.metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
}
