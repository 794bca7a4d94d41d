//! The last known state of each Service, from the watch or a newer GET, and the sources that Services depend on.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Dirty, Index};
use crate::model::{
    AllowFrom, Condition, ManagedService, ObjectMeta, Service, ServiceKey, Unreadable, version_of,
};

/// The known state of one Service.
#[derive(Debug)]
pub(super) struct Known {
    /// Its resourceVersion. A new version alone does not make a Service dirty, because most changes to a Service are
    /// irrelevant to the operator.
    pub version: Option<u64>,
    /// The namespaces that may copy it, if an annotation names any. If the Service cannot be decoded, this is the value
    /// from its last readable state.
    pub allow_from: Option<AllowFrom>,
    /// `None` if the Service is neither managed nor disabled.
    pub declared: Option<Arc<ManagedService>>,
    /// Its condition, if the operator writes conditions (`--service-conditions`).
    pub condition: Option<Box<Condition>>,
}

/// The known version of a Service, or its absence, and the number of Services deleted so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceVersion {
    exists: bool,
    version: Option<u64>,
    removals: u64,
}

fn is_managed(service: Option<&Arc<ManagedService>>) -> bool {
    service.is_some_and(|service| service.is_managed())
}

impl Index {
    /// Records a Service that was added or changed.
    pub fn apply_service(&mut self, service: &Service) -> Dirty {
        let key = ServiceKey::of(&service.metadata);
        let new = ManagedService::read(service, &self.defaults).map(Arc::new);
        let was_unreadable = self.unreadable.services.remove(&key).is_some() && self.copies.has_any(&key);
        let condition = service
            .status
            .as_ref()
            .and_then(|status| status.condition.as_deref());
        let was_unread = self.unreadable.sources.remove(&key);
        let allow_from = AllowFrom::of(&service.metadata);
        let mut dirty = self.replace_service(&service.metadata, new, allow_from, condition);
        if was_unread {
            dirty.extend(self.reconsider_source(&key, false));
        }
        if was_unreadable {
            dirty.insert(key);
        }
        dirty
    }

    /// Replaces the known state of a Service. `new` is `None` if neither an annotation nor a flag says whether it is
    /// managed.
    pub(super) fn replace_service(
        &mut self,
        metadata: &ObjectMeta,
        new: Option<Arc<ManagedService>>,
        allow_from: Option<AllowFrom>,
        condition: Option<&Condition>,
    ) -> Dirty {
        let key = ServiceKey::of(metadata);
        let condition = self.conditions.shown(&key, self.services.get(&key), condition);
        let known = Known {
            version: version_of(metadata),
            allow_from,
            declared: new.clone(),
            condition,
        };
        let known = self.services.insert(key.clone(), known);
        let is_new = known.is_none();
        let (old, allowed) = known.map_or((None, None), |known| (known.declared, known.allow_from));
        self.managed_services += usize::from(is_managed(new.as_ref()));
        self.managed_services -= usize::from(is_managed(old.as_ref()));
        let mut dirty = Dirty::new();
        if is_new || self.services[&key].allow_from != allowed {
            dirty.extend(self.reconsider_source(&key, allowed.is_some()));
        }
        let sources = [&old, &new].map(|service| service.as_ref().map(|service| service.source()));
        self.names_changed += u64::from(sources[0] != sources[1]);
        if is_new {
            dirty.extend(self.dependants(&key).cloned());
            dirty.extend(self.with_copies_named_after(&key));
            if new.is_some() || self.copies.has_any(&key) {
                dirty.insert(key.clone());
            }
        } else if old == new {
            return dirty;
        } else {
            self.unlink(old.as_deref(), new.as_deref());
            dirty.insert(key.clone());
        }
        dirty.extend(self.rank(&key));
        if let Some(source) = new.as_ref().and_then(|new| new.source()) {
            self.api_servers_changed += u64::from(source.is_api_source());
            self.request(source, &key);
        }
        dirty
    }

    /// Records a deletion that the watch showed.
    pub fn service_deleted(&mut self, metadata: &ObjectMeta) -> Dirty {
        let key = ServiceKey::of(metadata);
        if self.is_service_gone(metadata) {
            self.services_gone.remove(&key);
        }
        self.delete_service(&key)
    }

    /// Whether a GET has shown that this Service, with this UID, is deleted. A UID is never reused, so a state with
    /// that UID is older than the GET, unless etcd was restored from a backup. A list that begins later reveals the
    /// restore.
    #[must_use]
    pub fn is_service_gone(&self, metadata: &ObjectMeta) -> bool {
        let gone = self.services_gone.get(&ServiceKey::of(metadata));
        gone.is_some_and(|gone| metadata.uid.as_ref() == Some(gone))
    }

    /// Removes a deleted Service.
    pub fn delete_service(&mut self, key: &ServiceKey) -> Dirty {
        self.unreadable.services.remove(key);
        let was_unread = self.unreadable.sources.remove(key);
        let Some(known) = self.services.remove(key) else {
            return Dirty::new();
        };
        let old = known.declared;
        self.managed_services -= usize::from(is_managed(old.as_ref()));
        self.names_changed += u64::from(old.is_some());
        self.services_removed += 1;
        self.unlink(old.as_deref(), None);
        let admitted = self.rank(key);
        let mut dirty: Dirty = self.dependants(key).cloned().collect();
        if known.allow_from.is_some() || was_unread {
            dirty.extend(self.reconsider_source(key, true));
        }
        if old.is_some() || self.copies.has_any(key) {
            dirty.insert(key.clone());
        }
        dirty.extend(admitted);
        dirty.extend(self.with_copies_named_after(key));
        dirty
    }

    /// Records that the watch of Services begins to list. The request is sent now, so the list is newer than all
    /// earlier GETs.
    pub fn services_list_begins(&mut self) {
        self.services_gone.clear();
    }

    /// Completes a list of Services. Services that are not on the list no longer exist.
    pub fn services_listed(&mut self, listed: &HashSet<ServiceKey>) -> Dirty {
        let gone: Vec<_> = self
            .services
            .keys()
            .filter(|key| !listed.contains(key))
            .cloned()
            .collect();
        self.services_gone.retain(|key, _| listed.contains(key));
        let mut dirty: Dirty = gone.iter().flat_map(|key| self.delete_service(key)).collect();
        if !std::mem::replace(&mut self.services_listed, true) {
            // Grants might have been listed before, when no consent could be decided.
            dirty.extend(self.reconsider_all());
            self.first_names = self.names();
            dirty.extend(self.all());
        }
        dirty
    }

    /// Whether the index knows a later state of a Service than this one, for example from a GET. If versions cannot be
    /// compared, the latest event wins.
    #[must_use]
    pub fn knows_newer_service(&self, metadata: &ObjectMeta) -> bool {
        let known = self.services.get(&ServiceKey::of(metadata));
        match (known.and_then(|known| known.version), version_of(metadata)) {
            (Some(known), Some(new)) => known > new,
            _ => false,
        }
    }

    /// A counter that grows whenever the names to watch might have changed: when a Service starts or stops being
    /// managed or disabled, gets another source, gains or loses consent, or gains or loses its place within a limit.
    /// The counter is 0 until Services are listed, because the names are incomplete until then.
    #[must_use]
    pub fn names_changed(&self) -> u64 {
        if self.services_listed {
            self.names_changed
        } else {
            0
        }
    }

    /// The known version of a Service, to detect later whether the watch has overtaken a GET.
    #[must_use]
    pub fn service_version(&self, key: &ServiceKey) -> ServiceVersion {
        ServiceVersion {
            exists: self.services.contains_key(key),
            version: self.services.get(key).and_then(|known| known.version),
            removals: self.services_removed,
        }
    }

    /// Records the result of a GET. `service` is the Service, decoded or not, or `None` if it does not exist. `before`
    /// is the version known when the GET was sent. Returns the affected Services, or `None` if the watch has shown a
    /// change since the GET was sent, because it is unknown whether the change or the GET is newer. Without such a
    /// change, the GET is treated as newer, as in [`Index::observe`].
    #[must_use]
    pub fn observe_service(
        &mut self,
        key: &ServiceKey,
        before: &ServiceVersion,
        service: Option<Result<&Service, &Unreadable>>,
    ) -> Option<Dirty> {
        let now = self.service_version(key);
        // The Service was unknown before and is unknown now, but it could have been created and deleted in between.
        let may_be_gone = !now.exists && service.is_some();
        let is_overtaken = (now.exists, now.version) != (before.exists, before.version);
        if is_overtaken || may_be_gone && now.removals != before.removals {
            return None;
        }
        let Some(service) = service else {
            let uid = self.declared_service(key).map(|service| service.uid.clone());
            let uid = uid.filter(|uid| !uid.is_empty());
            self.services_gone.extend(uid.map(|uid| (key.clone(), uid)));
            return Some(self.delete_service(key));
        };
        let metadata = service.map_or_else(|unreadable| &unreadable.metadata, |service| &service.metadata);
        if self.is_service_gone(metadata) {
            self.services_gone.remove(key);
        }
        Some(match service {
            Ok(service) => self.apply_service(service),
            Err(unreadable) => self.service_unreadable(unreadable),
        })
    }

    /// Records that a Service no longer asks for its source, unless its new state asks for the same source.
    fn unlink(&mut self, service: Option<&ManagedService>, new: Option<&ManagedService>) {
        if let Some(service) = service
            && let Some(source) = service.source()
        {
            self.api_servers_changed += u64::from(source.is_api_source());
            if new.and_then(ManagedService::source) != Some(source) {
                self.withdraw(source, &service.key);
            }
        }
    }
}
