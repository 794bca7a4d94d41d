//! The findings on single targets: `ProbeUnauthorized` and `PortNotAnswering`.

use super::*;

/// Rule: 7.unauthorized
#[test]
fn target_that_answers_401_or_403_is_reported() {
    for (status, is_reported) in [(401, true), (403, true), (429, false)] {
        let mut probes = Probes::new(1);
        probes.attempt(1, 0, 10, Reply::Alive(status));
        let mut scene = Scene::new(2).set(2, probes.facts(1, 20));
        assert_eq!(scene.judge().unauthorized == [target(2)], is_reported, "{status}");
        scene.ports = [SUPERVISOR].into();
        assert!(scene.judge().unauthorized.is_empty(), "not a port of the Service");
    }
}

/// Rule: 7.not-answering
#[test]
fn port_that_never_answers_is_reported_after_a_minute() {
    let mut probes = Probes::new(1);
    probes.refused(1, 0);
    let young = probes.facts(1, 59_999);
    let silent = probes.facts(1, 60_000);
    probes.well(1, 60_000);
    let answered = probes.facts(1, 60_010);
    for (what, supervisor, api, is_reported) in [
        ("for less than a minute", young, well(), false),
        ("while the other is well", silent.clone(), well(), true),
        ("while the other fails", silent.clone(), failing(), true),
        ("while the other is down", silent.clone(), down(), false),
        ("after it answered", answered, well(), false),
    ] {
        let scene = Scene::new(2)
            .port(SUPERVISOR)
            .set(2, api)
            .set_on(SUPERVISOR, 2, supervisor);
        let expected = vec![Target::new(address(2), SUPERVISOR)];
        assert_eq!(scene.judge().not_answering == expected, is_reported, "{what}");
    }
}

/// Rule: 7.not-answering
#[test]
fn server_that_never_answers_is_reported_while_another_does() {
    let silent = Probes::new(2).facts(2, 60_000);
    for (what, other, is_reported) in [
        ("the other is well", well(), true),
        ("the other fails", failing(), true),
        ("the other is down", down(), false),
        ("the other is new", silent.clone(), false),
    ] {
        let mut scene = Scene::new(2).set(1, other).set(2, silent.clone());
        assert_eq!(scene.judge().not_answering == [target(2)], is_reported, "{what}");
        assert!(
            scene.judge().out.is_empty(),
            "a server that was never well is out: {what}"
        );
        // A port that works on no address changes nothing.
        scene = scene.port(SUPERVISOR);
        scene = scene.set_on(SUPERVISOR, 1, silent.clone());
        scene = scene.set_on(SUPERVISOR, 2, silent.clone());
        let reported = scene.judge().not_answering;
        assert_eq!(reported.contains(&target(2)), is_reported, "{what}");
    }
}
