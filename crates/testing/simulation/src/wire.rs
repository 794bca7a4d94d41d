//! The path of a request to an API server and back, in place of sockets, TLS and HTTP/2.
//!
//! Like the operator's own connections, a connection to a frozen server breaks once a ping has failed: its requests in
//! progress fail, and the next request dials the other server. A request that was sent no longer depends on the
//! replica. Unless another fault prevents it, the request arrives and is carried out, even if the replica has crashed,
//! is paused or has stopped waiting.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use endpoint_copier_operator::apiserver::{Avoid, Hedge, Hedging, SendDeadline, Server, TooLate};
use endpoint_copier_operator::config::ServerAddress;
use endpoint_copier_operator::timing::{DIAL_LIMIT, LIST_SILENCE, READ_SILENCE, WRITE_LIMIT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};

use crate::fault::{Effect, Harm, Verb};
use crate::observer::By;
use crate::replica::{Calling, Life, node_of_server};
use crate::reply::{Reply, full, hold, nonsense, refusal};
use crate::sent::Sent;
use crate::stream;
use crate::unreadable;
use crate::world::{Connection, World};

/// The connections of one client of a replica.
#[derive(Clone)]
pub struct Wire {
    world: Arc<World>,
    life: Arc<Life>,
    line: Arc<Mutex<Line>>,
}

#[derive(Debug)]
struct Line {
    /// The server to dial next.
    next: usize,
    connection: Option<Connection>,
}

/// The error of a broken connection.
pub fn reset() -> BoxError {
    std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()
}

impl Wire {
    /// A client's connections. The first one goes to `server`.
    pub fn new(world: Arc<World>, life: Arc<Life>, server: usize) -> Self {
        let idle = Line {
            next: server,
            connection: None,
        };
        Self {
            world,
            life,
            line: Arc::new(Mutex::new(idle)),
        }
    }

    /// Makes new requests go to the other server, as after a GOAWAY. Requests in progress stay on their connection.
    pub fn go_away(&self) {
        let mut line = self.line.lock();
        if let Some(connection) = line.connection.take() {
            line.next = 1 - connection.server;
        }
    }

    /// Makes new requests go to the other server if `is_it` is true for the current connection.
    fn leave(&self, is_it: impl Fn(&Connection) -> bool) {
        let is_current = self.line.lock().connection.as_ref().is_some_and(is_it);
        if is_current {
            self.go_away();
        }
    }

    /// The server that this replica suspects, unless it suspects both.
    fn avoided(&self) -> Option<usize> {
        let state = self.world.state();
        let suspected = state.probed.suspected.get(&self.life.identity)?;
        let is_suspected = [0, 1].map(|server| suspected.contains(&node_of_server(server)));
        match is_suspected {
            [true, false] => Some(0),
            [false, true] => Some(1),
            _ => None,
        }
    }

    async fn connect(&self) -> Result<Connection, BoxError> {
        for round in 0..2 {
            let avoided = self.avoided().filter(|_| round == 0);
            let server = {
                let mut line = self.line.lock();
                match &line.connection {
                    Some(connection)
                        if !connection.dead.is_cancelled() && avoided != Some(connection.server) =>
                    {
                        return Ok(connection.clone());
                    }
                    Some(connection) => {
                        line.next = 1 - connection.server;
                        line.connection = None;
                    }
                    None => {}
                }
                if avoided == Some(line.next) {
                    line.next = 1 - line.next;
                }
                line.next
            };
            if self.world.is_down(server) {
                self.world.count("dial refused");
                self.line.lock().next = 1 - server;
                continue;
            }
            let connection = self.dial(server).await;
            match &connection {
                Ok(connection) => {
                    if avoided.is_some() {
                        self.world.count("request steered away from a suspected server");
                    }
                    self.line.lock().connection = Some(connection.clone());
                }
                Err(_) => self.line.lock().next = 1 - server,
            }
            return connection;
        }
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into())
    }

    /// Opens a connection to a server that is not down.
    async fn dial(&self, server: usize) -> Result<Connection, BoxError> {
        if self.world.is_frozen(server) || self.world.state().cut[self.life.replica] {
            sleep(DIAL_LIMIT).await;
            self.world.count("dial timed out");
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        }
        let connection = Connection {
            server,
            replica: self.life.replica,
            dead: CancellationToken::new(),
        };
        self.world.state().connections.push(connection.clone());
        Ok(connection)
    }

    /// A new connection for one repetition, to the first server that `hedging` proposes and that is not down.
    async fn connect_hedged(&self, hedging: &Hedging) -> Result<(Connection, Hedge), BoxError> {
        let current = {
            let line = self.line.lock();
            line.connection
                .as_ref()
                .map_or(line.next, |connection| connection.server)
        };
        let known = [0, 1].map(address_of).to_vec();
        let (servers, repetition) = hedging.begin(known, Some(address_of(current)))?;
        if servers.len() == 1 {
            self.world.count("renewal sent a third time in parallel");
        }
        let there = servers
            .into_iter()
            .map(|server| usize::from(server.port))
            .find(|server| !self.world.is_down(*server));
        let server = there.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionRefused))?;
        self.world.count("renewal sent again in parallel with the first");
        repetition.set_server(address_of(server));
        Ok((self.dial(server).await?, repetition))
    }

    async fn ask(self, request: Request<Body>) -> Result<Reply, BoxError> {
        if let Some(Avoid { server, .. }) = request.extensions().get() {
            self.world.count("server left because it is behind or silent");
            self.leave(|now| server_of(now) == *server);
        }
        let _calling = decides(&request).then(|| Calling::begin(self.world.clone(), self.life.clone()));
        let not_after = request.extensions().get().copied();
        let hedging = request.extensions().get::<Hedging>().cloned();
        let is_hedge = hedging.is_some();
        let (connection, _waiting) = match hedging {
            Some(hedging) => {
                let (connection, waiting) = self.connect_hedged(&hedging).await?;
                (connection, Some(waiting))
            }
            None => (self.connect().await?, None),
        };
        if not_after.is_some_and(|SendDeadline(moment)| Instant::now() >= moment) {
            return Err(TooLate.into());
        }
        let (sent, request) = Sent::read(request).await?;
        self.world.sent(&self.life, &sent);
        self.world.judge_nodes(&self.life, &sent);
        let query = request.uri().query().unwrap_or_default();
        let asks_for_many = request.method() == Method::GET && !query.is_empty();
        let is_renewal = sent.resource == "leases" && sent.verb == Verb::Patch;
        let (reply, answer) = oneshot::channel();
        let dead = connection.dead.clone();
        let arrived = Arrived {
            world: self.world.clone(),
            connection: connection.clone(),
            life: self.life.clone(),
            sent,
        };
        tokio::spawn(carry_out(arrived, request, reply));
        let mut waiting = Waiting {
            wire: self,
            connection: (!is_hedge).then(|| connection.clone()),
            patience: if asks_for_many { LIST_SILENCE } else { READ_SILENCE },
            since: Instant::now(),
        };
        let answer = tokio::select! {
            biased;
            answer = answer => answer.unwrap_or_else(|_| Err(reset())),
            () = dead.cancelled() => Err(reset()),
        };
        waiting.connection = None;
        if !is_hedge && answer.as_ref().is_ok_and(|it| it.status().is_server_error()) {
            waiting.wire.leave(|now| now.server == connection.server);
        }
        if is_renewal && answer.as_ref().is_ok_and(|it| it.status().is_success()) {
            let Wire { world, life, .. } = &waiting.wire;
            world.state().probed.answered_renewal(&life.identity, world.now());
        }
        answer.map(|mut answer| {
            answer.extensions_mut().insert(server_of(&connection));
            answer
        })
    }
}

/// Whether a request follows from a decision about the copies of a Service.
fn decides(request: &Request<Body>) -> bool {
    let path = request.uri().path();
    let asks_for_many = request.method() == Method::GET && request.uri().query().is_some();
    !asks_for_many && !path.contains("/leases") && !path.contains("/events")
}

/// A request that has arrived at a server, or is about to.
pub struct Arrived {
    /// The world to which the request belongs.
    pub world: Arc<World>,
    /// The connection of the request.
    pub connection: Connection,
    /// The replica that sent the request.
    pub life: Arc<Life>,
    /// The request itself.
    pub sent: Sent,
}

fn server_of(connection: &Connection) -> Server {
    Server(address_of(connection.server))
}

fn address_of(server: usize) -> ServerAddress {
    let port = u16::try_from(server).expect("one of two servers");
    ServerAddress::new("server", port)
}

/// A request in progress. If it is abandoned after `patience`, its server counts as silent, and new requests go to the
/// other server.
struct Waiting {
    wire: Wire,
    connection: Option<Connection>,
    patience: Duration,
    since: Instant,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.since.elapsed() >= self.patience
        {
            self.wire.leave(|now| now.server == connection.server);
        }
    }
}

impl World {
    /// Waits for the network latency between a replica and a server.
    async fn travel(&self) {
        let latency = self.latency();
        if !latency.is_zero() {
            sleep(latency).await;
        }
    }

    /// Waits for the current delay of the responses of a server.
    async fn delay(&self, server: usize) {
        let slow = self.state().slow[server];
        if !slow.is_zero() {
            self.count("answer of a slow server");
            sleep(slow).await;
        }
    }
}

/// Carries out a request at its server, with the faults that apply, and sends the response.
async fn carry_out(
    arrived: Arrived,
    request: Request<Full<Bytes>>,
    reply: oneshot::Sender<Result<Reply, BoxError>>,
) {
    let Arrived {
        world,
        connection,
        life,
        sent,
    } = &arrived;
    let harm = Harm::of(sent.verb, &sent.resource);
    let blindness = || world.blindness_to(connection.replica, sent);
    let restores = world.state().restores;
    let effect = match blindness() {
        None => world.fault_for(harm, connection.replica),
        Some(_) => None,
    };
    world.travel().await;
    match effect {
        Some(Effect::Late(time)) => sleep(time).await,
        Some(Effect::Broken) => {
            connection.dead.cancel();
            return;
        }
        Some(Effect::Hangs) => return hold(reply).await,
        Some(Effect::Status(code)) => {
            match (code, harm) {
                (403, Harm::Endpoints) => world.state().endpoints_forbidden = true,
                (403 | 422, Harm::SliceWrite) => world.state().observer.refused = true,
                _ => {}
            }
            _ = reply.send(Ok(refusal(code)));
            return;
        }
        Some(Effect::Nonsense) => {
            _ = reply.send(Ok(nonsense()));
            return;
        }
        _ => {}
    }
    let is_cut = world.state().cut[connection.replica];
    if is_cut {
        world.disturbed_for(WRITE_LIMIT);
    }
    if is_cut || world.state().restores != restores || world.is_down(connection.server) {
        return hold(reply).await;
    }
    let call = world.next_call();
    let mut server = world.servers[connection.server].as_user(&life.user);
    let response = Service::<Request<Full<Bytes>>>::call(&mut server, request).await;
    world.observe(By::Replicas);
    world.after_call(call, connection.replica);
    let Ok(response) = response else { return };
    let (parts, body) = response.into_parts();
    match effect {
        Some(Effect::LostReply) => {
            connection.dead.cancel();
            return;
        }
        Some(Effect::Unanswered) => return hold(reply).await,
        _ => {}
    }
    world.delay(connection.server).await;
    if let Some(blindness) = blindness() {
        return world.withhold(sent, blindness, reply).await;
    }
    if sent.verb == Verb::Watch && parts.status.is_success() {
        let (to, from) = mpsc::unbounded_channel();
        if reply
            .send(Ok(Response::from_parts(parts, stream::fed(from))))
            .is_ok()
        {
            stream::carry(arrived, body, to).await;
        }
        return;
    }
    let Ok(body) = body.collect().await else { return };
    let mut body = body.to_bytes();
    if parts.status.is_success() {
        body = unreadable::spoiled(body);
    }
    let whole = body.clone();
    if effect == Some(Effect::Truncated) {
        body = body.slice(..body.len() / 2);
    }
    world.travel().await;
    if world.state().cut[connection.replica] {
        world.count("reply lost in a cut network");
        world.disturbed_for(WRITE_LIMIT);
        return hold(reply).await;
    }
    let status = parts.status;
    let is_whole = body.len() == whole.len();
    if reply.send(Ok(Response::from_parts(parts, full(body)))).is_ok() && is_whole {
        world.answered(life, sent, status, &whole);
    }
}

impl Service<Request<Body>> for Wire {
    type Response = Reply;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().ask(request))
    }
}
