//! Small schedules about Nodes, with one idea each. The Service [`NAME`] wants both families and copies three API
//! servers, each on its own Node.

use crate::node_watch::{FOR_GOOD, Part};
use crate::nodes::{Look, NodeStep};
use crate::objects::Shape;
use crate::run::Outcome;
use crate::schedule::{Schedule, Step};
use crate::sight::Blindness;
use crate::systematic::{scenario, source};

/// Name and namespace of the Service.
pub const NAME: &str = "default/one-";

/// From now on, a Node looks like this.
#[must_use]
pub fn put(number: u8, look: Look) -> Step {
    Step::Node(NodeStep::Put {
        number,
        look,
        zone: 1,
        is_selected: true,
    })
}

/// From now on, all lists and watches of Nodes fail.
#[must_use]
pub fn fail(how: Blindness) -> Step {
    Step::Node(NodeStep::Fail {
        replica: None,
        part: Part::All,
        how,
        time: FOR_GOOD,
    })
}

/// A cluster with Nodes, followed by these steps.
#[must_use]
pub fn with_nodes(replicas: usize, steps: Vec<Step>) -> Schedule {
    let mut schedule = scenario(replicas, steps);
    schedule
        .before
        .extend((1..=3).map(|number| put(number, Look::Plain)));
    schedule.before.push(Step::Service {
        number: 1,
        shape: Shape::DualLocal,
        source: 0,
        port: 6443,
    });
    schedule
}

/// The same, but Nodes fail beyond the end of all other faults.
#[must_use]
pub fn without_nodes(replicas: usize, how: Blindness, steps: Vec<Step>) -> Schedule {
    let mut schedule = with_nodes(replicas, steps);
    schedule.nodes_fail = Some(how);
    schedule
}

/// Nodes move, are deleted and return, and an API server leaves the source.
#[must_use]
pub fn changes() -> Schedule {
    let steps = vec![
        put(1, Look::Moved),
        Step::Node(NodeStep::Gone(2)),
        source((0, 0), &[1, 2]),
        Step::Node(NodeStep::Recreated(1)),
    ];
    with_nodes(1, steps)
}

/// The content of the copies of the Service at the end: `<address> <Node> <zone>`.
#[must_use]
pub fn shown(outcome: &Outcome) -> Vec<String> {
    let copies = outcome.end_state.iter().filter(|copy| copy.starts_with(NAME));
    let texts = copies.flat_map(|copy| copy.split(['[', ']', '"', '\\', ',']));
    let mut shown = Vec::new();
    let mut address = String::new();
    for text in texts.map(str::trim).filter(|text| !text.is_empty()) {
        let words: Vec<_> = text.split_whitespace().collect();
        match words[..] {
            [one] if one.parse::<std::net::IpAddr>().is_ok() => one.clone_into(&mut address),
            ["true" | "false", _, _, ref rest @ ..] => shown.push(format!("{address} {}", rest.join(" "))),
            _ => {}
        }
    }
    shown.sort();
    shown
}
