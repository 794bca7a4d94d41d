//! What the leader remembers between two syncs of a key: writes that the watch has not shown yet,
//! what was found wrong, and whether the copies are in step. All of it ends with the term.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::lines::Lines;
use crate::controller::apply::Expectation;
use crate::telemetry::metrics::{Metrics, SyncResult};
use endpoint_copier_core::index::Index;
use endpoint_copier_core::model::{Finding, Reason, ServiceKey, SliceKey};

/// Writes and what the watch will show of them.
pub(super) type Expected = Vec<(SliceKey, Expectation)>;

pub(super) struct Expectations {
    metrics: Metrics,
    lines: Arc<Lines>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    pending: HashMap<ServiceKey, Pending>,
    findings: HashMap<ServiceKey, BTreeSet<Finding>>,
    in_sync: HashSet<ServiceKey>,
}

struct Pending {
    expectations: Expected,
    /// How long the watch may take to show them.
    until: Instant,
}

/// Whether the watch shows what was written.
pub(super) enum Shown {
    /// All of it.
    All,
    /// Not yet, and there is time until then.
    Wait(Instant),
    /// Not these, and the time is up.
    Overdue(Expected),
}

impl Expectations {
    pub fn new(metrics: Metrics, lines: Arc<Lines>) -> Self {
        Self {
            metrics,
            lines,
            known: Mutex::default(),
        }
    }

    /// Compares what was written with what the index shows.
    pub fn compare(&self, key: &ServiceKey, index: &Index) -> Shown {
        let mut known = self.known.lock();
        let Some(pending) = known.pending.get_mut(key) else {
            return Shown::All;
        };
        pending
            .expectations
            .retain(|(slice, echo)| !echo.is_shown(index.slice(slice).map(AsRef::as_ref)));
        if pending.expectations.is_empty() {
            known.pending.remove(key);
            Shown::All
        } else if Instant::now() < pending.until {
            Shown::Wait(pending.until)
        } else {
            Shown::Overdue(pending.expectations.clone())
        }
    }

    /// Waits for these from now on, and for nothing else.
    pub fn wait_for(&self, key: &ServiceKey, expectations: Expected, until: Instant) {
        let mut known = self.known.lock();
        if expectations.is_empty() {
            known.pending.remove(key);
        } else {
            known.pending.insert(key.clone(), Pending { expectations, until });
        }
    }

    /// A sync has ended. `findings`: all of them, or `None` if nothing new is known. A log line for each
    /// that appears or goes, and the metrics.
    pub fn sync_ended(
        &self,
        key: &ServiceKey,
        index: &Index,
        result: SyncResult,
        findings: Option<BTreeSet<Finding>>,
    ) {
        self.metrics.sync_finished(result);
        let mut known = self.known.lock();
        let mut in_step = None;
        if let Some(findings) = findings {
            let is_right =
                result == SyncResult::Success && !findings.iter().any(|it| it.reason.leaves_undone());
            in_step = Some(is_right);
            if is_right && index.is_managed(key) {
                known.in_sync.insert(key.clone());
            } else {
                known.in_sync.remove(key);
            }
            if known.replace_findings(key, findings, &self.lines) {
                self.metrics.set_findings(&known.count_findings());
            }
        }
        self.metrics
            .service_sync_ended(key, in_step, index.endpoints(key));
        self.metrics
            .set_services(index.managed().count(), known.in_sync.len());
    }

    /// The term is over.
    pub fn forget(&self) {
        *self.known.lock() = Known::default();
        self.metrics.forget_services();
    }
}

impl Known {
    /// Answers whether anything changed.
    fn replace_findings(&mut self, key: &ServiceKey, new: BTreeSet<Finding>, lines: &Lines) -> bool {
        let old = self.findings.remove(key).unwrap_or_default();
        for finding in new.difference(&old) {
            if lines.may_log(key) {
                warn!(service = %key, reason = %finding.reason, "{}", finding.note);
            } else {
                debug!(service = %key, reason = %finding.reason, "{}", finding.note);
            }
        }
        let lasts = |gone: &Finding| new.iter().any(|finding| finding.reason == gone.reason);
        for gone in old.difference(&new).filter(|gone| !lasts(gone)) {
            if lines.may_log(key) {
                info!(service = %key, "{} is over", gone.reason);
            }
        }
        let changed = old != new;
        if !new.is_empty() {
            self.findings.insert(key.clone(), new);
        }
        changed
    }

    fn count_findings(&self) -> BTreeMap<Reason, usize> {
        let mut counts = BTreeMap::new();
        for finding in self.findings.values().flatten() {
            *counts.entry(finding.reason).or_insert(0) += 1;
        }
        counts
    }
}
