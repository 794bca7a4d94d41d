//! A set of EndpointSlices that can be looked up by Service.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::service_name;
use crate::model::{EndpointSlice, ObjectMeta, ServiceKey, SliceKey, service_of_copy_name};

/// The slices that one kind of watch shows.
#[derive(Debug, Default)]
pub(super) struct Slices {
    by_key: HashMap<SliceKey, Arc<EndpointSlice>>,
    /// The slices that concern each Service, sorted by key.
    by_service: HashMap<ServiceKey, Vec<Concerned>>,
    /// How many slices were removed since the start.
    removals: u64,
    /// Slices that a GET has shown to be gone, while a watch can still show older states of them. A UID is never
    /// reused, so a state with the same UID is older than the GET, unless etcd was restored from a backup. A list that
    /// begins later reveals the restore, and removes the entry.
    gone: HashMap<SliceKey, Gone>,
}

/// A slice that concerns a Service.
#[derive(Debug)]
struct Concerned {
    slice: Arc<EndpointSlice>,
    /// Whether the slice is one of our copies for the Service. Its metadata is parsed only once, when it is inserted.
    is_copy: bool,
}

/// A slice that a GET has shown to be gone.
#[derive(Debug)]
struct Gone {
    uid: String,
    /// The name of its Service, which decides which watch can still show the slice.
    service: Option<String>,
}

impl Slices {
    /// The slices that concern a Service: by label, by owner, or because their name could be that of a copy for the
    /// Service.
    pub fn of<'a>(&'a self, service: &ServiceKey) -> impl Iterator<Item = &'a Arc<EndpointSlice>> + use<'a> {
        self.marked(service).map(|(slice, _)| slice)
    }

    /// Our copies for a Service.
    pub fn copies_for<'a>(
        &'a self,
        service: &ServiceKey,
    ) -> impl Iterator<Item = &'a Arc<EndpointSlice>> + use<'a> {
        self.marked(service)
            .filter_map(|(slice, is_copy)| is_copy.then_some(slice))
    }

    /// The slices that concern a Service, each with whether it is one of our copies for the Service.
    pub fn marked<'a>(
        &'a self,
        service: &ServiceKey,
    ) -> impl Iterator<Item = (&'a Arc<EndpointSlice>, bool)> + use<'a> {
        let concerned = self.by_service.get(service).into_iter().flatten();
        concerned.map(|concerned| (&concerned.slice, concerned.is_copy))
    }

    pub fn has_any(&self, service: &ServiceKey) -> bool {
        self.by_service.contains_key(service)
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.by_service.keys()
    }

    /// The keys of the slices that satisfy the predicate.
    pub fn keys_where(&self, predicate: impl Fn(&SliceKey, &EndpointSlice) -> bool) -> Vec<SliceKey> {
        let chosen = self.by_key.iter().filter(|(key, slice)| predicate(key, slice));
        chosen.map(|(key, _)| key.clone()).collect()
    }

    pub fn get(&self, key: &SliceKey) -> Option<&Arc<EndpointSlice>> {
        self.by_key.get(key)
    }

    /// A counter that grows with each removed slice.
    pub fn removals(&self) -> u64 {
        self.removals
    }

    /// Adds or updates a slice. Returns the Services that it concerns or concerned, or no Services if nothing changed.
    /// An equal version does not prove that nothing changed, because versions are reused after a restore of etcd.
    pub fn insert(&mut self, slice: EndpointSlice) -> BTreeSet<ServiceKey> {
        let key = slice.key();
        if self
            .by_key
            .get(&key)
            .is_some_and(|known| known.metadata.resource_version.is_some() && **known == slice)
        {
            return BTreeSet::new();
        }
        if self.is_gone(&slice.metadata) {
            self.gone.remove(&key);
        }
        let mut touched = self.take(&key);
        let slice = Arc::new(slice);
        let owner = slice.owner_of_copy();
        for service in concerns(&slice, owner.as_ref()) {
            let slices = self.by_service.entry(service.clone()).or_default();
            if let Err(position) = position(slices, &key) {
                let (slice, is_copy) = (slice.clone(), owner.as_ref() == Some(&service));
                slices.insert(position, Concerned { slice, is_copy });
            }
            touched.insert(service);
        }
        self.by_key.insert(key, slice);
        touched
    }

    /// Removes a slice, and returns the Services that it concerned.
    pub fn remove(&mut self, key: &SliceKey) -> BTreeSet<ServiceKey> {
        self.removals += u64::from(self.by_key.contains_key(key));
        self.take(key)
    }

    /// Removes a slice that a GET has shown to be gone, and remembers that it is gone, because a watch can still show
    /// older states of it.
    pub fn remove_for_good(&mut self, key: &SliceKey) -> BTreeSet<ServiceKey> {
        if let Some(slice) = self.by_key.get(key)
            && let Some(uid) = slice.metadata.uid.clone()
        {
            let service = service_name(slice).map(str::to_owned);
            self.gone.insert(key.clone(), Gone { uid, service });
        }
        self.remove(key)
    }

    /// Whether a GET has shown that this slice, with this UID, is deleted.
    pub fn is_gone(&self, metadata: &ObjectMeta) -> bool {
        let gone = self.gone.get(&SliceKey::of(metadata));
        gone.is_some_and(|gone| metadata.uid.as_ref() == Some(&gone.uid))
    }

    /// Keeps only the records of deleted slices whose key and Service name satisfy the predicate.
    pub fn retain_gone(&mut self, may_still_be_shown: impl Fn(&SliceKey, Option<&str>) -> bool) {
        self.gone
            .retain(|key, gone| may_still_be_shown(key, gone.service.as_deref()));
    }

    fn take(&mut self, key: &SliceKey) -> BTreeSet<ServiceKey> {
        let Some(slice) = self.by_key.remove(key) else {
            return BTreeSet::new();
        };
        let touched = concerns(&slice, slice.owner_of_copy().as_ref());
        for service in &touched {
            if let Some(slices) = self.by_service.get_mut(service) {
                if let Ok(position) = position(slices, key) {
                    slices.remove(position);
                }
                if slices.is_empty() {
                    self.by_service.remove(service);
                }
            }
        }
        touched
    }
}

/// The index of a slice among the slices of its Service, or the index at which to insert it.
fn position(slices: &[Concerned], key: &SliceKey) -> Result<usize, usize> {
    slices.binary_search_by(|concerned| {
        let ObjectMeta { namespace, name, .. } = &concerned.slice.metadata;
        let known = (
            namespace.as_deref().unwrap_or_default(),
            name.as_deref().unwrap_or_default(),
        );
        known.cmp(&(key.namespace(), key.name()))
    })
}

/// The Services that a slice concerns. If the slice is a copy, `owner` is the Service that it is for.
fn concerns(slice: &EndpointSlice, owner: Option<&ServiceKey>) -> BTreeSet<ServiceKey> {
    let by_name = service_of_copy_name(&slice.key());
    let by_label = slice.service();
    by_label
        .into_iter()
        .chain(owner.cloned())
        .chain(by_name)
        .collect()
}
