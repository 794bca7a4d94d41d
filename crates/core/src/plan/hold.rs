//! Holds copies while their source is empty. [`applies`] decides when copies are held, and [`copies`] decides which
//! copies are held, and with which ports. A held copy keeps its endpoints. Everything else in it follows the Service.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::second_family::SecondFamily;
use super::{copy, last_ports};
use crate::model::ports::LeftOut;
use crate::model::{EndpointSlice, Family, ManagedService, Snapshot, Source, copy_name_in, is_named_after};

/// Whether the copies of one family are held. The caller ([`super::wanted_copies`]) has found that the source has no
/// endpoints of this family. The copies are held if the Service asks for a hold (`holds` in `model/service/mod.rs`, the
/// default for `default/kubernetes`), no undecodable slice has endpoints of the family, and Nodes provide no ready
/// endpoint.
pub(super) fn applies(service: &ManagedService, has_unreadable: bool, second: &SecondFamily) -> bool {
    service.holds && !has_unreadable && !second.is_filled()
}

/// Returns the held copies of one family. A copy is held if it has endpoints, was made for this UID of the Service, and
/// was made from a slice of this source. If that slice is gone, its name must be one that a slice of this source could
/// have, and not the name of another Service, because the Service might have had another source before.
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
        // Users can edit the annotations of a copy, but not its name.
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
