//! The choice of the endpoints that are taken out.

use super::*;

fn since(milliseconds: u64) -> TargetFacts {
    TargetFacts {
        since: Some(at(milliseconds)),
        ..down()
    }
}

/// Rule: 7.conditions
#[test]
fn endpoint_that_is_down_is_taken_out() {
    let scene = Scene::new(3).set(2, down());
    assert_eq!(scene.out(), [2]);
    assert_eq!(
        scene.judge().out[&address(2)],
        Unreachable {
            port: API,
            what: Some(Failure::TimedOut),
            failures: 3,
            since: Some(at(10_000)),
        }
    );
}

/// Rule: 7.conditions
#[test]
fn removal_needs_each_condition() {
    type Change = fn(Scene) -> Scene;
    let cases: [(&str, Change); 9] = [
        ("well", |scene| scene.set(2, well())),
        ("failing", |scene| scene.set(2, failing())),
        ("rising", |scene| scene.set(2, rising())),
        ("never well", |scene| scene.set(2, never_well())),
        ("unknown", |scene| scene.set(2, unknown())),
        ("unheard", |scene| {
            scene.edit(2, |facts| facts.had_time_to_object = false)
        }),
        ("objected", |scene| {
            scene.edit(2, |facts| facts.has_objection = true)
        }),
        ("no contrast", |scene| {
            scene.edit(2, |facts| facts.contrasts.clear())
        }),
        ("may not take out", |mut scene| {
            scene.report.leadership.may_take_out = false;
            scene
        }),
    ];
    for (what, change) in cases {
        let scene = change(Scene::new(3).set(2, down()));
        assert_eq!(scene.out(), [0; 0], "{what}");
    }
}

/// Rule: 7.contrast
#[test]
fn contrast_with_an_endpoint_outside_the_copy_is_ignored() {
    let scene = Scene::new(3).set(2, down());
    let only = |n| {
        scene
            .clone()
            .edit(2, |facts| facts.contrasts = [address(n)].into())
    };
    assert_eq!(only(3).out(), [2]);
    assert_eq!(only(4).out(), [0; 0]);
}

/// Rule: 7.half
#[test]
fn at_most_half_are_out() {
    for (n, places) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3)] {
        // The last endpoint is well, so the family is not blind and the port is not ignored.
        let scene = (1..n).fold(Scene::new(n), |scene, n| scene.set(n, down()));
        assert_eq!(scene.out().len(), places, "{n} endpoints");
    }
}

/// Rule: 7.half
#[test]
fn single_endpoint_is_never_out() {
    for facts in [down(), rising(), failing(), never_well(), unknown()] {
        let scene = Scene::new(1).set(1, facts.clone()).remembers(&[1]).new_leader();
        assert_eq!(scene.out(), [0; 0], "{facts:?}");
    }
}

/// Rule: 7.places
#[test]
fn place_goes_to_the_longest_failing_then_the_lowest_address() {
    for (facts, out) in [
        ([since(10_000), since(10_000)], 1),
        ([since(10_000), since(9_999)], 2),
        ([since(9_999), since(10_000)], 1),
    ] {
        let [first, second] = facts;
        let scene = Scene::new(3).set(1, first).set(2, second);
        assert_eq!(scene.out(), [out]);
    }
}

/// Rule: 7.places
#[test]
fn endpoint_that_is_out_and_down_keeps_its_place() {
    let scene = Scene::new(3)
        .set(1, since(9_000))
        .set(2, since(10_000))
        .remembers(&[2]);
    assert_eq!(scene.out(), [2]);
}

/// Rule: 7.places
#[test]
fn rising_endpoint_gives_its_place_to_one_that_is_down() {
    let scene = Scene::new(3).set(1, rising()).remembers(&[1]);
    assert_eq!(scene.out(), [1]);
    assert_eq!(scene.set(2, down()).out(), [2]);
}

/// Rule: 7.return-order
#[test]
fn endpoints_return_in_the_order_of_their_last_success() {
    let answered = |milliseconds| TargetFacts {
        last_success: Some(at(milliseconds)),
        ..down()
    };
    // Two of four endpoints were out. Now there are only three endpoints, so one of the two returns.
    let scene = Scene::new(3)
        .set(1, answered(9_000))
        .set(2, answered(8_000))
        .remembers(&[1, 2]);
    assert_eq!(scene.out(), [2]);
}

/// Rule: 7.ports
#[test]
fn endpoint_down_on_one_port_is_taken_out() {
    let scene = Scene::new(3).port(SUPERVISOR).set_on(SUPERVISOR, 3, down());
    assert_eq!(scene.out(), [3]);
    assert_eq!(scene.judge().out[&address(3)].port, SUPERVISOR);
}

/// Rule: 7.ports
#[test]
fn port_that_the_service_lacks_is_not_judged() {
    let mut scene = Scene::new(3).port(SUPERVISOR).set_on(SUPERVISOR, 3, down());
    scene.ports = [API].into();
    assert_eq!(scene.out(), [0; 0]);
}

/// Rule: 7.ignored
#[test]
fn port_down_or_new_everywhere_is_ignored() {
    let scene = Scene::new(3).port(SUPERVISOR);
    let scene = [1, 2, 3]
        .into_iter()
        .fold(scene, |scene, n| scene.set_on(SUPERVISOR, n, down()));
    assert_eq!(scene.out(), [0; 0]);
    assert_eq!(scene.clone().remembers(&[1]).out(), [0; 0], "taken out before");
    assert_eq!(scene.clone().set_on(SUPERVISOR, 2, never_well()).out(), [0; 0]);
    assert_eq!(
        scene.clone().set(2, down()).out(),
        [2],
        "down on the other port too"
    );
    assert_eq!(scene.set_on(SUPERVISOR, 2, well()).out(), [1]);
}

/// Rule: 7.blind
#[test]
fn blind_family_has_nothing_out() {
    let silent = |facts: TargetFacts| TargetFacts {
        is_recent: false,
        ..facts
    };
    let scene = Scene::new(3)
        .set(1, silent(down()))
        .set(2, silent(failing()))
        .set(3, silent(failing()))
        .remembers(&[1]);
    assert!(scene.judge().blind);
    assert_eq!(scene.out(), [0; 0]);
    let sighted = scene.set(3, well());
    assert!(!sighted.judge().blind);
    assert_eq!(sighted.out(), [1]);
}

/// Rule: 7.blind
#[test]
fn newly_listed_family_is_not_blind() {
    let new = |had_time| TargetFacts {
        had_time,
        ..unknown()
    };
    let scene = |had_time| Scene::new(2).set(1, new(had_time)).set(2, new(had_time));
    assert!(!scene(false).judge().blind);
    assert!(scene(true).judge().blind);
    assert!(!judge(&[], &[API].into(), &Report::default()).blind);
}

/// Rule: 7.only-one-that-answers
#[test]
fn the_only_endpoint_that_answers_returns() {
    let quiet = TargetFacts {
        answers: false,
        is_recent: false,
        ..well()
    };
    let scene = Scene::new(2).set(1, rising()).remembers(&[1]);
    assert_eq!(scene.out(), [1], "the other answers");
    assert_eq!(scene.clone().set(2, quiet.clone()).out(), [0; 0]);
    assert_eq!(
        scene.clone().set(2, failing()).out(),
        [1],
        "the other answered just now"
    );
    // The first endpoint is down on the supervisor port, but is the only one that answers on the API server's port.
    let scene = Scene::new(2)
        .port(SUPERVISOR)
        .set_on(SUPERVISOR, 1, down())
        .set(2, quiet);
    assert_eq!(scene.out(), [0; 0]);
}
