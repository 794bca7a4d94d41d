//! Copies that outlive an empty source: when they do ([`applies`]), which, and with which ports. Their endpoints stay,
//! and the rest follows the Service.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::copy;
use super::second_family::SecondFamily;
use crate::model::ports::{LeftOut, named, ports, protocol};
use crate::model::{EndpointSlice, Family, ManagedService, Snapshot, Source, copy_name};

/// Whether the copies of one family are held although their source has no endpoints of it: the Service asks for that
/// ([`ManagedService::holds`]), no slice that cannot be decoded has endpoints, and Nodes give none.
pub(super) fn applies(service: &ManagedService, has_unreadable: bool, second: &SecondFamily) -> bool {
    service.holds && !has_unreadable && !second.is_filled()
}

/// Whether a slice that cannot be decoded has endpoints of a family. It counts as unchanged, so they are those that
/// its copy shows.
pub(super) fn has_unreadable(source: &Source, family: Family, snapshot: &Snapshot) -> bool {
    snapshot.copies.values().any(|copy| {
        copy.address_type == family.as_str() && source.has_unreadable_source_of(copy) && !copy.is_empty()
    })
}

/// The last good copies of one family, made from this source for this very Service.
pub(super) fn copies(
    service: &ManagedService,
    source: &Source,
    family: Family,
    snapshot: &Snapshot,
    left_out: &mut LeftOut,
) -> Vec<EndpointSlice> {
    let slices = source.slices.values();
    let present: BTreeSet<_> = slices.map(|slice| copy_name(service.key.name(), slice)).collect();
    let is_held = |current: &&Arc<EndpointSlice>| {
        current.owner().is_some_and(|owner| owner.uid == service.uid)
            && current.address_type == family.as_str()
            && !current.is_empty()
            && is_made_from(current, source, &present)
    };
    let copies = snapshot.copies.values().filter(is_held);
    let held = copies.filter_map(|current| {
        let there = current
            .provenance()
            .and_then(|claimed| source.slice(claimed.name));
        let known = known_ports(service, current, there);
        // Without its slice, what the copy shows is the last that was permitted.
        let permitted = there.unwrap_or(current).ports.as_deref().unwrap_or_default();
        let is_permitted = source.ports.for_slice(permitted);
        let ports = ports(&service.ports, &known, is_permitted, left_out)?;
        Some(copy::held(service, current, ports))
    });
    held.collect()
}

/// Numbers come from the source slice if it is still there, and else from the copy: what it shows is
/// the last that was known.
fn known_ports(
    service: &ManagedService,
    current: &EndpointSlice,
    there: Option<&EndpointSlice>,
) -> Vec<EndpointPort> {
    let mut known: Vec<_> = there
        .iter()
        .flat_map(|slice| slice.ports.iter().flatten().cloned())
        .collect();
    // Of ports with the same name and protocol, the first counts.
    let shown = current.ports.iter().flatten().rev();
    let shown: HashMap<_, _> = shown.map(|port| (named(port), port)).collect();
    for port in &service.ports {
        let Some(IntOrString::String(target)) = &port.target_port else {
            continue;
        };
        let name = port.name.as_deref().unwrap_or_default();
        let shown = shown.get(&(name, protocol(port.protocol.as_deref())));
        known.extend(shown.map(|shown| EndpointPort {
            name: Some(target.clone()),
            ..(*shown).clone()
        }));
    }
    known
}

/// Whether a copy came from this source and not from one that the Service named before: it is the
/// copy of a slice that is there, or it says so, or the name of its slice does. `present` has the names of the copies of
/// slices that are there.
fn is_made_from(copy: &EndpointSlice, source: &Source, present: &BTreeSet<String>) -> bool {
    let own_name = copy.metadata.name.as_ref();
    own_name.is_some_and(|name| present.contains(name))
        || copy.provenance().is_some_and(|claimed| {
            claimed.namespace == source.key.namespace()
                && (source.slice(claimed.name).is_some() || is_named_after(claimed.name, source.key.name()))
        })
}

/// Whether a slice bears the name of a Service, as the API server's own does, or that and one more
/// word, as Kubernetes names slices: 5 characters behind what is left of `<service>-` at 58.
fn is_named_after(slice: &str, service: &str) -> bool {
    const LONGEST_STEM: usize = 58;
    let stem = format!("{service}-");
    let stem = stem.get(..LONGEST_STEM).unwrap_or(&stem);
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|c| c.is_ascii_alphanumeric());
    slice == service || slice.strip_prefix(stem).is_some_and(is_word)
}
