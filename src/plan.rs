//! What to write so that a Service's copies are right: the specification of the operator as code.
//!
//! ```text
//!   source slices ──┐
//!   managed Service ┼─> wanted copies ──┬─ not there ─────> creates
//!   slices there ───┘                   ├─ different ─────> updates
//!                                       └─ not wanted ────> deletes
//! ```
//!
//! Pure: a [`Snapshot`] in, a [`Plan`] out. The plan of an applied plan is empty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::model::{
    Family, Finding, Intent, ManagedService, Reason, ServiceState, SliceKey, Snapshot, Source, annotation_of,
    label, label_of, ours, owner_of, provenance, version,
};

pub mod copy;

/// What has to be done. Creates, then updates, then deletes.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Slices to POST.
    pub creates: Vec<EndpointSlice>,
    /// Slices to PUT, with the resourceVersion and UID of what they replace.
    pub updates: Vec<EndpointSlice>,
    /// Slices to DELETE.
    pub deletes: Vec<Delete>,
    /// What the user should know.
    pub findings: Vec<Finding>,
    /// Source slices to be read first: copies of them claim to be newer than what we see, and wait.
    pub confirm: BTreeSet<SliceKey>,
}

/// A DELETE with its preconditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// The slice.
    pub key: SliceKey,
    /// UID it must have.
    pub uid: String,
    /// resourceVersion it must have.
    pub resource_version: String,
}

impl Plan {
    /// Nothing has to be written or read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.creates.is_empty()
            && self.updates.is_empty()
            && self.deletes.is_empty()
            && self.confirm.is_empty()
    }

    fn find(&mut self, reason: Reason, note: impl Into<String>) {
        self.findings.push(Finding::new(reason, note));
    }
}

/// Decides what to write for one Service.
#[must_use]
pub fn plan(snapshot: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    let ServiceState::Managed(service) = &snapshot.service else {
        remove_unwanted(snapshot, &BTreeSet::new(), &mut plan);
        return plan;
    };
    plan.findings.extend(service.remark.clone());
    match (&service.intent, &snapshot.source) {
        (Intent::Unclear(finding), _) => plan.findings.push(finding.clone()),
        (Intent::Refused(finding), _) => {
            plan.findings.push(finding.clone());
            remove_unwanted(snapshot, &BTreeSet::new(), &mut plan);
        }
        (Intent::Copy(_), None) => {}
        (Intent::Copy(_), Some(source)) => {
            report_source(service, source, &mut plan);
            let wanted = wanted_copies(service, source, snapshot, &mut plan);
            report_endpoints(service, &wanted, &mut plan);
            let names = wanted.keys().cloned().collect();
            for (key, copy) in wanted {
                write(service, snapshot, key, copy, &mut plan);
            }
            remove_unwanted(snapshot, &names, &mut plan);
        }
    }
    report_foreign(snapshot, &mut plan);
    plan
}

/// The copies that should be there, by name.
fn wanted_copies(
    service: &ManagedService,
    source: &Source,
    snapshot: &Snapshot,
    plan: &mut Plan,
) -> BTreeMap<SliceKey, EndpointSlice> {
    let mut wanted = BTreeMap::new();
    let mut unresolved = BTreeSet::new();
    for &family in &service.families {
        let slices = || {
            source
                .slices
                .iter()
                .filter(move |slice| slice.address_type == family.as_str())
        };
        if is_empty(slices()) && service.holds(&source.key) {
            let held = held_copies(service, source, family, snapshot, &mut unresolved);
            if !held.is_empty() {
                plan.find(
                    Reason::SourceEmptyHeld,
                    format!(
                        "{} has no {} endpoint; its last good copy is kept. Check the source; endpoint-copier/when-source-empty: follow empties the copy",
                        source.key,
                        family.as_str()
                    ),
                );
            }
            wanted.extend(held);
            continue;
        }
        for slice in slices() {
            let ports = copy::Ports::resolve(&service.ports, slice.ports.as_deref());
            let reachable = !ports.none_known();
            unresolved.extend(ports.unresolved);
            if reachable {
                let copy = copy::fresh(service, slice, ports.known);
                wanted.insert(SliceKey::of(&copy.metadata), copy);
            }
        }
    }
    if !unresolved.is_empty() {
        let names = unresolved.into_iter().collect::<Vec<_>>().join(", ");
        plan.find(
            Reason::PortUnresolved,
            format!("{} has no port named {names}; use a number as targetPort, or the name of a port of the source", source.key),
        );
    }
    wanted
}

fn is_empty<'a>(mut slices: impl Iterator<Item = &'a Arc<EndpointSlice>>) -> bool {
    slices.all(|slice| slice.endpoints.as_ref().is_none_or(Vec::is_empty))
}

/// The last good copies of one family, made from this source for this very Service.
fn held_copies(
    service: &ManagedService,
    source: &Source,
    family: Family,
    snapshot: &Snapshot,
    unresolved: &mut BTreeSet<String>,
) -> BTreeMap<SliceKey, EndpointSlice> {
    let mut held = BTreeMap::new();
    for current in &snapshot.slices {
        let mine = ours(current).as_ref() == Some(&service.key)
            && owner_of(current).is_some_and(|owner| owner.uid == service.uid)
            && current.metadata.deletion_timestamp.is_none();
        if !mine
            || current.address_type != family.as_str()
            || is_empty([current].into_iter())
            || !made_from(current, source)
        {
            continue;
        }
        let slice = source.slices.iter().find(|slice| {
            slice.metadata.name.as_deref() == annotation_of(&current.metadata, provenance::SLICE)
        });
        let known = slice
            .and_then(|slice| slice.ports.as_deref())
            .filter(|ports| !ports.is_empty());
        let mut ports = copy::Ports::resolve(&service.ports, known);
        if !ports.unresolved.is_empty() {
            // With the source gone, the number that the copy shows is the last that was known.
            keep_numbers(service, current, &mut ports);
        }
        unresolved.extend(ports.unresolved.iter().cloned());
        if !ports.none_known() {
            held.insert(
                SliceKey::of(&current.metadata),
                copy::held(service, current, ports.known),
            );
        }
    }
    held
}

fn keep_numbers(service: &ManagedService, current: &EndpointSlice, ports: &mut copy::Ports) {
    let mut targets = service.ports.clone();
    for port in &mut targets {
        let shown = current.ports.iter().flatten().find(|shown| {
            shown.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && shown.protocol.as_deref().unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP")
        });
        if let (Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(_)), Some(number)) =
            (&port.target_port, shown.and_then(|shown| shown.port))
        {
            port.target_port = Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(
                number,
            ));
        }
    }
    *ports = copy::Ports::resolve(&targets, None);
}

/// Whether a copy came from this source and not from one that the Service named before. A copy
/// knows its source slice; whose that was is told by the slice itself, or else by its name: the
/// Service's own, or that and one more word, as Kubernetes names slices.
fn made_from(copy: &EndpointSlice, source: &Source) -> bool {
    let slice = annotation_of(&copy.metadata, provenance::SLICE).unwrap_or_default();
    annotation_of(&copy.metadata, provenance::NAMESPACE) == Some(source.key.namespace())
        && (source
            .slices
            .iter()
            .any(|present| present.metadata.name.as_deref() == Some(slice))
            || slice.strip_prefix(source.key.name()).is_some_and(|rest| {
                rest.is_empty()
                    || rest
                        .strip_prefix('-')
                        .is_some_and(|word| !word.is_empty() && !word.contains('-'))
            }))
}

/// One wanted copy: nothing, a create, an update, or a reason why not.
fn write(service: &ManagedService, snapshot: &Snapshot, key: SliceKey, copy: EndpointSlice, plan: &mut Plan) {
    let Some(current) = snapshot
        .slices
        .iter()
        .find(|slice| SliceKey::of(&slice.metadata) == key)
    else {
        if !service.deleting {
            plan.creates.push(copy);
        }
        return;
    };
    if ours(current).as_ref() != Some(&service.key) {
        plan.find(
            Reason::NameTaken,
            format!(
                "EndpointSlice {} is not ours and has the name of a copy; rename or delete it",
                key.name()
            ),
        );
    } else if current.address_type != copy.address_type {
        // Immutable: the way to another type is through nothing. Its create follows when it is gone.
        plan.deletes.extend(delete(current));
    } else if !copy::same(current, &copy) {
        match newer_source(current, &copy, snapshot) {
            Some(unconfirmed) => _ = plan.confirm.insert(unconfirmed),
            None => plan.updates.push(copy::over(current, copy)),
        }
    }
}

/// The source slice of a copy that claims to be made from a newer state than we see: perhaps ours
/// is the stale view, and overwriting would bring back a dead endpoint.
fn newer_source(current: &EndpointSlice, copy: &EndpointSlice, snapshot: &Snapshot) -> Option<SliceKey> {
    let read = |slice: &EndpointSlice, key| annotation_of(&slice.metadata, key).map(str::to_owned);
    let claimed = version(read(current, provenance::RESOURCE_VERSION).as_deref())?;
    let ahead = match version(read(copy, provenance::RESOURCE_VERSION).as_deref()) {
        Some(seen) => claimed > seen && read(current, provenance::UID) == read(copy, provenance::UID),
        None => false,
    };
    source_slice(current).filter(|source| ahead && !snapshot.confirmed.contains(source))
}

fn source_slice(copy: &EndpointSlice) -> Option<SliceKey> {
    let read = |key| annotation_of(&copy.metadata, key);
    Some(SliceKey::new(
        read(provenance::NAMESPACE)?,
        read(provenance::SLICE)?,
    ))
}

/// Deletes every copy of ours that is not wanted.
fn remove_unwanted(snapshot: &Snapshot, wanted: &BTreeSet<SliceKey>, plan: &mut Plan) {
    for slice in &snapshot.slices {
        let key = SliceKey::of(&slice.metadata);
        if wanted.contains(&key)
            || ours(slice).as_ref() != Some(&snapshot.key)
            || slice.metadata.deletion_timestamp.is_some()
        {
            continue;
        }
        match vanished_unseen(slice, snapshot) {
            Some(unconfirmed) => _ = plan.confirm.insert(unconfirmed),
            None => plan.deletes.extend(delete(slice)),
        }
    }
}

/// The source slice of a copy that is newer than all that we have seen of sources: its source may
/// be there, and our view too old to show it.
fn vanished_unseen(copy: &EndpointSlice, snapshot: &Snapshot) -> Option<SliceKey> {
    let source = snapshot.source.as_ref()?;
    let slice = source_slice(copy)?;
    let ahead = version(annotation_of(&copy.metadata, provenance::RESOURCE_VERSION))? > snapshot.seen;
    let ours = slice.namespace() == source.key.namespace();
    let shown = source
        .slices
        .iter()
        .any(|present| SliceKey::of(&present.metadata) == slice);
    (ahead && ours && !shown && !snapshot.confirmed.contains(&slice)).then_some(slice)
}

fn delete(slice: &EndpointSlice) -> Option<Delete> {
    Some(Delete {
        key: SliceKey::of(&slice.metadata),
        uid: slice.metadata.uid.clone()?,
        resource_version: slice.metadata.resource_version.clone()?,
    })
}

/// What is to be said of the source.
fn report_source(service: &ManagedService, source: &Source, plan: &mut Plan) {
    if source.slices.is_empty() {
        if source.has_copies {
            plan.find(
                Reason::SourceIsCopy,
                format!(
                    "all slices of {} are copies made by this operator; name their source instead",
                    source.key
                ),
            );
        } else if !source.exists {
            plan.find(
                Reason::SourceNotFound,
                format!("there is no Service {} and no slice of it", source.key),
            );
        }
        return;
    }
    let there = |family: &Family| {
        source
            .slices
            .iter()
            .any(|slice| slice.address_type == family.as_str())
    };
    let other = source
        .slices
        .iter()
        .find(|slice| Family::parse(&slice.address_type).is_none());
    if let Some(slice) = other {
        plan.find(
            Reason::UnsupportedAddressType,
            format!(
                "slice {} of {} has address type {}; only IPv4 and IPv6 are copied",
                SliceKey::of(&slice.metadata).name(),
                source.key,
                slice.address_type
            ),
        );
    }
    let missing: Vec<_> = service
        .families
        .iter()
        .filter(|family| !there(family))
        .map(|family| family.as_str())
        .collect();
    let none = missing.len() == service.families.len();
    if none || (service.needs_all_families && !missing.is_empty()) {
        plan.find(
            Reason::FamilyMissing,
            format!(
                "{} has no {} slice; set spec.ipFamilies to the families of the source",
                source.key,
                missing.join(" and no ")
            ),
        );
    }
}

/// What is to be said of the endpoints.
fn report_endpoints(service: &ManagedService, wanted: &BTreeMap<SliceKey, EndpointSlice>, plan: &mut Plan) {
    let mut endpoints = wanted
        .values()
        .flat_map(|copy| copy.endpoints.iter().flatten())
        .peekable();
    if service.local_traffic
        && endpoints.peek().is_some()
        && endpoints.all(|endpoint| endpoint.node_name.is_none())
    {
        plan.find(
            Reason::NodeNameMissing,
            "externalTrafficPolicy is Local and no endpoint has a nodeName, so no node will announce the address; set it to Cluster",
        );
    }
}

/// Slices of others, which kube-proxy merges with ours.
fn report_foreign(snapshot: &Snapshot, plan: &mut Plan) {
    let foreign: Vec<_> = snapshot
        .slices
        .iter()
        .filter(|slice| {
            ours(slice).is_none()
                && label_of(&slice.metadata, label::SERVICE_NAME) == Some(snapshot.key.name())
        })
        .map(|slice| SliceKey::of(&slice.metadata).name().to_owned())
        .collect();
    let refused = matches!(&snapshot.service, ServiceState::Managed(service) if matches!(service.intent, Intent::Refused(_)));
    if !foreign.is_empty() && !refused {
        plan.find(
            Reason::ForeignSlices,
            format!("EndpointSlices of others belong to this Service too, and traffic goes to them: {}; delete them", foreign.join(", ")),
        );
    }
}

#[cfg(test)]
mod tests;
