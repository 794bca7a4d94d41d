//! Services, and which of them depend on which source.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Dirty, Index};
use crate::model::{ManagedService, Service, ServiceKey};

impl Index {
    /// A Service was added or changed.
    pub fn apply_service(&mut self, service: &Service) -> Dirty {
        let key = ServiceKey::of(&service.metadata);
        let new = ManagedService::read(service, &self.defaults).map(Arc::new);
        let was_unreadable = self.unreadable.services.remove(&key).is_some() && self.copies.has_any(&key);
        let mut dirty = self.replace_service(key.clone(), new);
        if was_unreadable {
            dirty.insert(key);
        }
        dirty
    }

    /// What is known of a Service changes; `None`: it is not managed.
    pub(super) fn replace_service(&mut self, key: ServiceKey, new: Option<Arc<ManagedService>>) -> Dirty {
        let old = self.services.insert(key.clone(), new.clone());
        let mut dirty = Dirty::new();
        match &old {
            Some(old) if *old == new => {}
            Some(old) => {
                self.unlink(old.as_deref());
                dirty.insert(key.clone());
            }
            None => {
                dirty.extend(self.dependants.get(&key).into_iter().flatten().cloned());
                if new.is_some() || self.copies.has_any(&key) {
                    dirty.insert(key.clone());
                }
            }
        }
        if let Some(source) = new.as_ref().and_then(|new| new.source()) {
            self.dependants.entry(source.clone()).or_default().insert(key);
        }
        dirty
    }

    /// A Service is gone.
    pub fn delete_service(&mut self, key: &ServiceKey) -> Dirty {
        self.unreadable.services.remove(key);
        let Some(old) = self.services.remove(key) else {
            return Dirty::new();
        };
        self.unlink(old.as_deref());
        let mut dirty = self.dependants.get(key).cloned().unwrap_or_default();
        if old.is_some() || self.copies.has_any(key) {
            dirty.insert(key.clone());
        }
        dirty
    }

    /// A list of Services is complete: those not on it are gone.
    pub fn services_listed(&mut self, listed: &HashSet<ServiceKey>) -> Dirty {
        let gone: Vec<_> = self
            .services
            .keys()
            .filter(|key| !listed.contains(key))
            .cloned()
            .collect();
        let mut dirty: Dirty = gone.iter().flat_map(|key| self.delete_service(key)).collect();
        if !std::mem::replace(&mut self.services_listed, true) {
            dirty.extend(self.all());
        }
        dirty
    }

    fn unlink(&mut self, service: Option<&ManagedService>) {
        let Some((service, source)) = service.and_then(|service| Some((service, service.source()?))) else {
            return;
        };
        if let Some(dependants) = self.dependants.get_mut(source) {
            dependants.remove(&service.key);
            if dependants.is_empty() {
                self.dependants.remove(source);
            }
        }
    }
}
