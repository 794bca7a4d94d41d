//! Plans the writes that make a Service's copies correct. This is the specification of the operator as code.
//!
//! ```text
//!   source slices ────┐
//!   managed Service ──┤                   ┌─ missing ───────> creates
//!   existing slices ──┼─> wanted copies ──┼─ different ─────> updates
//!   Nodes, probes ────┘                   └─ not wanted ────> deletes
//! ```
//!
//! Planning is pure: a [`Snapshot`] and [`Verdicts`] in, a [`Plan`] out. After a plan that needs no reads is applied,
//! the next plan is empty, with two exceptions:
//!
//! - A slice had to be deleted, for example because its address type was wrong, before a copy with its name can be
//!   created.
//! - A copy had to be created before probes may take endpoints out of the others.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::migration::is_leftover;
use crate::model::{
    EndpointCounts, EndpointSlice, Finding, Intent, ManagedService, Reason, SliceKey, Snapshot, Source,
    annotation_of, provenance, version_of,
};

pub mod copy;
mod families;
mod foreign;
mod hold;
mod last_ports;
mod report;
mod second_family;
mod take_out;
mod topology;
mod wanted_copies;

pub use take_out::{Judged, Verdicts};

/// The writes for one Service, in this order: deletes of copies without consent, creates, updates, other deletes, and
/// leftovers.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Copies to DELETE because there is no consent for them. Neither other writes nor missing information about the
    /// Service delays these deletes.
    pub withdrawn: Vec<Delete>,
    /// Slices to POST.
    pub creates: Vec<EndpointSlice>,
    /// Slices to PUT, with the resourceVersion and the UID of the slices that they replace.
    pub updates: Vec<EndpointSlice>,
    /// The keys of the updates that change nothing for clients.
    pub cosmetic: BTreeSet<SliceKey>,
    /// Copies to DELETE for any other reason.
    pub deletes: Vec<Delete>,
    /// Slices of the Go operator to DELETE after all other writes have succeeded, because a copy that the API server
    /// refused replaces nothing.
    pub leftovers: Vec<Delete>,
    /// Whether the objects that the Go operator made may be deleted, because the copies replace them, the Service
    /// follows an empty source, or the Service is disabled.
    pub removes_leftovers: bool,
    /// The number of endpoints in the wanted copies. Each address is counted once.
    pub endpoints: usize,
    /// The trigger times of the changes that the updates copy, as the source states them.
    pub triggers: Vec<String>,
    /// Addresses that are out according to the probes of this replica, whether or not this plan changes copies for that
    /// reason.
    pub unreachable: BTreeSet<IpAddr>,
    /// Addresses that this plan takes out, and why. Addresses that the existing copies already record as taken out are
    /// not included.
    pub taken_out: BTreeMap<IpAddr, String>,
    /// Addresses that the existing copies record as taken out, and that this plan puts back.
    pub returned: BTreeSet<IpAddr>,
    /// The problems that the user should know about.
    pub findings: Vec<Finding>,
    /// Slices that have to be read before the plan is complete: source slices of which a copy claims to show a newer
    /// version than this replica sees, source slices whose copies would be created from a possibly outdated view, and
    /// slices of which only an outline is in memory.
    pub confirm: BTreeSet<SliceKey>,
}

/// A DELETE with its preconditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// The slice.
    pub key: SliceKey,
    /// The UID that it must have.
    pub uid: String,
    /// The resourceVersion that it must have.
    pub resource_version: String,
}

impl Plan {
    /// Whether nothing has to be written or read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.creates.is_empty()
            && self.updates.is_empty()
            && self.withdrawn.is_empty()
            && self.deletes.is_empty()
            && self.leftovers.is_empty()
            && self.confirm.is_empty()
    }

    fn find(&mut self, reason: Reason, note: impl Into<String>) {
        self.findings.push(Finding::new(reason, note));
    }
}

/// Decides what to write for one Service.
#[must_use]
pub fn plan(snapshot: &Snapshot, verdicts: &Verdicts) -> Plan {
    let mut plan = Plan::default();
    let Some(service) = &snapshot.service else {
        remove_unwanted(snapshot, &BTreeSet::new(), &mut plan);
        remove_without_consent(snapshot, &mut plan);
        return plan;
    };
    plan.findings.extend(service.remarks.iter().cloned());
    match (&service.intent, &snapshot.source) {
        (Intent::Unclear(finding), _) => plan.findings.push(finding.clone()),
        (Intent::Refused(finding), _) => {
            plan.findings.push(finding.clone());
            remove_unwanted(snapshot, &BTreeSet::new(), &mut plan);
        }
        (Intent::Disabled, _) => {
            remove_unwanted(snapshot, &BTreeSet::new(), &mut plan);
            remove_leftovers(snapshot, &mut plan);
        }
        (Intent::Copy(_), None) => {
            if let Some(refusal) = &snapshot.refusal {
                plan.findings.push(refusal.finding.clone());
                if refusal.is_final {
                    remove_unwanted(snapshot, &BTreeSet::new(), &mut plan);
                }
            }
        }
        (Intent::Copy(_), Some(source)) => {
            let outlines = snapshot.outlines.difference(&snapshot.confirmed);
            plan.confirm.extend(outlines.cloned());
            let source = &without_loops(service, source, &mut plan);
            report::source(service, source, &mut plan);
            let mut wanted = wanted_copies::copies(service, source, snapshot, verdicts, &mut plan);
            topology::apply(service, source, snapshot, &mut wanted);
            take_out::add_unchanged(source, snapshot, &mut wanted);
            take_out::apply(service, source, snapshot, verdicts, &mut wanted, &mut plan);
            plan.endpoints = EndpointCounts::of(wanted.values()).total();
            report::emptiness(service, source, &mut plan);
            report::endpoints(service, source, snapshot, &wanted, &mut plan);
            let names = wanted.keys().cloned().collect();
            let in_doubt = is_in_doubt(source, snapshot);
            for copy in wanted.into_values() {
                write(service, snapshot, copy, in_doubt, &mut plan);
            }
            remove_unwanted(snapshot, &names, &mut plan);
            if may_replace_leftovers(service, source, snapshot, &names, &plan) {
                remove_leftovers(snapshot, &mut plan);
            }
            foreign::report(snapshot, &mut plan);
        }
    }
    remove_without_consent(snapshot, &mut plan);
    plan
}

/// Returns the source without endpoints that lead back to the Service, and reports the addresses of such endpoints. In
/// a family without other endpoints, these endpoints stay.
fn without_loops<'a>(service: &ManagedService, source: &'a Source, plan: &mut Plan) -> Cow<'a, Source> {
    let (slices, loops) = service.without_loops(&source.slices);
    report::loops(source, &loops, plan);
    match slices {
        Cow::Borrowed(_) => Cow::Borrowed(source),
        Cow::Owned(slices) => Cow::Owned(Source {
            slices,
            ..source.clone()
        }),
    }
}

/// Plans for one wanted copy: a write, a read before the write, a finding, or nothing. `in_doubt` says whether source
/// slices might be gone.
fn write(
    service: &ManagedService,
    snapshot: &Snapshot,
    copy: EndpointSlice,
    in_doubt: bool,
    plan: &mut Plan,
) {
    let key = copy.key();
    if snapshot.unreadable.contains(&key) {
        return;
    }
    let Some(current) = snapshot.slice(&key) else {
        if !service.deleting {
            let doubted = copy
                .source()
                .filter(|source| in_doubt && !snapshot.confirmed.contains(source));
            match doubted {
                Some(unconfirmed) => _ = plan.confirm.insert(unconfirmed),
                None => plan.creates.push(with_cause(copy, snapshot)),
            }
        }
        return;
    };
    let serves_alike = copy::serves_alike(current, &copy);
    if snapshot.is_name_taken(&key) {
        plan.find(
            Reason::NameTaken,
            format!(
                "EndpointSlice {0} is not a copy but has the name of one; to delete it, run kubectl delete endpointslice {0} --namespace {1}",
                key.name(),
                key.namespace()
            ),
        );
    } else if current.address_type != copy.address_type {
        // The address type is immutable, so the slice is deleted first, and recreated once it is gone.
        if current.metadata.deletion_timestamp.is_none() {
            plan.deletes.extend(delete(current));
        }
    } else if !serves_alike || !copy::same_metadata(current, &copy) {
        if let Some(unconfirmed) = newer_source(current, &copy, snapshot) {
            plan.confirm.insert(unconfirmed);
        } else {
            plan.triggers.extend(new_trigger(current, &copy));
            if serves_alike {
                plan.cosmetic.insert(key);
            }
            plan.updates.push(copy::over(current, with_cause(copy, snapshot)));
        }
    }
}

/// Whether source slices might be gone. If so, a created copy could restore dead endpoints. This is the case if their
/// watch is in doubt, or if an existing copy claims to show a newer version of the source than this replica sees.
fn is_in_doubt(source: &Source, snapshot: &Snapshot) -> bool {
    let is_newer = |copy: &Arc<EndpointSlice>| {
        copy.provenance().is_some_and(|claimed| {
            claimed.namespace == source.key.namespace() && claimed.version > Some(snapshot.seen)
        })
    };
    snapshot.in_doubt || snapshot.copies.values().any(is_newer)
}

/// Adds the time at which the cause of the plan was first seen, unless the source states a trigger time. kube-proxy
/// measures from this time how long a change takes to reach the nodes.
fn with_cause(mut copy: EndpointSlice, snapshot: &Snapshot) -> EndpointSlice {
    if let Some(cause) = &snapshot.cause
        && annotation_of(&copy.metadata, provenance::TRIGGER_TIME).is_none()
    {
        let annotations = copy.metadata.annotations.get_or_insert_default();
        annotations.insert(provenance::TRIGGER_TIME.into(), cause.as_str().into());
    }
    copy
}

/// The trigger time that an update copies, if it is new. A recreated copy has no new trigger time, because the source
/// has not changed.
fn new_trigger(current: &EndpointSlice, copy: &EndpointSlice) -> Option<String> {
    let trigger = |slice| annotation_of(slice, provenance::TRIGGER_TIME);
    let new = trigger(&copy.metadata)?;
    (trigger(&current.metadata) != Some(new)).then(|| new.to_owned())
}

/// The source slice to read before an update, if the existing copy claims to show a newer version of that slice than
/// this replica sees. In that case, this replica's view might be stale, and the update could restore a dead endpoint.
/// Users can edit what a copy claims, so the result is the source slice that this replica sees, not the one that the
/// copy names.
fn newer_source(current: &EndpointSlice, copy: &EndpointSlice, snapshot: &Snapshot) -> Option<SliceKey> {
    let (claimed, seen) = (current.provenance()?, copy.provenance()?);
    let is_ahead = claimed.uid == seen.uid && seen.version.is_some() && claimed.version > seen.version;
    seen.source()
        .filter(|source| is_ahead && !snapshot.confirmed.contains(source))
}

/// Deletes the copies that are not wanted. A copy stays if it or its source slice cannot be decoded, or if its source
/// slice has to be read first.
fn remove_unwanted(snapshot: &Snapshot, wanted: &BTreeSet<SliceKey>, plan: &mut Plan) {
    for (key, slice) in &snapshot.copies {
        if wanted.contains(key) || slice.metadata.deletion_timestamp.is_some() || is_frozen(slice, snapshot) {
            continue;
        }
        match unseen_source(slice, snapshot) {
            Some(unconfirmed) => _ = plan.confirm.insert(unconfirmed),
            None => plan.deletes.extend(delete(slice)),
        }
    }
}

/// Deletes copies of sources for which consent was never given or was withdrawn, unless an update turns them into
/// copies of another source. These deletes take precedence over every rule that keeps copies.
fn remove_without_consent(snapshot: &Snapshot, plan: &mut Plan) {
    let is_refused = |copy: &SliceKey| snapshot.without_consent.contains(copy);
    plan.deletes.retain(|delete| !is_refused(&delete.key));
    let updated: BTreeSet<_> = plan.updates.iter().map(EndpointSlice::key).collect();
    for (key, slice) in &snapshot.copies {
        if is_refused(key) && !updated.contains(key) && slice.metadata.deletion_timestamp.is_none() {
            plan.withdrawn.extend(delete(slice));
        }
    }
}

/// Whether the source slice of a copy, or the copy itself, cannot be decoded.
fn is_frozen(copy: &EndpointSlice, snapshot: &Snapshot) -> bool {
    let source = snapshot.source.as_ref();
    snapshot.unreadable.contains(&copy.key())
        || source.is_some_and(|source| source.has_unreadable_source_of(copy))
}

/// Whether the objects that the Go operator made may be deleted. Until all wanted copies exist or are created by this
/// plan, these objects keep the Service working. If there are no wanted copies, the source must be empty, and the
/// Service must follow it.
fn may_replace_leftovers(
    service: &ManagedService,
    source: &Source,
    snapshot: &Snapshot,
    wanted: &BTreeSet<SliceKey>,
    plan: &Plan,
) -> bool {
    let made: BTreeSet<_> = plan.creates.iter().map(EndpointSlice::key).collect();
    let will_be_there = |key| snapshot.copies.contains_key(key) || made.contains(key);
    if wanted.is_empty() {
        !service.holds && source.is_empty()
    } else {
        wanted.iter().all(will_be_there)
    }
}

/// Deletes the slices that the Go operator made, and allows the deletion of its other objects.
fn remove_leftovers(snapshot: &Snapshot, plan: &mut Plan) {
    plan.removes_leftovers = true;
    let leftovers = snapshot
        .others
        .values()
        .filter(|slice| is_leftover(slice, &snapshot.key));
    let alive = leftovers.filter(|slice| slice.metadata.deletion_timestamp.is_none());
    plan.leftovers.extend(alive.filter_map(|slice| delete(slice)));
}

/// The source slice to read before an unwanted copy is deleted, if the copy claims to show a newer version than this
/// replica sees. The slice might exist and have endpoints, while this replica's view is too old to show it.
fn unseen_source(copy: &EndpointSlice, snapshot: &Snapshot) -> Option<SliceKey> {
    let source = snapshot.source.as_ref()?;
    let claimed = copy.provenance()?;
    let slice = claimed.source()?;
    let shown = source.slice(claimed.name);
    let seen = match shown.filter(|shown| shown.metadata.uid.as_deref() == Some(claimed.uid)) {
        Some(shown) => version_of(&shown.metadata)?,
        None => snapshot.seen,
    };
    let is_ahead = claimed.version > Some(seen);
    let is_from_there = claimed.namespace == source.key.namespace();
    (is_ahead && is_from_there && !snapshot.confirmed.contains(&slice)).then_some(slice)
}

fn delete(slice: &EndpointSlice) -> Option<Delete> {
    Some(Delete {
        key: slice.key(),
        uid: slice.metadata.uid.clone()?,
        resource_version: slice.metadata.resource_version.clone()?,
    })
}

#[cfg(test)]
mod tests;
