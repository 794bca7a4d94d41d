//! Consent: which managed Services may copy their sources, and which copies may stay.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Dirty, Index};
use crate::model::{
    Consent, CrossNamespace, EndpointSlice, Grant, Grantors, ObjectMeta, ServiceKey, SliceKey, Snapshot,
    is_dns_label, named_after, provenance::Provenance,
};

/// Earlier decisions about consent for one Service, by source. They are kept because a decision can require a search of
/// all grants in a namespace.
type Consents = HashMap<ServiceKey, Consent>;

/// Pairs of a source and a managed Service that asks for it.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pairs: BTreeSet<(ServiceKey, ServiceKey)>,
    /// The number of pairs for which a grant can give consent.
    for_grants: usize,
}

impl Index {
    /// Records a ReferenceGrant that was added or changed.
    pub fn apply_grant(&mut self, metadata: &ObjectMeta, grant: Grant) -> Dirty {
        let changed = self.grants.apply(metadata, grant);
        self.reconsider_namespace(changed)
    }

    /// Records a ReferenceGrant that was added or changed and cannot be decoded. Its last readable state still applies.
    pub fn apply_unreadable_grant(&mut self, metadata: &ObjectMeta) {
        self.grants.apply_unreadable(metadata);
    }

    /// Removes a ReferenceGrant that was deleted.
    pub fn delete_grant(&mut self, metadata: &ObjectMeta) -> Dirty {
        let changed = self.grants.remove(metadata);
        self.reconsider_namespace(changed)
    }

    /// Reconsiders the sources in `changed`, a namespace whose grants have changed, if there is one.
    fn reconsider_namespace(&mut self, changed: Option<String>) -> Dirty {
        changed.map_or_else(Dirty::new, |namespace| {
            let first = ServiceKey::new(namespace.as_str(), "");
            self.reconsider_from(&first, |source| source.namespace() == namespace)
        })
    }

    /// Records a complete list of ReferenceGrants. `None` stands for a ReferenceGrant that cannot be decoded.
    pub fn grants_listed(&mut self, listed: impl IntoIterator<Item = (ObjectMeta, Option<Grant>)>) -> Dirty {
        self.grants.replace(listed);
        self.revoked.clear();
        self.reconsider_all()
    }

    /// Records that the API server does not serve ReferenceGrants. Copies that a grant might allow stay until the
    /// caller, after some time, passes an empty list to [`Index::grants_listed`], or until the `allow-from` annotation
    /// of their source changes.
    pub fn grants_absent(&mut self) -> Dirty {
        self.grants.absent();
        self.reconsider_all()
    }

    /// Whether the operator needs ReferenceGrants. It does if a Service asks for a source for which a grant can give
    /// consent, or if a copy of such a source exists while Services or grants are unknown. A Service with a typo in an
    /// annotation asks for nothing, but its copies are still deleted when consent is withdrawn.
    #[must_use]
    pub fn needs_grants(&self) -> bool {
        let has_undecided = |service: &ServiceKey| {
            let mut known = Consents::new();
            let mut copies = self.copies.copies_for(service);
            copies.any(|copy| self.consent_of_copy(service, copy, &mut known) == Consent::Unknown)
        };
        let may_be_undecided = !self.services_listed || !self.grants.are_known();
        self.defaults.consent.cross_namespace == CrossNamespace::Consent
            && (self.requests.for_grants > 0
                || may_be_undecided && self.copied.from(None).iter().any(has_undecided))
    }

    /// Whether a Service may copy a source.
    pub(super) fn consent(&self, service: &ServiceKey, source: &ServiceKey) -> Consent {
        self.grantors(source).consent(service.namespace(), source)
    }

    pub(super) fn grantors<'a>(&'a self, source: &ServiceKey) -> Grantors<'a> {
        let known = self.services.get(source);
        Grantors {
            policy: &self.defaults.consent,
            default_source: &self.defaults.source,
            annotation: known.and_then(|known| known.allow_from.as_ref()),
            is_unread: self.unreadable.sources.contains(source),
            services_listed: self.services_listed,
            grants: &self.grants,
            is_revoked: self.revoked.contains(source),
        }
    }

    /// Records that a managed Service asks for a source. The Service may already have asked for the same source.
    pub(super) fn request(&mut self, source: &ServiceKey, service: &ServiceKey) {
        if self.requests.pairs.insert((source.clone(), service.clone())) {
            self.requests.for_grants += usize::from(self.is_for_grants(source, service));
            self.reconsider(source, service);
        }
    }

    /// Whether a Service asks for a source, or might ask for it once Services are listed, because it is the default
    /// source or the API source.
    pub(super) fn is_requested(&self, source: &ServiceKey) -> bool {
        let first = (source.clone(), ServiceKey::new("", ""));
        let mut requests = self.requests.pairs.range(first..);
        source.is_api_source()
            || *source == self.defaults.source
            || requests.next().is_some_and(|(requested, _)| requested == source)
    }

    /// Records that a managed Service no longer asks for a source.
    pub(super) fn withdraw(&mut self, source: &ServiceKey, service: &ServiceKey) {
        let request = (source.clone(), service.clone());
        if self.requests.pairs.remove(&request) {
            self.requests.for_grants -= usize::from(self.is_for_grants(source, service));
        }
        self.uses.remove(&request);
    }

    /// Whether a grant can give this Service consent to copy this source.
    fn is_for_grants(&self, source: &ServiceKey, service: &ServiceKey) -> bool {
        source.namespace() != service.namespace() && source != &self.defaults.source
    }

    /// Records that a source was created or deleted, or that its `allow-from` annotation changed. `had_one` says
    /// whether the source had the annotation before, or might have had it but could not be decoded.
    pub(super) fn reconsider_source(&mut self, source: &ServiceKey, had_one: bool) -> Dirty {
        if had_one && !self.grants.are_listed() {
            self.revoked.insert(source.clone());
        }
        self.reconsider_from(source, |requested| requested == source)
    }

    /// Reconsiders the requests for the sources that satisfy `is_meant`. `first` is the first of these sources by name.
    /// Returns the Services for which consent has changed, and the Services with copies that lack consent, whatever
    /// they ask for now. Other Services are not returned, because a sync would reveal that the source exists or
    /// changes.
    fn reconsider_from(&mut self, first: &ServiceKey, is_meant: impl Fn(&ServiceKey) -> bool) -> Dirty {
        let mut dirty = self.with_refused_copies(first.namespace(), &is_meant);
        let requests = self
            .requests
            .pairs
            .range((first.clone(), ServiceKey::new("", ""))..);
        let requests = requests.take_while(|(source, _)| is_meant(source)).cloned();
        for (source, service) in requests.collect::<Vec<_>>() {
            if self.reconsider(&source, &service) {
                dirty.insert(service);
            }
        }
        dirty
    }

    /// The Services with copies that lack consent and might come from these sources of a namespace.
    fn with_refused_copies(&self, namespace: &str, is_meant: impl Fn(&ServiceKey) -> bool) -> Dirty {
        // All Services with copies become dirty once Services are listed.
        if !self.services_listed {
            return Dirty::new();
        }
        let mut services = self.copied.from(Some(namespace));
        services.retain(|service| {
            let is_concerned = |copy: &&EndpointSlice| {
                // If no watch shows the slice, its Service is only a guess.
                let may_be_meant = |claimed: Provenance<'_>| {
                    self.source_slice(&claimed).is_none() || self.sources_of(&claimed).iter().any(&is_meant)
                };
                copy.metadata.deletion_timestamp.is_none() && copy.provenance().is_some_and(may_be_meant)
            };
            let copies = self.copies.copies_for(service).map(AsRef::as_ref);
            let refused = self.without_consent(service, copies.filter(is_concerned));
            !refused.is_empty()
        });
        services
    }

    pub(super) fn reconsider_all(&mut self) -> Dirty {
        let is_across =
            |(source, service): &&(ServiceKey, ServiceKey)| source.namespace() != service.namespace();
        let requests: Vec<_> = self.requests.pairs.iter().filter(is_across).cloned().collect();
        for (source, service) in &requests {
            self.reconsider(source, service);
        }
        let services = requests.into_iter().map(|(_, service)| service);
        services.chain(self.copied.from(None)).collect()
    }

    /// Updates whether a Service uses a source. A Service uses a source only with consent and within the limits.
    /// Returns whether this has changed.
    pub(super) fn reconsider(&mut self, source: &ServiceKey, service: &ServiceKey) -> bool {
        let request = (source.clone(), service.clone());
        let may_copy = self.quota.admits(service) && self.consent(service, source) == Consent::Given;
        let has_changed = if may_copy {
            self.uses.insert(request)
        } else {
            self.uses.remove(&request)
        };
        self.names_changed += u64::from(has_changed);
        self.api_servers_changed += u64::from(has_changed && source.is_api_source());
        has_changed
    }

    /// The copies of sources for which consent was never given or was withdrawn.
    pub(super) fn without_consent<'a>(
        &self,
        service: &ServiceKey,
        copies: impl Iterator<Item = &'a EndpointSlice>,
    ) -> BTreeSet<SliceKey> {
        let mut known = Consents::new();
        let is_refused =
            |copy: &&EndpointSlice| self.consent_of_copy(service, copy, &mut known) == Consent::Refused;
        copies.filter(is_refused).map(EndpointSlice::key).collect()
    }

    /// Whether there is consent for a copy. A copy names its source slice, but consent is given for Services. A known
    /// slice belongs to the Service in its label. An unknown slice might belong to any Service after which it might be
    /// named. There must be consent for each of these Services that exists. A Service that does not exist is ignored
    /// unless a grant or a flag gives consent for it, or might do so. If all are ignored, there is no consent. `known`
    /// holds the earlier decisions for this Service.
    fn consent_of_copy(&self, service: &ServiceKey, copy: &EndpointSlice, known: &mut Consents) -> Consent {
        let is_across = |claimed: &Provenance<'_>| claimed.namespace != service.namespace();
        let Some(claimed) = copy.provenance().filter(is_across) else {
            return Consent::Given;
        };
        let consents = self.sources_of(&claimed).into_iter().filter_map(|source| {
            let exists = self.services.contains_key(&source);
            let consent = known.entry(source);
            let consent = *consent.or_insert_with_key(|source| self.consent(service, source));
            (exists || consent != Consent::Refused).then_some(consent)
        });
        consents.min().unwrap_or(Consent::Refused)
    }

    /// The Services to which the source slice of a copy might belong.
    fn sources_of(&self, claimed: &Provenance<'_>) -> Vec<ServiceKey> {
        let by_label = self.source_slice(claimed).and_then(|slice| slice.service());
        by_label.map_or_else(
            || named_after(&SliceKey::new(claimed.namespace, claimed.name)),
            |source| vec![source],
        )
    }

    /// The source slice of a copy, if a watch shows it.
    pub(super) fn source_slice(&self, claimed: &Provenance<'_>) -> Option<&Arc<EndpointSlice>> {
        self.others.get(&SliceKey::new(claimed.namespace, claimed.name))
    }

    /// The sources whose missing consent leads to the deletion of these copies. The caller reads these sources before
    /// it deletes the copies, because a watch might not yet show the consent that a former leader has seen. A source
    /// that only the annotations of a copy name is not returned unless its namespace and name are valid.
    #[must_use]
    pub fn missing_consent(
        &self,
        snapshot: &Snapshot,
        deleted: &BTreeSet<&SliceKey>,
    ) -> BTreeSet<ServiceKey> {
        if self.defaults.consent.cross_namespace != CrossNamespace::Consent || deleted.is_empty() {
            return BTreeSet::new();
        }
        let withdrawn = |key: &SliceKey| snapshot.without_consent.contains(key) && deleted.contains(key);
        let copies = snapshot.copies.values().filter(|copy| withdrawn(&copy.key()));
        let claimed = copies.filter_map(|copy| copy.provenance());
        let of_copies = claimed.flat_map(|claimed| self.sources_of(&claimed));
        let is_refused = snapshot.refusal.as_ref().is_some_and(|refusal| refusal.is_final);
        let service = snapshot.service.as_ref().filter(|_| is_refused);
        let requested = service.and_then(|service| service.source()).cloned();
        of_copies
            .chain(requested.filter(|_| self.quota.admits(&snapshot.key)))
            .filter(|source| is_dns_label(source.namespace()))
            .collect()
    }
}
