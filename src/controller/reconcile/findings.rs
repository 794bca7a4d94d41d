//! The findings of each Service, and the Services in sync, for logs and metrics. They are forgotten when the term ends.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::controller::budget::Budgets;
use crate::telemetry::metrics::Metrics;
use endpoint_copier_core::index::Index;
use endpoint_copier_core::model::{Finding, Reason, ServiceKey, SyncResult, is_in_sync};

/// The findings of the last sync of each Service.
pub(super) struct Findings {
    metrics: Metrics,
    /// The budgets of log lines about findings. Lines about written copies have their own budgets, so they do not
    /// suppress findings.
    log_budgets: Mutex<Budgets<ServiceKey>>,
    known: Mutex<ByService>,
}

#[derive(Default)]
struct ByService {
    findings: HashMap<ServiceKey, BTreeSet<Finding>>,
    /// The number of findings with each reason.
    counts: BTreeMap<Reason, usize>,
    in_sync: HashSet<ServiceKey>,
    /// The number of endpoints that the probes judge unreachable, for Services that have some.
    unreachable: HashMap<ServiceKey, usize>,
}

impl Findings {
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            log_budgets: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// Records a sync that ended before it could find anything new.
    pub fn unchanged(&self, key: &ServiceKey, index: &Index) {
        self.publish(key, index, &self.known.lock(), None);
    }

    /// Records the findings of a sync. Within the log budget of the Service, logs each finding that appears, and each
    /// reason that no longer applies.
    pub fn replace(&self, key: &ServiceKey, index: &Index, findings: BTreeSet<Finding>, result: SyncResult) {
        let mut known = self.known.lock();
        let is_in_sync = is_in_sync(result == SyncResult::Success, &findings);
        if is_in_sync && index.is_managed(key) {
            known.in_sync.insert(key.clone());
        } else {
            known.in_sync.remove(key);
        }
        let old = known.findings.remove(key).unwrap_or_default();
        self.log(key, &old, &findings);
        let has_changed = old != findings;
        if has_changed {
            // The counts are adjusted, not recomputed, because a limit may cause findings on thousands of Services at
            // the same time.
            for finding in &old {
                *known.counts.entry(finding.reason).or_insert(1) -= 1;
            }
            for finding in &findings {
                *known.counts.entry(finding.reason).or_insert(0) += 1;
            }
            self.metrics.set_findings(&known.counts);
        }
        if !findings.is_empty() {
            known.findings.insert(key.clone(), findings);
        }
        self.publish(key, index, &known, Some(is_in_sync));
    }

    fn publish(&self, key: &ServiceKey, index: &Index, known: &ByService, is_in_sync: Option<bool>) {
        let endpoints = index.endpoints(key);
        self.metrics.services().ended(key, is_in_sync, endpoints);
        self.metrics
            .set_services(index.managed_services(), known.in_sync.len());
    }

    /// Records the number of endpoints of this Service that the probes judge unreachable.
    pub fn set_unreachable(&self, key: &ServiceKey, endpoints: usize) {
        let unreachable = &mut self.known.lock().unreachable;
        let before = match endpoints {
            0 => unreachable.remove(key),
            _ => unreachable.insert(key.clone(), endpoints),
        };
        if before.unwrap_or(0) != endpoints {
            self.metrics.probes().set_unreachable(unreachable.values().sum());
        }
    }

    /// Forgets all findings at the end of a term.
    pub fn forget(&self) {
        *self.known.lock() = ByService::default();
        self.metrics.probes().set_unreachable(0);
        self.metrics.forget_services();
    }

    fn log(&self, key: &ServiceKey, old: &BTreeSet<Finding>, new: &BTreeSet<Finding>) {
        let mut budgets = self.log_budgets.lock();
        for finding in new.difference(old) {
            if budgets.spend(key.clone(), Instant::now()) {
                warn!(service = %key, reason = %finding.reason, "{}", finding.note);
            } else {
                debug!(service = %key, reason = %finding.reason, "{}", finding.note);
            }
        }
        let lasting: BTreeSet<_> = new.iter().map(|finding| finding.reason).collect();
        for resolved in old
            .difference(new)
            .filter(|finding| !lasting.contains(&finding.reason))
        {
            if budgets.spend(key.clone(), Instant::now()) {
                info!(service = %key, "{} is resolved", resolved.reason);
            }
        }
    }
}
