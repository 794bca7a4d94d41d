//! The ports that a copy may have.

use std::collections::{BTreeSet, HashSet};

use k8s_openapi::api::discovery::v1::EndpointPort;

use super::super::ports::protocol;

/// The ports that copies of a source may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PermittedPorts {
    /// Any port, because the source is in the namespace of the copies.
    Any,
    /// The ports of the source slice, and these TCP ports. If any port were permitted, a Service could expose the
    /// kubelet of a control-plane node.
    OfSlice(BTreeSet<u16>),
}

impl PermittedPorts {
    /// Returns a predicate that decides whether a copy of a slice with these ports may have a given port.
    pub fn for_slice<'a>(&'a self, slice: &'a [EndpointPort]) -> impl Fn(&EndpointPort) -> bool {
        let of_slice: HashSet<_> = slice.iter().map(number_and_protocol).collect();
        move |port| {
            let Self::OfSlice(others) = self else {
                return true;
            };
            let wanted = number_and_protocol(port);
            let tcp = port.port.filter(|_| wanted.1 == "TCP");
            let tcp = tcp.and_then(|number| u16::try_from(number).ok());
            let is_allowed = tcp.is_some_and(|number| others.contains(&number));
            is_allowed || of_slice.contains(&wanted)
        }
    }
}

fn number_and_protocol(port: &EndpointPort) -> (Option<i32>, &str) {
    (port.port, protocol(port.protocol.as_deref()))
}
