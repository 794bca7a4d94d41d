//! One key: snapshot, plan, apply, outcome.
//!
//! After a write the key waits until the watch shows it, at most a second; then one GET decides.
//! So the next plan is never made from a view that is older than our own last write.
//!
//! Each step says whether it asks the API server (`client`) or only thinks (`no client`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parking_lot::MutexGuard;
use tokio::time::Instant;

use crate::controller::apply::{Applied, Writer};
use crate::controller::events::EventRecorder;
use crate::controller::workqueue::{DirtySet, PACE, Requests, Requeue, Severity};
use crate::leader_election::term::Term;
use crate::telemetry::failure_log::FailureLog;
use crate::telemetry::metrics::{Metrics, SyncResult};
use crate::telemetry::watch_health::WatchHealth;
use crate::telemetry::watchdog::Watchdog;
use crate::timing::EXPECTATION;
use endpoint_copier_core::index::{Index, SharedIndex};
use endpoint_copier_core::model::WatchKind;
use endpoint_copier_core::model::{Finding, Intent, Priority, ServiceKey, ServiceState, Snapshot, ours};

mod behind;
mod decide;
mod expectations;
mod failing;
mod legacy;
mod lines;
mod read;
mod report;

use behind::Behind;
use decide::{Decision, Stop};
use expectations::{Expectations, Expected, Shown};
use failing::{Failing, Rank, after_refusals, passing, rank, report_failure};
use legacy::Legacy;
use lines::Lines;
use report::{is_mixed, report_write};

/// The pause after the removal of something was refused that the Go operator has left.
const REFUSED: Duration = Duration::from_secs(30);

/// What stops a sync, or a part of it, that needs a read.
const UNREAD: &str = "cannot read what decides";

/// How a sync ended, for the queue.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// When to work on the key again.
    pub again: Requeue,
    /// What it sent to the API server.
    pub requests: Requests,
}

/// Makes copies right, one managed Service at a time.
pub struct Reconciler {
    client: Client,
    writer: Writer,
    index: SharedIndex,
    dirty: DirtySet,
    metrics: Metrics,
    expectations: Expectations,
    recorder: EventRecorder,
    legacy: Legacy,
    failing: Failing,
    lines: Arc<Lines>,
    /// Limits the log of slices that a GET shows and that cannot be decoded.
    undecoded: FailureLog,
    watch_health: WatchHealth,
    service_watch: Behind,
    copy_watch: Behind,
}

impl Reconciler {
    /// A reconciler that reads and writes with `client` and reports findings through `recorder`. It puts keys
    /// that its reads make dirty into `dirty`. `watch_health` shows which watches may be late.
    #[must_use]
    pub fn new(
        client: Client,
        index: SharedIndex,
        dirty: DirtySet,
        watch_health: WatchHealth,
        metrics: Metrics,
        recorder: EventRecorder,
    ) -> Self {
        let writer = Writer::new(client.clone(), metrics.clone());
        let lines = Arc::<Lines>::default();
        Self {
            expectations: Expectations::new(metrics.clone(), lines.clone()),
            legacy: Legacy::new(client.clone(), writer.watchdog.clone()),
            failing: Failing::default(),
            lines,
            undecoded: FailureLog::new("decoding a slice that a GET shows"),
            writer,
            client,
            index,
            dirty,
            metrics,
            recorder,
            service_watch: Behind::new(WatchKind::Services, watch_health.clone()),
            copy_watch: Behind::new(WatchKind::Copies, watch_health.clone()),
            watch_health,
        }
    }

    /// Its steps: each call that was answered, or was not in time.
    pub fn watchdog(&self) -> &Watchdog {
        &self.writer.watchdog
    }

    /// Makes one Service's copies right. `since`: when it got dirty.
    pub async fn reconcile(&self, key: &ServiceKey, since: Instant, term: &Term) -> Outcome {
        let mut outcome = self.sync(key, since, term).await;
        for watch in [&self.service_watch, &self.copy_watch] {
            outcome.again = outcome.again.or_at(watch.check());
        }
        outcome
    }

    async fn sync(&self, key: &ServiceKey, since: Instant, term: &Term) -> Outcome {
        self.metrics.service_sync_begun(key);
        let mut has_read = false;
        let Decision {
            snapshot,
            mut plan,
            taken,
            put_off,
        } = match self.decide(key, &mut has_read).await {
            Ok(decision) => decision,
            Err(stop) => return self.stopped(key, stop, has_read),
        };
        let mut findings: BTreeSet<_> = plan.findings.iter().cloned().collect();
        let (endpoints, triggers) = (plan.endpoints, std::mem::take(&mut plan.triggers));
        let applied = self.writer.apply(term, &snapshot.service, plan).await;
        let legacy = match &snapshot.service {
            ServiceState::Managed(service) if applied.is_empty() => {
                self.legacy.remove(term, service, &snapshot).await
            }
            _ => Ok(None),
        };
        findings.extend(legacy.as_ref().ok().cloned().flatten());
        if applied.has_written() && applied.failures.is_empty() {
            let may_log = self.lines.may_log(key);
            report_write(key, may_log, since, &snapshot, endpoints, &applied);
            self.measure(since, term, &triggers);
        }
        if applied.has_created()
            && !snapshot
                .slices
                .iter()
                .any(|slice| ours(slice).as_ref() == Some(key))
        {
            self.recorder.made_first(key);
        }
        let is_right = applied.failures.is_empty() && put_off.is_none() && !findings.iter().any(is_mixed);
        let passing = passing(&applied);
        let requests = requests(has_read, &applied);
        let again = self.conclude(term, &snapshot, findings, taken, put_off.as_ref(), applied);
        let mut outcome = Outcome { again, requests };
        if is_right {
            self.tell_synced(term, &snapshot, endpoints);
        }
        match &legacy {
            Ok(None) => {}
            // No failure of the sync: the copies are right.
            Ok(Some(_)) => outcome.again = Requeue::At(Instant::now() + REFUSED),
            Err(unanswered) => outcome.again = Requeue::Later(unanswered.severity),
        }
        let put_off = put_off.and_then(|stop| match stop {
            Stop::Unread(unanswered) => Some(format!("{UNREAD}: {}", unanswered.error)),
            Stop::Wait(_) | Stop::Unlisted => None,
        });
        match passing
            .or(put_off)
            .or(legacy.err().map(|unanswered| unanswered.error))
        {
            Some(error) => self.failed(key, &error),
            None => self.failing.ended(key, self.priority(key)),
        }
        outcome
    }

    /// The term is over. Pending waits and findings are dropped: they concern the next leader. Knowledge
    /// about the cluster, backoffs and rate limits stay.
    pub fn forget(&self) {
        self.expectations.forget();
        self.failing.forget();
    }

    fn failed(&self, key: &ServiceKey, error: &str) {
        self.failing.failed(key, self.priority(key), error);
    }

    fn priority(&self, key: &ServiceKey) -> Priority {
        self.index().priority(key)
    }

    /// no client.
    fn stopped(&self, key: &ServiceKey, stop: Stop, has_read: bool) -> Outcome {
        let (result, again) = stop.ending();
        if let Stop::Unread(unanswered) = stop {
            self.failed(key, &format!("{UNREAD}: {}", unanswered.error));
        }
        self.expectations.sync_ended(key, &self.index(), result, None);
        let requests = requests(has_read, &Applied::default());
        Outcome { again, requests }
    }

    /// no client: what the writes, or their failures, mean for the key.
    fn conclude(
        &self,
        term: &Term,
        snapshot: &Snapshot,
        mut findings: BTreeSet<Finding>,
        taken: Expected,
        put_off: Option<&Stop>,
        applied: Applied,
    ) -> Requeue {
        let key = &snapshot.key;
        let (wrote, overload) = (applied.has_written(), applied.overload());
        let Applied {
            by_operation: _,
            mut expectations,
            failures,
        } = applied;
        findings.extend(failures.iter().filter_map(|failure| report_failure(key, failure)));
        let now = Instant::now();
        let until = if expectations.is_empty() {
            now
        } else {
            now + EXPECTATION
        };
        let due = (!expectations.is_empty()).then_some(until);
        let worst = failures.iter().map(|failure| rank(failure.kind)).max();
        // Everything else is done; the deletes wait for an answer.
        let stopped = match worst {
            None | Some(Rank::Silent | Rank::Refused) => put_off.map(Stop::ending),
            Some(Rank::Conflict | Rank::Passing | Rank::TermOver) => None,
        };
        let (result, again) = stopped.unwrap_or_else(|| match worst {
            None if wrote && !expectations.is_empty() => (SyncResult::Success, Requeue::At(until)),
            None if !taken.is_empty() => (SyncResult::Refused, Requeue::Later(Severity::Final)),
            None if refused(&snapshot.service) => (SyncResult::Refused, Requeue::WhenDirty),
            None => (SyncResult::Success, Requeue::WhenDirty),
            Some(Rank::Silent) => (SyncResult::Refused, Requeue::WhenDirty),
            Some(Rank::Conflict) => (SyncResult::Requeued, Requeue::Resume(until)),
            Some(Rank::Refused) => (SyncResult::Refused, after_refusals(&failures, due)),
            Some(Rank::Passing) => {
                let severity = overload.map_or(Severity::Passing, Severity::Overloaded);
                (SyncResult::Error, Requeue::Later(severity))
            }
            Some(Rank::TermOver) => (SyncResult::Requeued, Requeue::WhenDirty),
        });
        expectations.extend(taken);
        self.expectations.wait_for(key, expectations, until);
        let index = self.index();
        // What a conflict was about may be here already; then nothing will mark the key again.
        let again = match again {
            Requeue::Resume(_)
                if worst == Some(Rank::Conflict)
                    && matches!(self.expectations.compare(key, &index), Shown::All) =>
            {
                Requeue::Resume(now + PACE)
            }
            again => again,
        };
        let look_again = match &snapshot.service {
            ServiceState::Managed(service) => self.recorder.report(term, service, &findings),
            ServiceState::Absent | ServiceState::Unmanaged => {
                self.recorder.gone(key);
                self.legacy.gone(key);
                self.writer.gone(key);
                None
            }
        };
        self.expectations.sync_ended(key, &index, result, Some(findings));
        // A lasting finding is reported again although nothing changes.
        match again {
            Requeue::WhenDirty => again.or_at(look_again),
            again => again,
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }
}

/// A write that failed counts as a read: it changed nothing.
fn requests(has_read: bool, applied: &Applied) -> Requests {
    if applied.has_written() {
        Requests::Writes
    } else if has_read || !applied.is_empty() {
        Requests::Reads
    } else {
        Requests::None
    }
}

fn refused(service: &ServiceState) -> bool {
    matches!(service, ServiceState::Managed(service) if !matches!(service.intent, Intent::Copy(_)))
}
