//! Small schedules about Nodes, each with one idea. The Service `default/one` wants both families and copies three API
//! servers, each on its own Node.

use crate::node_watch::{FOR_GOOD, Part};
use crate::nodes::{Look, NodeStep};
use crate::objects::Shape;
use crate::run::Outcome;
use crate::schedule::{Schedule, Step};
use crate::sight::Blindness;
use crate::systematic::{scenario, source};

/// The prefix of the namespaced name of each copy for the Service.
pub const NAME: &str = "default/one-";

/// A step after which a Node has these addresses.
#[must_use]
pub fn put(number: u8, look: Look) -> Step {
    Step::Node(NodeStep::Put {
        number,
        look,
        zone: 1,
        is_selected: true,
    })
}

/// A step after which all lists and watches of Nodes fail.
#[must_use]
pub fn fail(how: Blindness) -> Step {
    Step::Node(NodeStep::Fail {
        replica: None,
        part: Part::All,
        how,
        time: FOR_GOOD,
    })
}

/// A schedule with Nodes and these steps.
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

/// A schedule with Nodes and these steps, in which the lists and watches of Nodes still fail after all other faults
/// have ended.
#[must_use]
pub fn without_nodes(replicas: usize, how: Blindness, steps: Vec<Step>) -> Schedule {
    let mut schedule = with_nodes(replicas, steps);
    schedule.nodes_fail = Some(how);
    schedule
}

/// A schedule in which a Node gets another address and is later recreated, another Node is deleted, and an API server
/// leaves the source.
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

/// The endpoints in the copies for the Service at the end, sorted: `<address> <Node> <zone>`.
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
