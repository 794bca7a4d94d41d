//! The small bound: at most one valid term at any instant, and a counterexample for every weaker rule.

use election_model::{Begin, Bound, Mutant, check};

/// A bound without anything that goes wrong but the pauses.
const QUIET: Bound = Bound {
    begin: Begin::Led,
    horizon: 4,
    losses: 0,
    jumps: 0,
    edits: 0,
    stops: 0,
    repeats: 0,
};

/// Holds within a bound that has at least so many states in it, and, but for a short one, a lead that is handed on.
fn holds(bound: Bound, at_least: usize, handed_on: bool) {
    let findings = check(bound, None);
    println!("{bound}: {findings}");
    assert!(findings.counterexample.is_none(), "{bound}: {findings}");
    assert_eq!(
        findings.reached,
        [true, handed_on],
        "somebody leads, somebody else does"
    );
    assert!(findings.states >= at_least, "{} states only", findings.states);
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
fn of_candidates_that_start_at_once_one_leads() {
    let bound = Bound {
        begin: Begin::Nothing,
        horizon: 1,
        losses: 1,
        ..QUIET
    };
    holds(bound, 100_000, false);
}

#[test]
fn with_pauses_and_late_replies_there_is_one_term_at_most() {
    holds(QUIET, 40_000, true);
}

#[test]
fn with_lost_and_late_requests_and_jumping_clocks_there_is_one_term_at_most() {
    let bound = Bound {
        horizon: 3,
        losses: 1,
        jumps: 1,
        ..QUIET
    };
    holds(bound, 150_000, true);
}

#[test]
fn with_an_administrator_who_deletes_or_empties_the_lease_only_one_who_never_saw_a_holder_may_overlap() {
    let bound = Bound {
        horizon: 3,
        edits: 1,
        ..QUIET
    };
    holds(bound, 20_000, true);
}

#[test]
fn with_a_leader_that_is_asked_to_stop_no_write_is_in_flight_beside_another_term() {
    let bound = Bound {
        horizon: 3,
        stops: 1,
        ..QUIET
    };
    holds(bound, 50_000, true);
}

#[test]
fn with_renewals_that_are_repeated_beside_the_first_there_is_one_term_at_most() {
    let bound = Bound {
        horizon: 4,
        repeats: 1,
        ..QUIET
    };
    holds(bound, 10_000, true);
}

#[test]
fn with_several_tries_beside_and_a_lost_reply_there_is_one_term_at_most() {
    let bound = Bound {
        horizon: 3,
        losses: 1,
        repeats: 2,
        ..QUIET
    };
    holds(bound, 100_000, true);
}

#[test]
fn without_compare_and_swap_it_fails() {
    fails(Mutant::NoCas, QUIET);
}

#[test]
fn by_the_wall_clock_it_fails() {
    fails(Mutant::WallClock, Bound { jumps: 1, ..QUIET });
}

#[test]
fn without_a_fence_it_fails() {
    fails(Mutant::NoFence, QUIET);
}

#[test]
fn with_a_fence_from_the_reply_it_fails() {
    let bound = Bound {
        begin: Begin::Nothing,
        horizon: 3,
        ..QUIET
    };
    fails(Mutant::FenceFromReply, bound);
}

#[test]
fn when_a_deleted_lease_is_free_it_fails() {
    fails(Mutant::DeletedIsFree, Bound { edits: 1, ..QUIET });
}

#[test]
fn when_a_former_leader_recreates_a_deleted_lease_it_fails() {
    let bound = Bound {
        horizon: 3,
        edits: 1,
        ..QUIET
    };
    fails(Mutant::FormerLeaderWritesAnew, bound);
}

#[test]
fn when_a_lease_that_names_the_leader_confirms_its_renewal_it_fails() {
    fails(Mutant::NamedIsApplied, QUIET);
}

#[test]
fn when_it_is_released_with_a_write_in_flight_it_fails() {
    fails(Mutant::ReleaseInFlight, Bound { stops: 1, ..QUIET });
}
