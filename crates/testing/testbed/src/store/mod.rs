//! The state of a cluster behind a lock, with its history, users and garbage collector.

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

/// The default delay of the garbage collector after a write.
const COLLECT_AFTER: Duration = Duration::from_millis(50);
/// The token of the user `admin`.
pub const ADMIN_TOKEN: &str = "admin-token";

/// The state of a cluster, like etcd for real API servers. Cheap to clone. Clones share the store.
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
    /// An empty cluster with its initial namespaces.
    #[must_use]
    pub fn new() -> Self {
        Self::with(State::new(None))
    }

    /// An empty cluster whose UIDs and generated names follow from a seed.
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

    /// Allows loopback addresses in EndpointSlices from now on. Real API servers refuse them, but the servers of a test
    /// listen on loopback addresses, and can list themselves only if these are allowed.
    pub fn allow_loopback(&self) {
        lock(&self.inner.state).loopback = true;
    }

    /// Serves ReferenceGrants from now on, as a cluster does once the CRDs of the Gateway API are installed.
    pub fn serve_reference_grants(&self) {
        lock(&self.inner.state).has_grants = true;
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

    /// Schedules the garbage collector, which uses Tokio's clock and therefore needs a runtime. Without a runtime, the
    /// collector does not run until the next write inside a runtime, or until [`Store::collect_now`].
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

    /// Sets the delay after which dependents without an owner are deleted and terminating namespaces are emptied.
    /// `None` means never, as in a cluster without a controller manager.
    pub fn collect_after(&self, delay: Option<Duration>) {
        *lock(&self.inner.collect_after) = delay;
        if self.read(|state| state.garbage) {
            self.schedule_collection();
        }
    }

    /// Runs the garbage collector now if it has work.
    pub fn collect_now(&self) {
        if self.read(|state| state.garbage) {
            self.write(State::collect);
        }
    }

    /// The resourceVersion of the last write.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.read(|state| state.revision)
    }

    /// A receiver that wakes after every write.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.inner.written.subscribe()
    }

    /// Waits until the store satisfies the predicate, which is checked now and after each write.
    pub async fn until(&self, wanted: impl Fn(&Self) -> bool) {
        let mut changes = self.changes();
        loop {
            if wanted(self) {
                return;
            }
            changes.changed().await;
        }
    }

    /// Drops the history. From now on, a watch or list from an older resourceVersion gets 410.
    pub fn compact(&self) {
        // Open watches have either seen everything or must restart, as on the real server.
        self.write(|state| state.history.compact(state.revision));
    }

    /// Sets how many writes the history holds.
    pub fn remember(&self, changes: usize) {
        self.write(|state| state.history.set_capacity(changes));
    }

    /// Restores the state at a resourceVersion. Versions continue from there, as after a restore of etcd from a backup.
    /// Open watches do not end. Like a watch from a future version, each open watch shows nothing until the store
    /// passes the version that the watch has reached. To simulate a server that was not restarted and still serves its
    /// old cache, call [`ApiServer::lag`] first.
    ///
    /// [`ApiServer::lag`]: crate::ApiServer::lag
    ///
    /// # Errors
    ///
    /// 410 if the version has been compacted.
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

    /// Removes the restriction of a user.
    pub fn allow_all(&self, user: &str) {
        self.inner.rbac.allow_all(user);
    }

    /// The rules of a restricted user, with their usage counts, and the refused requests.
    #[must_use]
    pub fn rbac_report(&self, user: &str) -> RbacReport {
        self.inner.rbac.report(user)
    }

    pub(crate) fn rbac(&self) -> &Rbac {
        &self.inner.rbac
    }

    /// Assigns a bearer token to a user. [`ADMIN_TOKEN`] belongs to `admin` from the start.
    pub fn add_token(&self, token: &str, user: &str) {
        lock(&self.inner.tokens).insert(token.to_owned(), user.to_owned());
    }

    /// The token of a user, which is created if there is none yet.
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

    /// The certificate authority of the cluster, shared by all servers of this store. A restart does not change it.
    pub(crate) fn pki(&self) -> &Pki {
        self.inner.pki.get_or_init(Pki::new)
    }

    /// The TLS settings that all servers of this cluster share.
    #[must_use]
    pub fn server_tls(&self) -> Arc<tokio_rustls::rustls::ServerConfig> {
        self.pki().server_config()
    }

    /// The TLS settings of a proxy in front of this cluster, with its own names.
    #[must_use]
    pub fn proxy_tls(&self, names: &[&str]) -> Arc<tokio_rustls::rustls::ServerConfig> {
        self.pki().server_config_named(names)
    }

    /// The CA certificate of this cluster.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.pki().ca_pem()
    }

    /// The current time of this cluster.
    #[must_use]
    pub fn now(&self) -> jiff::Timestamp {
        self.read(|state| state.clock.now())
    }
}

/// Marks that a collection is scheduled. Dropping the value removes the mark, even if the runtime ends before the
/// collection.
struct Scheduled(Store);

impl Drop for Scheduled {
    fn drop(&mut self) {
        self.0.inner.collecting.store(false, Ordering::SeqCst);
    }
}
