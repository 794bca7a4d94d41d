//! Support for clusters that used the Go operator, an earlier operator of the same name. Objects of the Go operator are
//! removed once our copies replace them, or if the Service follows an empty source, because otherwise kube-proxy would
//! keep sending traffic to the endpoints in slices of the Go operator. For a Service with `enabled: "false"`, they are
//! removed as well, because nothing else would remove them.
//!
//! - This module recognizes the slices that version 0.3 of the Go operator made.
//! - `controller::migration` of the operator removes the `Endpoints` objects that version 0.2 of the Go operator made.
//! - `cli::migration` of the operator accepts the flags of the Go operator.
//!
//! All three can be removed in release 1.0, together with `Plan::leftovers` and `Plan::removes_leftovers`, what
//! `inspect` shows of them, the `LegacyEndpoints` finding, and the chart value `rbac.goOperator`. The Lease, the
//! annotations and the other chart values stay, because this operator uses them too.

use crate::model::{EndpointSlice, ServiceKey, SliceKey, label, label_of};

/// Whether the Go operator made this slice for this Service: the slice has the name of the Service, a label that names
/// its source, no managed-by label, and no owner.
#[must_use]
pub fn is_leftover(slice: &EndpointSlice, service: &ServiceKey) -> bool {
    slice.key() == SliceKey::new(service.namespace(), service.name())
        && label_of(&slice.metadata, label::SOURCE).is_some()
        && label_of(&slice.metadata, label::MANAGED_BY).is_none()
        && slice.metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
}
