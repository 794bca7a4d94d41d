//! Questions about sources: which are in use, whether the watches of them are behind, and what addresses they show.

use std::collections::{BTreeMap, BTreeSet};

use super::{Index, bears_one_of};
use crate::model::{ServiceKey, SliceKey, service_of, version_of};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// What a consistent list of slices showed.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The namespace that was listed; `None`: all.
    pub namespace: Option<String>,
    /// The Services whose slices were listed.
    pub names: BTreeSet<String>,
    /// The resourceVersion of the list.
    pub version: Option<u64>,
    /// UID and resourceVersion of each slice.
    pub slices: BTreeMap<SliceKey, (Option<String>, Option<u64>)>,
}

impl Listing {
    /// Adds a slice that is on the list.
    pub fn add(&mut self, metadata: &ObjectMeta) {
        let state = (metadata.uid.clone(), version_of(metadata));
        self.slices.insert(SliceKey::of(metadata), state);
    }

    fn covers(&self, slice: &EndpointSlice) -> bool {
        let namespace = slice.metadata.namespace.as_ref();
        self.namespace
            .as_ref()
            .is_none_or(|wanted| Some(wanted) == namespace)
            && bears_one_of(&self.names, slice)
    }
}

impl Index {
    /// Slices of Services of this name matter even while nobody uses them as a source.
    pub fn always_watch(&mut self, name: &str) {
        self.always.insert(name.to_owned());
    }

    /// The sources in use that have been listed: names by namespace.
    #[must_use]
    pub fn sources(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut sources: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let listed = |source: &&ServiceKey| self.names_listed.contains(source.name());
        for source in self.dependants.keys().filter(listed) {
            let names = sources.entry(source.namespace().to_owned()).or_default();
            names.insert(source.name().to_owned());
        }
        sources
    }

    /// Whether the watches show all that a list showed, or what came after it.
    #[must_use]
    pub fn shows(&self, listing: &Listing) -> bool {
        let passed = listing
            .version
            .is_some_and(|version| self.others.newest() > version);
        let shown =
            |(key, (uid, version)): (&SliceKey, &(Option<String>, Option<u64>))| match self.others.get(key) {
                Some(slice) if version.is_some() => version_of(&slice.metadata) >= *version,
                Some(slice) => slice.metadata.uid == *uid,
                // It may be gone again; then a watch has shown something since.
                None => passed,
            };
        let gone = |slice: &EndpointSlice| {
            listing.covers(slice)
                && !listing.slices.contains_key(&SliceKey::of(&slice.metadata))
                && version_of(&slice.metadata) <= listing.version
        };
        listing.slices.iter().all(shown) && self.others.keys_where(gone).is_empty()
    }

    /// Addresses and port number of the ready endpoints of a Service, by the port's name.
    #[must_use]
    pub fn addresses_of(&self, service: &ServiceKey, port: &str) -> BTreeSet<(String, u16)> {
        let slices = self
            .others
            .of(service)
            .filter(|slice| service_of(slice).as_ref() == Some(service) && slice.address_type != "FQDN");
        let mut addresses = BTreeSet::new();
        for slice in slices {
            let ports = slice.ports.iter().flatten();
            let number = ports
                .filter(|other| other.name.as_deref() == Some(port))
                .find_map(|port| u16::try_from(port.port?).ok());
            let Some(number) = number else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let conditions = endpoint.conditions.as_ref();
                if conditions.and_then(|conditions| conditions.ready) != Some(false) {
                    let all = endpoint.addresses.iter().cloned();
                    addresses.extend(all.map(|address| (address, number)));
                }
            }
        }
        addresses
    }
}
