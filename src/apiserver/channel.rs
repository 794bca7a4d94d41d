//! A client's channel to the API: one connection to one API server. The next request after a failure uses another
//! connection.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::BoxError;
use tracing::info;

use super::connection::{Connection, NoAnswer, is_graceful_goaway};
use super::dial::Dialer;
use super::stretch::Factor;
use super::tracked_body::{InFlight, TrackedBody};
use super::{Avoid, Hedging, SendDeadline, Server, TooLate, is_watch};
use crate::apiserver::error::one_line;
use crate::config::ServerAddress;
use crate::telemetry::metrics::Metrics;

/// The channel of one client to the API. New requests share one connection, except those that are marked with
/// [`Hedging`].
#[derive(Clone)]
pub(super) struct Channel(Arc<ChannelInner>);

struct ChannelInner {
    dialer: Dialer,
    metrics: Metrics,
    /// The purpose of the client, for logs.
    purpose: &'static str,
    state: Mutex<ChannelState>,
}

#[derive(Default)]
struct ChannelState {
    /// The connection for the next request.
    current: Option<PendingConnection>,
    /// The address of the last connection.
    address: Option<ServerAddress>,
    /// The reason why the client left that address.
    why: Option<String>,
    /// The time at which a dial last failed.
    failed: Option<Instant>,
}

/// The pause before the next dial if no address answers. Without this pause, many requests would fail immediately, and
/// each of them would cause a handshake with every address.
const DIAL_PAUSE: Duration = Duration::from_millis(100);

/// The maximum number of times that a request is sent again because its connection closed or its server did not accept
/// it.
const REPEATS: u32 = 3;

/// A connection that is established or being established. All requests share it, so only one of them dials.
type PendingConnection = Shared<BoxFuture<'static, Result<Arc<Connection>, NotConnected>>>;

/// The connection on which a response arrived, stored in the extensions of the response.
#[derive(Clone)]
pub(super) struct Origin {
    channel: Channel,
    connection: Arc<Connection>,
}

impl Origin {
    /// Records that the response shows a broken server. The client leaves this server, unless all other addresses are
    /// ejected or unhealthy.
    pub fn blame(self, error: &dyn Error) {
        if self.channel.may_eject(&self.connection, true) {
            self.channel.eject(&self.connection, &error.to_string());
        }
    }
}

/// The reason why a connection could not be made. All requests that wait for the connection get the same error.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
struct NotConnected(String);

impl Channel {
    pub fn new(dialer: Dialer, purpose: &'static str, metrics: Metrics) -> Self {
        Self(Arc::new(ChannelInner {
            dialer,
            metrics,
            purpose,
            state: Mutex::default(),
        }))
    }

    /// Returns the factor for time limits that start now.
    pub fn factor(&self) -> Factor {
        self.0.dialer.pool.lock().stretch.factor()
    }

    /// Returns the connection for a request. If an address failed for another client, or probes find it unhealthy, no
    /// new request is sent to it while another address is neither ejected nor unhealthy. For a watch, this returns a
    /// new connection if there is a better address, or if the current connection's ping limit is now longer than
    /// necessary. Watches restart often anyway, and requests on the old connection are not disturbed.
    fn connection(&self, watches: bool) -> PendingConnection {
        let mut state = self.0.state.lock();
        if let Some(pending) = &state.current {
            match pending.peek() {
                None => return pending.clone(),
                // All requests that wait for this dial get the same error, and so do those that follow within the
                // pause.
                Some(Err(_)) if state.failed.is_some_and(|at| at.elapsed() < DIAL_PAUSE) => {
                    return pending.clone();
                }
                Some(Ok(connection)) if connection.is_ready() => {
                    if watches && self.has_better(&connection.address) {
                        state.why = Some("a preferred address is available".to_owned());
                    } else if self.is_ejected(&connection.address) {
                        state.why = Some("it failed for another client or in probes".to_owned());
                    } else if !watches || connection.factor <= self.factor() {
                        return pending.clone();
                    }
                }
                Some(_) => {}
            }
        }
        state.current.insert(self.open()).clone()
    }

    fn has_better(&self, address: &ServerAddress) -> bool {
        self.0.dialer.learn();
        let (pool, now) = (self.0.dialer.pool.lock(), Instant::now());
        pool.has_better(address, now) && pool.has_other(address, now)
    }

    /// Whether requests should use another address, because this one failed for another client, or probes find it
    /// unhealthy.
    fn is_ejected(&self, address: &ServerAddress) -> bool {
        let (pool, now) = (self.0.dialer.pool.lock(), Instant::now());
        pool.is_ejected(address, now) && pool.has_other(address, now)
    }

    fn open(&self) -> PendingConnection {
        let channel = self.clone();
        let dial = async move {
            let connected = channel.connect().await;
            if connected.is_err() {
                channel.0.state.lock().failed = Some(Instant::now());
            }
            connected
        };
        let pending = dial.boxed().shared();
        // The dial continues even when the requests that wait for it are abandoned, because its findings about
        // addresses are still useful.
        tokio::spawn(pending.clone());
        pending
    }

    async fn connect(&self) -> Result<Arc<Connection>, NotConnected> {
        let factor = self.factor();
        let dialed = self.0.dialer.dial(self.0.dialer.order(), factor).await;
        let (address, stream) = dialed.map_err(|error| NotConnected(one_line(&*error)))?;
        let until_down = self.0.dialer.until_down(address.clone());
        let connection = Connection::over(stream, address.clone(), factor, until_down).await;
        let connection =
            connection.map_err(|error| NotConnected(format!("{address}: {}", one_line(&error))))?;
        self.connected_to(address);
        Ok(Arc::new(connection))
    }

    fn connected_to(&self, to: ServerAddress) {
        let mut state = self.0.state.lock();
        let why = state.why.take();
        if let Some(from) = state.address.replace(to.clone()).filter(|from| *from != to) {
            self.0.metrics.api_address_changed();
            let why = why.unwrap_or_else(|| "the connection ended".to_owned());
            info!(%from, %to, why, client = self.0.purpose, "changed to another API server");
        }
    }

    /// Records that a response broke off.
    pub fn failed(&self, connection: &Arc<Connection>, error: &hyper::Error) {
        if is_graceful_goaway(error) {
            self.drop_connection(|current| Arc::ptr_eq(current, connection), &one_line(error));
        } else {
            self.eject(connection, &one_line(error));
        }
    }

    /// Ejects the address of a connection for a while. The next request uses another connection.
    fn eject(&self, connection: &Arc<Connection>, why: &str) {
        let address = &connection.address;
        self.0.dialer.pool.lock().failed(address, Instant::now());
        self.drop_connection(|current| Arc::ptr_eq(current, connection), why);
    }

    /// Ejects a server that shows an outdated state, and leaves it if it is the current one.
    fn avoid(&self, Avoid { server, why }: &Avoid) {
        let Server(address) = server;
        self.0.dialer.pool.lock().eject_stale(address, Instant::now());
        self.drop_connection(|current| current.address == *address, why);
    }

    fn drop_connection(&self, is_it: impl Fn(&Arc<Connection>) -> bool, why: &str) {
        let mut state = self.0.state.lock();
        let dialed = state.current.as_ref().and_then(Shared::peek);
        if dialed.is_some_and(|dialed| dialed.as_ref().is_ok_and(is_it)) {
            state.current = None;
            state.why = Some(why.to_owned());
        }
    }

    /// Records a response from the server of a connection. The client leaves a server that returns 5xx, for example
    /// because its etcd is unavailable, unless all other addresses are ejected or unhealthy.
    ///
    /// A healthy server under load returns 429. Its clients stay, because they would only move the load to the next
    /// server. 503 means that the server cannot serve now, with or without `Retry-After`. The client then avoids this
    /// server for longer than API servers usually request in that header.
    ///
    /// A write may fail because of an admission webhook, and then it fails on every server. So a failed write counts
    /// only while no address is ejected. That way, the client leaves one address, not all of them one after another.
    /// Reads do not pass admission webhooks.
    fn answered(&self, connection: &Arc<Connection>, is_read: bool, status: StatusCode, took: Duration) {
        self.0.dialer.pool.lock().stretch.answered(took);
        if !status.is_server_error() {
            return;
        }
        if self.may_eject(connection, is_read) {
            self.eject(connection, &format!("it answered {status}"));
        }
    }

    /// Records that the server of a connection was silent for too long. A read always counts. A write may have waited
    /// for a webhook, so it counts only under the conditions of `may_eject`.
    pub fn silent(&self, connection: &Arc<Connection>, is_read: bool, factor: Factor, why: &str) {
        if is_read {
            let (address, now) = (&connection.address, Instant::now());
            let mut pool = self.0.dialer.pool.lock();
            pool.timed_out(address, factor, Duration::ZERO, now);
            drop(pool);
            self.drop_connection(|current| Arc::ptr_eq(current, connection), why);
        } else if self.may_eject(connection, is_read) {
            self.eject(connection, why);
        }
    }

    fn may_eject(&self, connection: &Arc<Connection>, is_read: bool) -> bool {
        self.0.dialer.learn();
        let (pool, now) = (self.0.dialer.pool.lock(), Instant::now());
        pool.has_other(&connection.address, now) && (is_read || pool.is_clear(now))
    }

    /// Sends a hedge over its own connection, to a server that has been sent as few tries of the request as possible.
    /// The result does not count for or against any server.
    async fn send_hedged(
        &self,
        request: Request<Body>,
        hedging: &Hedging,
    ) -> Result<Response<TrackedBody>, BoxError> {
        let known = self.0.dialer.order();
        let (servers, hedge) = hedging.begin(known, self.0.state.lock().address.clone())?;
        let pool = self.0.dialer.pool.lock().clone();
        let dialer = Dialer {
            pool: Arc::new(Mutex::new(pool)),
            ..self.0.dialer.clone()
        };
        let factor = self.factor();
        let (address, stream) = dialer.dial(servers, factor).await?;
        hedge.set_server(address.clone());
        let until_down = dialer.until_down(address.clone());
        // Each future around this one would otherwise have room for the state of a handshake, which few requests need.
        let connection = Connection::over(stream, address, factor, until_down).boxed();
        let connection = Arc::new(connection.await?);
        let in_flight = InFlight::new(self, &connection, &request).without_blame();
        let answer = connection.send(request).await;
        let answer = answer.map_err(|NoAnswer { error, .. }| error)?;
        Ok(answer.map(|body| TrackedBody::new(body, in_flight)))
    }

    /// Sends a request to the current server, or to another one if the current one does not accept it.
    pub async fn send(self, mut request: Request<Body>) -> Result<Response<TrackedBody>, BoxError> {
        if let Some(hedging) = request.extensions().get::<Hedging>().cloned() {
            return self.send_hedged(request, &hedging).await;
        }
        if let Some(avoid) = request.extensions().get() {
            self.avoid(avoid);
        }
        let not_after = request.extensions().get().copied();
        let (watches, is_read) = (is_watch(&request), request.method() == Method::GET);
        let mut repeats = 0;
        loop {
            let spare = is_read.then(|| repeat(&request));
            let connection = self.connection(watches).await?;
            // The dial may have taken a long time, or the process may have been suspended in the meantime.
            if not_after.is_some_and(|SendDeadline(moment)| Instant::now() >= moment) {
                return Err(TooLate.into());
            }
            let mut in_flight = InFlight::new(&self, &connection, &request);
            let NoAnswer { error, unsent } = match connection.send(request).await {
                Ok(mut answer) => {
                    self.answered(&connection, is_read, answer.status(), in_flight.silence());
                    let server = Server(connection.address.clone());
                    answer.extensions_mut().insert(server);
                    answer.extensions_mut().insert(Origin {
                        channel: self.clone(),
                        connection: connection.clone(),
                    });
                    if watches && answer.status().is_success() {
                        // From now on, pings or TCP keepalive show that the connection of the watch is alive.
                        in_flight.allow_silence();
                    }
                    return Ok(answer.map(|body| TrackedBody::new(body, in_flight)));
                }
                Err(no_answer) => no_answer,
            };
            in_flight.allow_silence();
            let is_graceful_goaway = is_graceful_goaway(&error);
            if is_graceful_goaway {
                self.drop_connection(|current| Arc::ptr_eq(current, &connection), &one_line(&error));
            }
            // If the request was not sent although the connection is open, another request took the connection. That
            // does not count.
            if unsent.is_none() || connection.is_closed() {
                repeats += 1;
            }
            let resend = unsent
                .map(|unsent| *unsent)
                .or(spare.filter(|_| is_graceful_goaway));
            let Some(resend) = resend.filter(|_| repeats <= REPEATS) else {
                if !is_graceful_goaway || repeats > REPEATS {
                    self.eject(&connection, &one_line(&error));
                }
                return Err(error.into());
            };
            request = resend;
        }
    }
}

/// Copies a request, which must have no body.
fn repeat(request: &Request<Body>) -> Request<Body> {
    let mut repeated = Request::new(Body::empty());
    request.method().clone_into(repeated.method_mut());
    request.uri().clone_into(repeated.uri_mut());
    request.headers().clone_into(repeated.headers_mut());
    repeated
}
