//! Checks within small bounds: there is at most one valid term at any instant, and a counterexample is found for each
//! mutant.

use election_model::{Begin, Bound, Mutant, check};

/// A bound with no faults except pauses.
const QUIET: Bound = Bound {
    begin: Begin::Led,
    horizon: 4,
    losses: 0,
    jumps: 0,
    edits: 0,
    stops: 0,
    repeats: 0,
};

/// Checks that the rules hold within a bound, that there are at least this many states, and that a candidate leads
/// after another one exactly if `leader_changes`.
fn holds(bound: Bound, at_least: usize, leader_changes: bool) {
    let findings = check(bound, None);
    println!("{bound}: {findings}");
    assert!(findings.counterexample.is_none(), "{bound}: {findings}");
    assert_eq!(
        findings.reached,
        [true, leader_changes],
        "whether a candidate leads, and whether another one leads after it"
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
fn pauses_and_late_replies_leave_one_term_at_most() {
    holds(QUIET, 40_000, true);
}

#[test]
fn lost_requests_and_clock_jumps_leave_one_term_at_most() {
    let bound = Bound {
        horizon: 3,
        losses: 1,
        jumps: 1,
        ..QUIET
    };
    holds(bound, 150_000, true);
}

#[test]
fn after_a_lease_is_deleted_only_a_new_candidate_may_overlap() {
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
fn parallel_renewals_leave_one_term_at_most() {
    let bound = Bound {
        horizon: 4,
        repeats: 1,
        ..QUIET
    };
    holds(bound, 10_000, true);
}

#[test]
fn parallel_tries_and_a_lost_reply_leave_one_term_at_most() {
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
fn model_fails_if_released_with_a_write_in_flight() {
    fails(Mutant::ReleaseInFlight, Bound { stops: 1, ..QUIET });
}
