//! Snapshots: everything that determines the copies of one Service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Dirty, Index};
use crate::migration::is_leftover;
use crate::model::{
    EndpointSlice, Priority, ServiceKey, SliceKey, SlicesByKey, Snapshot, Source, version_of,
};

impl Index {
    /// The state that determines the copies of one Service, or `None` while too little is known. Copies without consent
    /// can be deleted even before anything is known about the source that the Service names now.
    #[must_use]
    pub fn snapshot(&self, key: &ServiceKey) -> Option<Snapshot> {
        if !self.services_listed || !self.copies_listed {
            return None;
        }
        let unreadable = || {
            let service = self.unreadable.services.get(key);
            service.filter(|_| self.copies.has_any(key))
        };
        let service = self.declared_service(key).or_else(unreadable).cloned();
        let (source, refusal) = match service.as_ref().and_then(|service| service.source()) {
            None => (None, None),
            Some(source) if self.is_used(source, key) => (Some(source), None),
            Some(_) if !self.quota.admits(key) => (None, self.over_limit(key)),
            Some(source) => (None, self.grantors(source).refusal(key.namespace(), source)),
        };
        // Until its slices are listed, a source looks empty even if it is not.
        let (source, unlisted) = match source {
            Some(source) if !self.names_listed.contains(source.name()) => (None, Some(source)),
            source => (source, None),
        };
        let mut slices = BTreeMap::new();
        for (slice, is_copy) in self.copies.marked(key).chain(self.others.marked(key)) {
            let newer = |(known, _): &(Arc<EndpointSlice>, bool)| {
                version_of(&known.metadata) >= version_of(&slice.metadata)
            };
            let key = slice.key();
            if !slices.get(&key).is_some_and(newer) {
                slices.insert(key, (slice.clone(), is_copy));
            }
        }
        let (mut copies, mut others) = (SlicesByKey::new(), SlicesByKey::new());
        for (key, (slice, is_copy)) in slices {
            let slices = if is_copy { &mut copies } else { &mut others };
            slices.insert(key, slice);
        }
        let seen = source.map_or(0, |source| self.versions.seen_of(source.name()));
        let in_doubt = source.is_some_and(|source| self.versions.is_relisting(source.name()));
        let mut unreadable = self.unreadable.of(key);
        let named_after_others = source.map_or_else(BTreeSet::new, |source| {
            self.named_after_others(source, copies.values().map(AsRef::as_ref))
        });
        let mut outlines = BTreeSet::new();
        let source = source.map(|source| {
            outlines = outlines_of(copies.values());
            unreadable.extend(outlines.iter().cloned());
            self.source(source, key, &mut outlines)
        });
        // Until the slices of the source are listed, a copy could also come from another source in the same namespace.
        let is_unknown = |copy: &&EndpointSlice| {
            let claimed = copy
                .provenance()
                .filter(|claimed| self.source_slice(claimed).is_none());
            claimed
                .zip(unlisted)
                .is_some_and(|(claimed, source)| claimed.namespace == source.namespace())
        };
        let known = copies
            .values()
            .map(AsRef::as_ref)
            .filter(|copy| !is_unknown(copy));
        let snapshot = Snapshot {
            key: key.clone(),
            source,
            refusal,
            without_consent: self.without_consent(key, known),
            named_after_others,
            service,
            copies,
            others,
            unreadable,
            outlines,
            seen,
            in_doubt,
            cause: None,
            reports_probes: self.priority(key) != Priority::Other,
            nodes: self.known_nodes(),
            confirmed: BTreeSet::new(),
        };
        let is_enough = !snapshot.is_undecided() || !snapshot.without_consent.is_empty();
        is_enough.then_some(snapshot)
    }

    /// Whether a Service uses a source: it asks for the source, may copy it, and is within the limits.
    pub(super) fn is_used(&self, source: &ServiceKey, service: &ServiceKey) -> bool {
        self.uses.contains(&(source.clone(), service.clone()))
    }

    /// Copies whose source slice has the name of another Service, if that name consists of the name of this source, a
    /// dash and one more word. Kubernetes forms the names of the source's slices in the same way.
    fn named_after_others<'a>(
        &self,
        source: &ServiceKey,
        copies: impl Iterator<Item = &'a EndpointSlice>,
    ) -> BTreeSet<SliceKey> {
        let is_of_other = |copy: &&EndpointSlice| {
            let slice = copy.source();
            let named = slice.map(|slice| ServiceKey::new(slice.namespace(), slice.name()));
            named.is_some_and(|named| {
                shorter_by_a_word(&named).as_ref() == Some(source) && self.services.contains_key(&named)
            })
        };
        copies.filter(is_of_other).map(EndpointSlice::key).collect()
    }

    /// The Services whose copies depend on whether this Service exists; see [`Snapshot::named_after_others`].
    pub(super) fn with_copies_named_after(&self, service: &ServiceKey) -> Dirty {
        let Some(source) = shorter_by_a_word(service) else {
            return Dirty::new();
        };
        let slice = SliceKey::new(service.namespace(), service.name());
        let is_copied = |key: &&ServiceKey| {
            let mut copies = self.copies.of(key);
            copies.any(|copy| copy.source().as_ref() == Some(&slice))
        };
        self.dependants(&source).filter(is_copied).cloned().collect()
    }

    /// The source of a Service. Adds the slices of which only an outline is in memory to `outlines`.
    fn source(&self, key: &ServiceKey, service: &ServiceKey, outlines: &mut BTreeSet<SliceKey>) -> Source {
        let belongs = |slice: &&Arc<EndpointSlice>| slice.belongs_to(key);
        // A slice that the Go operator left behind is a copy too, perhaps of a source that this Service may not copy.
        let (left, slices): (Vec<_>, Vec<_>) = self
            .others
            .of(key)
            .filter(belongs)
            .partition(|slice| is_leftover(slice, key));
        let of_source = outlines_of(slices.iter().copied());
        let mut unreadable = self.unreadable.of(key);
        unreadable.extend(of_source.iter().cloned());
        outlines.extend(of_source);
        let is_readable = |slice: &&Arc<EndpointSlice>| !unreadable.contains(&slice.key());
        Source {
            key: key.clone(),
            exists: self.services.contains_key(key),
            has_copies: !left.is_empty() || self.copies.of(key).any(|copy| belongs(&copy)),
            slices: slices
                .into_iter()
                .filter(is_readable)
                .map(|slice| (slice.key(), slice.clone()))
                .collect(),
            unreadable,
            ports: self.grantors(key).ports(service.namespace(), key),
        }
    }
}

fn outlines_of<'a>(slices: impl IntoIterator<Item = &'a Arc<EndpointSlice>>) -> BTreeSet<SliceKey> {
    let outlines = slices.into_iter().filter(|slice| slice.is_outline());
    outlines.map(|slice| slice.key()).collect()
}

/// The Service whose name is the same without the last word: `db` for `db-replica`.
fn shorter_by_a_word(service: &ServiceKey) -> Option<ServiceKey> {
    let (shorter, _) = service.name().rsplit_once('-')?;
    Some(ServiceKey::new(service.namespace(), shorter))
}
