//! The copies that a Service should have. Afterward, `topology` adds data from Nodes, and `take_out` takes out
//! endpoints that fail probes. [`crate::model::copy_name`] makes the names of copies.

use std::collections::BTreeMap;

use super::{Plan, Verdicts, copy, hold, last_ports, report, second_family};
use crate::model::ports::LeftOut;
use crate::model::{EndpointSlice, ManagedService, Reason, SliceKey, Snapshot, Source};

/// The copies that should exist, by key.
pub(super) fn copies(
    service: &ManagedService,
    source: &Source,
    snapshot: &Snapshot,
    verdicts: &Verdicts,
    plan: &mut Plan,
) -> BTreeMap<SliceKey, EndpointSlice> {
    let (mut wanted, mut left_out) = (BTreeMap::new(), LeftOut::default());
    for &family in &service.families {
        let (empty, full): (Vec<_>, Vec<_>) = source.slices_of(family).partition(|slice| slice.is_empty());
        let mut of_family = LeftOut::default();
        let mut copies = fresh_copies(service, source, &full, &mut of_family);
        let has_unreadable = source.has_unreadable(family, &snapshot.copies);
        let (mut held, mut is_held) = (Vec::new(), false);
        if full.is_empty() {
            let second = second_family::copies(service, source, family, snapshot, verdicts, &mut of_family);
            report::second_family(source, family, &second, plan);
            is_held = hold::applies(service, has_unreadable, &second);
            if is_held {
                held = hold::copies(service, source, family, snapshot, &mut of_family);
                held.retain(|copy| !second.decides(&copy.key()));
                if !held.is_empty() {
                    plan.find(Reason::SourceEmptyHeld, report::held(source, family));
                }
            }
            copies.extend(second.copies);
        }
        let gives_endpoints = |copy: &EndpointSlice| !copy.is_empty() && !snapshot.is_name_taken(&copy.key());
        if is_held {
            // While copies are held, existing copies of empty slices stay too.
            copies.extend(copies_of_empty_slices(service, source, &empty, snapshot));
        } else if has_unreadable || copies.iter().any(gives_endpoints) {
            // Some consumers use only the slice that they saw last. An empty slice would leave them without endpoints.
            copies.retain(|copy| !copy.is_empty());
        } else {
            copies.extend(copies_of_empty_slices(service, source, &empty, snapshot));
        }
        copies.extend(held);
        wanted.extend(copies.into_iter().map(|copy| (copy.key(), copy)));
        left_out.unresolved.extend(of_family.unresolved);
        left_out.refused.extend(of_family.refused);
    }
    report::left_out(source, &left_out, plan);
    report::ports(source, &wanted, plan);
    wanted
}

/// The copies of these slices. A slice gets no copy if the Service has ports and the copy would have none of them.
fn fresh_copies(
    service: &ManagedService,
    source: &Source,
    slices: &[&EndpointSlice],
    left_out: &mut LeftOut,
) -> Vec<EndpointSlice> {
    let fresh = slices.iter().filter_map(|slice| {
        let ports = source.ports_of_copy(&service.ports, slice, left_out)?;
        Some(copy::fresh(service, slice, ports))
    });
    fresh.collect()
}

/// The copies of empty slices, if they exist already. An empty slice never causes a create, because that would undo a
/// deletion by hand. Because nothing is created, neither foreign slices with the names of such copies nor ports that
/// are left out are reported.
fn copies_of_empty_slices(
    service: &ManagedService,
    source: &Source,
    empty: &[&EndpointSlice],
    snapshot: &Snapshot,
) -> Vec<EndpointSlice> {
    let existing = empty.iter().filter_map(|slice| {
        let current = snapshot.copy(&copy::key(service, slice))?;
        let ports = last_ports::of_copy(service, source, Some(slice), current, &mut LeftOut::default())?;
        Some(copy::fresh(service, slice, ports))
    });
    existing.collect()
}
