//! The ports of copies whose source slice has no endpoints or is gone. A slice that lists no ports does not mean that
//! its Service has none: Kubernetes keeps such a slice for a Service without Pods.

use std::collections::HashMap;

use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::ports::{LeftOut, named, ports, protocol};
use crate::model::{EndpointSlice, ManagedService, Source};

/// The ports of a copy whose source slice has no endpoints or is gone. The number of a named target port comes from the
/// slice if the slice lists the port, and otherwise from the copy. If the slice lists no ports, those of the copy are
/// permitted instead of those of the slice. `None` if the Service has ports and all of them are left out.
pub(super) fn of_copy(
    service: &ManagedService,
    source: &Source,
    slice: Option<&EndpointSlice>,
    current: &EndpointSlice,
    left_out: &mut LeftOut,
) -> Option<Vec<EndpointPort>> {
    let shown = current.ports.as_deref().unwrap_or_default();
    let listed = slice.and_then(|slice| slice.ports.as_deref()).unwrap_or_default();
    let permitted = if listed.is_empty() { shown } else { listed };
    let is_permitted = source.ports.for_slice(permitted);
    ports(
        &service.ports,
        &known(service, listed, shown),
        is_permitted,
        left_out,
    )
}

/// The ports that a slice lists, followed by the ports of its copy whose target port in the Service is a name. The
/// ports of the copy get that name.
fn known(service: &ManagedService, listed: &[EndpointPort], shown: &[EndpointPort]) -> Vec<EndpointPort> {
    let mut known = listed.to_vec();
    // If several ports have the same name and protocol, the first one counts.
    let shown: HashMap<_, _> = shown.iter().rev().map(|port| (named(port), port)).collect();
    for port in &service.ports {
        let Some(IntOrString::String(target)) = &port.target_port else {
            continue;
        };
        let name = port.name.as_deref().unwrap_or_default();
        let shown = shown.get(&(name, protocol(port.protocol.as_deref())));
        known.extend(shown.map(|shown| EndpointPort {
            name: Some(target.clone()),
            ..(*shown).clone()
        }));
    }
    known
}
