//! The endpoints that a copy remembers as taken out.

use super::*;

/// Rule: 7.stays-out
#[test]
fn endpoint_taken_out_stays_out_while_it_fails() {
    let weak = |facts: TargetFacts| TargetFacts {
        contrasts: [].into(),
        had_time_to_object: false,
        ..facts
    };
    for (facts, is_out) in [
        (weak(down()), true),
        (weak(failing()), true),
        (weak(never_well()), true),
        (rising(), true),
        (well(), false),
        (unknown(), false),
    ] {
        let mut scene = Scene::new(3).set(2, facts.clone()).remembers(&[2]);
        scene.report.leadership.may_take_out = false;
        assert_eq!(scene.out() == [2], is_out, "{facts:?}");
    }
}

/// Rule: 7.late-objection
#[test]
fn late_objection_puts_an_endpoint_back() {
    for facts in [down(), failing(), never_well(), rising(), unknown()] {
        let scene = Scene::new(3)
            .set(2, facts.clone())
            .edit(2, |facts| facts.has_objection = true)
            .remembers(&[2])
            .new_leader();
        assert_eq!(scene.out(), [0; 0], "{facts:?}");
    }
}

/// Rule: 7.stays-out
#[test]
fn new_endpoint_stays_out_only_while_another_answers() {
    let recent = TargetFacts {
        answers: false,
        ..well()
    };
    let scene = Scene::new(2).set(1, never_well()).remembers(&[1]);
    assert_eq!(scene.out(), [1]);
    assert_eq!(scene.set(2, recent).out(), [0; 0]);
}

/// Rule: 7.new-leader
#[test]
fn new_leader_keeps_an_endpoint_out_until_results_arrive() {
    let young = TargetFacts {
        is_known: true,
        had_time: false,
        ..never_well()
    };
    // A dead server refuses the connection before the handshakes with the others are complete.
    for (what, first, others, is_out) in [
        ("no result yet", unknown(), unknown(), true),
        ("others answer", unknown(), well(), true),
        ("it refused first", young.clone(), unknown(), true),
        ("it refused, others answer", young.clone(), well(), true),
        ("all refused", young.clone(), young, false),
        ("it answered", well(), unknown(), false),
    ] {
        let scene = Scene::new(3)
            .set(1, first)
            .set(2, others.clone())
            .set(3, others)
            .remembers(&[1]);
        assert_eq!(scene.clone().new_leader().out() == [1], is_out, "{what}");
        let refused = what == "it refused, others answer";
        assert_eq!(scene.out() == [1], refused, "{what}, 5 s later");
    }
}

/// Rule: 7.blind, 7.new-leader
#[test]
fn new_leader_without_any_answer_is_blind_after_three_seconds() {
    let late = TargetFacts {
        had_time: true,
        ..unknown()
    };
    let scene = (1..=3).fold(Scene::new(3), |scene, n| scene.set(n, late.clone()));
    let judgment = scene.remembers(&[1]).new_leader().judge();
    assert!(judgment.blind);
    assert!(judgment.out.is_empty());
}

/// Rule: 7.new-leader
#[test]
fn endpoint_that_is_not_probed_yet_stays_out_for_a_new_leader() {
    let mut scene = Scene::new(3).remembers(&[1]).new_leader();
    scene.report.targets.remove(&target(1));
    assert_eq!(scene.out(), [1]);
    assert_eq!(scene.judge().out[&address(1)].since, None);
    scene.report.leadership.is_new = false;
    assert_eq!(scene.out(), [0; 0]);
}

/// Rule: 7.ports
#[test]
fn service_without_probed_ports_has_nothing_out() {
    let mut scene = Scene::new(3).set(1, down()).remembers(&[1, 2]).new_leader();
    scene.ports.clear();
    assert_eq!(scene.judge(), Judgment::default());
}

/// Rule: 7.new-leader
#[test]
fn unknown_endpoint_gives_its_place_to_one_that_failed() {
    let scene = Scene::new(3)
        .set(1, unknown())
        .set(2, down())
        .remembers(&[1])
        .new_leader();
    assert_eq!(scene.out(), [2]);
}
