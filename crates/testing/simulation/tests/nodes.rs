//! How Nodes affect copies: the addresses of the second family and the node names follow the Nodes, and no write of a
//! copy waits for Nodes.

use simulation::node_scenarios::{fail, put, shown, with_nodes, without_nodes};
use simulation::node_watch::FAILURES;
use simulation::nodes::{Look, NodeStep};
use simulation::run::held;
use simulation::schedule::Step;
use simulation::unreadable::Flaw;
use std::time::Duration;

/// A pause that is long enough for the operator to carry out all of its earlier decisions.
const SETTLE: Duration = Duration::from_secs(20);

fn source(addresses: &[u8]) -> Step {
    Step::Source {
        place: (0, 0),
        addresses: addresses.to_vec(),
        unready: false,
    }
}

/// The expected endpoints of the copies if each of these servers is on its own Node.
fn servers(numbers: &[u8]) -> Vec<String> {
    let all = numbers.iter().flat_map(|number| {
        [format!("192.0.2.{number}"), format!("2001:db8::{number}")]
            .map(|address| format!("{address} server-{number} north"))
    });
    let mut all: Vec<_> = all.collect();
    all.sort();
    all
}

#[test]
fn copies_follow_changes_of_nodes() {
    let node = Step::Node;
    let moved = || {
        let mut shown = servers(&[2, 3]);
        shown.extend(["192.0.2.1", "2001:db8:1::1"].map(|address| format!("{address} server-1 north")));
        shown.sort();
        shown
    };
    let without_second = || {
        let mut shown = servers(&[2, 3]);
        shown.insert(0, "192.0.2.1 ".to_owned());
        shown
    };
    for (seed, (what, steps, expected)) in (0..).zip([
        ("nothing", vec![], servers(&[1, 2, 3])),
        (
            "a heartbeat",
            vec![node(NodeStep::Heartbeat(1))],
            servers(&[1, 2, 3]),
        ),
        (
            "recreated",
            vec![node(NodeStep::Recreated(1))],
            servers(&[1, 2, 3]),
        ),
        ("another address", vec![put(1, Look::Moved)], moved()),
        ("one more address", vec![put(1, Look::Both)], servers(&[1, 2, 3])),
        (
            "another order",
            vec![put(1, Look::Both), node(NodeStep::Reordered(1))],
            servers(&[1, 2, 3]),
        ),
        (
            "other spellings",
            vec![put(1, Look::Respelled)],
            servers(&[1, 2, 3]),
        ),
        ("deleted", vec![node(NodeStep::Gone(1))], without_second()),
        (
            "deleted and created again",
            vec![node(NodeStep::Gone(1)), put(1, Look::Plain)],
            servers(&[1, 2, 3]),
        ),
        (
            "two Nodes with one address",
            vec![put(6, Look::Twin)],
            without_second(),
        ),
        (
            "unreadable",
            vec![node(NodeStep::Unreadable(1, Flaw::Labels))],
            servers(&[1, 2, 3]),
        ),
        ("an address that no Node has", vec![source(&[1, 2, 3, 9])], {
            let mut shown = servers(&[1, 2, 3]);
            shown.insert(3, "192.0.2.9 ".to_owned());
            shown
        }),
    ]) {
        let outcome = held(seed, with_nodes(1, steps));
        let shown: Vec<_> = shown(&outcome);
        let expected: Vec<_> = expected.iter().map(|it| it.trim().to_owned()).collect();
        let shown: Vec<_> = shown.iter().map(|it| it.trim().to_owned()).collect();
        assert_eq!(shown, expected, "{what}\n{}", outcome.story);
    }
}

#[test]
fn nodes_that_cannot_be_listed_delay_no_copy() {
    for (seed, how) in (0..).zip(FAILURES) {
        let mut schedule = without_nodes(2, how, vec![]);
        // Lists and watches of Nodes fail from the start, so the operator never learns about any Node.
        schedule.before.push(fail(how));
        schedule.steps.push((SETTLE, source(&[1, 3])));
        let outcome = held(seed, schedule);
        assert_eq!(shown(&outcome), servers(&[1, 3]), "{how:?}\n{}", outcome.story);
        let right = outcome.coverage.of("copies right while Nodes cannot be listed");
        assert_eq!(right, 1, "{how:?}");
        assert!(
            outcome.settled < Duration::from_secs(1),
            "{how:?}: {:?}",
            outcome.settled
        );
    }
}

#[test]
fn the_second_family_outlives_a_restart_without_nodes() {
    for (seed, how) in (0..).zip(FAILURES) {
        let restart = |replica| Step::Kill(replica, Duration::from_millis(500));
        let steps = vec![fail(how), restart(0), restart(1)];
        let mut schedule = without_nodes(2, how, steps);
        schedule.steps.push((SETTLE, source(&[1, 3])));
        let outcome = held(seed, schedule);
        assert_eq!(shown(&outcome), servers(&[1, 3]), "{how:?}\n{}", outcome.story);
        let times = |what| outcome.coverage.of(what);
        assert_eq!(
            times("second family filled from Nodes"),
            1,
            "{how:?}\n{}",
            outcome.story
        );
        assert_eq!(
            times("second family emptied or removed"),
            0,
            "{how:?}\n{}",
            outcome.story
        );
        let beside = times("copy written before Nodes are listed, beside a second family");
        assert!(beside > 0, "{how:?}\n{}", outcome.story);
    }
}
