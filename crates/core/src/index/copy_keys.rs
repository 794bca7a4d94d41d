//! The copies of each Service, also indexed by the namespace of their source, so that a change to a source or a copy
//! does not require a search of all copies.

use std::collections::BTreeSet;

use super::{Dirty, Index, Scope, Slices};
use crate::model::{EndpointSlice, ServiceKey, SliceKey};

/// The copies of each Service.
#[derive(Debug, Default, PartialEq)]
pub(super) struct CopyKeys {
    by_service: BTreeSet<(ServiceKey, SliceKey)>,
    /// The copies whose source is in another namespace, by that namespace and by Service.
    across: BTreeSet<(String, ServiceKey, SliceKey)>,
}

impl CopyKeys {
    /// Whether a Service has copies.
    pub fn has_any(&self, service: &ServiceKey) -> bool {
        let mut copies = self.by_service.range((service.clone(), SliceKey::new("", ""))..);
        copies.next().is_some_and(|(of, _)| of == service)
    }

    /// Returns the Services in other namespaces that have a copy of a source in this namespace. If `namespace` is
    /// `None`, returns all Services that have a copy of a source in another namespace.
    pub fn from(&self, namespace: Option<&str>) -> Dirty {
        let first = namespace.unwrap_or_default().to_owned();
        let copies = (first, ServiceKey::new("", ""), SliceKey::new("", ""));
        let copies = self.across.range(copies..);
        let copies = copies.take_while(|(from, ..)| namespace.is_none_or(|namespace| from == namespace));
        copies.map(|(_, service, _)| service.clone()).collect()
    }

    /// Adds a slice, if it is a copy.
    pub fn add(&mut self, slice: &EndpointSlice) {
        let Some((service, namespace)) = service_and_source(slice) else {
            return;
        };
        if let Some(namespace) = namespace {
            let copy = (namespace.to_owned(), service.clone(), slice.key());
            self.across.insert(copy);
        }
        self.by_service.insert((service, slice.key()));
    }

    fn remove(&mut self, slice: &EndpointSlice) {
        let Some((service, namespace)) = service_and_source(slice) else {
            return;
        };
        if let Some(namespace) = namespace {
            let copy = (namespace.to_owned(), service.clone(), slice.key());
            self.across.remove(&copy);
        }
        self.by_service.remove(&(service, slice.key()));
    }
}

/// The Service of a copy, and the namespace of the source if the Service is in another namespace. `None` if the slice
/// is not a copy.
fn service_and_source(slice: &EndpointSlice) -> Option<(ServiceKey, Option<&str>)> {
    let (service, claimed) = (slice.owner_of_copy()?, slice.provenance()?);
    let namespace = Some(claimed.namespace).filter(|namespace| *namespace != service.namespace());
    Some((service, namespace))
}

impl Index {
    /// Adds, updates or removes a slice, and keeps the keys of copies up to date. Returns the Services that the slice
    /// concerned before or concerns after the change.
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
