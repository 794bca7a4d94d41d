//! The log of requests: who asked what of which server, and what the answer was.

use crate::signal::Signal;
use serde_json::Value;
use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::time::Instant;

/// How many requests are kept; the oldest go first.
const CAPACITY: usize = 100_000;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Position in the log, counted from 0 and never used again.
    pub number: u64,
    /// Name of the server that got it.
    pub server: String,
    /// The user whose token it carried; empty for none.
    pub user: String,
    /// As in RBAC: get, list, watch, create, update, patch, delete, deletecollection.
    pub verb: &'static str,
    /// API group, empty for the core group.
    pub group: String,
    /// Resource, empty for paths such as `/version`.
    pub resource: String,
    /// `status`, or empty.
    pub subresource: String,
    /// Namespace, empty when the request is for all or for something outside of any.
    pub namespace: String,
    /// Name in the path, else the `metadata.name` of a field selector, else of the object that is created.
    pub name: String,
    /// Path and query.
    pub uri: String,
    /// `User-Agent`.
    pub user_agent: String,
    /// Body of a write, if it was JSON.
    pub body: Option<Value>,
    /// When it came in.
    pub at: Instant,
    /// Code of the answer; none while there is none, or when there never was one.
    pub status: Option<u16>,
    /// When the answer (for a watch: its head) was sent.
    pub answered: Option<Instant>,
}

impl Request {
    /// A create, update, patch or delete.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }

    /// Verb and resource, as most tests ask.
    #[must_use]
    pub fn is(&self, verb: &str, resource: &str) -> bool {
        self.verb == verb && self.resource == resource
    }
}

/// The requests to all servers of one store.
#[derive(Debug, Default)]
pub struct RequestLog {
    entries: Mutex<VecDeque<Request>>,
    begun: AtomicU64,
    changed: Signal,
}

impl RequestLog {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Request>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything in the log, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Request> {
        self.lock().iter().cloned().collect()
    }

    /// The requests that a test means.
    pub fn matching(&self, wanted: impl Fn(&Request) -> bool) -> Vec<Request> {
        self.lock().iter().filter(|r| wanted(r)).cloned().collect()
    }

    /// Forgets everything so far; numbers go on.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Waits until the log is as the test wants it, now or after any request or answer.
    pub async fn until(&self, wanted: impl Fn(&[Request]) -> bool) {
        let mut changed = self.changed.subscribe();
        loop {
            if wanted(self.lock().make_contiguous()) {
                return;
            }
            changed.changed().await;
        }
    }

    pub(crate) fn begin(&self, mut request: Request) -> u64 {
        let mut entries = self.lock();
        let number = self.begun.fetch_add(1, Ordering::SeqCst);
        request.number = number;
        entries.push_back(request);
        if entries.len() > CAPACITY {
            entries.pop_front();
        }
        self.changed.send();
        number
    }

    pub(crate) fn end(&self, number: u64, status: u16) {
        let mut entries = self.lock();
        if let Ok(at) = entries.binary_search_by_key(&number, |r| r.number) {
            entries[at].status = Some(status);
            entries[at].answered = Some(Instant::now());
        }
        drop(entries);
        self.changed.send();
    }
}
