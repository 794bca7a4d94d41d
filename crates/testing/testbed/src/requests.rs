//! The log of requests: user, server, request and response.

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

/// The number of requests that are kept. The oldest requests are dropped first.
const CAPACITY: usize = 100_000;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Position in the log, counted from 0 and never reused.
    pub number: u64,
    /// The name of the server.
    pub server: String,
    /// The user, or empty if the request has no valid token.
    pub user: String,
    /// The verb, as in RBAC: get, list, watch, create, update, patch, delete or deletecollection.
    pub verb: &'static str,
    /// API group, empty for the core group.
    pub group: String,
    /// Resource, empty for paths such as `/version`.
    pub resource: String,
    /// `status`, or empty.
    pub subresource: String,
    /// Namespace, or empty for all namespaces and for a cluster-scoped object.
    pub namespace: String,
    /// The name: from the path, else from a `metadata.name` field selector, else from the body.
    pub name: String,
    /// Path and query.
    pub uri: String,
    /// `User-Agent`.
    pub user_agent: String,
    /// The body, if it is JSON.
    pub body: Option<Value>,
    /// The time of arrival.
    pub at: Instant,
    /// The status code, or `None` while there is no response.
    pub status: Option<u16>,
    /// The time at which the response, or the head of a watch, was sent.
    pub answered: Option<Instant>,
}

impl Request {
    /// Whether the verb is anything other than get, list or watch.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }

    /// Whether the request has this verb and resource.
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

    /// All logged requests, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Request> {
        self.lock().iter().cloned().collect()
    }

    /// The requests that satisfy the predicate.
    pub fn matching(&self, wanted: impl Fn(&Request) -> bool) -> Vec<Request> {
        self.lock().iter().filter(|r| wanted(r)).cloned().collect()
    }

    /// Drops all logged requests. The numbering continues.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Waits until the log satisfies the predicate, which is checked now and after each request and each response.
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
