//! The ports of copies whose source slice has no endpoints or is gone. A Service can have ports even if its slice lists
//! none, because Kubernetes keeps a slice without ports for a Service without Pods.

use std::collections::HashMap;

use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::ports::{LeftOut, named, ports, protocol};
use crate::model::{EndpointSlice, ManagedService, Source};

/// The ports of a copy whose source slice has no endpoints or is gone. The number of a named target port comes from the
/// slice if the slice lists the port, and otherwise from the copy. If the slice lists no ports, the ports of the copy
/// are permitted instead. Returns `None` if the Service has ports and all of them are left out.
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
/// ports of the copy are renamed to the target port's name.
fn known(service: &ManagedService, listed: &[EndpointPort], shown: &[EndpointPort]) -> Vec<EndpointPort> {
    let mut known = listed.to_vec();
    // If several ports have the same name and protocol, the first one wins.
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
