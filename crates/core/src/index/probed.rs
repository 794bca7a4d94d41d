//! The targets of probes: the addresses of API servers that copies show, and addresses of a second family that might
//! enter copies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointPort;

use super::{Index, Scope};
use crate::model::{EndpointSlice, Family, Kept, KnownNodes, ManagedService, Priority, ServiceKey, ports};
use crate::verdicts::{SUPERVISOR_PORT, Target};

/// Addresses and their ports.
type PortsByAddress = BTreeMap<IpAddr, BTreeSet<u16>>;

/// The maximum number of addresses that are probed in each family. No cluster is expected to have more API servers.
const MOST: usize = 16;

impl Index {
    /// The managed Services that copy the API source.
    pub fn api_server_services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.dependants(&ServiceKey::api_source())
    }

    /// A counter that grows with each change that can alter [`Index::needs_nodes`], [`Index::api_server_ports`],
    /// [`Index::probe_targets`] or [`Index::taken_out_addresses`].
    #[must_use]
    pub fn api_servers_changed(&self) -> u64 {
        self.api_servers_changed
    }

    /// The numbers of the API source's `https` port. Empty while the source lists no such port, for example, while it
    /// has no endpoints.
    #[must_use]
    pub fn api_server_ports(&self) -> BTreeSet<u16> {
        let is_https = |name: Option<&str>| name == Some("https");
        let slices = self.api_server_slices();
        slices.flat_map(|slice| slice.tcp_ports(is_https)).collect()
    }

    /// The addresses and ports to probe. They come from the copies of the API source, except copies for Services that
    /// the `endpoint-copier/probe` annotation exempts.
    ///
    /// - Each endpoint is probed at its first address only. If the source lists addresses of a family, and all its
    ///   slices can be decoded, only these addresses are probed in that family.
    /// - Of the ports of a copy, only those in `https` and the supervisor port are probed. The operator probes no other
    ///   source and no other port, because otherwise anyone who is allowed to write a Service could scan ports.
    /// - An address that Nodes provide for a second family is probed even before a copy shows it.
    /// - A target in `before` stays as long as the source lists it and copies should show it. Otherwise, the operator
    ///   would forget what it knows about the target when somebody deletes or edits a copy by hand.
    #[must_use]
    pub fn probe_targets(&self, https: &BTreeSet<u16>, before: &BTreeSet<Target>) -> BTreeSet<Target> {
        let is_probed = |port: &u16| *port == SUPERVISOR_PORT || https.contains(port);
        let add = |found: &mut PortsByAddress, more: PortsByAddress| {
            for (address, mut ports) in more {
                ports.retain(is_probed);
                found.entry(address).or_default().extend(ports);
            }
        };
        let (mut shown, mut coming, mut wanted) = (
            PortsByAddress::new(),
            PortsByAddress::new(),
            PortsByAddress::new(),
        );
        let mut trusted = BTreeSet::new();
        let services = self.api_server_services();
        let services = services.filter_map(|key| self.managed_service(key));
        for service in services.filter(|service| service.probed) {
            let of_source = self.wanted_by(service);
            let of_copies = self.shown_by(service, &of_source);
            if self.priority(&service.key) != Priority::Other {
                trusted.extend(of_copies.keys().copied());
            }
            add(&mut shown, of_copies);
            add(&mut wanted, of_source);
            add(&mut coming, self.second_family_of(service));
        }
        for target in before {
            let address = target.address();
            if wanted
                .get(&address)
                .is_some_and(|ports| ports.contains(&target.port()))
            {
                shown.entry(address).or_default().insert(target.port());
            }
        }
        let slices = self.api_server_slices();
        let listed: BTreeSet<_> = slices.flat_map(|slice| slice.addresses()).collect();
        if self.unreadable.of(&ServiceKey::api_source()).is_empty() {
            let families: BTreeSet<_> = listed.iter().map(|address| Family::of(*address)).collect();
            shown.retain(|address, _| listed.contains(address) || !families.contains(&Family::of(*address)));
        }
        // An address that only a copy shows could be forged, and an address that only a Node has might never be used.
        // Neither may displace an address that a copy shows and that the API servers or a Node confirm. Nor may a
        // forged address displace an address that only a Node has.
        let own = self.own_addresses_of_api_servers();
        let rank = |address: &IpAddr| match shown.contains_key(address) {
            true if own.contains(address) || coming.contains_key(address) => 0,
            true if trusted.contains(address) || listed.contains(address) => 1,
            false => 2,
            true => 3,
        };
        let new = coming.keys().filter(|address| !shown.contains_key(*address));
        let mut ranked: Vec<_> = shown.keys().chain(new).copied().collect();
        ranked.sort_by_key(rank);
        for (address, ports) in coming {
            shown.entry(address).or_default().extend(ports);
        }
        let of_family = |family| {
            let addresses = ranked
                .iter()
                .filter(move |address| Family::of(**address) == family);
            addresses.take(MOST)
        };
        let chosen = Family::ALL.into_iter().flat_map(of_family);
        chosen
            .flat_map(|address| {
                shown
                    .get(address)
                    .into_iter()
                    .flatten()
                    .map(|port| Target::new(*address, *port))
            })
            .collect()
    }

    /// The addresses that the copies of a Service show, with their TCP ports. If only an outline of a copy is in
    /// memory, it is assumed to show what the source lists, `of_source`.
    fn shown_by(&self, service: &ManagedService, of_source: &PortsByAddress) -> PortsByAddress {
        let mut shown = PortsByAddress::new();
        for copy in self.probed_copies(&service.key) {
            if matches!(copy.kept, Kept::Outline(_)) {
                for (address, ports) in of_source {
                    shown.entry(*address).or_default().extend(ports);
                }
            }
            let ports: Vec<_> = copy.tcp_ports(|_| true).collect();
            for address in copy.addresses() {
                shown.entry(address).or_default().extend(&ports);
            }
        }
        shown
    }

    /// The addresses that the copies of a Service should show because the source lists them, with their TCP ports.
    fn wanted_by(&self, service: &ManagedService) -> PortsByAddress {
        let mut wanted = PortsByAddress::new();
        if service.deleting {
            return wanted;
        }
        let source = ServiceKey::api_source();
        let permitted = self.grantors(&source).ports(service.key.namespace(), &source);
        let is_copied = |address: &IpAddr| {
            service.families.contains(&Family::of(*address)) && !service.own_addresses.contains(address)
        };
        for slice in self.api_server_slices() {
            let own = slice.ports.as_deref().unwrap_or_default();
            let ports = copied_ports(service, slice, permitted.for_slice(own));
            for address in slice.addresses().filter(is_copied) {
                wanted.entry(address).or_default().extend(&ports);
            }
        }
        wanted
    }

    /// The copies for a Service whose endpoints are probed. A copy that is being deleted is not probed, because it could
    /// be forged, and a finalizer could keep it alive.
    fn probed_copies<'a>(
        &'a self,
        service: &ServiceKey,
    ) -> impl Iterator<Item = &'a EndpointSlice> + use<'a> {
        let copies = self.copies.copies_for(service).map(AsRef::as_ref);
        copies.filter(|copy: &&EndpointSlice| copy.metadata.deletion_timestamp.is_none())
    }

    /// The addresses that copies of the API source show as taken out, which means not ready because of failed probes.
    #[must_use]
    pub fn taken_out_addresses(&self) -> BTreeSet<IpAddr> {
        let copies = self.api_server_services().flat_map(|key| self.probed_copies(key));
        copies.flat_map(EndpointSlice::unreachable).collect()
    }

    /// The addresses in the slice that has the same name as the API source. The API servers write this slice
    /// themselves, while users can add other slices.
    fn own_addresses_of_api_servers(&self) -> BTreeSet<IpAddr> {
        let source = ServiceKey::api_source();
        let is_own = |slice: &&Arc<EndpointSlice>| slice.metadata.name.as_deref() == Some(source.name());
        let slices = self.api_server_slices().filter(is_own);
        slices.flat_map(|slice| slice.addresses()).collect()
    }

    /// The addresses that Nodes provide for the families that the API source lacks, with the TCP ports of their copies.
    fn second_family_of(&self, service: &ManagedService) -> PortsByAddress {
        let mut found = PortsByAddress::new();
        let KnownNodes::Known(nodes) = self.known_nodes() else {
            return found;
        };
        let source = ServiceKey::api_source();
        let permitted = self.grantors(&source).ports(service.key.namespace(), &source);
        for &family in service
            .families
            .iter()
            .filter(|family| !self.lists_api_servers(**family))
        {
            let copies = self.copies.copies_for(&service.key);
            let shown: BTreeSet<_> = copies.flat_map(|copy| copy.addresses()).collect();
            let slices = self.api_server_slices();
            for slice in slices.filter(|slice| slice.address_type == family.other().as_str()) {
                let own = slice.ports.as_deref().unwrap_or_default();
                let ports = copied_ports(service, slice, permitted.for_slice(own));
                for listed in slice.addresses() {
                    if let Ok(address) = nodes.counterpart(listed, family, &service.own_addresses, &shown) {
                        found.entry(address).or_default().extend(&ports);
                    }
                }
            }
        }
        found
    }

    /// Counts a change to the slices of these Services if it concerns the API source or copies of it.
    pub(super) fn note_api_servers(&mut self, scope: &Scope, touched: &BTreeSet<ServiceKey>) {
        let source = ServiceKey::api_source();
        let concerns = match scope {
            Scope::Named(_) => touched.contains(&source),
            Scope::Copies => touched.iter().any(|key| self.is_used(&source, key)),
        };
        self.api_servers_changed += u64::from(concerns);
    }
}

/// The TCP ports of a copy of this slice.
fn copied_ports(
    service: &ManagedService,
    slice: &EndpointSlice,
    is_permitted: impl Fn(&EndpointPort) -> bool,
) -> Vec<u16> {
    let ports = ports::ports(
        &service.ports,
        slice.ports.as_deref().unwrap_or_default(),
        is_permitted,
        &mut ports::LeftOut::default(),
    );
    ports::tcp_numbers(&ports.unwrap_or_default(), |_| true).collect()
}
