//! Small schedules, each with one idea, and their expected results.

use std::time::Duration;

use simulation::endpoints::Answer;
use simulation::run::{Outcome, held};
use simulation::scenarios::{
    KINDS, all_answer, blind_leader, consent_unseen, doubt, nobody_sees, paused_while_it_hangs,
    paused_while_it_is_out, probed, third_answers, unreadable, without_lists,
};
use simulation::schedule::{Edit, LEADER, Step};
use simulation::sight::{Blindness, Sight};
use simulation::unreadable::Flaw;

const PAUSE: Duration = Duration::from_millis(700);

/// A pause after which the laws about the effects of probes apply.
const SETTLED: Duration = Duration::from_secs(20);

#[test]
fn copies_stay_while_an_object_is_unreadable_and_follow_later() {
    for (seed, flaw) in (0..).zip(Flaw::ALL) {
        for kind in KINDS {
            let is_kept = |outcome: &Outcome| {
                let mut copies = outcome.end_state.iter();
                copies.any(|copy| copy.contains("default/one-") && copy.contains("192.0.2.3"))
            };
            let frozen = held(seed, unreadable(kind, flaw, false));
            if flaw != Flaw::Harmless {
                assert!(is_kept(&frozen), "{kind} {flaw:?} {:?}", frozen.end_state);
            }
            let reported = frozen.coverage.of("Unreadable") > 0;
            let is_service = kind == KINDS[0] && flaw != Flaw::Harmless;
            assert_eq!(reported, is_service, "{kind} {flaw:?}\n{}", frozen.story);
            held(seed, unreadable(kind, flaw, true));
        }
    }
}

#[test]
fn copies_stay_when_their_new_leader_has_not_seen_the_consent() {
    for (seed, how) in (0..).zip(Blindness::ALL) {
        let kept = held(seed, consent_unseen(how, false));
        let led = kept.coverage.of("term of another replica");
        assert!(led > 0, "{how:?}\n{}", kept.story);
        let is_kept = |outcome: &Outcome| outcome.end_state.iter().any(|copy| copy.contains("default/one-"));
        assert!(is_kept(&kept), "{how:?}\n{}", kept.story);
        assert_eq!(kept.coverage.of("delete"), 0, "{how:?}\n{}", kept.story);
        let withdrawn = held(seed, consent_unseen(how, true));
        assert!(!is_kept(&withdrawn), "{how:?}\n{}", withdrawn.story);
    }
}

#[test]
fn copy_from_doubtful_view_is_made_after_read_of_source() {
    for (seed, how) in (0..).zip(Blindness::ALL) {
        let outcome = held(seed, doubt(how));
        let creates = outcome.coverage.of("create while the view was in doubt");
        assert!(creates > 0, "{how:?}\n{}", outcome.story);
    }
}

#[test]
fn a_leader_that_cannot_list_is_replaced_by_a_replica_that_can() {
    for seed in 0..4 {
        for sight in [
            None,
            Some(Sight::Services),
            Some(Sight::Copies),
            Some(Sight::Sources),
        ] {
            for how in Blindness::ALL {
                let outcome = held(seed, blind_leader(sight, how));
                let new_leaders = outcome.coverage.of("term of another replica");
                assert_eq!(new_leaders, 1, "{sight:?} {how:?} {seed}\n{}", outcome.story);
                let settled = outcome.settled.as_secs();
                assert!(
                    settled < 1,
                    "{sight:?} {how:?} {seed}: copies were not right before the faults ended"
                );
            }
        }
    }
}

#[test]
fn a_replica_leads_even_where_no_replica_can_list() {
    for (seed, how) in (0..).zip(Blindness::ALL) {
        let outcome = held(seed, nobody_sees(how));
        let (mut over, mut terms) = (0.0, 0);
        for line in outcome.story.lines().filter(|line| line.contains("term of")) {
            let at: f64 = line
                .split_whitespace()
                .next()
                .map_or(0.0, |at| at.parse().expect("a time"));
            if line.ends_with("is over") {
                over = at;
            } else {
                terms += 1;
                assert!(at - over < 11.0, "{how:?}\n{}", outcome.story);
            }
        }
        assert!(terms > 2, "{how:?}\n{}", outcome.story);
    }
}

#[test]
fn replica_without_lists_competes_after_10_s_without_leader() {
    for (seed, how) in (0..).zip(Blindness::ALL) {
        for replicas in [1, 2] {
            let outcome = held(seed, without_lists(replicas, how));
            let races = outcome
                .coverage
                .of("contest without lists after 10 s without a leader");
            assert_eq!(races > 0, replicas == 1, "{how:?} {replicas}\n{}", outcome.story);
        }
    }
}

const FAILURES: [Answer; 4] = [Answer::Refused, Answer::Reset, Answer::Hangs, Answer::Status(500)];

fn taken_out(outcome: &Outcome) -> u64 {
    outcome.coverage.of("endpoint taken out")
}

#[test]
fn api_server_that_is_dead_for_all_is_taken_out_and_returns() {
    for (seed, answer) in (0..).zip(FAILURES) {
        let dead = third_answers(None, answer, Duration::from_secs(12));
        let outcome = held(seed, probed(2, vec![(PAUSE, dead)]));
        assert_eq!(taken_out(&outcome), 1, "{answer:?}\n{}", outcome.story);
        assert_eq!(
            outcome.coverage.of("endpoint back"),
            1,
            "{answer:?}\n{}",
            outcome.story
        );
    }
}

#[test]
fn an_api_server_that_one_replica_cannot_reach_stays() {
    for (seed, answer) in (0..).zip(FAILURES) {
        let cut = third_answers(Some(LEADER), answer, Duration::from_secs(30));
        let outcome = held(seed, probed(2, vec![(PAUSE, cut)]));
        assert_eq!(taken_out(&outcome), 0, "{answer:?}\n{}", outcome.story);
        assert!(
            outcome.coverage.of("objection") > 0,
            "{answer:?}\n{}",
            outcome.story
        );
    }
}

#[test]
fn an_api_server_stays_out_when_its_copy_is_deleted_or_edited() {
    for (seed, answer) in (0..).zip(FAILURES) {
        for edit in [Edit::Deleted, Edit::Endpoints] {
            let mut schedule = probed(2, Vec::new());
            let dead = third_answers(None, answer, Duration::from_secs(60));
            schedule.calm = vec![(SETTLED, dead), (SETTLED, Step::Copy(0, edit))];
            let outcome = held(seed, schedule);
            let edited = outcome.coverage.of("endpoint that is out removed by hand");
            assert_eq!(edited, 1, "{answer:?} {edit:?}\n{}", outcome.story);
        }
    }
}

#[test]
fn nothing_is_taken_out_while_all_api_servers_behave_alike() {
    let others = [Answer::Status(503), Answer::Status(429), Answer::Status(401)];
    for (seed, answer) in (0..).zip(FAILURES.into_iter().chain(others)) {
        let all = all_answer(answer, Duration::from_secs(20));
        let outcome = held(seed, probed(2, vec![(PAUSE, all)]));
        assert_eq!(taken_out(&outcome), 0, "{answer:?}\n{}", outcome.story);
    }
}

#[test]
fn a_paused_leader_discards_timeouts_that_fire_late() {
    for seed in 0..4 {
        let outcome = held(seed, paused_while_it_hangs());
        let discarded = outcome
            .coverage
            .of("timeout discarded because its timer fired late");
        assert!(discarded > 0, "{}", outcome.story);
    }
}

#[test]
fn a_paused_leader_keeps_an_api_server_out() {
    for seed in 0..4 {
        let outcome = held(seed, paused_while_it_is_out());
        assert_eq!(taken_out(&outcome), 1, "{}", outcome.story);
        let returned = outcome.coverage.of("endpoint back");
        assert_eq!(returned, 1, "{}", outcome.story);
        assert!(outcome.coverage.of("leader paused") > 5, "{}", outcome.story);
    }
}
