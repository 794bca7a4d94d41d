//! Which ports a copy may have.

use std::collections::BTreeSet;

use k8s_openapi::api::discovery::v1::EndpointPort;

use super::super::ports::protocol;

/// The ports that copies of a source may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PermittedPorts {
    /// Any port, because the source is in the namespace of the copies.
    Any,
    /// The ports of the source slice, and these TCP ports. With any port, a Service could expose the kubelet of a
    /// control-plane node.
    OfSlice(BTreeSet<u16>),
}

impl PermittedPorts {
    /// Whether a copy of a slice with these ports may have this one.
    #[must_use]
    pub fn contain(&self, port: &EndpointPort, slice: &[EndpointPort]) -> bool {
        let Self::OfSlice(others) = self else {
            return true;
        };
        let wanted = protocol(port.protocol.as_deref());
        let is_it =
            |other: &EndpointPort| other.port == port.port && protocol(other.protocol.as_deref()) == wanted;
        let number = port.port.and_then(|number| u16::try_from(number).ok());
        let is_allowed = wanted == "TCP" && number.is_some_and(|number| others.contains(&number));
        is_allowed || slice.iter().any(is_it)
    }
}
