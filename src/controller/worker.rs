//! Takes keys from a queue and reconciles them during a term, a few at a time.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::controller::outcome::Outcome;
use crate::controller::workqueue::{DirtySet, Mark, WorkQueue};
use crate::leader_election::term::Term;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::watch_health::WatchHealth;
use crate::telemetry::watchdog::Watchdog;
use crate::timing::{DRAIN, VIEW_SETTLE};
use endpoint_copier_core::index::{Dirty, SharedIndex};
use endpoint_copier_core::model::{Priority, ServiceKey, WatchKind};

/// The work that a [`Worker`] does on the keys of its queue.
pub trait Reconcile {
    /// Reconciles a Service that has been dirty since this time.
    fn reconcile(
        &self,
        key: &ServiceKey,
        since: Instant,
        term: &Term,
    ) -> impl Future<Output = Outcome> + Send;

    /// Returns the Services that are dirty when a term begins.
    fn all(&self) -> Dirty;

    /// Returns the priority of a Service, which determines when the queue serves it and whether slots are reserved for
    /// it.
    fn priority(&self, key: &ServiceKey) -> Priority;

    /// Forgets the state that is valid only during one term.
    fn forget(&self);

    /// Returns the watchdog that monitors the work. The end of each API call counts as progress, even if the call
    /// failed.
    fn watchdog(&self) -> &Watchdog;
}

/// The loop between the watches and a reconciler.
pub struct Worker<R> {
    /// The set from which the worker takes dirty keys.
    pub dirty: DirtySet,
    /// The state of the cluster.
    pub index: SharedIndex,
    /// Shows whether the watches are current.
    pub watch_health: WatchHealth,
    /// Reconciles the keys.
    pub reconciler: Arc<R>,
    /// Counts the work, and records which Services wait for it. `None` if the worker does not write copies.
    pub metrics: Option<Metrics>,
    /// The current term, while this replica leads.
    pub terms: watch::Receiver<Option<Term>>,
}

impl<R: Reconcile> Worker<R> {
    /// Works during each term. Returns when the election has ended and the last term is over.
    pub async fn run(mut self) {
        loop {
            let term = tokio::select! {
                biased;
                term = self.terms.wait_for(Option::is_some) => match term {
                    Ok(term) => term.clone(),
                    Err(_) => return,
                },
                // While another replica leads, it handles these keys. At the start of a term of this replica, all keys
                // are dirty anyway.
                _ = self.dirty.take() => continue,
            };
            if let Some(term) = term.filter(|term| !term.is_over()) {
                self.work(&term).await;
                self.reconciler.forget();
            } else if self.terms.changed().await.is_err() {
                return;
            }
        }
    }

    /// Works during one term. All keys of the reconciler are dirty at the start of the term, because the state that the
    /// previous leader left behind is unknown.
    async fn work(&self, term: &Term) {
        let mut queue = WorkQueue::new(self.metrics.clone());
        let mut active = FuturesUnordered::new();
        let watchdog = self.reconciler.watchdog();
        let priority = |key: &_| self.reconciler.priority(key);
        tokio::select! {
            biased;
            () = term.over() => return,
            _ = timeout(VIEW_SETTLE, self.watch_health.until_current(&WatchKind::VIEW)) => {}
        }
        // All keys are marked below.
        self.dirty.take().now_or_never();
        let all = self.reconciler.all();
        for key in all {
            let mark = Mark {
                since: term.began(),
                is_edit: false,
            };
            self.mark(&mut queue, key, mark);
        }
        loop {
            while let Some((key, since)) = queue.pop() {
                let reconciler = &self.reconciler;
                active.push(async move {
                    let outcome = reconciler.reconcile(&key, since, term).await;
                    (key, outcome)
                });
            }
            if active.is_empty() {
                watchdog.idle();
            } else {
                watchdog.busy();
            }
            tokio::select! {
                // The end of the term comes first, so that nothing begins after it. The end of a sync comes second,
                // because it frees a slot.
                biased;
                () = term.over() => break,
                Some((key, outcome)) = active.next() => {
                    watchdog.tick();
                    let priority = priority(&key);
                    queue.finished(key, &outcome, priority);
                }
                keys = self.dirty.take() => {
                    for (key, mark) in keys {
                        self.mark(&mut queue, key, mark);
                    }
                }
                () = queue.due(&priority) => {}
            }
        }
        if !term.is_revoked() {
            // Syncs in progress get some time to finish. They cannot begin another write.
            _ = timeout(DRAIN, async { while active.next().await.is_some() {} }).await;
        }
        watchdog.idle();
    }

    fn mark(&self, queue: &mut WorkQueue, key: ServiceKey, mark: Mark) {
        let priority = self.reconciler.priority(&key);
        let index = self.index.lock();
        if let Some(metrics) = self.metrics.as_ref().filter(|_| index.is_managed(&key)) {
            metrics.services().changed(&key, mark.since);
        }
        drop(index);
        queue.mark(key, mark, priority);
    }
}
