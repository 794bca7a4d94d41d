//! Queries about sources: the names to watch, the sources in use, the priority of copies, whether the watches are
//! behind, and the addresses that sources have.

use std::collections::{BTreeMap, BTreeSet};

use super::{Index, belongs_to_any_of};
use crate::model::{EndpointSlice, ObjectMeta, Priority, ServiceKey, SliceKey, label, label_of, version_of};

/// The content of a consistent list of slices.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The namespace that was listed.
    pub namespace: String,
    /// The Services whose slices were listed.
    pub names: BTreeSet<String>,
    /// The resourceVersion of the list.
    pub version: Option<u64>,
    slices: BTreeMap<SliceKey, ListedSlice>,
    /// The number of slices that the watches had removed when the request was sent.
    removals: u64,
}

/// One slice on the list.
#[derive(Clone, Debug)]
struct ListedSlice {
    /// The name of its Service.
    service: Option<String>,
    uid: Option<String>,
    version: Option<u64>,
}

impl Listing {
    /// Adds a slice of the list.
    pub fn add(&mut self, metadata: &ObjectMeta) {
        let listed = ListedSlice {
            service: label_of(metadata, label::SERVICE_NAME).map(str::to_owned),
            uid: metadata.uid.clone(),
            version: version_of(metadata),
        };
        self.slices.insert(SliceKey::of(metadata), listed);
    }

    fn covers(&self, slice: &EndpointSlice) -> bool {
        slice.metadata.namespace.as_ref() == Some(&self.namespace) && belongs_to_any_of(&self.names, slice)
    }
}

/// A party that needs the slices of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requester {
    /// The managed Service that the flags name.
    Flagged,
    /// The other managed Services of a namespace.
    Namespace(String),
}

/// Names of the Services whose slices are needed, by requester.
pub type NamesByRequester = BTreeMap<Requester, BTreeSet<String>>;

impl Index {
    /// The names of the managed Services that get copies, of the sources that they use, and of disabled Services, for
    /// which the Go operator might have left slices behind.
    #[must_use]
    pub fn names_by_requester(&self) -> NamesByRequester {
        let mut names = NamesByRequester::new();
        for service in self.admitted() {
            let requester = match self.priority(&service.key) {
                Priority::Flagged => Requester::Flagged,
                Priority::ApiServers | Priority::Other => {
                    Requester::Namespace(service.key.namespace().to_owned())
                }
            };
            let names = names.entry(requester).or_default();
            names.insert(service.key.name().to_owned());
            let source = service
                .source()
                .filter(|source| self.is_used(source, &service.key));
            names.extend(source.map(|source| source.name().to_owned()));
        }
        names
    }

    /// The names of Services whose slices matter: the sources in use, the managed Services that get copies, disabled
    /// Services, and the names that are always watched.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        let managed = self.admitted().map(|service| service.key.name());
        let sources = self.uses.iter().map(|(source, _)| source.name());
        let always = self.always.iter().map(String::as_str);
        managed.chain(sources).chain(always).map(str::to_owned).collect()
    }

    /// From now on, slices of Services with this name matter, even while no managed Service uses one of them as its
    /// source.
    pub fn always_watch(&mut self, name: &str) {
        self.always.insert(name.to_owned());
    }

    /// The names that do not change while the process runs: those from the flags and those that are always watched.
    #[must_use]
    pub fn pinned_names(&self) -> BTreeSet<String> {
        let by_flag = [&self.defaults.source].into_iter().chain(&self.defaults.managed);
        let names = by_flag.map(|service| service.name().to_owned());
        names.chain(self.always.iter().cloned()).collect()
    }

    /// How urgent the copies of a Service are.
    #[must_use]
    pub fn priority(&self, key: &ServiceKey) -> Priority {
        let source = ServiceKey::api_source();
        if self.defaults.managed.as_ref() == Some(key) {
            Priority::Flagged
        } else if key.namespace() == source.namespace() && self.is_used(&source, key) {
            Priority::ApiServers
        } else {
            Priority::Other
        }
    }

    /// The sources in use that have been listed: names by namespace. A namespace is omitted if it contains neither the
    /// Service nor a slice of any of these sources, because a user who may edit a Service can name any number of
    /// namespaces.
    #[must_use]
    pub fn sources(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut sources: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let used = self.uses.iter().map(|(source, _)| source);
        for source in used.filter(|source| self.names_listed.contains(source.name())) {
            let names = sources.entry(source.namespace().to_owned()).or_default();
            names.insert(source.name().to_owned());
        }
        let exists = |source: &ServiceKey| self.services.contains_key(source) || self.others.has_any(source);
        sources.retain(|namespace, names| {
            let mut sources = names
                .iter()
                .map(|name| ServiceKey::new(namespace.as_str(), name.as_str()));
            sources.any(|source| exists(&source))
        });
        sources
    }

    /// Starts a record of a list of slices that is about to be requested.
    #[must_use]
    pub fn listing(&self, namespace: String, names: BTreeSet<String>) -> Listing {
        Listing {
            namespace,
            names,
            version: None,
            slices: BTreeMap::new(),
            removals: self.others.removals(),
        }
    }

    /// Whether the watches show every slice that was on a list, in the same state or a newer one, and no longer show
    /// older slices that were not on the list.
    #[must_use]
    pub fn shows(&self, listing: &Listing) -> bool {
        let may_be_gone = self.others.removals() != listing.removals;
        // The watches could have dropped a name since the request was sent.
        let is_watched = |listed: &ListedSlice| {
            let service = listed.service.as_ref();
            service.is_some_and(|service| self.names_listed.contains(service))
        };
        let mut watched = listing.slices.iter().filter(|(_, listed)| is_watched(listed));
        let are_shown = watched.all(|(key, listed)| match self.others.get(key) {
            _ if self.unreadable.has_seen(key, listed.version) => true,
            Some(slice) if listed.version.is_some() => version_of(&slice.metadata) >= listed.version,
            Some(slice) => slice.metadata.uid == listed.uid,
            None => may_be_gone,
        });
        let gone = |key: &SliceKey, slice: &EndpointSlice| {
            listing.covers(slice)
                && !listing.slices.contains_key(key)
                && version_of(&slice.metadata) <= listing.version
        };
        are_shown && self.others.keys_where(gone).is_empty()
    }

    /// The addresses of the ready endpoints of a Service, each with the number of the port named `port`. The first set
    /// comes from the slice that has the name of the Service, and the second from its other slices. API servers write
    /// their own addresses into the slice that has the name of `default/kubernetes`, and repair this slice when a user
    /// edits it. Other slices can come from any user with write access.
    #[must_use]
    pub fn addresses_of(&self, service: &ServiceKey, port: &str) -> [BTreeSet<(String, u16)>; 2] {
        let slices = self
            .others
            .of(service)
            .filter(|slice| slice.belongs_to(service) && slice.address_type != "FQDN");
        let mut addresses = [BTreeSet::new(), BTreeSet::new()];
        for slice in slices {
            let has_name_of_service = slice.metadata.name.as_deref() == Some(service.name());
            let addresses = &mut addresses[usize::from(!has_name_of_service)];
            let ports = slice.ports.iter().flatten();
            let number = ports
                .filter(|other| other.name.as_deref() == Some(port))
                .find_map(|port| u16::try_from(port.port?).ok());
            let Some(number) = number else { continue };
            for endpoint in slice.endpoints.iter().flatten().filter(|it| it.is_ready()) {
                let all = endpoint.addresses.iter().cloned();
                addresses.extend(all.map(|address| (address, number)));
            }
        }
        addresses
    }
}
