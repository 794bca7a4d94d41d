//! Endpoints that lead back to the managed Service itself.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Endpoint, EndpointSlice, Family, ManagedService};

impl ManagedService {
    /// Whether traffic to an endpoint comes back to this Service, because its address is one of the Service's own.
    #[must_use]
    pub fn is_loop(&self, endpoint: &Endpoint) -> bool {
        endpoint
            .address()
            .is_some_and(|address| self.own_addresses.contains(&address))
    }

    /// The slices of its source without such endpoints, and their addresses. They stay in a family that has no other
    /// endpoint, because an empty copy would be worse.
    #[must_use]
    pub fn without_loops<'a>(
        &self,
        slices: &'a [Arc<EndpointSlice>],
    ) -> (Cow<'a, [Arc<EndpointSlice>]>, BTreeSet<IpAddr>) {
        let endpoints = |family: Option<Family>| {
            let of_family = slices
                .iter()
                .filter(move |slice| family.is_none_or(|family| slice.address_type == family.as_str()));
            of_family.flat_map(|slice| slice.endpoints.iter().flatten())
        };
        let loops = endpoints(None).filter(|endpoint| self.is_loop(endpoint));
        let loops: BTreeSet<_> = loops.filter_map(Endpoint::address).collect();
        if loops.is_empty() {
            return (Cow::Borrowed(slices), loops);
        }
        let remain = |slice: &EndpointSlice| {
            let family = Family::parse(&slice.address_type);
            family.is_some() && endpoints(family).any(|endpoint| !self.is_loop(endpoint))
        };
        let kept = slices.iter().map(|slice| {
            let mut slice = slice.clone();
            if slice
                .endpoints
                .iter()
                .flatten()
                .any(|endpoint| self.is_loop(endpoint))
                && remain(&slice)
            {
                let endpoints = Arc::make_mut(&mut slice).endpoints.iter_mut();
                endpoints.for_each(|endpoints| endpoints.retain(|endpoint| !self.is_loop(endpoint)));
            }
            slice
        });
        (Cow::Owned(kept.collect()), loops)
    }
}
