//! Checks, within small bounds, that the rules `ONE_TERM` and `ONE_WRITER` hold, and that each mutant breaks one of
//! them.

use election_model::{Begin, Bound, Mutant, check};

/// A bound in which the only faults are pauses and late replies.
const QUIET: Bound = Bound {
    begin: Begin::Led,
    horizon: 4,
    losses: 0,
    jumps: 0,
    edits: 0,
    stops: 0,
    repeats: 0,
};

/// Checks that the rules hold within a bound, that there are at least `at_least` states, and that a second candidate
/// leads after the first if and only if `leader_changes`.
fn holds(bound: Bound, at_least: usize, leader_changes: bool) {
    let findings = check(bound, None);
    println!("{bound}: {findings}");
    assert!(findings.counterexample.is_none(), "{bound}: {findings}");
    assert_eq!(
        findings.reached,
        [true, leader_changes],
        "whether a candidate leads, and whether a second candidate leads after the first"
    );
    assert!(findings.states >= at_least, "only {} states", findings.states);
}

fn fails(mutant: Mutant, bound: Bound) {
    let findings = check(bound, Some(mutant));
    println!("{mutant:?}, {bound}: {findings}");
    assert!(
        findings.counterexample.is_some(),
        "{mutant:?} survives: {findings}"
    );
}

#[test]
fn one_of_several_simultaneous_candidates_leads() {
    let bound = Bound {
        begin: Begin::Nothing,
        horizon: 1,
        losses: 1,
        ..QUIET
    };
    holds(bound, 100_000, false);
}

#[test]
fn terms_never_overlap_despite_pauses_and_late_replies() {
    holds(QUIET, 40_000, true);
}

#[test]
fn terms_never_overlap_despite_losses_and_clock_jumps() {
    let bound = Bound {
        horizon: 3,
        losses: 1,
        jumps: 1,
        ..QUIET
    };
    holds(bound, 150_000, true);
}

#[test]
fn terms_overlap_only_if_a_new_candidate_takes_an_edited_lease() {
    let bound = Bound {
        horizon: 3,
        edits: 1,
        ..QUIET
    };
    holds(bound, 20_000, true);
}

#[test]
fn a_stopping_leader_has_no_write_in_flight_in_another_term() {
    let bound = Bound {
        horizon: 3,
        stops: 1,
        ..QUIET
    };
    holds(bound, 50_000, true);
}

#[test]
fn terms_never_overlap_despite_parallel_renewals() {
    let bound = Bound {
        horizon: 4,
        repeats: 1,
        ..QUIET
    };
    holds(bound, 10_000, true);
}

#[test]
fn terms_never_overlap_despite_parallel_tries_and_a_loss() {
    let bound = Bound {
        horizon: 3,
        losses: 1,
        repeats: 2,
        ..QUIET
    };
    holds(bound, 100_000, true);
}

#[test]
fn model_fails_without_compare_and_swap() {
    fails(Mutant::NoCas, QUIET);
}

#[test]
fn model_fails_with_the_wall_clock() {
    fails(Mutant::WallClock, Bound { jumps: 1, ..QUIET });
}

#[test]
fn model_fails_without_a_fence() {
    fails(Mutant::NoFence, QUIET);
}

#[test]
fn model_fails_with_a_fence_counted_from_the_reply() {
    let bound = Bound {
        begin: Begin::Nothing,
        horizon: 3,
        ..QUIET
    };
    fails(Mutant::FenceFromReply, bound);
}

#[test]
fn model_fails_if_a_deleted_lease_is_free() {
    fails(Mutant::DeletedIsFree, Bound { edits: 1, ..QUIET });
}

#[test]
fn model_fails_if_a_former_leader_recreates_the_lease() {
    let bound = Bound {
        horizon: 3,
        edits: 1,
        ..QUIET
    };
    fails(Mutant::FormerLeaderWritesAgain, bound);
}

#[test]
fn model_fails_if_a_lease_with_our_name_confirms_a_renewal() {
    fails(Mutant::NamedIsApplied, QUIET);
}

#[test]
fn model_fails_if_the_lease_is_released_during_a_write() {
    fails(Mutant::ReleaseInFlight, Bound { stops: 1, ..QUIET });
}
