//! Laws that hold whatever changes. The cluster changes at random, and after each change, the operator plans, writes
//! and plans again.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use self::changes::{Change, ManualEdit, SOURCES, Settings, change, settings, source_slice};
use crate::model::EndpointSlice;
use crate::model::{Reason, ServiceKey, SliceKey, annotation_of, copy_name, label, label_of, provenance};
use crate::plan::Plan;
use crate::testing::world::{World, Write};
use crate::testing::{Build, BuildService, BuildSlice, owner, service};

mod changes;

/// The namespace, name and address type of a source slice, which determine the name of its copy.
type Origin = (String, String, String);

/// The cluster, and all addresses that its sources have ever listed.
struct History {
    world: World,
    shown: BTreeMap<Origin, Vec<BTreeSet<Vec<String>>>>,
}

fn shown_by(slice: &EndpointSlice) -> BTreeSet<Vec<String>> {
    slice
        .endpoints
        .iter()
        .flatten()
        .map(|endpoint| endpoint.addresses.clone())
        .collect()
}

impl History {
    fn new() -> Self {
        let world = World::new()
            .service(service("vip"))
            .service(service("second").edit(|service| {
                service.metadata.annotations = None;
            }));
        let mut history = Self {
            world,
            shown: BTreeMap::new(),
        };
        history.make(&Change::Source(0, vec![1, 2], 0));
        history
    }

    /// Makes a change, as other clients of the API do.
    fn make(&mut self, change: &Change) {
        let copies: Vec<_> = self
            .world
            .copies("vip")
            .iter()
            .map(|copy| SliceKey::of(&copy.metadata))
            .collect();
        let nth = |n: usize| copies.get(n % copies.len().max(1));
        let source = |n: usize| SliceKey::new(SOURCES[n].0, SOURCES[n].1);
        match change {
            Change::Source(n, ends, port) => {
                let slice = source_slice(*n, ends, *port);
                let (namespace, name, _, family) = SOURCES[*n];
                let origin = (namespace.to_owned(), name.to_owned(), family.to_owned());
                self.shown.entry(origin).or_default().push(shown_by(&slice));
                self.world.put(slice);
            }
            Change::SourceGone(n) => _ = self.world.slices.remove(&source(*n)),
            Change::Touch(n) => {
                if self.world.slices.contains_key(&source(*n)) {
                    self.world.edit(&source(*n), |slice| {
                        *slice = slice.clone().annotate("touched", "x").label("a", "b");
                    });
                }
            }
            Change::Service(settings) => self.world.put_service(settings.service()),
            Change::ServiceGone => _ = self.world.services.remove(&ServiceKey::new("default", "vip")),
            Change::Edit(n, edit) => {
                if let Some(key) = nth(*n) {
                    self.world.edit(key, |copy| edit.edit(copy));
                }
            }
            Change::DeleteCopy(n) => {
                if let Some(key) = nth(*n) {
                    self.world.slices.remove(key);
                }
            }
            Change::Foreign(n, ends) => {
                let slice = source_slice(0, ends, 0).of("vip").edit(|slice| {
                    slice.metadata.name = Some(match n {
                        0 => "theirs".to_owned(),
                        1 => copy_name("vip", &source_slice(0, &[], 0)),
                        _ => "vip-x7k2p".to_owned(),
                    });
                });
                let key = SliceKey::of(&slice.metadata);
                if self
                    .world
                    .slices
                    .get(&key)
                    .is_none_or(|known| known.owner_of_copy().is_none())
                {
                    self.world.put(slice);
                }
            }
            Change::Leftover => {
                let leftover = source_slice(0, &[1], 0)
                    .of("vip")
                    .label(label::SOURCE, "kubernetes");
                let leftover = leftover.edit(|slice| slice.metadata.name = Some("vip".to_owned()));
                self.world.put(leftover);
            }
        }
    }
}

/// Whether somebody edited a copy by hand. The endpoints of an edited copy stay while the source is empty and the copy
/// is held, and while an annotation is invalid.
fn was_edited(copy: &EndpointSlice) -> bool {
    label_of(&copy.metadata, "edited").is_some()
}

fn check_ownership(world: &World, key: &ServiceKey, plan: &Plan) {
    for update in &plan.updates {
        let name = SliceKey::of(&update.metadata);
        let existing = &world.slices[&name];
        assert_eq!(
            existing.owner_of_copy().as_ref(),
            Some(key),
            "an update of {name}, which is not ours"
        );
    }
    for delete in &plan.deletes {
        let existing = &world.slices[&delete.key];
        assert_eq!(
            existing.owner_of_copy().as_ref(),
            Some(key),
            "a deletion of {}, which is not ours",
            delete.key
        );
    }
    for leftover in &plan.leftovers {
        assert_eq!(
            leftover.key.to_string(),
            key.to_string(),
            "a deletion of a slice of the Go operator that has another name"
        );
    }
    for written in plan.creates.iter().chain(&plan.updates) {
        assert_eq!(
            written.owner_of_copy().as_ref(),
            Some(key),
            "a write of a slice that is not ours"
        );
        assert_eq!(label_of(&written.metadata, label::SERVICE_NAME), Some(key.name()));
    }
}

fn check_order(plan: &Plan) {
    let written: Vec<_> = plan
        .creates
        .iter()
        .chain(&plan.updates)
        .map(|slice| SliceKey::of(&slice.metadata))
        .collect();
    let names: BTreeSet<_> = written
        .iter()
        .chain(plan.deletes.iter().map(|delete| &delete.key))
        .collect();
    assert_eq!(
        names.len(),
        written.len() + plan.deletes.len(),
        "more than one write of a slice: {plan:#?}"
    );
}

/// The findings that allow a copy to show what its source no longer shows.
const KEEPING_REASONS: [Reason; 2] = [Reason::SourceEmptyHeld, Reason::InvalidAnnotation];

/// Checks that each copy shows what its source shows now or, if a finding allows that, what it showed earlier.
fn check_contents(history: &History, findings: &[Reason]) {
    let may_stay = findings.iter().any(|finding| KEEPING_REASONS.contains(finding));
    for copy in history.world.copies("vip") {
        // A copy that is being deleted and is not wanted is not written.
        if may_stay && was_edited(copy) || copy.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let read = |key| annotation_of(&copy.metadata, key).unwrap_or_default().to_owned();
        let origin = (
            read(provenance::NAMESPACE),
            read(provenance::SLICE),
            copy.address_type.clone(),
        );
        let source = SliceKey::new(origin.0.as_str(), origin.1.as_str());
        let now = history.world.slices.get(&source).map(shown_by);
        if now == Some(shown_by(copy)) {
            continue;
        }
        assert!(
            history
                .shown
                .get(&origin)
                .is_some_and(|shown| shown.contains(&shown_by(copy))),
            "{origin:?} never showed {:?}",
            shown_by(copy)
        );
        assert!(
            may_stay,
            "{origin:?} shows {now:?}, its copy {:?}: {findings:?}",
            shown_by(copy)
        );
    }
}

/// Checks that no empty copy exists next to a copy of the same family that has endpoints.
fn check_empty(world: &World, findings: &[Reason]) {
    let mut copies = world.copies("vip");
    copies.retain(|copy| copy.metadata.deletion_timestamp.is_none());
    let (empty, full): (Vec<_>, Vec<_>) = copies.into_iter().partition(|copy| copy.is_empty());
    let is_beside = |copy: &&&EndpointSlice| full.iter().any(|other| other.address_type == copy.address_type);
    let may_stay = findings.iter().any(|finding| KEEPING_REASONS.contains(finding));
    assert_eq!(empty.iter().find(is_beside).filter(|_| !may_stay), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rule: 2.ours, 2.delete-preconditions, 3.order
    #[test]
    fn one_plan_fixes_copies_and_touches_nothing_else(changes in vec(change(), 1..16)) {
        let key = ServiceKey::new("default", "vip");
        let mut history = History::new();
        history.world.settle("vip");
        for change in &changes {
            let before = history.world.clone();
            history.make(change);
            let mut plan = history.world.plan("vip");
            prop_assert!(!plan.creates.iter().any(EndpointSlice::is_empty), "{plan:#?}");
            check_ownership(&history.world, &key, &plan);
            check_order(&plan);
            if matches!(change, Change::Touch(_)) {
                prop_assert!(plan.is_done(), "a source that was touched causes a write: {plan:#?}");
            }
            let others: BTreeMap<_, _> = history.world.slices.clone().into_iter().filter(|(_, slice)| !slice.is_copy_for(&key)).collect();
            // The plan also deletes the slices of the Go operator.
            let leftovers = std::mem::take(&mut plan.leftovers);
            let writes = history.world.apply(plan);
            for (name, slice) in &others {
                prop_assert_eq!(history.world.slices.get(name), Some(slice), "a slice that is not ours was changed");
            }
            history.world.apply(Plan { leftovers, ..Plan::default() });
            if let Change::Source(n, ..) | Change::SourceGone(n) = change {
                // When a hold of the family ends, copies follow the other slices of the family too.
                let was_held = before.reasons("vip").contains(&Reason::SourceEmptyHeld);
                let taken = before.reasons("vip").contains(&Reason::NameTaken);
                let copied = before.copies("vip").len();
                let missing = before.slices.values().filter(|slice| slice.owner_of_copy().is_none()).count() > copied;
                // Empty copies are deleted when another slice has endpoints.
                let had_empty = before.copies("vip").iter().any(|copy| copy.is_empty());
                prop_assert!(writes.len() <= 1 || was_held || taken || missing || had_empty, "{writes:?} for slice {n}");
            }
            let left = history.world.plan("vip");
            prop_assert!(left.is_done(), "after {change:?} and {writes:?}, the next plan is not empty: {left:#?}");
            let findings: Vec<_> = left.findings.iter().map(|finding| finding.reason).collect();
            check_contents(&history, &findings);
            check_empty(&history.world, &findings);
        }
    }

    #[test]
    fn copies_do_not_depend_on_earlier_changes(
        changes in vec(change(), 1..12),
        settings in settings(),
        ends in vec(0..6u8, 1..4),
    ) {
        let source = settings.source.filter(|(_, name)| *name != "no name");
        let follows = Settings { when_empty: Some("follow"), enabled: Some("true"), deleting: false, source, ..settings };
        let mut history = History::new();
        history.world.settle("vip");
        for change in changes.iter().chain(&[Change::Service(follows), Change::Source(0, ends, 0)]) {
            // Changes that the operator cannot undo are skipped.
            if matches!(change, Change::Foreign(..) | Change::Edit(_, ManualEdit::NoOwner | ManualEdit::NoManager | ManualEdit::Owner(_) | ManualEdit::NoAnnotation(_) | ManualEdit::Finalizer)) {
                continue;
            }
            history.make(change);
            history.world.settle("vip");
        }
        let mut recreated = history.world.clone();
        recreated.slices.retain(|_, slice| slice.owner_of_copy().is_none());
        recreated.settle("vip");
        let content = |world: &World| -> BTreeMap<_, _> {
            // Whether an empty copy exists depends on what the source showed before.
            world.copies("vip").into_iter().filter(|copy| !copy.is_empty()).map(|copy| {
                let mut copy = copy.clone();
                (copy.metadata.uid, copy.metadata.resource_version) = (None, None);
                // A new resourceVersion alone causes no write, and additions by others stay.
                copy = copy.without_annotation(provenance::RESOURCE_VERSION).without_annotation("note").without_label("app").without_label("edited");
                if let Some(endpoints) = &mut copy.endpoints {
                    endpoints.sort_by_key(|endpoint| endpoint.addresses.clone());
                }
                (SliceKey::of(&copy.metadata), copy)
            }).collect()
        };
        prop_assert_eq!(content(&history.world), content(&recreated));
    }

    #[test]
    fn held_copies_change_only_their_ports(ends in vec(0..6u8, 1..4), gone in any::<bool>(), port in 0..3u8) {
        let mut history = History::new();
        history.make(&Change::Source(0, ends, 0));
        history.world.settle("vip");
        let before = shown_by(history.world.copy("vip"));
        history.make(&if gone { Change::SourceGone(0) } else { Change::Source(0, vec![], port) });
        history.world.put_service(service("vip").number("more", 9000));
        let writes = history.world.settle("vip");
        prop_assert!(matches!(writes[..], [Write::Update(_)]), "{writes:?}");
        prop_assert_eq!(shown_by(history.world.copy("vip")), before);
        prop_assert_eq!(history.world.copy("vip").metadata.owner_references.clone(), Some(vec![owner("vip")]));
    }
}
