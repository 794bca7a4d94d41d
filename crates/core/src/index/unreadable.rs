//! Objects that cannot be decoded: they exist, but nothing changes because of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::{Dirty, Index, Scope};
use crate::model::{
    MANAGED_BY_US, ManagedService, ServiceKey, SliceKey, Unreadable, label, label_of, service_of_copy_name,
    version_of,
};

/// What is known of unreadable objects, by kind.
#[derive(Debug, Default)]
pub(super) struct UnreadableObjects {
    /// Services of which it is unknown whether they are managed. Those with copies count as managed.
    pub services: HashMap<ServiceKey, Arc<ManagedService>>,
    slices: BTreeMap<SliceKey, Slice>,
}

#[derive(Debug)]
struct Slice {
    /// Of the watch that shows it.
    scope: Scope,
    /// The Service that it claims to belong to; `None` if not even that can be read.
    service: Option<String>,
    version: Option<u64>,
}

impl UnreadableObjects {
    /// The unreadable slices that may belong to a Service.
    pub fn of(&self, service: &ServiceKey) -> BTreeSet<SliceKey> {
        let may_belong = |(key, slice): &(&SliceKey, &Slice)| {
            key.namespace() == service.namespace()
                && (slice.service.as_ref().is_none_or(|name| name == service.name())
                    || service_of_copy_name(key).as_ref() == Some(service))
        };
        self.slices
            .iter()
            .filter(may_belong)
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Whether a slice was seen unreadable at this resourceVersion or a later one.
    pub fn has_seen(&self, key: &SliceKey, version: Option<u64>) -> bool {
        self.slices.get(key).is_some_and(|slice| slice.version >= version)
    }

    /// Slices of `scope` that are not on a complete list are gone or readable again. Forgets them, and
    /// returns the
    /// Services to which they may have belonged.
    pub fn listed(&mut self, scope: &Scope, listed: &HashSet<SliceKey>) -> BTreeSet<ServiceKey> {
        let gone = |key: &SliceKey, slice: &Slice| slice.is_in(scope) && !listed.contains(key);
        let gone: Vec<_> = self
            .slices
            .iter()
            .filter(|(key, slice)| gone(key, slice))
            .map(|(key, _)| key.clone())
            .collect();
        gone.iter().flat_map(|key| self.remove(key)).collect()
    }

    /// Forgets a slice, and returns the Services to which it may have belonged.
    pub fn remove(&mut self, key: &SliceKey) -> BTreeSet<ServiceKey> {
        let Some(slice) = self.slices.remove(key) else {
            return BTreeSet::new();
        };
        let by_label = slice.service.map(|name| ServiceKey::new(key.namespace(), name));
        by_label.into_iter().chain(service_of_copy_name(key)).collect()
    }

    /// Only slices of these names are watched from now on.
    pub fn retain_names(&mut self, shards: &BTreeSet<Arc<BTreeSet<String>>>) {
        self.slices.retain(|_, slice| {
            let is_watched = |name: &String| shards.iter().any(|names| names.contains(name));
            match (&slice.scope, &slice.service) {
                (Scope::Copies, _) => true,
                (Scope::Named(_), Some(name)) => is_watched(name),
                (Scope::Named(names), None) => names.iter().any(is_watched),
            }
        });
    }
}

impl Slice {
    /// Whether a complete list of this scope would show it. If its Service is unknown, that is certain only of a list of
    /// all names of the watch that shows it.
    fn is_in(&self, scope: &Scope) -> bool {
        match (scope, &self.scope) {
            (Scope::Copies, Scope::Copies) => true,
            (Scope::Named(listed), Scope::Named(shown)) => match &self.service {
                Some(name) => listed.contains(name),
                None => shown.is_subset(listed),
            },
            (Scope::Copies, Scope::Named(_)) | (Scope::Named(_), Scope::Copies) => false,
        }
    }
}

impl Index {
    /// A Service was added or changed, and cannot be decoded. If it is or was managed, or if readable
    /// annotations say so, its copies stay as they are.
    pub fn service_unreadable(&mut self, unreadable: &Unreadable) -> Dirty {
        let service = Arc::new(ManagedService::unreadable(unreadable));
        let key = service.key.clone();
        let speaks_of_us = ManagedService::may_be_managed(unreadable, &self.defaults);
        let version = version_of(&unreadable.metadata);
        if speaks_of_us || self.is_managed(&key) {
            return self.replace_service(key, version, Some(service));
        }
        self.unreadable.services.insert(key.clone(), service);
        let mut dirty = self.replace_service(key.clone(), version, None);
        if self.copies.has_any(&key) {
            dirty.insert(key);
        }
        dirty
    }

    /// A slice was added or changed, or is on a list, and cannot be decoded. Returns `None` if not even its
    /// name can be read, or if another watch reports it.
    pub fn slice_unreadable(&mut self, scope: &Scope, unreadable: &Unreadable) -> Option<SliceKey> {
        let metadata = &unreadable.metadata;
        let key = metadata.name.as_ref().map(|_| SliceKey::of(metadata))?;
        if self.versions.is_superseded(scope, metadata) || self.slices(scope).is_gone(metadata) {
            return None;
        }
        self.versions.saw(scope, version_of(metadata));
        let slice = Slice {
            scope: scope.clone(),
            service: label_of(metadata, label::SERVICE_NAME).map(str::to_owned),
            version: version_of(metadata),
        };
        self.unreadable.slices.insert(key.clone(), slice);
        Some(key)
    }

    /// A GET shows a slice that cannot be decoded.
    pub fn observe_unreadable(&mut self, unreadable: &Unreadable) {
        let known = self.unreadable.slices.get(&SliceKey::of(&unreadable.metadata));
        let is_copy = label_of(&unreadable.metadata, label::MANAGED_BY) == Some(MANAGED_BY_US);
        let scope = match known {
            _ if is_copy => Scope::Copies,
            Some(known) => known.scope.clone(),
            None => Scope::Named(Arc::default()),
        };
        _ = self.slice_unreadable(&scope, unreadable);
    }
}
