//! The state of one Service in the index, as the planner needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::EndpointPort;

use super::ports::{LeftOut, ports};
use super::{
    EndpointSlice, Family, KnownNodes, ManagedService, PermittedPorts, Refusal, ServiceKey, SliceKey,
    Unreadable, label, label_of,
};

/// Slices by key. A user can have thousands, so no code may search all slices once per slice.
pub type SlicesByKey = BTreeMap<SliceKey, Arc<EndpointSlice>>;

/// Everything that determines the copies of one Service at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The key of the Service.
    pub key: ServiceKey,
    /// The Service, if it is managed or disabled, or if it cannot be decoded and has copies.
    pub service: Option<Arc<ManagedService>>,
    /// The source, if the Service names a valid one and is allowed to copy it, and if its slices have been listed.
    pub source: Option<Source>,
    /// Why the Service is not allowed to copy its source: there is no consent, or a limit is exceeded.
    pub refusal: Option<Refusal>,
    /// Copies of sources for which consent was never given or was withdrawn. They are deleted, or become copies of
    /// another source, even if another rule would keep them.
    pub without_consent: BTreeSet<SliceKey>,
    /// Copies whose source slice has the name of another Service, if that name consists of the name of the source, a
    /// dash and one more word, such as `db-replica` for the source `db`. If the slice no longer exists, it probably
    /// belonged to the other Service.
    pub named_after_others: BTreeSet<SliceKey>,
    /// Our copies for the Service.
    pub copies: SlicesByKey,
    /// Other slices that belong to the Service by label, or that have a name that a copy for the Service could have.
    pub others: SlicesByKey,
    /// Slices that might belong to the Service and cannot be decoded, and the copies in `outlines`. They stay as they
    /// are.
    pub unreadable: BTreeSet<SliceKey>,
    /// Slices of the source, and copies, of which only an outline is in memory. They are treated as unreadable until a
    /// GET has read them.
    pub outlines: BTreeSet<SliceKey>,
    /// The resourceVersion up to which the watches showed all changes to slices of the source.
    pub seen: u64,
    /// Whether source slices might no longer exist, because their watch is interrupted or relists. If so, a GET must
    /// confirm the source slice before a copy is created.
    pub in_doubt: bool,
    /// When the change that caused this snapshot was first seen, in RFC 3339 format. `None` if the plan is only
    /// displayed.
    pub cause: Option<String>,
    /// Whether findings of probes are reported. They are reported only for the Service that the flags name, and for
    /// Services in namespace `default` that copy `default/kubernetes`. Other users do not learn which API servers fail.
    pub reports_probes: bool,
    /// The Nodes, for copies of the API source.
    pub nodes: KnownNodes,
    /// Slices for which a GET was just sent. If the GET succeeded, the known state of the slice is the latest. If it
    /// failed, the caller leaves the copy of the slice out of the plan.
    pub confirmed: BTreeSet<SliceKey>,
}

impl Snapshot {
    /// Whether it is still unknown which copies the Service may have, because the slices of its source are not listed
    /// yet or consent is unknown. If so, the plan can only delete copies without consent.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        let source = self.service.as_ref().and_then(|service| service.source());
        source.is_some() && self.source.is_none() && self.refusal.is_none()
    }

    /// The copies, and the other slices that concern the Service.
    pub fn slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.copies.values().chain(self.others.values())
    }

    /// The slice with this name, whether it is a copy or not.
    #[must_use]
    pub fn slice(&self, key: &SliceKey) -> Option<&EndpointSlice> {
        let slice = self.copies.get(key).or_else(|| self.others.get(key));
        slice.map(AsRef::as_ref)
    }

    /// The copy with this name.
    #[must_use]
    pub fn copy(&self, key: &SliceKey) -> Option<&EndpointSlice> {
        self.copies.get(key).map(AsRef::as_ref)
    }

    /// Whether a slice that is not a copy has the name of this copy. If so, the copy cannot be written.
    #[must_use]
    pub fn is_name_taken(&self, copy: &SliceKey) -> bool {
        !self.copies.contains_key(copy) && self.others.contains_key(copy)
    }
}

/// A source at one moment.
#[derive(Clone, Debug)]
pub struct Source {
    /// The source Service.
    pub key: ServiceKey,
    /// Whether a Service with this name exists.
    pub exists: bool,
    /// Whether it has copies, because it is or was a managed Service itself.
    pub has_copies: bool,
    /// Its slices, except copies and slices in `unreadable`.
    pub slices: SlicesByKey,
    /// Its slices that cannot be decoded, or of which only an outline is in memory. They and their copies are treated
    /// as present and unchanged.
    pub unreadable: BTreeSet<SliceKey>,
    /// The ports that copies may have.
    pub ports: PermittedPorts,
}

impl Source {
    /// The slice with this name.
    #[must_use]
    pub fn slice(&self, name: &str) -> Option<&EndpointSlice> {
        let key = SliceKey::new(self.key.namespace(), name);
        self.slices.get(&key).map(AsRef::as_ref)
    }

    /// Whether it is known to have no endpoints. A source whose slices are all copies is invalid rather than empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_invalid = self.slices.is_empty() && self.has_copies;
        self.unreadable.is_empty() && !is_invalid && self.slices.values().all(|slice| slice.is_empty())
    }

    /// The ports of a copy of one of its slices. Returns `None` if there is no copy, because all ports are left out.
    #[must_use]
    pub fn ports_of_copy(
        &self,
        wanted: &[ServicePort],
        slice: &EndpointSlice,
        left_out: &mut LeftOut,
    ) -> Option<Vec<EndpointPort>> {
        let of_slice = slice.ports.as_deref().unwrap_or_default();
        ports(wanted, of_slice, self.ports.for_slice(of_slice), left_out)
    }

    /// Whether a slice is a copy of a slice in `unreadable`.
    #[must_use]
    pub fn has_unreadable_source_of(&self, copy: &EndpointSlice) -> bool {
        copy.source()
            .is_some_and(|slice| self.unreadable.contains(&slice))
    }

    /// Whether a slice in `unreadable` has endpoints of a family. An unreadable slice is treated as unchanged, so it
    /// has the endpoints of its copy.
    #[must_use]
    pub fn has_unreadable(&self, family: Family, copies: &SlicesByKey) -> bool {
        copies.values().any(|copy| {
            copy.address_type == family.as_str() && self.has_unreadable_source_of(copy) && !copy.is_empty()
        })
    }

    /// Removes a slice that no watch covers, and that a GET has shown to be undecodable. If a label of the slice names
    /// a Service, that Service is not this source, because the watch of this source would cover the slice. Without such
    /// a label, the slice might belong to the source, and is treated as unchanged.
    pub fn set_aside(&mut self, slice: &SliceKey, unreadable: &Unreadable) {
        self.slices.remove(slice);
        if label_of(&unreadable.metadata, label::SERVICE_NAME).is_none() {
            self.unreadable.insert(slice.clone());
        }
    }

    /// The slices of one family.
    pub fn slices_of(&self, family: Family) -> impl Iterator<Item = &EndpointSlice> {
        let slices = self.slices.values().map(AsRef::as_ref);
        slices.filter(move |slice: &&EndpointSlice| slice.address_type == family.as_str())
    }
}
