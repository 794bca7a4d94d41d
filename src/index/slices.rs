//! A set of EndpointSlices that can be asked by Service.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::model::{ServiceKey, SliceKey, named_like_a_copy_of, ours, service_of, version_of};

/// Slices as one kind of watch shows them.
#[derive(Debug, Default)]
pub(super) struct Slices {
    by_key: HashMap<SliceKey, Arc<EndpointSlice>>,
    by_service: HashMap<ServiceKey, BTreeSet<SliceKey>>,
    /// Highest resourceVersion that a watch has shown.
    newest: u64,
}

impl Slices {
    /// The slices that concern a Service: by label, by owner, or by the name of one of its copies.
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

    /// The keys of the slices of which this is true.
    pub fn keys_where(&self, is_so: impl Fn(&EndpointSlice) -> bool) -> Vec<SliceKey> {
        let chosen = self.by_key.iter().filter(|(_, slice)| is_so(slice));
        chosen.map(|(key, _)| key.clone()).collect()
    }

    pub fn get(&self, key: &SliceKey) -> Option<&Arc<EndpointSlice>> {
        self.by_key.get(key)
    }

    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Takes a slice in. Answers with the Services that it concerns or concerned; with none when it
    /// is no news.
    pub fn insert(&mut self, slice: EndpointSlice) -> BTreeSet<ServiceKey> {
        let key = SliceKey::of(&slice.metadata);
        if self.by_key.get(&key).is_some_and(|known| {
            known.metadata.resource_version.is_some()
                && known.metadata.resource_version == slice.metadata.resource_version
                && known.metadata.uid == slice.metadata.uid
        }) {
            return BTreeSet::new();
        }
        let mut touched = self.remove(&key);
        for service in concerns(&slice) {
            self.by_service
                .entry(service.clone())
                .or_default()
                .insert(key.clone());
            touched.insert(service);
        }
        self.by_key.insert(key, Arc::new(slice));
        touched
    }

    /// Forgets a slice. Answers with the Services that it concerned.
    pub fn remove(&mut self, key: &SliceKey) -> BTreeSet<ServiceKey> {
        let Some(slice) = self.by_key.remove(key) else {
            return BTreeSet::new();
        };
        let touched = concerns(&slice);
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

    /// Whether a watch has passed this state of a slice and the slice is gone: a GET was answered before.
    pub fn has_passed(&self, slice: &EndpointSlice) -> bool {
        !self.by_key.contains_key(&SliceKey::of(&slice.metadata))
            && version_of(&slice.metadata).is_some_and(|version| version <= self.newest)
    }

    /// Takes in what a GET showed under this name, if it is not older than what is known.
    pub fn learn(&mut self, key: &SliceKey, slice: Option<EndpointSlice>) -> BTreeSet<ServiceKey> {
        match slice {
            Some(slice) if self.knows_newer(&slice) => BTreeSet::new(),
            Some(slice) => self.insert(slice),
            None => self.remove(key),
        }
    }

    /// Notes that a watch has come as far as this version, be it a deletion.
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

fn concerns(slice: &EndpointSlice) -> BTreeSet<ServiceKey> {
    let by_name = named_like_a_copy_of(&SliceKey::of(&slice.metadata));
    service_of(slice)
        .into_iter()
        .chain(ours(slice))
        .chain(by_name)
        .collect()
}
