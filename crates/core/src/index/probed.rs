//! The targets of probes: the API servers that copies show.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Index, Scope};
use crate::model::{Endpoint, ServiceKey};
use crate::verdicts::{SUPERVISOR_PORT, Target};

/// The highest number of addresses of a family that are probed. No cluster has as many API servers.
const MOST: usize = 16;

impl Index {
    /// The managed Services that copy the API source.
    pub fn api_server_services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.dependants(&ServiceKey::api_source())
    }

    /// A counter that grows with each change that may alter [`Index::api_server_ports`] or [`Index::probe_targets`].
    #[must_use]
    pub fn api_servers_changed(&self) -> u64 {
        self.api_servers_changed
    }

    /// The numbers of the API source's port `https`. Empty while the source shows no such port, for example while it is
    /// empty.
    #[must_use]
    pub fn api_server_ports(&self) -> BTreeSet<u16> {
        let source = ServiceKey::api_source();
        let slices = self.others.of(&source).filter(|slice| slice.belongs_to(&source));
        let is_https = |name: Option<&str>| name == Some("https");
        slices.flat_map(|slice| slice.tcp_ports(is_https)).collect()
    }

    /// The addresses and ports of the copies of the API source, without Services that exempt themselves: the first
    /// address of each endpoint, with each port that is in `https` or is the supervisor's. No other source and no other
    /// port is probed. Otherwise anyone who may write a Service could scan ports.
    #[must_use]
    pub fn probe_targets(&self, https: &BTreeSet<u16>) -> BTreeSet<Target> {
        let is_probed = |key: &&ServiceKey| {
            let known = self.services.get(key);
            known
                .and_then(|known| known.managed.as_ref())
                .is_some_and(|service| service.probed)
        };
        let mut found: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
        for key in self.api_server_services().filter(is_probed) {
            for copy in self.copies.of(key).filter(|copy| copy.is_copy_for(key)) {
                let mut ports: Vec<_> = copy.tcp_ports(|_| true).collect();
                ports.retain(|port| *port == SUPERVISOR_PORT || https.contains(port));
                let addresses = copy.endpoints.iter().flatten();
                let addresses = addresses.filter_map(Endpoint::address);
                for address in addresses {
                    found.entry(address).or_default().extend(&ports);
                }
            }
        }
        let (v4, v6): (Vec<_>, Vec<_>) = found.into_iter().partition(|(address, _)| address.is_ipv4());
        let most = v4.into_iter().take(MOST).chain(v6.into_iter().take(MOST));
        most.flat_map(|(address, ports)| ports.into_iter().map(move |port| Target::new(address, port)))
            .collect()
    }

    /// Counts a change of slices of these Services.
    pub(super) fn note_api_servers(&mut self, scope: &Scope, touched: &BTreeSet<ServiceKey>) {
        let source = ServiceKey::api_source();
        let concerns = match scope {
            Scope::Named(_) => touched.contains(&source),
            Scope::Copies => touched
                .iter()
                .any(|key| self.uses.contains(&(source.clone(), key.clone()))),
        };
        self.api_servers_changed += u64::from(concerns);
    }
}
