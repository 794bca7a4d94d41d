//! A cluster's state behind a lock, its past, who may use it, and its garbage collector.

use crate::{
    pki::Pki,
    rbac::{Rbac, RbacReport, Rule},
    requests::RequestLog,
    signal::{Changes, Signal},
    state::State,
    status::ApiError,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

mod objects;

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

    /// From now on EndpointSlices may list loopback addresses, which real API servers refuse: the servers of a test
    /// listen there, and may list themselves.
    pub fn allow_loopback(&self) {
        lock(&self.inner.state).loopback = true;
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

    /// The TLS settings of a proxy in front of this cluster, with its own names.
    #[must_use]
    pub fn front_tls(&self, names: &[&str]) -> Arc<tokio_rustls::rustls::ServerConfig> {
        self.pki().server_config_named(names)
    }

    /// The certificate of this cluster's authority.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.pki().ca_pem()
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
