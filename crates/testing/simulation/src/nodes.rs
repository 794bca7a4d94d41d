//! The Nodes of schedules, and their changes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use testbed::Store;

use crate::chance::Chance;
use crate::draw;
use crate::node_watch::{FAILURES, Part};
use crate::objects::{NODE_SHAPES, SERVICES};
use crate::schedule::{LEADER, Step};
use crate::sight::Blindness;
use crate::slices::text;
use crate::unreadable::{self, Flaw};
use crate::world::World;

/// The Nodes, by the last part of their addresses. Sources can list one more API server, which never has a Node.
pub const NUMBERS: [u8; 6] = [1, 2, 3, 4, 5, 6];

/// The label that the operator uses to select Nodes.
pub const SELECTED: &str = "node-role.kubernetes.io/control-plane";

/// The label with the zone of a Node.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// The values of the zone label. The first one means no zone.
const ZONES: [&str; 3] = ["", "north", "south"];

/// The addresses of a Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// One address of each family.
    Plain,
    /// One IPv4 address.
    Single,
    /// One IPv4 address, and two IPv6 addresses.
    Both,
    /// One IPv4 address, and a different IPv6 address than `Plain` has.
    Moved,
    /// One address of each family, in different spellings.
    Respelled,
    /// An external address of each family, and different internal addresses.
    External,
    /// An internal IPv4 address, and an external IPv6 address.
    Apart,
    /// One address of each family, and the IPv4 address of the next Node.
    Twin,
    /// The addresses of the next Node, and none of its own.
    Taken,
}

/// All looks. A look that is listed several times is drawn more often.
const LOOKS: [Look; 23] = [
    Look::Plain,
    Look::Plain,
    Look::Plain,
    Look::Both,
    Look::Both,
    Look::Both,
    Look::Moved,
    Look::Moved,
    Look::Moved,
    Look::Moved,
    Look::Respelled,
    Look::Respelled,
    Look::External,
    Look::Single,
    Look::Apart,
    Look::Twin,
    Look::Twin,
    Look::Twin,
    Look::Twin,
    Look::Twin,
    Look::Moved,
    Look::Taken,
    Look::Taken,
];

/// A change to Nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeStep {
    /// A Node is created or changed.
    Put {
        /// The Node.
        number: u8,
        /// The addresses of the Node.
        look: Look,
        /// The number of the zone. 0 means no zone.
        zone: usize,
        /// Whether the operator selects the Node.
        is_selected: bool,
    },
    /// A Node is deleted.
    Gone(u8),
    /// A Node is deleted and created again with another UID.
    Recreated(u8),
    /// From now on, the addresses of a Node are in reverse order.
    Reordered(u8),
    /// A Node sends its heartbeat.
    Heartbeat(u8),
    /// A Node can no longer be decoded.
    Unreadable(u8, Flaw),
    /// A Node can be decoded again.
    Readable(u8),
    /// Lists of Nodes, watches of Nodes, or both fail for a time.
    Fail {
        /// The replica whose requests fail. `None` means all replicas.
        replica: Option<usize>,
        /// The kind of requests.
        part: Part,
        /// The failure.
        how: Blindness,
        /// The duration of the failure.
        time: Duration,
    },
}

/// The name of a Node.
fn name(number: u8) -> String {
    format!("server-{number}")
}

/// A Node object.
fn node(number: u8, look: Look, zone: usize, is_selected: bool) -> Value {
    let next = number % 6 + 1;
    let four = |number: u8| format!("192.0.2.{number}");
    let six = |number: u8| format!("2001:db8::{number}");
    // The last part of an address identifies the server.
    let other = format!("2001:db8:1::{number}");
    let (internal, external) = ("InternalIP", "ExternalIP");
    let addresses = match look {
        Look::Plain => vec![(internal, four(number)), (internal, six(number))],
        Look::Single => vec![(internal, four(number))],
        Look::Both => vec![
            (internal, four(number)),
            (internal, six(number)),
            (internal, other),
        ],
        Look::Moved => vec![(internal, four(number)), (internal, other)],
        Look::Respelled => vec![
            (internal, format!("::ffff:192.0.2.{number}")),
            (internal, format!("2001:0DB8:0::000{number}")),
        ],
        Look::External => vec![
            (internal, format!("198.51.100.{number}")),
            (internal, other),
            (external, four(number)),
            (external, six(number)),
        ],
        Look::Apart => vec![(internal, four(number)), (external, six(number))],
        Look::Twin => vec![
            (internal, four(number)),
            (internal, six(number)),
            (internal, four(next)),
        ],
        Look::Taken => vec![(internal, four(next)), (internal, six(next))],
    };
    let mut all = vec![json!({"type": "Hostname", "address": name(number)})];
    all.extend(
        addresses
            .iter()
            .map(|(kind, address)| json!({"type": kind, "address": address})),
    );
    let mut labels = json!({"kubernetes.io/hostname": name(number)});
    if is_selected {
        labels[SELECTED] = json!("");
    }
    if zone > 0 {
        labels[ZONE] = json!(ZONES[zone]);
    }
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name(number), "labels": labels},
        "status": {"addresses": all},
    })
}

fn some_node(chance: &mut Chance, number: u8, looks: &[Look]) -> NodeStep {
    NodeStep::Put {
        number,
        look: *chance.one_of(looks),
        zone: if chance.percent(15) {
            0
        } else {
            1 + chance.below(2)
        },
        is_selected: chance.percent(88),
    }
}

/// The Nodes that exist before the replicas start, and Services that need them.
pub fn before(chance: &mut Chance) -> Vec<Step> {
    let mut steps = Vec::new();
    for number in NUMBERS {
        if chance.percent(90) {
            let looks = if chance.percent(70) { &LOOKS[..7] } else { &LOOKS };
            steps.push(Step::Node(some_node(chance, number, looks)));
        }
    }
    steps.extend([service(chance), service(chance)]);
    steps
}

/// A Service that needs Nodes.
fn service(chance: &mut Chance) -> Step {
    Step::Service {
        // The first Service is nearly always left alone.
        number: 1 + chance.below(SERVICES.len() - 1),
        shape: *chance.one_of(&NODE_SHAPES),
        source: 0,
        port: *chance.one_of(&[6443, 9345]),
    }
}

/// Draws a change to Nodes, to a Service or source that needs them, or to their lists and watches.
pub fn draw(chance: &mut Chance, replicas: usize) -> Step {
    let number = *chance.one_of(&NUMBERS);
    Step::Node(match chance.below(100) {
        0..32 => some_node(chance, number, &LOOKS),
        32..38 => NodeStep::Gone(number),
        38..44 => NodeStep::Recreated(number),
        44..52 => NodeStep::Reordered(number),
        52..57 => NodeStep::Heartbeat(number),
        57..65 => NodeStep::Unreadable(number, *chance.one_of(&[Flaw::Annotations, Flaw::Labels])),
        65..67 => NodeStep::Readable(number),
        67..75 => return service(chance),
        // The source itself gets the second family, or loses it.
        75..81 => return draw::sources(chance, 0, 2),
        81..84 => return Step::SourceGone(0, 2),
        84..86 => return draw::sources(chance, 0, 0),
        _ => NodeStep::Fail {
            replica: if chance.percent(50) {
                None
            } else if chance.percent(60) {
                Some(LEADER)
            } else {
                Some(chance.below(replicas))
            },
            part: *chance.one_of(&[Part::Lists, Part::Watches, Part::All, Part::All]),
            how: *chance.one_of(&FAILURES),
            time: chance.millis(1000, 40_000),
        },
    })
}

/// Carries out a step that changes Nodes. Returns the names under which it is counted.
///
/// # Panics
/// If the API server does not accept the object that the step creates.
fn carry_out(store: &Store, step: NodeStep) -> Vec<&'static str> {
    let get = |number| store.get("nodes", "", &name(number));
    let set_status = |number, status: Value| {
        let patch = json!({"status": status});
        store.patch_status("nodes", "", &name(number), patch).is_ok()
    };
    let done = match step {
        NodeStep::Put {
            number,
            look,
            zone,
            is_selected,
        } => return put(store, number, look, zone, is_selected),
        NodeStep::Gone(number) => store
            .delete("nodes", "", &name(number))
            .is_ok()
            .then_some("Node removed"),
        NodeStep::Recreated(number) => get(number).map(|node| {
            let fields = ["apiVersion", "kind", "status"].map(|field| (field, node[field].clone()));
            let mut made = json!({"metadata": {
                "name": name(number), "labels": node["metadata"]["labels"],
            }});
            for (field, value) in fields {
                made[field] = value;
            }
            store
                .delete("nodes", "", &name(number))
                .expect("an existing Node");
            store.put(made).expect("a valid Node");
            "Node recreated"
        }),
        NodeStep::Reordered(number) => {
            let mut addresses = get(number).map_or(Value::Null, |node| node["status"]["addresses"].clone());
            let is_there = addresses.as_array_mut().is_some_and(|all| {
                all.reverse();
                true
            });
            (is_there && set_status(number, json!({"addresses": addresses})))
                .then_some("addresses of a Node in another order")
        }
        NodeStep::Heartbeat(number) => {
            let now = store.revision().to_string();
            let conditions = json!([{"type": "Ready", "status": "True", "message": now}]);
            set_status(number, json!({"conditions": conditions})).then_some("heartbeat of a Node")
        }
        NodeStep::Unreadable(number, flaw) => {
            unreadable::spoil_node(store, &name(number), flaw).map(|_| "Node unreadable")
        }
        NodeStep::Readable(number) => get(number)
            .filter(unreadable::is_unreadable)
            .and_then(|_| unreadable::restore_node(store, &name(number)))
            .map(|_| "Node readable again"),
        NodeStep::Fail { .. } => None,
    };
    done.into_iter().collect()
}

fn put(store: &Store, number: u8, look: Look, zone: usize, is_selected: bool) -> Vec<&'static str> {
    let before = store.get("nodes", "", &name(number));
    let node = node(number, look, zone, is_selected);
    let mut done = vec![match &before {
        None => "Node added",
        Some(_) => "Node changed",
    }];
    if let Some(before) = &before {
        let labels = |node: &Value, label: &str| node["metadata"]["labels"][label].clone();
        if labels(before, ZONE) != labels(&node, ZONE) {
            done.push("zone of a Node changed");
        }
        if labels(before, SELECTED).is_string() && !is_selected {
            done.push("Node no longer selected");
        }
        let six = |node: &Value| addresses(node).into_iter().find(IpAddr::is_ipv6);
        if six(before) != six(&node) {
            done.push("other IPv6 address of a Node");
        }
    }
    let status = json!({"status": node["status"]});
    store.put(node).expect("a valid Node");
    let written = store.patch_status("nodes", "", &name(number), status);
    written.expect("a valid status");
    done.extend(match look {
        Look::Twin => Some("Node with an address of another"),
        Look::Taken => Some("addresses move to another Node"),
        Look::Respelled => Some("addresses of a Node in other spellings"),
        _ => None,
    });
    done
}

/// The addresses of a Node, of any type, in canonical form and in the order in which the Node has them.
fn addresses(node: &Value) -> Vec<IpAddr> {
    let all = node["status"]["addresses"].as_array().into_iter().flatten();
    all.filter_map(|it| text(&it["address"]).parse().ok())
        .map(|address: IpAddr| address.to_canonical())
        .collect()
}

impl World {
    /// Carries out a step that changes Nodes, or makes lists or watches of Nodes fail.
    pub fn of_nodes(self: &Arc<Self>, step: NodeStep) {
        if let NodeStep::Fail {
            replica,
            part,
            how,
            time,
        } = step
        {
            return self.fail_nodes(replica, part, how, time);
        }
        for what in self.administer(|store| carry_out(store, step)) {
            self.count(what);
        }
    }
}
