//! The index, with the watches of a cluster that changes at random. Events of different watches arrive in any order.

use proptest::collection::vec;
use proptest::prelude::*;

use self::cluster::{Change, Cluster, SERVICES, Step, scopes, slice_names, some_slice, step};
use super::*;
use crate::model::{KnownNodes, Reason, Snapshot};
use crate::plan::Plan;

mod cluster;

fn has_name_taken(plan: &Plan) -> bool {
    plan.findings
        .iter()
        .any(|finding| finding.reason == Reason::NameTaken)
}

/// The content of a snapshot, in a form that can be compared.
fn shown(index: &Index) -> Vec<String> {
    let view = |key: &(&str, &str)| {
        let snapshot = index.snapshot(&ServiceKey::new(key.0, key.1));
        format!(
            "{:#?}",
            snapshot.map(|snapshot| Snapshot {
                seen: 0,
                in_doubt: false,
                nodes: KnownNodes::default(),
                ..snapshot
            })
        )
    };
    SERVICES.iter().map(view).collect()
}

/// The keys of an index's copies, computed from scratch.
fn collected(index: &Index) -> CopyKeys {
    let mut known = CopyKeys::default();
    let keys = index.copies.keys_where(|_, _| true);
    for copy in keys.iter().filter_map(|key| index.copies.get(key)) {
        known.add(copy);
    }
    known
}

/// Limits that even a few Services exceed.
fn few(total: usize) -> ServiceLimits {
    ServiceLimits {
        per_namespace: 1,
        total,
    }
}

fn marks_its_key_dirty(mut cluster: Cluster, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut before = cluster.plans();
    for step in steps {
        let dirty = cluster.take(step.clone());
        let after = cluster.plans();
        for ((key, old), (_, new)) in before.iter().zip(&after) {
            // A plan can change although its key is not dirty, if a name was forgotten. If the forgotten slice has the
            // name of a copy, the POST of that copy fails. A forgotten source is unknown until it is listed, and the
            // list makes the Services that use it dirty.
            let is_unknown = new.is_none() || old.as_ref().is_some_and(has_name_taken);
            let forgotten = matches!(step, Step::Forget) && is_unknown;
            prop_assert!(
                old == new || dirty.contains(key) || forgotten,
                "{step:?} altered the plan of {key} and marked {dirty:?}:\nbefore {old:#?}\nafter {new:#?}"
            );
        }
        before = after;
    }
    Ok(())
}

fn equals_a_fresh_list(mut cluster: Cluster, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let forgot = steps.iter().any(|step| matches!(step, Step::Forget));
    for step in steps {
        cluster.take(step);
    }
    for watch in 0..3 {
        while let Some(event) = cluster.watches[watch].pending.pop_front() {
            cluster.deliver(watch, event);
        }
    }
    // If a dropped name is needed again, a new watch of it begins with a list.
    for watch in if forgot { 1..3 } else { 0..0 } {
        cluster.relist(watch);
    }
    prop_assert_eq!(&cluster.index.copied, &collected(&cluster.index));
    let fresh = cluster.listed_again();
    for (caught_up, listed) in shown(&cluster.index).into_iter().zip(shown(&fresh)) {
        prop_assert_eq!(caught_up, listed);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_change_that_alters_a_plan_marks_its_key_dirty(steps in vec(step(), 1..40)) {
        marks_its_key_dirty(Cluster::new(), steps)?;
    }

    /// Rule: 10.limits
    #[test]
    fn a_service_is_dirty_when_a_limit_admits_or_refuses_it(steps in vec(step(), 1..40), total in 1..4usize) {
        marks_its_key_dirty(Cluster::with_limits(few(total)), steps)?;
    }

    /// Rule: 3.while-none-ran
    #[test]
    fn watches_that_caught_up_equal_a_fresh_list(steps in vec(step(), 1..40)) {
        equals_a_fresh_list(Cluster::new(), steps)?;
    }

    /// Rule: 10.limits
    #[test]
    fn limits_admit_the_same_services_after_a_restart(steps in vec(step(), 1..40), total in 1..4usize) {
        equals_a_fresh_list(Cluster::with_limits(few(total)), steps)?;
    }

    #[test]
    fn the_order_in_which_states_arrive_does_not_matter(
        changes in vec((0..3usize, 0..3u8), 1..12).prop_shuffle(),
        order in vec(any::<prop::sample::Index>(), 0..40),
    ) {
        // States of source slices, each with its own version. The newest state of each slice must win.
        let scope = &scopes()[1];
        let states: Vec<_> = changes.iter().zip(200..).map(|(&(name, endpoints), version)| {
            let change = Change { namespace: "default", name, of: Some("kubernetes"), ours: 0, endpoints };
            let key = SliceKey::new("default", slice_names()[name].clone());
            some_slice(&key, &change).version(version)
        }).collect();
        let index_of = |events: Vec<&EndpointSlice>| {
            let mut cluster = Cluster::new();
            cluster.take(Step::Service(1, None, 3));
            for slice in events {
                cluster.index.apply_slice(scope, slice.clone());
            }
            cluster.index
        };
        let in_order = index_of(states.iter().collect());
        let mixed = order.iter().map(|index| index.get(&states)).chain(states.iter().rev());
        prop_assert_eq!(shown(&in_order), shown(&index_of(mixed.collect())));
    }
}
