//! The addresses of a second family that enter a copy, and how they are judged there.

use super::*;

/// A report of these facts about port 6443.
fn report(facts: impl IntoIterator<Item = (&'static str, TargetFacts)>) -> Report {
    let mut report = Report::default();
    report.leadership.may_take_out = true;
    for (address, facts) in facts {
        report.targets.insert(target(address, 6443), facts);
    }
    report
}

fn target(address: &str, port: u16) -> Target {
    Target::new(address.parse().unwrap(), port)
}

fn judged(report: Report, enforced: bool) -> Verdicts {
    Verdicts::Judged(Judged {
        report: Arc::new(report),
        started: Timestamp::UNIX_EPOCH,
        enforced,
    })
}

fn facts(phase: Phase) -> TargetFacts {
    TargetFacts {
        phase,
        is_known: true,
        answers: phase == Phase::Well,
        is_recent: phase == Phase::Well,
        had_time: true,
        ..TargetFacts::default()
    }
}

fn with(mut world: World, probes: Verdicts) -> World {
    world.probes = probes;
    world.settled("vip")
}

/// Rule: 8.seen-well
#[test]
fn address_enters_once_its_probes_succeed() {
    use Phase::{Down, Failing, New, Rising, Well};
    for phase in [New, Failing, Down, Rising, Well] {
        let report = report([(V6[0], facts(phase)), (V6[1], facts(Well))]);
        let world = with(world(), judged(report, true));
        let expected = if phase == Well { &V6[..2] } else { &V6[1..2] };
        assert_eq!(shown6(&world), expected, "{phase}");
    }
    let world = with(world(), judged(Report::default(), true));
    assert_eq!(
        (shown6(&world), copies(&world, Family::V6).len()),
        (vec![], 0),
        "without results of probes"
    );
}

/// Rule: 8.seen-well
#[test]
fn address_in_a_copy_stays_whatever_probes_find() {
    let world = with(world().settled("vip"), judged(Report::default(), true));
    assert_eq!(shown6(&world), V6);
}

/// Rule: 8.at-once
#[test]
fn without_enforced_probes_an_address_enters_at_once() {
    let other_port = |service: Service| service.no_ports().number("web", 8443);
    for (what, service, probes) in [
        ("off", dual(), Verdicts::Off),
        ("observe", dual(), judged(Report::default(), false)),
        (
            "exempt",
            dual().annotate(annotation::PROBE, "off"),
            judged(Report::default(), true),
        ),
        (
            "no probed port",
            other_port(dual()),
            judged(Report::default(), true),
        ),
    ] {
        let mut world = world();
        world.put_service(service);
        assert_eq!(shown6(&with(world, probes)), V6, "{what}");
    }
}

/// Rule: 8.seen-well
#[test]
fn each_probed_port_counts_unless_it_works_nowhere() {
    let well = || facts(Phase::Well);
    for (what, supervisor, expected) in [
        ("on none", [None, None], &V6[..2]),
        ("on one", [None, Some(Phase::Well)], &V6[1..2]),
        ("new on one", [Some(Phase::New), Some(Phase::Well)], &V6[1..2]),
        ("on both", [Some(Phase::Well), Some(Phase::Well)], &V6[..2]),
        ("down on both", [Some(Phase::Down), Some(Phase::Down)], &V6[..2]),
    ] {
        let mut report = report([(V6[0], well()), (V6[1], well())]);
        for (address, phase) in V6.into_iter().zip(supervisor) {
            report
                .targets
                .extend(phase.map(|it| (target(address, 9345), facts(it))));
        }
        let mut world = world();
        world.put_service(dual().number("join", 9345));
        assert_eq!(shown6(&with(world, judged(report, true))), expected, "{what}");
    }
}

/// Rule: 8.silent
#[test]
fn address_that_never_answers_is_reported_after_a_while() {
    let mut young = facts(Phase::New);
    young.had_time = false;
    let report = |silent: TargetFacts| {
        report([
            (V6[0], silent),
            (V6[1], facts(Phase::Well)),
            (V6[2], facts(Phase::Well)),
        ])
    };
    let world_of = |silent| with(world(), judged(report(silent), true));
    assert_eq!(incomplete(&world_of(young)), None);
    let note = incomplete(&world_of(facts(Phase::New))).unwrap();
    assert!(note.contains("192.0.2.1 (2001:db8::1 does not answer)"), "{note}");

    // An address that a copy already shows could be unreachable from this replica alone.
    let listed = |is_silent| {
        let facts = TargetFacts {
            is_silent,
            ..facts(Phase::New)
        };
        with(world().settled("vip"), judged(report(facts), true))
    };
    assert_eq!(incomplete(&listed(false)), None);
    assert!(incomplete(&listed(true)).is_some());
    assert_eq!(shown6(&listed(true)), V6);
}

/// Rule: 7.events, 8.silent
#[test]
fn other_users_learn_only_of_addresses_that_never_answered() {
    let mut tenant = dual().source("default", "kubernetes");
    tenant.metadata.namespace = Some("tenant".to_owned());
    let key = ServiceKey::new("tenant", "vip");
    for (phase, is_told) in [
        (Phase::New, true),
        (Phase::Failing, false),
        (Phase::Down, false),
        (Phase::Rising, false),
    ] {
        let mut world = world().service(tenant.clone());
        world.probes = judged(report([(V6[0], facts(phase)), (V6[1], facts(Phase::Well))]), true);
        let findings = world.plan_for(&key).findings;
        let is_incomplete = |finding: &Finding| finding.reason == Reason::FamilyIncomplete;
        assert_eq!(
            findings.iter().any(is_incomplete),
            is_told,
            "{phase}: {findings:?}"
        );
        assert!(incomplete(&world).is_some(), "{phase}");
    }
}

/// Rule: 8.seen-well, 8.never-last
#[test]
fn old_address_stays_until_the_new_one_answers() {
    let mut world = with(world().nodes([server(0)]), Verdicts::Off);
    world.list_nodes([node("a").internal(V4[0]).internal("2001:db8::9")]);
    let mut world = with(world, judged(Report::default(), true));
    assert_eq!(shown6(&world), [V6[0]]);
    world.probes = judged(report([("2001:db8::9", facts(Phase::Well))]), true);
    world.settle("vip");
    assert_eq!(shown6(&world), ["2001:db8::9"]);
}

/// Rule: 7.memory, 8.seen-well
#[test]
fn plan_that_is_only_shown_adds_no_address() {
    let world = with(world(), Verdicts::AsCopied);
    assert_eq!(shown6(&world), Vec::<String>::new());
    assert!(
        incomplete(&world)
            .unwrap()
            .contains("2001:db8::1 has not answered yet")
    );
    let world = with(world.clone(), Verdicts::Off);
    let world = with(world, Verdicts::AsCopied);
    assert_eq!(
        (shown6(&world), incomplete(&world)),
        (V6.map(str::to_owned).to_vec(), None)
    );
}

/// Rule: 8.judged
#[test]
fn the_second_family_is_judged_like_the_first() {
    let down = TargetFacts {
        contrasts: V6.iter().map(|address| address.parse().unwrap()).collect(),
        had_time_to_object: true,
        ..facts(Phase::Down)
    };
    let report = report([
        (V6[0], down),
        (V6[1], facts(Phase::Well)),
        (V6[2], facts(Phase::Well)),
    ]);
    let mut world = with(world().settled("vip"), judged(report, true));
    assert_eq!(shown6(&world), ["(2001:db8::1)", V6[1], V6[2]]);
    assert_eq!(shown(&world, Family::V4), V4);
    let copy = copies(&world, Family::V6)[0];
    assert_eq!(
        annotation_of(&copy.metadata, provenance::UNREACHABLE),
        Some(V6[0])
    );
    // A change to the known Nodes does not put the address back.
    world.nodes = KnownNodes::Unknown(NodesUnknown::Failing);
    assert_eq!(world.settle("vip"), []);
    world.nodes = known_nodes(servers().split_off(1), &["a"]);
    assert_eq!(world.settle("vip"), []);
}
