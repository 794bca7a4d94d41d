//! One API server: passes a request through authentication, faults, RBAC and the handler, and keeps the log.

use crate::{
    answer::{self, Body, BoxError, Shape},
    discovery,
    faults::{Effect, Faults},
    history::Objects,
    kinds::Storage,
    object,
    rbac::{RbacReport, Rule},
    reads,
    requests::Request as Entry,
    reviews,
    route::Route,
    serve::{self, Serving},
    status::ApiError,
    store::Store,
    watches, writing,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, header, request::Parts};
use http_body_util::BodyExt;
use serde_json::Value;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Instant;

/// The default time between bookmarks, about that of the real server.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

/// One server on a [`Store`]. Cheap to clone, and all clones are the same server. As a `tower::Service`, it accepts
/// requests without a connection. [`ApiServer::serve`] accepts them over TCP.
#[derive(Clone, Debug)]
pub struct ApiServer {
    pub(crate) shared: Arc<Shared>,
    /// The user of requests without a token.
    user: Option<Arc<str>>,
}

/// State that the clones of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub name: String,
    pub store: Store,
    pub faults: Faults,
    bookmark_period: Mutex<Duration>,
    lag: Mutex<Option<Lag>>,
}

/// The content of a stale watch cache.
#[derive(Clone, Debug)]
pub(crate) struct Lag {
    pub revision: u64,
    pub objects: Objects,
}

/// A request: its user, its parsed path and query, and its body.
pub(crate) struct Incoming {
    pub route: Route,
    pub body: Bytes,
    pub content_type: String,
    pub shape: Shape,
    pub user: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ApiServer {
    /// A server on a store. As a tower service, it treats requests without a token as requests from the administrator.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        Self::named(store, "api")
    }

    /// A server on a store, with a name for the request log.
    #[must_use]
    pub fn named(store: &Store, name: &str) -> Self {
        let shared = Shared {
            name: name.to_owned(),
            store: store.clone(),
            faults: Faults::default(),
            bookmark_period: Mutex::new(BOOKMARK_PERIOD),
            lag: Mutex::new(None),
        };
        Self {
            shared: Arc::new(shared),
            user: Some("admin".into()),
        }
    }

    /// A handle to the same server that treats requests without a token as requests from this user.
    #[must_use]
    pub fn as_user(&self, user: &str) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            user: Some(user.into()),
        }
    }

    /// A handle to the same server that rejects requests without a token with 401, as over TCP.
    #[must_use]
    pub fn token_only(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            user: None,
        }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The faults of this server.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The requests to this server so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Entry> {
        self.store().requests().matching(|r| r.server == self.shared.name)
    }

    /// Restricts a user to rules, on all servers of the store.
    pub fn restrict(&self, user: &str, rules: Vec<Rule>) {
        self.store().restrict(user, rules);
    }

    /// The rules of a restricted user, with their usage counts, and the refused requests.
    #[must_use]
    pub fn rbac_report(&self, user: &str) -> RbacReport {
        self.store().rbac_report(user)
    }

    /// Sets how often a watch that requested bookmarks gets a bookmark. Applies to watches opened from now on.
    pub fn bookmark_every(&self, period: Duration) {
        *lock(&self.shared.bookmark_period) = period;
    }

    /// Freezes the watch cache: from now on, watches and reads from the cache return nothing newer than the current
    /// state. Reads without a resourceVersion are consistent and return everything.
    pub fn lag(&self) {
        let lag = self.store().read(|state| Lag {
            revision: state.revision,
            objects: state.objects.clone(),
        });
        *lock(&self.shared.lag) = Some(lag);
    }

    /// Freezes the watch cache at an older resourceVersion. Does nothing if that version has been compacted.
    pub fn lag_since(&self, revision: u64) {
        let objects = self.store().read(|state| state.at(revision));
        if let Ok(objects) = objects {
            *lock(&self.shared.lag) = Some(Lag { revision, objects });
        }
    }

    /// Lets the watch cache catch up.
    pub fn release(&self) {
        *lock(&self.shared.lag) = None;
        self.shared.faults.notify();
    }

    /// Serves over TCP with TLS until the handle is dropped.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub async fn serve(&self, address: SocketAddr) -> io::Result<Serving> {
        serve::serve(self, address).await
    }

    async fn handle<B>(self, request: Request<B>) -> Result<Response<Body>, BoxError>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        if self.shared.faults.is_refusing() {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        }
        self.shared.faults.thawed().await;
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(Into::into)?.to_bytes();
        let user = self.user_of(&parts);
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        let route = Route::parse(&parts.method, path, query);
        let number = self.log(&parts, &body, user.as_deref(), route.as_ref().ok());
        let response = match (user, route) {
            (Some(user), Ok(route)) => self.answer(parts, body, user, route).await?,
            (None, Ok(route)) if route.kind.is_none() && discovery::is_public(&route.path) => {
                self.answer(parts, body, String::new(), route).await?
            }
            (None, _) => answer::error(&ApiError::unauthorized()),
            (_, Err(error)) => answer::error(&error),
        };
        self.shared.faults.thawed().await;
        self.store().requests().end(number, response.status().as_u16());
        Ok(response)
    }

    fn user_of(&self, parts: &Parts) -> Option<String> {
        let header = parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok());
        match header {
            Some(value) => self
                .store()
                .user_of(value.strip_prefix("Bearer ").unwrap_or_default()),
            None => self.user.as_deref().map(str::to_owned),
        }
    }

    fn log(&self, parts: &Parts, body: &[u8], user: Option<&str>, route: Option<&Route>) -> u64 {
        let body: Option<Value> = serde_json::from_slice(body).ok();
        let header = |name| text_of(&parts.headers, name);
        let name = match route.map_or("", Route::rbac_name) {
            "" => body.as_ref().map_or("", object::name),
            name => name,
        };
        self.store().requests().begin(Entry {
            number: 0,
            server: self.shared.name.clone(),
            user: user.unwrap_or_default().to_owned(),
            verb: route.map_or("", |r| r.verb),
            group: route.map_or("", Route::group).to_owned(),
            resource: route.and_then(|r| r.kind).map_or("", |k| k.plural).to_owned(),
            subresource: if route.is_some_and(|r| r.status) {
                "status".to_owned()
            } else {
                String::new()
            },
            namespace: route.map_or_else(String::new, |r| r.namespace.clone()),
            name: name.to_owned(),
            uri: parts
                .uri
                .path_and_query()
                .map_or_else(String::new, ToString::to_string),
            user_agent: header(header::USER_AGENT).to_owned(),
            body,
            at: Instant::now(),
            status: None,
            answered: None,
        })
    }

    async fn answer(
        &self,
        parts: Parts,
        body: Bytes,
        user: String,
        mut route: Route,
    ) -> Result<Response<Body>, BoxError> {
        let (latency, effect) = self.shared.faults.apply_to(&user, &route);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let broken = || -> BoxError { io::Error::from(io::ErrorKind::ConnectionReset).into() };
        match effect {
            Some(Effect::Status { code, retry_after }) => {
                return Ok(answer::fault(code, retry_after));
            }
            Some(Effect::NamespaceTerminating) => {
                let kind = route.kind.ok_or("no object")?;
                let error = crate::writes::namespace_terminating(kind, &route.namespace, route.rbac_name());
                return Ok(answer::error(&error));
            }
            Some(Effect::Nonsense) => return Ok(answer::nonsense()),
            Some(Effect::Hang) => return std::future::pending().await,
            Some(Effect::Break) => return Err(broken()),
            _ => {}
        }
        if effect == Some(Effect::Reverted) {
            route.verb = "get";
        }
        let header = |name| text_of(&parts.headers, name);
        let incoming = Incoming {
            shape: Shape::negotiate(header(header::ACCEPT)),
            content_type: header(header::CONTENT_TYPE).to_owned(),
            body,
            route,
            user,
        };
        let response = self
            .dispatch(incoming)
            .await
            .unwrap_or_else(|error| answer::error(&error));
        match effect {
            Some(Effect::LostReply) => Err(broken()),
            Some(Effect::Unanswered) => std::future::pending().await,
            Some(Effect::Truncated) => Ok(answer::truncated(response).await),
            Some(Effect::Undecodable { labels }) if response.status().is_success() => {
                Ok(answer::undecodable(response, labels).await)
            }
            _ => Ok(response),
        }
    }

    async fn dispatch(&self, incoming: Incoming) -> Result<Response<Body>, ApiError> {
        let has_grants = self.store().read(|state| state.has_grants);
        let Some(kind) = incoming.route.kind else {
            return Ok(discovery::answer(&incoming.route.path, has_grants));
        };
        if kind.storage == Storage::ReferenceGrant && !has_grants {
            return Err(ApiError::no_such_resource());
        }
        self.store().rbac().check(&incoming.user, &incoming.route)?;
        if incoming.shape == Shape::NotAcceptable {
            return Err(answer::not_acceptable());
        }
        let route = &incoming.route;
        if route.is_review() {
            return reviews::answer(self.store(), kind, &incoming);
        }
        match route.verb {
            "get" => reads::get(self, kind, &incoming).await,
            "list" => reads::list(self, kind, &incoming).await,
            "watch" => watches::watch(self, kind, incoming).await,
            _ => writing::write(self.store(), kind, &incoming),
        }
    }
}

impl Shared {
    pub fn bookmark_period(&self) -> Duration {
        *lock(&self.bookmark_period)
    }

    pub fn lag(&self) -> Option<Lag> {
        lock(&self.lag).clone()
    }

    /// The newest resourceVersion in the watch cache.
    pub fn visible(&self) -> u64 {
        lock(&self.lag)
            .as_ref()
            .map_or_else(|| self.store.revision(), |lag| lag.revision)
    }
}

impl<B> tower::Service<Request<B>> for ApiServer
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.clone().handle(request))
    }
}

/// A header as text, or empty if it is absent.
fn text_of(headers: &http::HeaderMap, name: http::HeaderName) -> &str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
