//! Validates objects: the server rejects invalid ones with 422. Each kind with its own rules has a submodule, and the
//! `metadata` rules apply to all kinds except the `v1` Event.

mod endpoints;
mod event;
mod lease;
mod metadata;
mod service;
mod slice;

use crate::{
    field::FieldError,
    kinds::{Kind, Storage},
    names,
};
use serde_json::Value;

pub use service::SUPPORTED_PROTOCOLS;

/// All errors in an object in its stored form. `old` is the object that it replaces. If `loopback`, slices may list
/// loopback addresses.
#[must_use]
pub fn object(kind: &Kind, new: &Value, old: Option<&Value>, loopback: bool) -> Vec<FieldError> {
    let name_rule = match kind.storage {
        Storage::Service | Storage::Namespace => names::dns_label,
        _ => names::dns_subdomain,
    };
    // The core API does not validate the metadata of Events. Only `events.k8s.io` does.
    let mut errors = if kind.storage == Storage::Event && kind.group.is_empty() {
        Vec::new()
    } else {
        metadata::check(new, old, name_rule)
    };
    errors.extend(match kind.storage {
        Storage::Service => service::check(new, old),
        Storage::EndpointSlice => slice::check(new, old, loopback),
        Storage::Lease => lease::check(new),
        Storage::Event => event::check(kind, new, old),
        Storage::Endpoints => endpoints::check(new),
        Storage::Namespace
        | Storage::ServiceAccount
        | Storage::Node
        | Storage::ReferenceGrant
        | Storage::Review => Vec::new(),
    });
    errors
}

/// The error `field is immutable` if the values differ.
fn immutable(field: &str, new: &Value, old: &Value) -> Option<FieldError> {
    (new != old).then(|| FieldError::invalid(field, new, "field is immutable"))
}

fn complaints(field: &str, value: &Value, texts: Vec<String>) -> Vec<FieldError> {
    texts
        .into_iter()
        .map(|text| FieldError::invalid(field, value, text))
        .collect()
}
