//! Faults that affect probes: the behavior of API servers, and changes to the probe Lease.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use testbed::Store;
use tokio::time::sleep;

use crate::chance::Chance;
use crate::endpoints::{Answer, Between, Node};
use crate::fault::Effect;
use crate::hearing::{OBJECTION, SUFFIX, SUSPECTED};
use crate::replica::LEASE;
use crate::schedule::{Edit, LEADER, Step};
use crate::slices::{MANAGED_BY, SERVICE_NAME, US, annotation, key, label, text};
use crate::unreadable::{self, Flaw};
use crate::world::World;

/// A fault that affects probes. Nodes are chosen from those that the source lists at the time of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// One API server or all API servers behave like this for a time.
    Answers {
        /// The replica that is affected. `None` means all replicas.
        replica: Option<usize>,
        /// The API server. `None` means all API servers.
        pick: Option<usize>,
        /// The port. `None` means both ports.
        port: Option<u16>,
        /// The behavior.
        answer: Answer,
        /// The duration.
        time: Duration,
    },
    /// A node is off for a time.
    NodeOff {
        /// The node.
        pick: usize,
        /// The failure of its dead API server.
        answer: Answer,
        /// How long the source still lists it.
        listed: Duration,
        /// How long it then stays off.
        time: Duration,
    },
    /// An API server alternates between failing and answering.
    Flaps {
        /// The API server.
        pick: usize,
        /// The failure.
        answer: Answer,
        /// The duration of each failure, and of each pause between two failures.
        time: Duration,
        /// The number of failures.
        times: usize,
    },
    /// An API server fails for a time, and another API server fails as soon as the first one answers again.
    Relay {
        /// The first API server. The second API server is the next one.
        pick: usize,
        /// The failure of both.
        answer: Answer,
        /// The duration of each failure.
        time: Duration,
    },
    /// An API server fails for 30 s, and the leader is killed after 11 s, when that server should be out.
    Succession {
        /// The API server.
        pick: usize,
        /// The failure.
        answer: Answer,
    },
    /// An API server closes its idle connections.
    Closes(usize),
    /// A client objects to all suspicions for a time.
    Liar(Duration),
    /// A client changes the probe Lease.
    Lease(Harm),
}

/// A change to the probe Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Deletes it.
    Deleted,
    /// Writes text into it that cannot be parsed as suspicions or objections.
    Garbled,
    /// Suspects an API server in the highest possible round, and objects to that suspicion.
    Forged,
    /// Adds the objection of a replica that no longer exists.
    Left,
    /// Makes it undecodable for a while.
    Unreadable(Flaw, Duration),
}

impl World {
    /// The nodes that the API source lists.
    pub fn listed_nodes(&self) -> Vec<Node> {
        let slices = api_slices(&self.store);
        let endpoints = slices
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let mut nodes: Vec<_> = endpoints.filter_map(node_of).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    fn picked(&self, pick: usize) -> Option<Node> {
        let nodes = self.listed_nodes();
        nodes.get(pick % nodes.len().max(1)).copied()
    }

    /// Carries out a fault of the probes.
    pub fn of_probes(self: &Arc<Self>, step: ProbeStep) {
        match step {
            ProbeStep::Answers {
                replica,
                pick,
                port,
                answer,
                time,
            } => {
                let node = match pick {
                    Some(pick) => match self.picked(pick) {
                        Some(node) => Some(node),
                        None => return,
                    },
                    None => None,
                };
                self.count(match (replica, pick) {
                    (None, None) => "all API servers answer alike",
                    (None, Some(_)) => "one API server fails or is slow for all",
                    (Some(_), None) => "all API servers fail or are slow for one replica",
                    (Some(_), Some(_)) => "one API server fails or is slow for one replica",
                });
                self.answer_for(Between { replica, node, port }, answer, time);
            }
            ProbeStep::NodeOff {
                pick,
                answer,
                listed,
                time,
            } => self.node_off(pick, answer, listed, time),
            ProbeStep::Flaps {
                pick,
                answer,
                time,
                times,
            } => {
                let Some(node) = self.picked(pick) else { return };
                for turn in 0..u32::try_from(times).unwrap_or(1) {
                    self.later(time * 2 * turn, move |world| {
                        world.answer_for(of_node(node), answer, time);
                    });
                }
            }
            ProbeStep::Relay { pick, answer, time } => {
                let (Some(first), Some(second)) = (self.picked(pick), self.picked(pick + 1)) else {
                    return;
                };
                self.answer_for(of_node(first), answer, time);
                self.later(time, move |world| world.answer_for(of_node(second), answer, time));
            }
            ProbeStep::Succession { pick, answer } => self.succeed(pick, answer),
            ProbeStep::Closes(pick) => {
                if let Some(node) = self.picked(pick) {
                    self.state().probed.endpoints.close(node);
                }
            }
            ProbeStep::Liar(time) => self.lie(time),
            ProbeStep::Lease(harm) => {
                self.disturbed_for(Duration::ZERO);
                if let Some(what) = self.administer(|store| harm_lease(store, harm)) {
                    self.count(what);
                }
                if matches!(harm, Harm::Garbled | Harm::Forged | Harm::Left) {
                    self.lies_for(Duration::ZERO);
                }
                if let Harm::Unreadable(_, time) = harm {
                    // A leader whose term began in the meantime counted its rounds from 1, so an old objection might
                    // name one of these rounds.
                    self.lies_for(time);
                    self.later(time, |world| {
                        _ = world.administer(unreadable::restore_probe_lease);
                    });
                }
            }
        }
    }

    fn succeed(self: &Arc<Self>, pick: usize, answer: Answer) {
        let Some(node) = self.picked(pick) else { return };
        self.answer_for(of_node(node), answer, Duration::from_secs(30));
        self.later(Duration::from_secs(11), |world| {
            world.carry_out(&Step::Kill(LEADER, Duration::from_secs(3)));
        });
    }

    /// Records that the laws of `calm.rs` require nothing for this long.
    pub fn disturbed_for(&self, time: Duration) {
        let until = self.now() + time;
        let disturbed = &mut self.state().probed.disturbed;
        *disturbed = until.max(*disturbed);
    }

    /// Records that a client lies for this long. Its lies have an effect for up to 11 s longer.
    fn lies_for(&self, time: Duration) {
        let until = self.now() + time + Duration::from_secs(11);
        self.disturbed_for(time + Duration::from_secs(11));
        let lies = &mut self.state().probed.disturbed_by_lies;
        *lies = until.max(*lies);
    }

    fn answer_for(self: &Arc<Self>, between: Between, answer: Answer, time: Duration) {
        let number = self.state().probed.endpoints.add(between, answer);
        self.note_classes();
        self.later(time, move |world| {
            world.state().probed.endpoints.remove(number);
            world.note_classes();
        });
    }

    fn node_off(self: &Arc<Self>, pick: usize, answer: Answer, listed: Duration, time: Duration) {
        let Some(node) = self.picked(pick) else { return };
        self.count("node off");
        self.answer_for(of_node(node), answer, listed + time);
        self.later(listed, move |world| {
            let taken = world.administer(|store| delist(store, node));
            if taken.is_empty() {
                return;
            }
            world.count("node off is no longer listed");
            world.state().probed.relisted = world.now();
            world.later(time + Duration::from_secs(1), move |world| {
                world.administer(|store| relist(store, &taken));
                world.state().probed.relisted = world.now();
            });
        });
    }

    /// Makes a client object to every suspicion, as a replica would.
    fn lie(self: &Arc<Self>, time: Duration) {
        let world = self.clone();
        self.lies_for(time);
        tokio::spawn(async move {
            let until = world.now() + time;
            let mut count = 0;
            while world.now() < until {
                let lied = world.administer(|store| {
                    let (namespace, name) = probe_lease();
                    let lease = store.get("leases", namespace, &name)?;
                    let asked = annotation(&lease, SUSPECTED)?;
                    let said = format!("{asked};{count}");
                    let patch = json!({"metadata": {"annotations": {format!("{OBJECTION}liar"): said}}});
                    store.patch("leases", namespace, &name, patch).ok()
                });
                if lied.is_some() {
                    count += 1;
                    world.count("false objection in the probe Lease");
                }
                sleep(Duration::from_millis(if lied.is_some() { 3000 } else { 50 })).await;
            }
        });
    }
}

fn of_node(node: Node) -> Between {
    Between {
        node: Some(node),
        ..Between::default()
    }
}

/// The namespace and name of the probe Lease.
pub fn probe_lease() -> (&'static str, String) {
    (LEASE.0, format!("{}{SUFFIX}", LEASE.1))
}

fn api_slices(store: &Store) -> Vec<Value> {
    let mut slices = store.list("endpointslices", Some("default"));
    slices.retain(|slice| {
        label(slice, SERVICE_NAME) == Some("kubernetes") && label(slice, MANAGED_BY) != Some(US)
    });
    slices
}

fn node_of(endpoint: &Value) -> Option<Node> {
    let address = text(&endpoint["addresses"][0]).parse().ok()?;
    Some(crate::endpoints::node_of(address))
}

/// Removes a node from the source. Returns the removed endpoints, by slice.
fn delist(store: &Store, node: Node) -> Vec<(String, Value)> {
    let mut taken = Vec::new();
    for slice in api_slices(store) {
        let (namespace, name) = key(&slice);
        let all = slice["endpoints"].as_array().cloned().unwrap_or_default();
        let (gone, stay): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| node_of(it) == Some(node));
        // The last endpoint stays listed, because only another API server would remove it.
        if gone.is_empty() || stay.is_empty() {
            continue;
        }
        if store
            .patch("endpointslices", &namespace, &name, json!({"endpoints": stay}))
            .is_ok()
        {
            taken.extend(gone.into_iter().map(|endpoint| (name.clone(), endpoint)));
        }
    }
    taken
}

fn relist(store: &Store, taken: &[(String, Value)]) {
    for (name, endpoint) in taken {
        let Some(slice) = store.get("endpointslices", "default", name) else {
            continue;
        };
        let mut all = slice["endpoints"].as_array().cloned().unwrap_or_default();
        if !all.iter().any(|it| it["addresses"] == endpoint["addresses"]) {
            all.push(endpoint.clone());
            _ = store.patch("endpointslices", "default", name, json!({"endpoints": all}));
        }
    }
}

fn harm_lease(store: &Store, harm: Harm) -> Option<&'static str> {
    let (namespace, name) = probe_lease();
    let put = |annotations: Value| {
        let patch = json!({"metadata": {"annotations": annotations}});
        store.patch("leases", namespace, &name, patch).ok()
    };
    let (done, what) = match harm {
        Harm::Deleted => (
            store
                .delete("leases", namespace, &name)
                .ok()
                .map(|()| Value::Null),
            "probe Lease deleted",
        ),
        Harm::Garbled => (
            put(json!({SUSPECTED: "all of them", format!("{OBJECTION}liar"): "=;=;,"})),
            "probe Lease garbled",
        ),
        Harm::Forged => (
            put(json!({
                SUSPECTED: format!("192.0.2.1:6443={}", u64::MAX),
                format!("{OBJECTION}liar"): format!("192.0.2.1:6443={};1", u64::MAX),
            })),
            "suspicion forged",
        ),
        Harm::Left => (
            {
                _ = store.create(json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": name, "namespace": namespace}, "spec": {},
                }));
                put(json!({format!("{OBJECTION}gone"): "192.0.2.2:6443=1;1"}))
            },
            "objection left by a replica that no longer exists",
        ),
        Harm::Unreadable(flaw, _) => (
            unreadable::spoil_probe_lease(store, flaw),
            "probe Lease unreadable",
        ),
    };
    done.map(|_| what)
}

/// A failure of an API server.
fn failing(chance: &mut Chance) -> Answer {
    *chance.one_of(&[
        Answer::Refused,
        Answer::Hangs,
        Answer::Hangs,
        Answer::Reset,
        Answer::Status(500),
        Answer::Status(503),
    ])
}

/// The behavior of an API server that is not completely healthy.
fn unusual(chance: &mut Chance) -> Answer {
    match chance.below(4) {
        0 => Answer::Slow(chance.millis(200, 900)),
        1 => Answer::Status(*chance.one_of(&[401, 403, 429])),
        _ => failing(chance),
    }
}

/// A step that affects probes. If `is_calm`, most failures last long enough for the laws to be checked.
pub fn draw(chance: &mut Chance, replicas: usize, is_calm: bool) -> Step {
    let least = if is_calm { 7000 } else { 1000 };
    let pick = chance.below(6);
    let time = chance.millis(least, 18_000);
    let port = chance
        .percent(15)
        .then(|| *chance.one_of(&crate::endpoints::PORTS));
    let answers = |replica, pick, port, answer, time| ProbeStep::Answers {
        replica,
        pick,
        port,
        answer,
        time,
    };
    let replica = if chance.percent(75) {
        LEADER
    } else {
        chance.below(replicas)
    };
    let step = match chance.below(100) {
        0..15 => answers(None, Some(pick), port, failing(chance), time),
        15..29 => answers(Some(replica), Some(pick), port, failing(chance), time),
        29..33 => answers(None, Some(pick), port, unusual(chance), time),
        33..40 => answers(None, None, None, unusual(chance), chance.millis(500, 9000)),
        40..43 => answers(
            Some(replica),
            None,
            None,
            failing(chance),
            chance.millis(500, 9000),
        ),
        43..49 => ProbeStep::NodeOff {
            pick,
            answer: *chance.one_of(&[Answer::Refused, Answer::Hangs]),
            listed: chance.millis(7000, if is_calm { 20_000 } else { 38_000 }),
            time: chance.millis(1000, 6000),
        },
        49..53 => ProbeStep::Flaps {
            pick,
            answer: failing(chance),
            time: chance.millis(3500, 8000),
            times: 2 + chance.below(2),
        },
        53..66 => ProbeStep::Relay {
            pick,
            answer: failing(chance),
            time: chance.millis(6000, 12_000),
        },
        66..68 => ProbeStep::Closes(pick),
        68..71 => return Step::Copy(pick, Edit::Memory),
        71..75 => return lease_requests(chance, replica, replicas),
        75..79 => ProbeStep::Liar(chance.millis(3000, 15_000)),
        79..83 => return Step::Copy(pick, *chance.one_of(&[Edit::Deleted, Edit::Endpoints])),
        _ => ProbeStep::Lease(match chance.below(5) {
            0 => Harm::Deleted,
            1 => Harm::Garbled,
            2 => Harm::Forged,
            3 => Harm::Left,
            _ => Harm::Unreadable(
                *chance.one_of(&[Flaw::Annotations, Flaw::Labels]),
                chance.millis(1000, 8000),
            ),
        }),
    };
    Step::Probe(step)
}

/// The steps while only probes and replicas fail.
pub fn calm(chance: &mut Chance, replicas: usize) -> Vec<(Duration, Step)> {
    let succession = Step::Probe(ProbeStep::Succession {
        pick: chance.below(6),
        answer: failing(chance),
    });
    let cut = Step::Probe(ProbeStep::Answers {
        replica: Some(LEADER),
        pick: Some(chance.below(6)),
        port: None,
        answer: failing(chance),
        time: chance.millis(9000, 12_000),
    });
    // Nothing else happens while the laws wait for the effects of these steps.
    let nothing = ProbeStep::Closes(0);
    let mut steps = Vec::new();
    if chance.percent(85) {
        steps.extend([
            (chance.millis(16_000, 20_000), succession),
            (Duration::from_secs(30), Step::Probe(nothing)),
        ]);
    }
    if chance.percent(75) {
        steps.extend([
            (chance.millis(14_000, 18_000), cut),
            (Duration::from_secs(9), Step::Probe(nothing)),
        ]);
    }
    for _ in 0..3 + chance.below(4) {
        let pause = if chance.percent(50) {
            chance.millis(50, 2500)
        } else {
            chance.millis(9000, 13_000)
        };
        let step = match chance.below(100) {
            0..70 => draw(chance, replicas, true),
            70..78 => Step::Kill(LEADER, chance.millis(200, 6000)),
            78..84 => Step::Stop(LEADER, chance.millis(200, 6000)),
            84..90 => Step::Pause(LEADER, chance.millis(1000, 6000)),
            90..95 => Step::Pause(chance.below(replicas), chance.millis(200, 6000)),
            _ => Step::Cut(LEADER, chance.millis(500, 6000)),
        };
        steps.push((pause, step));
    }
    steps
}

/// A step after which reads and writes of the probe Lease fail, are late, or get no response.
fn lease_requests(chance: &mut Chance, leader: usize, replicas: usize) -> Step {
    let effect = match chance.below(6) {
        0 => Effect::LostReply,
        1 => Effect::Unanswered,
        2 => Effect::Hangs,
        3 => Effect::Late(chance.millis(100, 3000)),
        _ => Effect::Status(*chance.one_of(&[409, 429, 500, 503])),
    };
    Step::Requests {
        replica: if chance.percent(50) {
            leader
        } else {
            chance.below(replicas)
        },
        harm: crate::fault::Harm::ProbeLease,
        effect,
        times: 1 + chance.below(3),
    }
}
