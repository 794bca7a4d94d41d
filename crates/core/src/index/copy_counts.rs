//! The number of copies of each Service, also by the namespace of their source, so that a change to a source or to a
//! copy does not require a search of all copies.

use std::collections::{BTreeMap, HashMap};

use super::{Dirty, Index, Scope, Slices};
use crate::model::{EndpointSlice, ServiceKey, SliceKey};

/// The number of copies of each Service.
#[derive(Debug, Default, PartialEq)]
pub(super) struct CopyCounts {
    by_service: HashMap<ServiceKey, usize>,
    /// The number of copies whose source is in another namespace, by that namespace and by Service.
    across: BTreeMap<String, BTreeMap<ServiceKey, usize>>,
}

impl CopyCounts {
    /// Whether a Service has copies.
    pub fn has_any(&self, service: &ServiceKey) -> bool {
        self.by_service.contains_key(service)
    }

    /// The Services in other namespaces that have copies from this namespace. With `None`, the Services that have
    /// copies from any namespace other than their own.
    pub fn from(&self, namespace: Option<&str>) -> Dirty {
        let services = match namespace {
            Some(namespace) => self.across.get(namespace).into_iter().collect(),
            None => self.across.values().collect::<Vec<_>>(),
        };
        services.into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Counts a slice that was added.
    pub fn add(&mut self, slice: &EndpointSlice) {
        let Some((service, namespace)) = service_and_source(slice) else {
            return;
        };
        if let Some(namespace) = namespace {
            let services = self.across.entry(namespace.to_owned()).or_default();
            *services.entry(service.clone()).or_default() += 1;
        }
        *self.by_service.entry(service).or_default() += 1;
    }

    fn remove(&mut self, slice: &EndpointSlice) {
        let Some((service, namespace)) = service_and_source(slice) else {
            return;
        };
        let is_last = |copies: &mut usize| {
            *copies -= 1;
            *copies == 0
        };
        if self.by_service.get_mut(&service).is_some_and(is_last) {
            self.by_service.remove(&service);
        }
        if let Some(namespace) = namespace
            && let Some(services) = self.across.get_mut(namespace)
        {
            if services.get_mut(&service).is_some_and(is_last) {
                services.remove(&service);
            }
            if services.is_empty() {
                self.across.remove(namespace);
            }
        }
    }
}

/// The Service of a copy, and the namespace of its source if that is another one. `None` if the slice is not a copy.
fn service_and_source(slice: &EndpointSlice) -> Option<(ServiceKey, Option<&str>)> {
    let (service, claimed) = (slice.owner_of_copy()?, slice.provenance()?);
    let namespace = Some(claimed.namespace).filter(|namespace| *namespace != service.namespace());
    Some((service, namespace))
}

impl Index {
    /// Adds, updates or removes a slice, and keeps the number of copies up to date. Returns the Services that the slice
    /// concerns or concerned.
    pub(super) fn change(
        &mut self,
        scope: &Scope,
        key: &SliceKey,
        change: impl FnOnce(&mut Slices) -> Dirty,
    ) -> Dirty {
        let before = self.slices(scope).get(key).cloned();
        let touched = change(self.slices_mut(scope));
        if *scope == Scope::Copies && !touched.is_empty() {
            if let Some(before) = before {
                self.copied.remove(&before);
            }
            if let Some(now) = self.copies.get(key) {
                self.copied.add(now);
            }
        }
        touched
    }
}
