//! A set of EndpointSlices that can be asked by Service.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::model::{ServiceKey, SliceKey, ours, service_of, version_of};

/// Slices as one kind of watch shows them.
#[derive(Debug, Default)]
pub(super) struct Slices {
    by_key: HashMap<SliceKey, Arc<EndpointSlice>>,
    by_service: HashMap<ServiceKey, BTreeSet<SliceKey>>,
    /// Highest resourceVersion ever seen.
    newest: u64,
}

impl Slices {
    /// The slices that belong to a Service, by label or by owner.
    pub fn of(&self, service: &ServiceKey) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.by_service
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|key| self.by_key.get(key))
    }

    pub fn has_any(&self, service: &ServiceKey) -> bool {
        self.by_service.contains_key(service)
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.by_service.keys()
    }

    pub fn keys(&self) -> impl Iterator<Item = &SliceKey> {
        self.by_key.keys()
    }

    pub fn get(&self, key: &SliceKey) -> Option<&Arc<EndpointSlice>> {
        self.by_key.get(key)
    }

    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Takes a slice in. Answers with the Services that it belongs or belonged to; with none when it
    /// is no news.
    pub fn insert(&mut self, slice: EndpointSlice) -> BTreeSet<ServiceKey> {
        let key = SliceKey::of(&slice.metadata);
        if self.by_key.get(&key).is_some_and(|known| {
            known.metadata.resource_version == slice.metadata.resource_version
                && known.metadata.uid == slice.metadata.uid
        }) {
            return BTreeSet::new();
        }
        let mut touched = self.remove(&key);
        self.newest = self.newest.max(version_of(&slice.metadata).unwrap_or(0));
        for service in belongs_to(&slice) {
            self.by_service
                .entry(service.clone())
                .or_default()
                .insert(key.clone());
            touched.insert(service);
        }
        self.by_key.insert(key, Arc::new(slice));
        touched
    }

    /// Forgets a slice. Answers with the Services that it belonged to.
    pub fn remove(&mut self, key: &SliceKey) -> BTreeSet<ServiceKey> {
        let Some(slice) = self.by_key.remove(key) else {
            return BTreeSet::new();
        };
        let touched = belongs_to(&slice);
        for service in &touched {
            if let Some(keys) = self.by_service.get_mut(service) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_service.remove(service);
                }
            }
        }
        touched
    }

    /// Notes that something of this version was seen, be it a deletion.
    pub fn saw(&mut self, slice: &EndpointSlice) {
        self.newest = self.newest.max(version_of(&slice.metadata).unwrap_or(0));
    }

    /// Whether this state of a slice is older than the one known. A slice that was made anew is
    /// never older; where versions cannot be compared the latest word counts.
    pub fn knows_newer(&self, slice: &EndpointSlice) -> bool {
        let Some(known) = self.by_key.get(&SliceKey::of(&slice.metadata)) else {
            return false;
        };
        match (version_of(&known.metadata), version_of(&slice.metadata)) {
            (Some(known), Some(new)) => known > new,
            _ => false,
        }
    }
}

fn belongs_to(slice: &EndpointSlice) -> BTreeSet<ServiceKey> {
    service_of(slice).into_iter().chain(ours(slice)).collect()
}
