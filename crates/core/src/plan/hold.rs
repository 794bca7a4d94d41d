//! Copies that outlive an empty source: when they do ([`applies`]), which, and with which ports. Their endpoints stay,
//! and the rest follows the Service.

use std::sync::Arc;

use super::second_family::SecondFamily;
use super::{copy, last_ports};
use crate::model::ports::LeftOut;
use crate::model::{EndpointSlice, Family, ManagedService, Snapshot, Source, copy_name};

/// Whether the copies of one family are held although their source has no endpoints of it: the Service asks for that
/// ([`ManagedService::holds`]), no slice that cannot be decoded has endpoints, and Nodes give none.
pub(super) fn applies(service: &ManagedService, has_unreadable: bool, second: &SecondFamily) -> bool {
    service.holds && !has_unreadable && !second.is_filled()
}

/// Whether a slice that cannot be decoded has endpoints of a family. It counts as unchanged, so they are those that
/// its copy shows.
pub(super) fn has_unreadable(source: &Source, family: Family, snapshot: &Snapshot) -> bool {
    snapshot.copies.iter().any(|copy| {
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
    let is_held = |current: &&Arc<EndpointSlice>| {
        current.owner().is_some_and(|owner| owner.uid == service.uid)
            && current.address_type == family.as_str()
            && !current.is_empty()
            && is_made_from(service, current, source)
    };
    let copies = snapshot.copies.iter().filter(is_held);
    let held = copies.filter_map(|current| {
        let there = current
            .provenance()
            .and_then(|claimed| source.slice(claimed.name));
        let ports = last_ports::of_copy(service, source, there, current, left_out)?;
        Some(copy::held(service, current, ports))
    });
    held.collect()
}

/// Whether a copy came from this source and not from one that the Service named before: it is the
/// copy of a slice that is there, or it says so, or the name of its slice does.
fn is_made_from(service: &ManagedService, copy: &EndpointSlice, source: &Source) -> bool {
    let own_name = copy.metadata.name.as_deref();
    let mut slices = source.slices.iter();
    slices.any(|present| own_name == Some(&copy_name(service.key.name(), present)))
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
