//! One replica of the operator that can be paused, stopped and killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use endpoint_copier_core::model::{ConsentPolicy, Defaults, ServiceKey};
use endpoint_copier_core::verdicts::Unhealthy;
use endpoint_copier_operator::admin::Health;
use endpoint_copier_operator::apiserver;
use endpoint_copier_operator::config::{ElectionConfig, ProbeConfig, ProbeMode, ServerAddress};
use endpoint_copier_operator::controller::probe::OnUnhealthy;
use endpoint_copier_operator::controller::probe::probing::Probing;
use endpoint_copier_operator::leader_election::Candidacy;
use endpoint_copier_operator::leader_election::LeaseObserver;
use endpoint_copier_operator::leader_election::term::Term;
use endpoint_copier_operator::replica::{Parts, Replica};
use endpoint_copier_operator::telemetry::metrics::Metrics;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch as channel;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::endpoints;
use crate::objects::ALLOWED_PORT;
use crate::observer::By;
use crate::wire::Wire;
use crate::world::{Connection, World};

/// The namespace and name of the Lease.
pub const LEASE: (&str, &str) = ("kube-system", "f668ae63.endpoint-copier-operator");

pub use endpoint_copier_operator::timing::RENEW_DEADLINE;

/// A time longer than any pause.
const BEYOND_ANY_PAUSE: Duration = Duration::from_secs(13);

/// One incarnation of a replica.
pub struct Life {
    /// The number of the replica, from 0.
    pub replica: usize,
    /// The name of the replica's API user.
    pub user: String,
    /// The identity of this incarnation in the Lease.
    pub identity: String,
    /// Asks the replica to stop, as SIGTERM does.
    pub stop: CancellationToken,
    body: Mutex<Body>,
}

struct Body {
    alive: bool,
    paused: bool,
    waker: Option<Waker>,
    task: Option<AbortHandle>,
    terms: Option<channel::Receiver<Option<Term>>>,
    observer: Option<LeaseObserver>,
    wires: Vec<Wire>,
    /// The state at the replica's last write of the Lease: the holder that it knew, and when it had last had news of
    /// the Lease.
    knew: Option<(String, Instant)>,
    metrics: Option<Metrics>,
    /// When the replica last resumed after a pause, and whether it led when the pause began.
    resumed: Option<(Duration, bool)>,
    led: bool,
    calls: Calls,
}

/// The consecutive calls to the API that might follow from one decision.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    under_way: usize,
    began: Duration,
    ended: Duration,
}

/// A call that begins more than this time after all earlier calls have ended belongs to another decision.
const ONE_DECISION: Duration = Duration::from_secs(1);

/// A call to the API in progress. Dropping the value ends the call.
pub struct Calling {
    world: Arc<World>,
    life: Arc<Life>,
}

impl Calling {
    /// Records that a call begins.
    pub fn begin(world: Arc<World>, life: Arc<Life>) -> Self {
        let now = world.now();
        let calls = &mut life.body.lock().calls;
        if calls.under_way == 0 && now > calls.ended + ONE_DECISION {
            calls.began = now;
        }
        calls.under_way += 1;
        Self {
            world,
            life: life.clone(),
        }
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        let now = self.world.now();
        let calls = &mut self.life.body.lock().calls;
        calls.under_way -= 1;
        calls.ended = now;
    }
}

impl Life {
    /// Whether the replica believes that it may write now.
    pub fn leads(&self) -> bool {
        let body = self.body.lock();
        let term = body.terms.as_ref().map(|terms| terms.borrow().clone());
        body.alive && term.flatten().is_some_and(|term| !term.is_over())
    }

    /// Records that the replica sends a write of the Lease.
    pub fn note_lease_write(&self) {
        let mut body = self.body.lock();
        let knew = |observer: &LeaseObserver| observer.holder().zip(observer.since());
        body.knew = body.observer.as_ref().and_then(knew);
    }

    /// Whether the replica knew, at its last write of the Lease, that the replica with the identity `term` held the
    /// Lease at `began` or later.
    pub fn knew_of(&self, term: &str, began: Instant) -> bool {
        let body = self.body.lock();
        body.knew
            .as_ref()
            .is_some_and(|(holder, news)| holder == term && *news >= began)
    }

    /// Drops everything that this value holds, and aborts the task of the replica.
    pub fn bury(&self) {
        let mut body = self.body.lock();
        let task = body.task.take();
        let held = (
            std::mem::take(&mut body.wires),
            body.observer.take(),
            body.terms.take(),
            body.metrics.take(),
            body.waker.take(),
        );
        drop(body);
        drop(held);
        if let Some(task) = task {
            task.abort();
        }
    }

    /// Whether the replica runs: it was neither killed nor stopped, but might be paused.
    pub fn is_alive(&self) -> bool {
        self.body.lock().alive
    }

    /// Pauses the replica, as SIGSTOP pauses a process, or resumes it.
    pub fn pause(&self, on: bool, now: Duration) {
        let leads = self.leads();
        let mut body = self.body.lock();
        if on && !body.paused {
            body.led = leads;
        } else if !on && body.paused {
            body.resumed = Some((now, body.led));
        }
        body.paused = on;
        if let Some(waker) = body.waker.take() {
            waker.wake();
        }
    }

    /// Whether the replica resumes now from a pause that began while it led. A pause can begin after the replica has
    /// checked its term and before it sends a write. The preconditions of the write still apply.
    pub fn led_before_a_pause_that_ends(&self, now: Duration) -> bool {
        self.body.lock().resumed == Some((now, true))
    }

    /// When the replica last resumed after a pause. Zero if it was never paused.
    pub fn resumed_at(&self) -> Duration {
        self.body.lock().resumed.map_or(Duration::ZERO, |(at, _)| at)
    }

    /// The earliest time at which the replica could have made the decision behind a request that it sends now.
    pub fn decided(&self, now: Duration) -> Duration {
        let body = self.body.lock();
        let began = if body.calls.under_way == 0 {
            now
        } else {
            body.calls.began
        };
        let resumed = body.resumed.map_or(Duration::ZERO, |(at, _)| at);
        // The replica might have been paused between the decision and the request.
        if now < resumed + ONE_DECISION {
            began.min(resumed.saturating_sub(BEYOND_ANY_PAUSE))
        } else {
            began
        }
    }

    /// Whether the replica is paused.
    pub fn is_paused(&self) -> bool {
        self.body.lock().paused
    }

    /// Whether a name looks like that of a copy: the name of a Service, followed by a hash.
    pub fn is_named_like_a_copy(name: &str) -> bool {
        name.rsplit_once('-').is_some_and(|(_, hash)| hash.len() == 10)
    }

    /// Ends the replica immediately. Requests that it has sent are still carried out.
    pub fn kill(&self) {
        let mut body = self.body.lock();
        body.alive = false;
        let task = body.task.take();
        body.wires.clear();
        drop(body);
        if let Some(task) = task {
            task.abort();
        }
    }

    /// Makes the next requests of the replica go to the other server.
    pub fn go_away(&self) {
        for wire in &self.body.lock().wires {
            wire.go_away();
        }
    }

    /// The value of a metric series, named as in `/metrics`, or 0 if there is none.
    pub fn metric(&self, series: &str) -> u64 {
        let metrics = self.body.lock().metrics.clone();
        let page = metrics.map(|metrics| metrics.render()).unwrap_or_default();
        let mut values = page
            .lines()
            .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        values.next().and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

/// The replica's future behind a gate: it is not polled while the replica is paused, and while it is polled, the wall
/// clock shows the time of the replica's machine.
struct Gate {
    world: Arc<World>,
    life: Arc<Life>,
    inner: BoxFuture<'static, ()>,
}

impl Future for Gate {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut body = self.life.body.lock();
            if body.paused {
                body.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        if self.life.leads() {
            let now = self.world.now();
            self.world.state().observer.leads(&self.life.identity, now);
        }
        self.world.wall_of(Some(self.life.replica));
        let ended = self.inner.as_mut().poll(context);
        self.world.wall_of(None);
        if ended.is_ready() {
            self.life.body.lock().alive = false;
        }
        self.world.observe(By::Replicas);
        ended
    }
}

/// Starts a replica. The client for the election Lease dials the second of these servers first, and the other clients
/// dial the first one.
pub fn start(world: &Arc<World>, replica: usize, incarnation: usize, servers: [usize; 2]) -> Arc<Life> {
    let life = Arc::new(Life {
        replica,
        user: format!("replica-{}", replica + 1),
        identity: format!("replica-{}_{incarnation}", replica + 1),
        stop: CancellationToken::new(),
        body: Mutex::new(Body {
            alive: true,
            paused: false,
            waker: None,
            task: None,
            terms: None,
            observer: None,
            wires: Vec::new(),
            knew: None,
            metrics: None,
            resumed: None,
            led: false,
            calls: Calls::default(),
        }),
    });
    let before = world.state().lives[replica].replace(life.clone());
    if let Some(before) = before {
        before.bury();
    }
    let gate = Gate {
        world: world.clone(),
        life: life.clone(),
        inner: wire_up(world, &life, servers),
    };
    life.body.lock().task = Some(tokio::spawn(gate).abort_handle());
    life
}

/// A callback that breaks a replica's connections to servers that are down according to its probes, and makes its new
/// requests avoid servers that are down or suspected.
fn on_unhealthy(world: &Arc<World>, life: &Arc<Life>) -> OnUnhealthy {
    let (world, life) = (world.clone(), life.clone());
    Box::new(move |servers: BTreeMap<ServerAddress, Unhealthy>| {
        let parsed = servers
            .iter()
            .filter_map(|(address, why)| Some((address.host.parse().ok()?, why)));
        let suspected = parsed
            .clone()
            .map(|(address, _)| endpoints::node_of(address))
            .collect();
        let is_down = |(address, why)| (why == &Unhealthy::Down).then_some(address);
        let addresses: BTreeSet<IpAddr> = parsed.filter_map(is_down).collect();
        let mut down: BTreeSet<_> = addresses
            .iter()
            .map(|address| endpoints::node_of(*address))
            .collect();
        // A connection that was made while its server was down stays.
        if let Some(before) = world.state().probed.down.get(&life.identity) {
            down.retain(|node| !before.iter().any(|address| endpoints::node_of(*address) == *node));
        }
        let left = |connection: &Connection| {
            connection.replica == life.replica && down.contains(&node_of_server(connection.server))
        };
        if world.break_connections(left) > 0 {
            world.count("connection closed because its server is down");
        }
        let mut state = world.state();
        state.probed.down.insert(life.identity.clone(), addresses);
        state.probed.suspected.insert(life.identity.clone(), suspected);
    })
}

/// The number of the node on which a server runs.
pub fn node_of_server(server: usize) -> u8 {
    u8::try_from(server + 1).unwrap_or(1)
}

/// All tasks of a replica, as one future.
fn wire_up(world: &Arc<World>, life: &Arc<Life>, servers: [usize; 2]) -> BoxFuture<'static, ()> {
    let metrics = Metrics::new(LEASE.1).expect("metrics");
    let wires =
        [servers[0], servers[1], servers[0]].map(|server| Wire::new(world.clone(), life.clone(), server));
    let [client, lease_client, probe_lease_client] = wires
        .clone()
        .map(|wire| apiserver::over(wire, "default", &metrics));
    let mode = world.state().probed.modes.map(|modes| modes[life.replica]);
    let probing = mode.filter(|mode| *mode != ProbeMode::Off).map(|mode| Probing {
        client: Arc::new(endpoints::Client {
            world: world.clone(),
            life: life.clone(),
        }),
        config: ProbeConfig {
            mode,
            ..ProbeConfig::default()
        },
        lease_client: probe_lease_client,
        node_addresses: endpoints::own_addresses(life.replica).into(),
        on_unhealthy: on_unhealthy(world, life),
        seed: u64::try_from(life.replica).unwrap_or(0),
    });
    let cross_namespace = world.state().cross_namespace;
    let replica = Replica::new(Parts {
        client,
        defaults: Defaults {
            source: ServiceKey::new("default", "kubernetes"),
            managed: Some(ServiceKey::new("default", "kubernetes-vip")),
            consent: ConsentPolicy {
                cross_namespace,
                allowed_ports: [ALLOWED_PORT].into(),
                ..ConsentPolicy::default()
            },
        },
        metrics: metrics.clone(),
        health: Health::default(),
        reporter: life.user.clone(),
        election: ElectionConfig::default(),
        candidacy: Some(Candidacy {
            client: lease_client,
            namespace: LEASE.0.to_owned(),
            identity: life.identity.clone(),
        }),
        nodes_selector: "node-role.kubernetes.io/control-plane".to_owned(),
        probing,
        service_conditions: world.state().conditions,
    });
    // The addresses of API servers are learned, as in a Pod.
    replica.index.lock().always_watch("kubernetes");

    let mut body = life.body.lock();
    body.terms = Some(replica.terms.clone());
    body.observer.clone_from(&replica.lease);
    body.wires = wires.into();
    body.metrics = Some(metrics);
    drop(body);
    let asked_to_stop = life.stop.clone().cancelled_owned();
    Box::pin(async move {
        let ended = replica.run(asked_to_stop, |_, task| task).await;
        ended.expect("tasks that run until they are asked to stop");
    })
}
