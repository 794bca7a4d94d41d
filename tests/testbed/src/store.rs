//! A cluster's state behind a lock, and the calls by which tests read and write it. They go through the same code as
//! HTTP requests do: defaults, validation, events, garbage collection.

use crate::{
    events,
    kinds::{self, Kind},
    object,
    patch::Patch,
    pki::Pki,
    rbac::{Rbac, RbacReport, Rule},
    requests::RequestLog,
    signal::{Changes, Signal},
    state::{State, select},
    status::ApiError,
    writes::{DeleteOptions, Part},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long after a write the garbage collector runs, unless a test says otherwise.
const COLLECT_AFTER: Duration = Duration::from_millis(50);
/// The token of the user `admin`.
pub const ADMIN_TOKEN: &str = "admin-token";

/// A cluster's state: what etcd is to real API servers. Cheap to clone; clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    written: Signal,
    collect_after: Mutex<Option<Duration>>,
    collecting: AtomicBool,
    requests: RequestLog,
    rbac: Rbac,
    tokens: Mutex<BTreeMap<String, String>>,
    pki: OnceLock<Pki>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// A cluster with its first namespaces and nothing else.
    #[must_use]
    pub fn new() -> Self {
        Self::with(State::new(None))
    }

    /// The same, with UIDs and generated names that follow from a seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::with(State::new(Some(seed)))
    }

    fn with(state: State) -> Self {
        let tokens = BTreeMap::from([(ADMIN_TOKEN.to_owned(), "admin".to_owned())]);
        let inner = Inner {
            state: Mutex::new(state),
            written: Signal::default(),
            collect_after: Mutex::new(Some(COLLECT_AFTER)),
            collecting: AtomicBool::new(false),
            requests: RequestLog::default(),
            rbac: Rbac::default(),
            tokens: Mutex::new(tokens),
            pki: OnceLock::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn read<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        f(&lock(&self.inner.state))
    }

    pub(crate) fn write<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.inner.state);
        let before = state.revision;
        let result = f(&mut state);
        let (is_written, garbage) = (state.revision != before, state.garbage);
        drop(state);
        if is_written {
            self.inner.written.send();
        }
        if garbage {
            self.schedule_collection();
        }
        result
    }

    /// The garbage collector runs in tokio's time, so it needs a runtime; without one it waits for the next write
    /// in one, or for [`Store::collect_now`].
    fn schedule_collection(&self) {
        let Some(after) = *lock(&self.inner.collect_after) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.inner.collecting.swap(true, Ordering::SeqCst) {
            return;
        }
        let scheduled = Scheduled(self.clone());
        runtime.spawn(async move {
            tokio::time::sleep(after).await;
            let store = scheduled.0.clone();
            drop(scheduled);
            store.collect_now();
        });
    }

    /// Sets how long after a write dependents without an owner are deleted and namespaces emptied; none is never,
    /// as in a cluster without a controller manager.
    pub fn collect_after(&self, delay: Option<Duration>) {
        *lock(&self.inner.collect_after) = delay;
        if self.read(|state| state.garbage) {
            self.schedule_collection();
        }
    }

    /// Runs the garbage collector.
    pub fn collect_now(&self) {
        self.write(State::collect);
    }

    /// Creates or replaces an object, as an administrator. The kind is the object's own; the namespace is
    /// `default` when it names none.
    ///
    /// # Errors
    /// Those of a POST or a PUT; 404 for an unknown kind.
    pub fn put(&self, mut object: Value) -> Result<Value, ApiError> {
        let (kind, namespace, name) = address(&object)?;
        self.write(|state| {
            match state.get(&State::key(kind, &namespace, &name)).cloned() {
                Some(old) => {
                    if object::meta(&object, "resourceVersion").is_empty() {
                        let newest = object::meta(&old, "resourceVersion").into();
                        object::set_meta(&mut object, "resourceVersion", Some(newest));
                    }
                    state
                        .update(kind, &namespace, &name, Part::Main, object)
                        .map(|(o, _)| o)
                }
                None => state.create(kind, &namespace, object),
            }
            .map(|o| events::view(kind, &o))
        })
    }

    /// Creates an object.
    ///
    /// # Errors
    /// Those of a POST.
    pub fn create(&self, object: Value) -> Result<Value, ApiError> {
        let (kind, namespace, _) = address(&object)?;
        self.write(|state| {
            state
                .create(kind, &namespace, object)
                .map(|o| events::view(kind, &o))
        })
    }

    /// Replaces an object; with a resourceVersion or a uid in it these are preconditions.
    ///
    /// # Errors
    /// Those of a PUT.
    pub fn update(&self, object: Value) -> Result<Value, ApiError> {
        let (kind, namespace, name) = address(&object)?;
        self.write(|state| {
            let (object, _) = state.update(kind, &namespace, &name, Part::Main, object)?;
            Ok(events::view(kind, &object))
        })
    }

    /// Merges a patch into an object.
    ///
    /// # Errors
    /// Those of a PATCH.
    pub fn patch(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> Result<Value, ApiError> {
        let kind = kind(resource)?;
        let patch = Patch::Merge(patch);
        self.write(|state| {
            state
                .patch(kind, namespace, name, Part::Main, &patch)
                .map(|o| events::view(kind, &o))
        })
    }

    /// Merges a patch into an object's status.
    ///
    /// # Errors
    /// Those of a PATCH.
    pub fn patch_status(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> Result<Value, ApiError> {
        let kind = kind(resource)?;
        let patch = Patch::Merge(patch);
        self.write(|state| {
            state
                .patch(kind, namespace, name, Part::Status, &patch)
                .map(|o| events::view(kind, &o))
        })
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// Those of a DELETE.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> Result<(), ApiError> {
        let kind = kind(resource)?;
        let options = DeleteOptions::default();
        self.write(|state| state.delete(kind, namespace, name, &options).map(drop))
    }

    /// One object. Resources are named by their plural (`endpointslices`); `events.events.k8s.io` is the newer view
    /// of Events.
    #[must_use]
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = kinds::by_name(resource)?;
        self.read(|state| {
            state
                .get(&State::key(kind, namespace, name))
                .map(|o| events::view(kind, o))
        })
    }

    /// All objects of a resource, in one namespace or in all.
    #[must_use]
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Value> {
        let Some(kind) = kinds::by_name(resource) else {
            return Vec::new();
        };
        self.read(|state| {
            select(&state.objects, kind.storage, namespace)
                .map(|(_, o)| events::view(kind, o))
                .collect()
        })
    }

    /// The resourceVersion of the last write.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.read(|state| state.revision)
    }

    /// Wakes with every write.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.inner.written.subscribe()
    }

    /// Waits until the store is as the test wants it, now or after any write.
    pub async fn until(&self, wanted: impl Fn(&Self) -> bool) {
        let mut changes = self.changes();
        loop {
            if wanted(self) {
                return;
            }
            changes.changed().await;
        }
    }

    /// Forgets the past: a watch or a list from an older resourceVersion is answered 410 from now on.
    pub fn compact(&self) {
        // Open watches have seen everything by then, or must start again, as at the real server.
        self.write(|state| state.history.compact(state.revision));
    }

    /// Sets how many writes the past holds.
    pub fn remember(&self, changes: usize) {
        self.write(|state| state.history.set_capacity(changes));
    }

    /// All is again as it was at a resourceVersion, and versions go on from there, as after a restore of etcd from a
    /// backup. Open watches are not told: like one that asks for a version to come, they show nothing until it is
    /// passed. A server that is not to notice either, since it was not restarted, needs [`ApiServer::lag`] before.
    ///
    /// [`ApiServer::lag`]: crate::ApiServer::lag
    ///
    /// # Errors
    /// 410: that version is forgotten already.
    pub fn rewind(&self, revision: u64) -> Result<(), ApiError> {
        self.write(|state| state.rewind(revision))
            .map_err(|compacted| ApiError::expired(format!("the oldest version is {}", compacted.oldest)))
    }

    /// The log of all requests to all servers of this store.
    #[must_use]
    pub fn requests(&self) -> &RequestLog {
        &self.inner.requests
    }

    /// Restricts a user to rules, on all servers of this store.
    pub fn restrict(&self, user: &str, rules: Vec<Rule>) {
        self.inner.rbac.restrict(user, rules);
    }

    /// Takes a user's restriction away.
    pub fn allow_all(&self, user: &str) {
        self.inner.rbac.allow_all(user);
    }

    /// Which rules a restricted user needed, and what was refused.
    #[must_use]
    pub fn rbac_report(&self, user: &str) -> RbacReport {
        self.inner.rbac.report(user)
    }

    pub(crate) fn rbac(&self) -> &Rbac {
        &self.inner.rbac
    }

    /// Makes a bearer token stand for a user. [`ADMIN_TOKEN`] stands for `admin` from the start.
    pub fn add_token(&self, token: &str, user: &str) {
        lock(&self.inner.tokens).insert(token.to_owned(), user.to_owned());
    }

    /// A token of the user, made when there is none yet.
    #[must_use]
    pub fn token_of(&self, user: &str) -> String {
        let mut tokens = lock(&self.inner.tokens);
        let known = tokens
            .iter()
            .find(|(_, u)| *u == user)
            .map(|(token, _)| token.clone());
        known.unwrap_or_else(|| {
            let token = format!("{user}-token");
            tokens.insert(token.clone(), user.to_owned());
            token
        })
    }

    pub(crate) fn user_of(&self, token: &str) -> Option<String> {
        lock(&self.inner.tokens).get(token).cloned()
    }

    /// The cluster's certificate authority; the same for all servers of this store, also after a restart.
    pub(crate) fn pki(&self) -> &Pki {
        self.inner.pki.get_or_init(Pki::new)
    }

    /// How any server shows itself that belongs to this cluster.
    #[must_use]
    pub fn server_tls(&self) -> Arc<tokio_rustls::rustls::ServerConfig> {
        self.pki().server_config()
    }

    /// The present, in whole seconds, as this cluster sees it.
    #[must_use]
    pub fn now(&self) -> jiff::Timestamp {
        self.read(|state| state.clock.now())
    }
}

/// Marks that a collection is under way; a runtime that ends takes the mark with it.
struct Scheduled(Store);

impl Drop for Scheduled {
    fn drop(&mut self) {
        self.0.inner.collecting.store(false, Ordering::SeqCst);
    }
}

fn kind(resource: &str) -> Result<&'static Kind, ApiError> {
    kinds::by_name(resource).ok_or_else(ApiError::no_such_resource)
}

fn address(object: &Value) -> Result<(&'static Kind, String, String), ApiError> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let kind = kinds::by_kind(text("apiVersion"), text("kind")).ok_or_else(ApiError::no_such_resource)?;
    let namespace = match object::namespace(object) {
        "" if kind.namespaced => "default",
        namespace => namespace,
    };
    Ok((kind, namespace.to_owned(), object::name(object).to_owned()))
}
