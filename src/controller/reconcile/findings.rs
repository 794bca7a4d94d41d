//! What is wrong with each Service, and which are in sync: for logs and metrics. It ends with the term.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::{debug, info, warn};

use super::log_limiter::LogLimiter;
use crate::telemetry::metrics::{Metrics, SyncResult};
use endpoint_copier_core::index::Index;
use endpoint_copier_core::model::{Finding, Reason, ServiceKey};

/// The findings of the last sync of each Service.
pub(super) struct Findings {
    metrics: Metrics,
    log_limiter: Arc<LogLimiter>,
    known: Mutex<ByService>,
}

#[derive(Default)]
struct ByService {
    findings: HashMap<ServiceKey, BTreeSet<Finding>>,
    in_sync: HashSet<ServiceKey>,
}

impl Findings {
    pub fn new(metrics: Metrics, log_limiter: Arc<LogLimiter>) -> Self {
        Self {
            metrics,
            log_limiter,
            known: Mutex::default(),
        }
    }

    /// A sync has ended before it could tell anything new.
    pub fn unchanged(&self, key: &ServiceKey, index: &Index) {
        self.publish(key, index, &self.known.lock(), None);
    }

    /// A sync has ended with these findings. A log line for each that appears or goes.
    pub fn replace(&self, key: &ServiceKey, index: &Index, findings: BTreeSet<Finding>, result: SyncResult) {
        let mut known = self.known.lock();
        let is_in_sync =
            result == SyncResult::Success && !findings.iter().any(|it| it.reason.leaves_undone());
        if is_in_sync && index.is_managed(key) {
            known.in_sync.insert(key.clone());
        } else {
            known.in_sync.remove(key);
        }
        if known.replace(key, findings, &self.log_limiter) {
            self.metrics.set_findings(&known.count());
        }
        self.publish(key, index, &known, Some(is_in_sync));
    }

    fn publish(&self, key: &ServiceKey, index: &Index, known: &ByService, is_in_sync: Option<bool>) {
        let endpoints = index.endpoints(key);
        self.metrics.services().ended(key, is_in_sync, endpoints);
        let managed = index.managed().count();
        self.metrics.set_services(managed, known.in_sync.len());
    }

    /// The term is over.
    pub fn forget(&self) {
        *self.known.lock() = ByService::default();
        self.metrics.forget_services();
    }
}

impl ByService {
    /// Returns whether anything changed.
    fn replace(&mut self, key: &ServiceKey, new: BTreeSet<Finding>, log_limiter: &LogLimiter) -> bool {
        let old = self.findings.remove(key).unwrap_or_default();
        for finding in new.difference(&old) {
            if log_limiter.may_log(key) {
                warn!(service = %key, reason = %finding.reason, "{}", finding.note);
            } else {
                debug!(service = %key, reason = %finding.reason, "{}", finding.note);
            }
        }
        let lasts = |gone: &Finding| new.iter().any(|finding| finding.reason == gone.reason);
        for gone in old.difference(&new).filter(|gone| !lasts(gone)) {
            if log_limiter.may_log(key) {
                info!(service = %key, "{} is resolved", gone.reason);
            }
        }
        let changed = old != new;
        if !new.is_empty() {
            self.findings.insert(key.clone(), new);
        }
        changed
    }

    fn count(&self) -> BTreeMap<Reason, usize> {
        let mut counts = BTreeMap::new();
        for finding in self.findings.values().flatten() {
            *counts.entry(finding.reason).or_insert(0) += 1;
        }
        counts
    }
}
