//! The reconciliation of one key: snapshot, plan, apply, outcome.
//!
//! After a write, the key waits for at most a second until the watch shows the write. If the watch has not shown it by
//! then, one GET decides. So within a term, the next plan is never made from a view that is older than our own last
//! successful write.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tracing::debug;

use crate::controller::apply::{Applied, Writer};
use crate::controller::budget::Budgets;
use crate::controller::conditions::Conditions;
use crate::controller::error::SyncError;
use crate::controller::events::EventRecorder;
use crate::controller::migration::Migration;
use crate::controller::outcome::{Backoff, Outcome, Requeue};
use crate::controller::worker::Reconcile;
use crate::controller::workqueue::{DirtySet, PACE};
use crate::leader_election::term::Term;
use crate::telemetry::failure_log::FailureLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::watch_health::WatchHealth;
use crate::telemetry::watchdog::Watchdog;
use crate::timing::EXPECTATION;
use endpoint_copier_core::index::{Dirty, Index, SharedIndex};
use endpoint_copier_core::model::{
    Condition, Finding, Priority, ServiceKey, Snapshot, SyncResult, WatchKind,
};
use endpoint_copier_core::plan::Verdicts;

mod confirm;
mod decide;
mod expectations;
mod failure_logs;
mod findings;
mod late_watch;
mod report;

use decide::Decision;
use expectations::{Expectations, Expected};
use failure_logs::SyncFailures;
use findings::Findings;
use late_watch::LateWatch;
use report::rules_out_synced;

/// The pause before the next GET of a source slice that cannot be decoded and that no watch shows.
const UNWATCHED_PAUSE: Duration = Duration::from_secs(30);

/// Reconciles managed Services: makes the copies of each Service match its plan.
pub struct Reconciler {
    client: Client,
    writer: Writer,
    index: SharedIndex,
    dirty: DirtySet,
    metrics: Metrics,
    expectations: Expectations,
    findings: Findings,
    recorder: EventRecorder,
    migration: Migration,
    failures: SyncFailures,
    /// The budgets of log lines about written copies. Lines beyond a budget are logged at debug level. The budgets
    /// outlive the terms of this replica.
    log_budgets: Mutex<Budgets<ServiceKey>>,
    /// Limits the log lines about undecodable slices in GET responses.
    undecoded: FailureLog,
    watch_health: WatchHealth,
    service_watch: LateWatch,
    copy_watch: LateWatch,
    verdicts: ReadVerdicts,
    conditions: Option<Arc<Conditions>>,
}

/// Returns the current results of the probes.
pub type ReadVerdicts = Box<dyn Fn() -> Verdicts + Send + Sync>;

impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ServiceKey, since: Instant, term: &Term) -> Outcome {
        self.metrics.services().begun(key);
        let mut has_read = false;
        let mut outcome = match self.decide(key, since, &mut has_read).await {
            Ok(decision) => self.carry_out(decision, since, term).await,
            Err(error) => self.stopped(key, &error),
        };
        outcome.has_sent |= has_read;
        self.metrics.sync_finished(outcome.result);
        for watch in [&self.service_watch, &self.copy_watch] {
            outcome.requeue = outcome.requeue.or_at(watch.check());
        }
        outcome
    }

    fn all(&self) -> Dirty {
        self.index().all()
    }

    fn priority(&self, key: &ServiceKey) -> Priority {
        self.index().priority(key)
    }

    /// Forgets expectations, written copies, findings, outages and decided conditions, because the next leader has its
    /// own. Knowledge about the cluster, pauses after refusals and rate limits stay.
    fn forget(&self) {
        self.expectations.forget();
        self.writer.forget();
        self.findings.forget();
        self.failures.forget();
        if let Some(conditions) = &self.conditions {
            conditions.forget_decisions();
        }
    }

    fn watchdog(&self) -> &Watchdog {
        &self.writer.watchdog
    }
}

impl Reconciler {
    /// Creates a reconciler that reads and writes with `client` and reports findings through `recorder`. It puts keys
    /// that its reads make dirty into `dirty`. `watch_health` says which watches may be late, and `verdicts` returns
    /// the results of the probes.
    #[must_use]
    pub fn new(
        client: Client,
        index: SharedIndex,
        dirty: DirtySet,
        watch_health: WatchHealth,
        metrics: Metrics,
        recorder: EventRecorder,
        verdicts: ReadVerdicts,
    ) -> Self {
        let writer = Writer::new(client.clone(), metrics.clone());
        Self {
            expectations: Expectations::default(),
            findings: Findings::new(metrics.clone()),
            migration: Migration::new(client.clone(), writer.watchdog.clone()),
            failures: SyncFailures::default(),
            log_budgets: Mutex::default(),
            undecoded: FailureLog::new("decoding a slice from a GET response"),
            writer,
            client,
            index,
            dirty,
            metrics,
            recorder,
            service_watch: LateWatch::new(WatchKind::Services, watch_health.clone()),
            copy_watch: LateWatch::new(WatchKind::Copies, watch_health.clone()),
            verdicts,
            watch_health,
            conditions: None,
        }
    }

    /// Sets where conditions of Services are reported. With `None`, they are not reported.
    #[must_use]
    pub fn with_conditions(self, conditions: Option<Arc<Conditions>>) -> Self {
        Self { conditions, ..self }
    }

    /// Reports a sync that ended before a decision, and returns its outcome.
    fn stopped(&self, key: &ServiceKey, error: &SyncError) -> Outcome {
        if error.is_unavailable() {
            self.failures.ended(key, self.index().priority(key), Some(error));
        }
        self.findings.unchanged(key, &self.index());
        // Until the caches are filled, an early end of a sync is no reason to report a condition.
        if let Some(conditions) = self
            .conditions
            .as_ref()
            .filter(|_| self.index().is_filled().is_ok())
        {
            let is_managed = self.index().is_managed(key);
            conditions.decided(key, is_managed.then(Condition::undecided));
        }
        error.outcome(None)
    }

    /// Applies the plan, and reports findings, metrics, Events and the condition.
    async fn carry_out(&self, decision: Decision, since: Instant, term: &Term) -> Outcome {
        let Decision {
            snapshot,
            mut plan,
            taken,
            is_unwatched,
            postponed,
        } = decision;
        let (key, removes_leftovers) = (&snapshot.key, plan.removes_leftovers);
        let mut findings: BTreeSet<_> = std::mem::take(&mut plan.findings).into_iter().collect();
        let (endpoints, triggers) = (plan.endpoints, std::mem::take(&mut plan.triggers));
        self.findings.set_unreachable(key, plan.unreachable.len());
        self.writer.prune(&snapshot, &plan);
        let applied = self.writer.apply(term, snapshot.service.as_ref(), plan).await;
        let mut has_sent = false;
        let removed = match snapshot.service.as_ref() {
            Some(service) if removes_leftovers && applied.is_empty() => {
                self.migration
                    .remove(term, service, &snapshot, &mut has_sent)
                    .await
            }
            _ => Ok(None),
        };
        let (refused, not_removed) =
            removed.map_or_else(|error| (None, Some(error)), |refused| (refused, None));
        let repeated = [refused, self.writer.contested(key)];
        findings.extend(repeated.iter().flatten().map(|(finding, _)| finding.clone()));
        for error in &applied.failures {
            debug!(service = %key, %error, "write failed");
            findings.extend(error.finding());
        }
        self.log_verdicts(&snapshot, &applied);
        if applied.has_written() && applied.failures.is_empty() {
            self.log_write(since, &snapshot, endpoints, &applied);
            self.measure(since, term, &triggers);
        }
        let has_first_copies = applied.has_created() && snapshot.copies.is_empty();
        if has_first_copies || snapshot.reports_probes && !applied.returned.is_empty() {
            self.recorder.owe_synced(key);
        }
        let mut errors = applied.failures.iter().chain(&postponed).chain(&not_removed);
        let failure = errors.find(|error| error.is_unavailable());
        self.failures.ended(key, self.index().priority(key), failure);
        let is_right =
            applied.failures.is_empty() && postponed.is_none() && !findings.iter().any(rules_out_synced);
        let mut outcome = self.outcome(&snapshot, taken, postponed.as_ref(), &applied);
        let is_done = outcome.result == SyncResult::Success && !applied.leaves_repairs;
        self.report_condition(&snapshot, is_done, &findings);
        let next_report = self.report(term, &snapshot, findings, outcome.result);
        let next_synced = is_right
            .then(|| self.report_synced(term, &snapshot, endpoints))
            .flatten();
        if let Some(error) = not_removed {
            // The sync has not failed: the copies are correct.
            outcome.requeue = error.outcome(None).requeue;
        } else if outcome.requeue == Requeue::WhenDirty {
            // A lasting finding is reported again even if nothing changes.
            outcome.requeue = outcome.requeue.or_at(next_report).or_at(next_synced);
        }
        for (_, next) in repeated.into_iter().flatten() {
            outcome.requeue = outcome.requeue.or_at(Some(next));
        }
        if is_unwatched {
            outcome.requeue = outcome.requeue.or_at(Some(Instant::now() + UNWATCHED_PAUSE));
        }
        outcome.has_sent |= has_sent;
        outcome
    }

    /// Records what the watch must show before the next plan, and returns the outcome of the sync.
    fn outcome(
        &self,
        snapshot: &Snapshot,
        taken: Expected,
        postponed: Option<&SyncError>,
        applied: &Applied,
    ) -> Outcome {
        let (key, now) = (&snapshot.key, Instant::now());
        let worst = applied.failures.iter().max_by_key(|error| error.precedence());
        let error = match worst {
            Some(error) if !error.is_refusal() => worst,
            // All writes have succeeded, or a retry of the worst failure would probably fail too. So if an error
            // postponed other writes, that error decides.
            _ => postponed.or(worst),
        };
        let error = error.or(snapshot.is_undecided().then_some(&SyncError::Unlisted));
        let mut due = (!applied.expectations.is_empty()).then_some(now + EXPECTATION);
        let is_taken = !taken.is_empty();
        let expected = applied.expectations.iter().cloned().chain(taken).collect();
        self.expectations.expect(key, expected, due.unwrap_or(now));
        // If the index already shows the cause of a conflict, nothing will mark the key as dirty again.
        let is_conflict = matches!(error, Some(SyncError::Conflict { .. }));
        if is_conflict && self.expectations.are_fulfilled(key, &self.index()) {
            due = Some(now + PACE);
        }
        // A managed Service that names no valid source, or may not copy its source, cannot get copies until a change
        // marks it as dirty.
        let service = snapshot.service.as_ref();
        let is_managed = service.is_some_and(|service| service.is_managed());
        let is_refused = is_managed && snapshot.source.is_none();
        let outcome = match (error, due) {
            (Some(error), due) => error.outcome(due),
            (None, Some(due)) => Outcome::new(SyncResult::Success, Requeue::At(due)),
            (None, None) if is_taken => Outcome::new(SyncResult::Refused, Requeue::Backoff(Backoff::Long)),
            (None, None) if is_refused => Outcome::new(SyncResult::Refused, Requeue::WhenDirty),
            (None, None) => Outcome::new(SyncResult::Success, Requeue::WhenDirty),
        };
        Outcome {
            // A failed write counts as sent, even if it only had to wait because of an earlier refusal.
            has_sent: !applied.is_empty(),
            has_written: applied.has_written(),
            ..outcome
        }
    }

    /// Reports the findings, and forgets a Service that is neither managed nor disabled. Returns the time of the next
    /// report.
    fn report(
        &self,
        term: &Term,
        snapshot: &Snapshot,
        findings: BTreeSet<Finding>,
        result: SyncResult,
    ) -> Option<Instant> {
        let key = &snapshot.key;
        let next_report = snapshot
            .service
            .as_ref()
            .and_then(|service| self.recorder.report(term, service, &findings));
        if snapshot.service.is_none() {
            self.recorder.gone(key);
            self.migration.gone(key);
            self.writer.gone(key);
        }
        self.findings.replace(key, &self.index(), findings, result);
        next_report
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }
}
