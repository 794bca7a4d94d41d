//! Copies that outlive an empty source: when they do ([`applies`]), which copies, and with which ports. Their endpoints
//! stay, and the rest follows the Service.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::second_family::SecondFamily;
use super::{copy, last_ports};
use crate::model::ports::LeftOut;
use crate::model::{EndpointSlice, Family, ManagedService, Snapshot, Source, copy_name_in, is_named_after};

/// Whether the copies of one family are held, once the caller ([`super::wanted_copies`]) has found that their source has
/// no endpoints of it: the Service asks for that (`holds` in `model/service/mod.rs`; the default for `default/kubernetes`),
/// no slice that cannot be decoded has endpoints, and Nodes give none.
pub(super) fn applies(service: &ManagedService, has_unreadable: bool, second: &SecondFamily) -> bool {
    service.holds && !has_unreadable && !second.is_filled()
}

/// The last good copies of one family, made for this UID of the Service. Their source slice is one of this source, or
/// is gone and has a name that such a slice would have: the Service may have named another source before.
pub(super) fn copies(
    service: &ManagedService,
    source: &Source,
    family: Family,
    snapshot: &Snapshot,
    left_out: &mut LeftOut,
) -> Vec<EndpointSlice> {
    let is_good = |current: &&Arc<EndpointSlice>| {
        current.owner().is_some_and(|owner| owner.uid == service.uid)
            && current.address_type == family.as_str()
            && !current.is_empty()
    };
    let slices = source.slices.values().map(AsRef::as_ref);
    let there: BTreeMap<_, _> = slices
        .map(|slice| (copy_name_in(service.key.name(), slice, family), slice))
        .collect();
    let held = snapshot.copies.values().filter(is_good).filter_map(|current| {
        // Users can edit what a copy claims, but not its name.
        let slice = there.get(current.metadata.name.as_deref()?).copied();
        let claimed = current
            .provenance()
            .filter(|claimed| claimed.namespace == source.key.namespace());
        let slice = slice.or_else(|| source.slice(claimed?.name));
        let was_there = || {
            claimed.is_some_and(|claimed| is_named_after(claimed.name, source.key.name()))
                && !snapshot.named_after_others.contains(&current.key())
        };
        if slice.is_none() && !was_there() {
            return None;
        }
        let ports = last_ports::of_copy(service, source, slice, current, left_out)?;
        Some(copy::held(service, current, slice, ports))
    });
    held.collect()
}
