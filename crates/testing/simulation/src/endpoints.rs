//! The API servers that replicas probe: the behavior of each server toward each replica, and the client that probes
//! them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use endpoint_copier_core::verdicts::{Failure, Reply, Target};
use endpoint_copier_operator::apiserver::probe_client::{ProbeClient, ProbeConnection};
use futures::FutureExt as _;
use futures::future::{BoxFuture, pending, ready};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::replica::Life;
use crate::world::{REPLICAS, World};

/// A node, by the last part of the addresses of its API server.
pub type Node = u8;

/// All nodes that sources or edited copies can list.
pub const NODES: [Node; 7] = [1, 2, 3, 4, 5, 6, 9];

/// The ports that are probed.
pub const PORTS: [u16; 2] = [6443, 9345];

/// The behavior of an API server when it is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 2xx.
    Fine,
    /// 2xx after a delay.
    Slow(Duration),
    /// Another status.
    Status(u16),
    /// Nothing listens on the port.
    Refused,
    /// The connection breaks.
    Reset,
    /// There is no response.
    Hangs,
}

/// What a replica can conclude from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The server is well, and answers quickly.
    Well,
    /// The server is well, and answers slowly.
    Slow,
    /// The server is alive, but does not say whether it is ready.
    Alive,
    /// The server fails.
    Dead,
}

impl Answer {
    fn class(self) -> Class {
        match self {
            Self::Fine => Class::Well,
            // The limit of a probe is 1 s, and the network adds a little to `time`.
            Self::Slow(time) if time <= Duration::from_millis(900) => Class::Slow,
            Self::Status(401 | 403 | 429) => Class::Alive,
            Self::Slow(_) | Self::Status(_) | Self::Refused | Self::Reset | Self::Hangs => Class::Dead,
        }
    }

    /// The name under which this answer is counted.
    fn name(self) -> &'static str {
        match self {
            Self::Fine => "probe answered 2xx",
            Self::Slow(_) => "probe answered slowly",
            Self::Status(401) => "probe answered 401",
            Self::Status(403) => "probe answered 403",
            Self::Status(429) => "probe answered 429",
            Self::Status(_) => "probe answered 5xx",
            Self::Refused => "probe refused",
            Self::Reset => "probe reset",
            Self::Hangs => "probe without an answer",
        }
    }
}

/// A selection of replicas and API servers. In each field, `None` means all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Between {
    /// The replica.
    pub replica: Option<usize>,
    /// The node of the API server.
    pub node: Option<Node>,
    /// The port.
    pub port: Option<u16>,
}

impl Between {
    fn fits(&self, replica: usize, node: Node, port: u16) -> bool {
        self.replica.is_none_or(|it| it == replica)
            && self.node.is_none_or(|it| it == node)
            && self.port.is_none_or(|it| it == port)
    }
}

/// The current behavior of all API servers.
#[derive(Debug)]
pub struct Endpoints {
    /// The behaviors that were added, oldest first. The newest one that matches applies.
    faults: Vec<(u64, Between, Answer)>,
    last: u64,
    /// Incremented each time a node closes its connections.
    closed: BTreeMap<Node, u64>,
    closing: watch::Sender<()>,
    /// The class of each API server for each replica, and the time of its last change.
    classes: BTreeMap<(usize, Node, u16), (Class, Duration)>,
}

impl Default for Endpoints {
    fn default() -> Self {
        let all = (0..REPLICAS).flat_map(|replica| {
            let nodes = NODES.into_iter();
            nodes.flat_map(move |node| PORTS.map(|port| (replica, node, port)))
        });
        Self {
            faults: Vec::new(),
            last: 0,
            closed: BTreeMap::new(),
            closing: watch::Sender::default(),
            classes: all.map(|it| (it, (Class::Well, Duration::ZERO))).collect(),
        }
    }
}

impl Endpoints {
    /// Sets the behavior of these servers toward these replicas from now on. Returns a number for
    /// [`Endpoints::remove`].
    pub fn add(&mut self, between: Between, answer: Answer) -> u64 {
        self.last += 1;
        self.faults.push((self.last, between, answer));
        if matches!(answer, Answer::Refused | Answer::Reset) && between.replica.is_none() {
            for node in NODES
                .into_iter()
                .filter(|node| between.node.is_none_or(|it| it == *node))
            {
                self.close(node);
            }
        }
        self.last
    }

    /// Ends the behavior with this number.
    pub fn remove(&mut self, number: u64) {
        self.faults.retain(|(it, ..)| *it != number);
    }

    /// Removes all behaviors that were added, which makes all servers well.
    pub fn heal(&mut self) {
        self.faults.clear();
    }

    /// Makes a node close its idle connections.
    pub fn close(&mut self, node: Node) {
        *self.closed.entry(node).or_default() += 1;
        self.closing.send_replace(());
    }

    fn generation(&self, node: Node) -> u64 {
        self.closed.get(&node).copied().unwrap_or(0)
    }

    fn answer(&self, replica: usize, node: Node, port: u16) -> Answer {
        let mut newest = self.faults.iter().rev();
        newest
            .find(|(_, between, _)| between.fits(replica, node, port))
            .map_or(Answer::Fine, |(.., answer)| *answer)
    }

    /// The class of an API server for a replica, and the time of its last change.
    pub fn class(&self, replica: usize, node: Node, port: u16) -> (Class, Duration) {
        let known = self.classes.get(&(replica, node, port));
        known.copied().unwrap_or((Class::Well, Duration::ZERO))
    }
}

/// The node of an address.
pub fn node_of(address: IpAddr) -> Node {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

/// The addresses of the node on which a replica runs.
pub fn own_addresses(replica: usize) -> [IpAddr; 2] {
    let node = u8::try_from(replica + 1).unwrap_or(1);
    [
        IpAddr::from([192, 0, 2, node]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(node)]),
    ]
}

impl World {
    /// The current behavior of an API server toward a replica. The two servers of the store run on nodes 1 and 2.
    fn probe_answer(&self, replica: usize, node: Node, port: u16) -> Answer {
        if self.state().cut[replica] {
            return Answer::Hangs;
        }
        let server = usize::from(node).wrapping_sub(1);
        if server < self.servers.len() {
            if self.is_down(server) {
                return Answer::Refused;
            }
            if self.is_frozen(server) {
                return Answer::Hangs;
            }
            let slow = self.state().slow[server];
            if !slow.is_zero() {
                return Answer::Slow(slow);
            }
        }
        self.state().probed.endpoints.answer(replica, node, port)
    }

    /// Records the class of each API server for each replica, with the time of its last change. Call this after each
    /// change that can happen while the laws of `calm.rs` apply.
    pub fn note_classes(&self) {
        let now = self.now();
        let places: Vec<_> = self.state().probed.endpoints.classes.keys().copied().collect();
        for (replica, node, port) in places {
            let class = self.probe_answer(replica, node, port).class();
            let mut state = self.state();
            let known = state.probed.endpoints.classes.entry((replica, node, port));
            let known = known.or_insert((class, now));
            if known.0 != class {
                *known = (class, now);
            }
        }
    }
}

/// The probe client of one replica.
pub struct Client {
    /// The world to which the replica belongs.
    pub world: Arc<World>,
    /// The replica.
    pub life: Arc<Life>,
}

impl ProbeClient for Client {
    fn connect(&self, target: Target) -> BoxFuture<'static, Result<Box<dyn ProbeConnection>, Failure>> {
        let (world, life) = (self.world.clone(), self.life.clone());
        let begun = world.attempt_begins(&life, target);
        let node = node_of(target.address());
        let answer = world.probe_answer(life.replica, node, target.port());
        let generation = world.state().probed.endpoints.generation(node);
        let attempt = Attempt {
            world,
            life,
            target,
            begun,
            has_ended: false,
        };
        match answer {
            Answer::Hangs => async move {
                attempt.world.count(answer.name());
                let _attempt = attempt;
                pending().await
            }
            .boxed(),
            Answer::Refused => async move {
                attempt.world.count(answer.name());
                arrival(&attempt.world, &attempt.life, attempt.target, Duration::ZERO).await;
                attempt.ends(&Reply::Failure(Failure::Refused));
                Err(Failure::Refused)
            }
            .boxed(),
            _ => {
                let connection: Box<dyn ProbeConnection> = Box::new(Connection {
                    world: attempt.world.clone(),
                    life: attempt.life.clone(),
                    target,
                    generation,
                    first: Some(attempt),
                });
                ready(Ok(connection)).boxed()
            }
        }
    }
}

/// Waits for `takes`, the time that the server needs to respond, plus the latency of the network. A replica that is
/// paused when the response arrives reads it after the pause.
fn arrival(world: &World, life: &Life, target: Target, takes: Duration) -> impl Future<Output = ()> + use<> {
    let takes = takes + world.probe_latency(life, target);
    let arrival = (!takes.is_zero()).then(|| sleep(takes));
    async move {
        if let Some(arrival) = arrival {
            arrival.await;
        }
    }
}

/// An attempt in progress. Dropping an attempt before it has ended means that it was abandoned.
struct Attempt {
    world: Arc<World>,
    life: Arc<Life>,
    target: Target,
    begun: Duration,
    has_ended: bool,
}

impl Attempt {
    fn ends(mut self, reply: &Reply) {
        self.has_ended = true;
        self.world
            .attempt_ends(&self.life, self.target, self.begun, Some(reply));
    }

    /// Records that the attempt continues on a new connection.
    fn continues(mut self) {
        self.has_ended = true;
        self.world.attempt_continues(&self.life, self.target, self.begun);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.has_ended {
            self.world.attempt_ends(&self.life, self.target, self.begun, None);
        }
    }
}

/// A connection to an API server.
struct Connection {
    world: Arc<World>,
    life: Arc<Life>,
    target: Target,
    generation: u64,
    /// The attempt for which the connection was made.
    first: Option<Attempt>,
}

impl Connection {
    fn node(&self) -> Node {
        node_of(self.target.address())
    }
}

impl ProbeConnection for Connection {
    fn get(&mut self) -> BoxFuture<'_, Reply> {
        let is_first = self.first.is_some();
        let attempt = self.first.take().unwrap_or_else(|| Attempt {
            world: self.world.clone(),
            life: self.life.clone(),
            target: self.target,
            begun: self.world.attempt_begins(&self.life, self.target),
            has_ended: false,
        });
        let answer = self
            .world
            .probe_answer(self.life.replica, self.node(), self.target.port());
        self.world.count(answer.name());
        let is_closed = self.is_closed() && !is_first;
        let takes = match answer {
            Answer::Slow(time) => time,
            _ => Duration::ZERO,
        };
        let reply = match answer {
            _ if is_closed => Some(Reply::Failure(Failure::Reset)),
            Answer::Hangs => None,
            Answer::Fine | Answer::Slow(_) => Some(Reply::Success),
            Answer::Status(code @ (401 | 403 | 429)) => Some(Reply::Alive(code)),
            Answer::Status(code) => Some(Reply::Failure(Failure::Status(code))),
            Answer::Refused | Answer::Reset => Some(Reply::Failure(Failure::Reset)),
        };
        let arrival = arrival(&self.world, &self.life, self.target, takes);
        async move {
            let Some(reply) = reply else {
                let _attempt = attempt;
                return pending().await;
            };
            arrival.await;
            if !is_first && reply == Reply::Failure(Failure::Reset) {
                // It is unknown whether the server has received the request, so a new connection decides.
                attempt.continues();
            } else {
                attempt.ends(&reply);
            }
            reply
        }
        .boxed()
    }

    fn is_closed(&self) -> bool {
        self.world.state().probed.endpoints.generation(self.node()) != self.generation
    }

    fn closed(&mut self) -> BoxFuture<'_, ()> {
        let mut closing = self.world.state().probed.endpoints.closing.subscribe();
        async move {
            while !self.is_closed() {
                if closing.changed().await.is_err() {
                    return pending().await;
                }
            }
        }
        .boxed()
    }
}
