//! The cluster as watches and GETs show it, and the dependencies between Services. Most methods that change the index
//! return the keys of the Services that the change affects.
//!
//! The index is pure: it uses no client, no clock and no async code. The watches and the reconciler update it, and the
//! reconciler reads snapshots of it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::{
    Defaults, EndpointSlice, Grants, ManagedService, ObjectMeta, Service, ServiceKey, ServiceLimits,
    SliceKey, label, label_of, version_of,
};

mod abridge;
mod conditions;
mod consent;
mod copy_keys;
mod counts;
mod get_results;
mod nodes;
mod probed;
mod quota;
mod services;
mod slices;
mod snapshot;
mod sources;
mod unreadable;
mod watch_progress;

use abridge::abridged;
use conditions::ConditionChanges;
pub use conditions::KnownCondition;
use copy_keys::CopyKeys;
pub use get_results::SliceState;
use nodes::NodeIndex;
use quota::ServiceQuota;
use services::Known;
pub use services::ServiceVersion;
use slices::Slices;
pub use sources::{Listing, NamesByRequester, Requester};
use unreadable::UnreadableObjects;
use watch_progress::WatchProgress;

/// Keys of Services whose copies might need a change.
pub type Dirty = BTreeSet<ServiceKey>;

/// The two ways in which slices are watched. The managed-by label of a slice decides which of the two can show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Slices with our managed-by label, whatever their Service.
    Copies,
    /// Slices without that label that belong to a Service with one of these names.
    Named(Arc<BTreeSet<String>>),
}

impl Scope {
    /// Whether the watch of this scope shows the slices of a Service with this name.
    fn covers(&self, service: Option<&str>) -> bool {
        match self {
            Self::Copies => true,
            Self::Named(names) => service.is_some_and(|service| names.contains(service)),
        }
    }
}

/// The index, shared by the tasks that feed and read it. No lock is held across an await.
pub type SharedIndex = Arc<Mutex<Index>>;

/// The kinds of objects that have not been listed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFilled(Vec<&'static str>);

impl fmt::Display for NotFilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not listed yet: {}", self.0.join(", "))
    }
}

impl Error for NotFilled {}

/// The index; see the module documentation.
#[derive(Debug)]
pub struct Index {
    defaults: Defaults,
    /// Every Service. If a Service is neither managed nor disabled, the index keeps little more than its name.
    services: HashMap<ServiceKey, Known>,
    /// The number of managed Services.
    managed_services: usize,
    names_changed: u64,
    services_removed: u64,
    /// The UIDs of managed and disabled Services that a GET has shown to be gone. The watch can still show older states
    /// of them. The next list removes any entry that is still there.
    services_gone: HashMap<ServiceKey, String>,
    /// Pairs of a source and a managed Service that asks for it, whether or not the Service may copy the source.
    requests: consent::Requests,
    /// Pairs of a source in use and a managed Service that uses it. This is one set, because most sources are used only
    /// once, and a set for each source would take 200 bytes more per source.
    uses: BTreeSet<(ServiceKey, ServiceKey)>,
    quota: ServiceQuota,
    conditions: ConditionChanges,
    grants: Grants,
    /// Sources whose `allow-from` annotation changed or was removed before ReferenceGrants were listed; see
    /// [`Grantors::is_revoked`](crate::model::Grantors::is_revoked).
    revoked: BTreeSet<ServiceKey>,
    copies: Slices,
    copied: CopyKeys,
    others: Slices,
    versions: WatchProgress,
    unreadable: UnreadableObjects,
    nodes: NodeIndex,
    services_listed: bool,
    /// The names that mattered when Services were first listed.
    first_names: BTreeSet<String>,
    copies_listed: bool,
    /// Names whose slices have been listed. If a slice of these Services is missing, it does not exist.
    names_listed: BTreeSet<String>,
    /// Names whose slices matter even while no managed Service uses them.
    always: BTreeSet<String>,
    api_servers_changed: u64,
}

impl Index {
    /// Creates an empty index with default limits.
    #[must_use]
    pub fn new(defaults: Defaults) -> Self {
        Self {
            defaults,
            services: HashMap::new(),
            managed_services: 0,
            names_changed: 0,
            services_removed: 0,
            services_gone: HashMap::new(),
            requests: consent::Requests::default(),
            uses: BTreeSet::new(),
            quota: ServiceQuota::new(ServiceLimits::default()),
            conditions: ConditionChanges::default(),
            grants: Grants::default(),
            revoked: BTreeSet::new(),
            copies: Slices::default(),
            copied: CopyKeys::default(),
            others: Slices::default(),
            versions: WatchProgress::default(),
            unreadable: UnreadableObjects::default(),
            nodes: NodeIndex::default(),
            services_listed: false,
            first_names: BTreeSet::new(),
            copies_listed: false,
            names_listed: BTreeSet::new(),
            always: BTreeSet::new(),
            api_servers_changed: 0,
        }
    }

    /// Adds or updates a slice that a watch shows.
    pub fn apply_slice(&mut self, scope: &Scope, slice: EndpointSlice) -> Dirty {
        if self.knows_newer_slice(scope, &slice.metadata)
            || self.versions.is_superseded(scope, &slice.metadata)
        {
            return Dirty::new();
        }
        self.list_slice(scope, slice)
    }

    /// Adds or updates a slice that is on a list. A list is applied even if it is older than the known state, as it is
    /// after a restore of etcd. The exception is a slice that a GET has shown to be deleted since the list began.
    pub fn list_slice(&mut self, scope: &Scope, slice: EndpointSlice) -> Dirty {
        self.versions.saw(scope, version_of(&slice.metadata));
        if self.slices(scope).is_gone(&slice.metadata) {
            return Dirty::new();
        }
        let mut touched = self.unreadable.replaced(scope, &slice.metadata);
        let slice = self.abridged(slice);
        let key = slice.key();
        touched.extend(self.change(scope, &key, |slices| slices.insert(slice)));
        self.concerned(scope, &touched)
    }

    /// Removes a slice that was deleted, or that has left the scope of this watch. `metadata` contains the
    /// resourceVersion of this change.
    pub fn delete_slice(&mut self, scope: &Scope, metadata: &ObjectMeta) -> Dirty {
        if self.versions.is_superseded(scope, metadata) {
            return Dirty::new();
        }
        self.versions.saw(scope, version_of(metadata));
        let key = SliceKey::of(metadata);
        if self.slices(scope).is_gone(metadata) {
            self.slices_mut(scope).retain_gone(|gone, _| *gone != key);
        }
        if self.knows_newer_slice(scope, metadata) {
            return Dirty::new();
        }
        let mut touched = self.unreadable.replaced(scope, metadata);
        // If the slice moved to a Service with a name that another watch covers, that watch shows the slice.
        let is_its_own = |known: &Arc<EndpointSlice>| scope.covers(service_name(known));
        if self.slices(scope).get(&key).is_some_and(is_its_own) {
            touched.extend(self.change(scope, &key, |slices| slices.remove(&key)));
        }
        self.concerned(scope, &touched)
    }

    /// Completes a list of slices. Slices in scope that are not on the list no longer exist.
    pub fn slices_listed(&mut self, scope: &Scope, listed: &HashSet<SliceKey>) -> Dirty {
        let gone = self
            .slices(scope)
            .keys_where(|key, slice| scope.covers(service_name(slice)) && !listed.contains(key));
        let mut touched = self.unreadable.listed(scope, listed);
        self.slices_mut(scope)
            .retain_gone(|key, service| !scope.covers(service) || listed.contains(key));
        for key in gone {
            touched.extend(self.change(scope, &key, |slices| slices.remove(&key)));
        }
        let mut dirty = self.concerned(scope, &touched);
        self.versions.listed(scope);
        match scope {
            Scope::Copies => {
                if !std::mem::replace(&mut self.copies_listed, true) {
                    dirty.extend(self.all());
                }
            }
            Scope::Named(names) => {
                let new: BTreeSet<_> = names.difference(&self.names_listed).cloned().collect();
                let uses = self.uses.iter().filter(|(source, _)| new.contains(source.name()));
                dirty.extend(uses.map(|(_, service)| service.clone()));
                self.names_listed.extend(new);
            }
        }
        dirty
    }

    /// The newest known readable state of a slice, whether it is a copy or not.
    #[must_use]
    pub fn slice(&self, key: &SliceKey) -> Option<&Arc<EndpointSlice>> {
        let (copy, other) = (self.copies.get(key), self.others.get(key));
        [copy, other]
            .into_iter()
            .flatten()
            .max_by_key(|slice| version_of(&slice.metadata))
    }

    /// The Service as its annotations and the flags define it, or `None` if neither says whether it is managed.
    #[must_use]
    pub fn as_managed(&self, service: &Service) -> Option<ManagedService> {
        ManagedService::read(service, &self.defaults)
    }

    /// The keys of all Services that are managed or disabled, and of all Services that slices with our managed-by label
    /// concern.
    #[must_use]
    pub fn all(&self) -> Dirty {
        let declared = self.declared().map(|service| &service.key);
        declared.chain(self.copies.services()).cloned().collect()
    }

    /// Services that are managed.
    pub fn managed(&self) -> impl Iterator<Item = &Arc<ManagedService>> {
        self.declared().filter(|service| service.is_managed())
    }

    /// Services that are managed or disabled.
    fn declared(&self) -> impl Iterator<Item = &Arc<ManagedService>> {
        self.services.values().filter_map(|known| known.declared.as_ref())
    }

    /// A Service, if it is managed or disabled.
    fn declared_service(&self, key: &ServiceKey) -> Option<&Arc<ManagedService>> {
        self.services.get(key)?.declared.as_ref()
    }

    /// A Service, if it is managed.
    fn managed_service(&self, key: &ServiceKey) -> Option<&Arc<ManagedService>> {
        self.declared_service(key).filter(|service| service.is_managed())
    }

    /// The number of Services that are managed.
    #[must_use]
    pub fn managed_services(&self) -> usize {
        self.managed_services
    }

    /// Whether a Service is managed.
    #[must_use]
    pub fn is_managed(&self, key: &ServiceKey) -> bool {
        self.managed_service(key).is_some()
    }

    /// Whether the index has a list of Services, a list of copies, and the slices of all names that mattered when
    /// Services were first listed. Later names are ignored, because a user could keep changing them and thereby keep a
    /// replica unready. Only a Service that needs a later name waits for it.
    ///
    /// # Errors
    ///
    /// Returns the kinds of objects that have not been listed.
    pub fn is_filled(&self) -> Result<(), NotFilled> {
        let mut missing = Vec::new();
        if !self.services_listed {
            missing.push("services");
        }
        if !self.copies_listed {
            missing.push("copies");
        }
        let names = self.names();
        if !self
            .first_names
            .intersection(&names)
            .all(|name| self.names_listed.contains(name))
        {
            missing.push("sources");
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(NotFilled(missing))
        }
    }

    /// The keys of the Services that a change to slices of the `touched` Services affects.
    fn concerned(&mut self, scope: &Scope, touched: &BTreeSet<ServiceKey>) -> Dirty {
        self.note_api_servers(scope, touched);
        match scope {
            Scope::Copies => {
                let admitted: Vec<_> = touched.iter().map(|service| self.rank(service)).collect();
                let mut dirty = self.concerned_by_copies(touched);
                dirty.extend(admitted.into_iter().flatten());
                dirty
            }
            Scope::Named(_) => self.concerned_by_others(touched),
        }
    }

    /// The Services that a change to copies affects. Services that are not managed are included, because they can have
    /// copies to delete.
    fn concerned_by_copies(&self, touched: &BTreeSet<ServiceKey>) -> Dirty {
        touched
            .iter()
            .cloned()
            .chain(self.concerned_by_others(touched))
            .collect()
    }

    fn concerned_by_others(&self, touched: &BTreeSet<ServiceKey>) -> Dirty {
        let dependants = touched.iter().flat_map(|service| self.dependants(service));
        let own = touched
            .iter()
            .filter(|service| self.declared_service(service).is_some() || self.copies.has_any(service));
        dependants.chain(own).cloned().collect()
    }

    /// The managed Services that use a source.
    fn dependants<'a>(&'a self, source: &ServiceKey) -> impl Iterator<Item = &'a ServiceKey> + use<'a> {
        // The lowest possible key.
        let first = (source.clone(), ServiceKey::new("", ""));
        let uses = self.uses.range(first.clone()..);
        uses.take_while(move |(used, _)| *used == first.0)
            .map(|(_, service)| service)
    }

    /// The slice as the index keeps it. The index keeps endpoints and ports of any size only for slices of a source
    /// that a Service asks for or might ask for, and for copies whose Service asks for a source. If any other slice is
    /// needed later, a snapshot lists it as an outline, and the reconciler reads the whole slice.
    fn abridged(&self, slice: EndpointSlice) -> EndpointSlice {
        let is_needed = if slice.is_labeled_as_copy() {
            let owner = slice.owner_of_copy();
            let service = owner.and_then(|owner| self.declared_service(&owner));
            service.is_some_and(|service| service.source().is_some())
        } else {
            slice.service().is_some_and(|source| self.is_requested(&source))
        };
        abridged(slice, is_needed)
    }

    fn slices(&self, scope: &Scope) -> &Slices {
        match scope {
            Scope::Copies => &self.copies,
            Scope::Named(_) => &self.others,
        }
    }

    fn slices_mut(&mut self, scope: &Scope) -> &mut Slices {
        match scope {
            Scope::Copies => &mut self.copies,
            Scope::Named(_) => &mut self.others,
        }
    }
}

/// The name of the Service that the slice names in its label.
fn service_name(slice: &EndpointSlice) -> Option<&str> {
    label_of(&slice.metadata, label::SERVICE_NAME)
}

/// Whether a label says that a slice belongs to a Service with one of these names.
fn belongs_to_any_of(names: &BTreeSet<String>, slice: &EndpointSlice) -> bool {
    service_name(slice).is_some_and(|name| names.contains(name))
}

#[cfg(test)]
mod tests;
