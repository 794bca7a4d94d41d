//! Objects that cannot be decoded. They exist, but they cause no change to a copy.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::{Dirty, Index, Scope, service_name};
use crate::model::{
    MANAGED_BY_US, ManagedService, ObjectMeta, ServiceKey, SliceKey, Unreadable, label, label_of,
    service_of_copy_name, version_of,
};

/// The known unreadable objects, by kind.
#[derive(Debug, Default)]
pub(super) struct UnreadableObjects {
    /// Services that might or might not be managed. Those with copies are treated as managed.
    pub services: HashMap<ServiceKey, Arc<ManagedService>>,
    /// Services that have been undecodable since the index first saw them. It is unknown which namespaces may copy
    /// them.
    pub sources: BTreeSet<ServiceKey>,
    slices: BTreeMap<SliceKey, Slice>,
    /// How many slices were removed since the start.
    pub removals: u64,
}

/// A slice that cannot be decoded.
#[derive(Debug)]
pub(super) struct Slice {
    /// Whether the watch of copies shows it.
    is_copy: bool,
    /// The names of the Services to which it might belong: the one in its label or, if no label can be read, those of
    /// the watch that shows it.
    names: Arc<BTreeSet<String>>,
    /// Its resourceVersion.
    pub version: Option<u64>,
}

impl Slice {
    /// The Services to which it might belong.
    fn services(&self, key: &SliceKey) -> BTreeSet<ServiceKey> {
        let names = self.names.iter();
        let by_label = names.map(|name| ServiceKey::new(key.namespace(), name.as_str()));
        by_label.chain(service_of_copy_name(key)).collect()
    }

    /// Whether the watch of this scope is the one that shows it.
    fn is_in(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Copies => self.is_copy,
            Scope::Named(_) => !self.is_copy && self.names.iter().any(|name| scope.covers(Some(name))),
        }
    }

    /// Removes the names that are ruled out, and returns whether no name remains.
    fn rule_out(&mut self, is_ruled_out: impl Fn(&str) -> bool) -> bool {
        if self.names.iter().any(|name| is_ruled_out(name)) {
            let left = self.names.iter().filter(|name| !is_ruled_out(name));
            self.names = Arc::new(left.cloned().collect());
        }
        self.names.is_empty()
    }
}

impl UnreadableObjects {
    /// The unreadable slices that might belong to a Service.
    pub fn of(&self, service: &ServiceKey) -> BTreeSet<SliceKey> {
        let may_belong = |(key, slice): &(&SliceKey, &Slice)| {
            key.namespace() == service.namespace()
                && (slice.names.contains(service.name())
                    || service_of_copy_name(key).as_ref() == Some(service))
        };
        let slices = self.slices.iter().filter(may_belong);
        slices.map(|(key, _)| key.clone()).collect()
    }

    /// Whether a slice was seen unreadable at this resourceVersion or a later one.
    pub fn has_seen(&self, key: &SliceKey, version: Option<u64>) -> bool {
        self.slices.get(key).is_some_and(|slice| slice.version >= version)
    }

    /// Completes a list of `scope`. Slices that are not on the list no longer exist, or belong to a Service with
    /// another name. Returns the Services to which they can no longer belong.
    pub fn listed(&mut self, scope: &Scope, listed: &HashSet<SliceKey>) -> BTreeSet<ServiceKey> {
        let mut touched = BTreeSet::new();
        self.slices.retain(|key, slice| {
            let before = slice.services(key);
            let is_gone = match scope {
                _ if listed.contains(key) => false,
                Scope::Copies => slice.is_copy,
                Scope::Named(_) if slice.is_copy => false,
                Scope::Named(names) => slice.rule_out(|name| names.contains(name)),
            };
            let left = if is_gone {
                BTreeSet::new()
            } else {
                slice.services(key)
            };
            touched.extend(before.into_iter().filter(|service| !left.contains(service)));
            self.removals += u64::from(is_gone);
            !is_gone
        });
        touched
    }

    /// An unreadable slice, whichever watch shows it.
    pub fn get(&self, key: &SliceKey) -> Option<&Slice> {
        self.slices.get(key)
    }

    /// An unreadable slice, if the watch of this scope shows it.
    pub fn shown_by(&self, scope: &Scope, key: &SliceKey) -> Option<&Slice> {
        self.get(key).filter(|slice| slice.is_in(scope))
    }

    /// Forgets a slice that the watch of this scope shows as readable or deleted, unless the slice has moved to another
    /// watch, which shows it as unreadable. Returns the Services to which it might have belonged.
    pub fn replaced(&mut self, scope: &Scope, metadata: &ObjectMeta) -> BTreeSet<ServiceKey> {
        let key = SliceKey::of(metadata);
        let has_moved = |slice: &Slice| !slice.is_in(scope) && slice.version >= version_of(metadata);
        if self.get(&key).is_some_and(has_moved) {
            return BTreeSet::new();
        }
        self.remove(&key)
    }

    /// Forgets a slice, and returns the Services to which it might have belonged.
    pub fn remove(&mut self, key: &SliceKey) -> BTreeSet<ServiceKey> {
        let Some(slice) = self.slices.remove(key) else {
            return BTreeSet::new();
        };
        self.removals += 1;
        slice.services(key)
    }

    /// Forgets slices of Services whose names are no longer watched.
    pub fn retain_names(&mut self, is_watched: impl Fn(&str) -> bool) {
        self.slices
            .retain(|_, slice| slice.is_copy || !slice.rule_out(|name| !is_watched(name)));
    }
}

impl Index {
    /// Records a Service that was added or changed and cannot be decoded. Its copies stay as they are. It is treated as
    /// managed if it was managed, if its name or its readable annotations show that it might be, or if it has copies.
    /// As a source, it allows the namespaces that its last readable state allowed.
    pub fn service_unreadable(&mut self, unreadable: &Unreadable) -> Dirty {
        let service = Arc::new(ManagedService::unreadable(unreadable));
        let key = service.key.clone();
        let condition = unreadable.condition.as_deref();
        let known = self.services.get(&key);
        if known.is_none() {
            self.unreadable.sources.insert(key.clone());
        }
        let allow_from = known.and_then(|known| known.allow_from.clone());
        let may_be_managed = ManagedService::may_be_managed(unreadable, &self.defaults);
        if may_be_managed || self.is_managed(&key) {
            return self.replace_service(&unreadable.metadata, Some(service), allow_from, condition);
        }
        self.unreadable.services.insert(key.clone(), service);
        let mut dirty = self.replace_service(&unreadable.metadata, None, allow_from, condition);
        if self.copies.has_any(&key) {
            dirty.insert(key);
        }
        dirty
    }

    /// Records a slice that was added or changed and cannot be decoded.
    pub fn apply_unreadable_slice(&mut self, scope: &Scope, unreadable: &Unreadable) -> Dirty {
        if self.knows_newer_slice(scope, &unreadable.metadata) {
            return Dirty::new();
        }
        self.list_unreadable_slice(scope, unreadable)
    }

    /// Records a slice that is on a list and cannot be decoded. Ignores the slice if not even its name can be read, if
    /// a newer watch has listed its Service, or if a GET has shown that the slice is deleted.
    pub fn list_unreadable_slice(&mut self, scope: &Scope, unreadable: &Unreadable) -> Dirty {
        let metadata = &unreadable.metadata;
        if metadata.name.is_none()
            || self.versions.is_superseded(scope, metadata)
            || self.slices(scope).is_gone(metadata)
        {
            return Dirty::new();
        }
        self.versions.saw(scope, version_of(metadata));
        let names = match (label_of(metadata, label::SERVICE_NAME), scope) {
            (Some(name), _) => Arc::new([name.to_owned()].into()),
            (None, Scope::Named(names)) => names.clone(),
            (None, Scope::Copies) => Arc::default(),
        };
        self.keep_unreadable(metadata, *scope == Scope::Copies, names)
    }

    /// Records that a GET returned a slice that cannot be decoded. Returns `None` if no watch covers the slice. Such a
    /// slice is not kept, because no watch would report its deletion.
    #[must_use]
    pub fn observe_unreadable(&mut self, unreadable: &Unreadable) -> Option<Dirty> {
        let metadata = &unreadable.metadata;
        let key = SliceKey::of(metadata);
        // If the GET shows no labels, the slice belongs where the watches last showed it.
        let is_copy = match (&metadata.labels, self.unreadable.get(&key)) {
            (Some(_), _) => label_of(metadata, label::MANAGED_BY) == Some(MANAGED_BY_US),
            (None, Some(known)) => known.is_copy,
            (None, None) => self.copies.get(&key).is_some(),
        };
        let by_label = label_of(metadata, label::SERVICE_NAME);
        let known = self.others.get(&key).and_then(|known| service_name(known));
        let names = match (by_label.or(known), self.unreadable.get(&key)) {
            (None, Some(known)) => known.names.clone(),
            (name, _) => Arc::new(name.map(str::to_owned).into_iter().collect()),
        };
        let is_shown = is_copy || names.iter().any(|name| self.names_listed.contains(name));
        is_shown.then(|| self.keep_unreadable(metadata, is_copy, names))
    }

    /// Records an unreadable slice. Returns the Services that are affected because the slice can no longer belong to
    /// them.
    fn keep_unreadable(
        &mut self,
        metadata: &ObjectMeta,
        is_copy: bool,
        names: Arc<BTreeSet<String>>,
    ) -> Dirty {
        let key = SliceKey::of(metadata);
        let slice = Slice {
            is_copy,
            names,
            version: version_of(metadata),
        };
        let left = slice.services(&key);
        let before = self.unreadable.slices.insert(key.clone(), slice);
        let before = before.map_or_else(BTreeSet::new, |before| before.services(&key));
        self.concerned_by_copies(&before.difference(&left).cloned().collect())
    }
}
