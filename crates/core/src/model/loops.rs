//! Endpoints that lead back to the managed Service itself.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Endpoint, Family, ManagedService, SlicesByKey};

impl ManagedService {
    /// Removes from the slices of the source all endpoints whose address belongs to this Service itself, because
    /// traffic to them would loop back. In a family without other endpoints, such endpoints stay, because an empty copy
    /// would be worse. Returns the slices, and the addresses of all such endpoints, removed or not.
    #[must_use]
    pub fn without_loops<'a>(&self, slices: &'a SlicesByKey) -> (Cow<'a, SlicesByKey>, BTreeSet<IpAddr>) {
        let own: HashSet<_> = self.own_addresses.iter().copied().collect();
        let own_address = |endpoint: &Endpoint| endpoint.address().filter(|address| own.contains(address));
        let endpoints = slices.values().flat_map(|slice| slice.endpoints.iter().flatten());
        let loops: BTreeSet<_> = endpoints.filter_map(own_address).collect();
        if loops.is_empty() {
            return (Cow::Borrowed(slices), loops);
        }
        let has_another = |family: &Family| {
            let of_family = slices
                .values()
                .filter(|slice| slice.address_type == family.as_str());
            let mut endpoints = of_family.flat_map(|slice| slice.endpoints.iter().flatten());
            endpoints.any(|endpoint| own_address(endpoint).is_none())
        };
        let remaining: Vec<_> = Family::ALL.into_iter().filter(has_another).collect();
        let mut kept = slices.clone();
        for slice in kept.values_mut() {
            let remains =
                Family::parse(&slice.address_type).is_some_and(|family| remaining.contains(&family));
            let mut endpoints = slice.endpoints.iter().flatten();
            if remains && endpoints.any(|endpoint| own_address(endpoint).is_some()) {
                let endpoints = Arc::make_mut(slice).endpoints.iter_mut();
                endpoints.for_each(|endpoints| endpoints.retain(|endpoint| own_address(endpoint).is_none()));
            }
        }
        (Cow::Owned(kept), loops)
    }
}
