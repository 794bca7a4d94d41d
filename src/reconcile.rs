//! One key: snapshot, plan, apply, outcome.
//!
//! After a write the key waits until the watch shows it, at most a second; then one GET decides.
//! So the next plan is never made from a view that is older than our own last write.
//!
//! Each step says whether it asks the API server (`client`) or only thinks (`no client`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::{Api, Client};
use parking_lot::MutexGuard;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::apply::{Applied, Echo, Writer};
use crate::decode::Guarded;
use crate::election::term::Term;
use crate::events::Herald;
use crate::index::{Index, SharedIndex};
use crate::metrics::{Metrics, SyncResult};
use crate::model::{
    EndpointSlice, Finding, Intent, Service, ServiceKey, ServiceState, SliceKey, Snapshot, ours,
};
use crate::plan::{Plan, plan};
use crate::progress::Progress;
use crate::queue::{Again, Inbox, PACE, Severity};

mod failing;
mod legacy;
mod memory;
mod read;
mod report;

use failing::{Failing, Rank, after_refusals, passing, rank, report_failure};
use legacy::Legacy;
use memory::{Echoes, Memory, Shown};
use report::report_write;

/// How long a write may take to show in the watch before a GET is made.
const ECHO: Duration = Duration::from_secs(1);

/// The pause after the removal of something was refused that the Go operator has left.
const REFUSED: Duration = Duration::from_secs(30);

/// The pause after a GET that the watch has overtaken.
const OVERTAKEN: Duration = Duration::from_millis(100);

/// What stops a sync, or a part of it, that needs a read.
const UNREAD: &str = "cannot read what decides";

/// How a sync ended, for the queue.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// When to work on the key again.
    pub again: Again,
    /// It changed something.
    pub wrote: bool,
}

/// Makes copies right, one managed Service at a time.
pub struct Reconciler {
    client: Client,
    writer: Writer,
    index: SharedIndex,
    inbox: Inbox,
    metrics: Metrics,
    memory: Memory,
    herald: Herald,
    legacy: Legacy,
    failing: Failing,
}

/// A plan that needs no more reads, and what it was made from.
struct Decision {
    snapshot: Snapshot,
    plan: Plan,
    /// Names of copies that turned out to be taken by slices which no watch of ours shows.
    taken: Echoes,
    /// Deletes are left out of the plan, since nobody has said that they are right: why.
    put_off: Option<String>,
}

/// What stops a sync before its end.
enum Stop {
    /// The watch has still time to show our last write.
    Wait(Instant),
    /// Too little is listed yet; the lists will mark the key again.
    Unlisted,
    /// A read failed.
    Unread(String),
}

impl Reconciler {
    /// A reconciler that reads and writes with `client`, and lets `herald` say what it finds. What its
    /// reads make dirty it leaves in `inbox`.
    #[must_use]
    pub fn new(client: Client, index: SharedIndex, inbox: Inbox, metrics: Metrics, herald: Herald) -> Self {
        let writer = Writer::new(client.clone(), metrics.clone());
        Self {
            memory: Memory::new(metrics.clone()),
            legacy: Legacy::new(client.clone(), writer.progress.clone()),
            failing: Failing::default(),
            writer,
            client,
            index,
            inbox,
            metrics,
            herald,
        }
    }

    /// Its steps: each call that was answered, or was not in time.
    pub fn progress(&self) -> &Progress {
        &self.writer.progress
    }

    /// Makes one Service's copies right. `since`: when it got dirty.
    pub async fn reconcile(&self, key: &ServiceKey, since: Instant, term: &Term) -> Outcome {
        self.metrics.service_sync_begun(key);
        let Decision {
            snapshot,
            mut plan,
            taken,
            put_off,
        } = match self.decide(key).await {
            Ok(decision) => decision,
            Err(stop) => return self.stopped(key, stop),
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
            report_write(key, since, &snapshot, endpoints, &applied);
            self.measure(since, term, &triggers);
            if put_off.is_none() {
                self.tell_synced(term, &snapshot, endpoints, &findings);
            }
        }
        let passing = passing(&applied);
        let mut outcome = self.conclude(term, &snapshot, findings, taken, put_off.is_some(), applied);
        match legacy {
            Ok(None) => {}
            // No failure of the sync: the copies are right.
            Ok(Some(_)) => outcome.again = Again::At(Instant::now() + REFUSED),
            Err(_) => outcome.again = Again::Later(Severity::Passing),
        }
        let put_off = put_off.map(|error| format!("{UNREAD}: {error}"));
        match passing.or(put_off).or(legacy.err()) {
            Some(error) => self.failing.failed(key, &error),
            None => self.failing.ended(key),
        }
        outcome
    }

    /// The term is over: what the leader remembers is worth nothing to a later one.
    pub fn forget(&self) {
        self.memory.forget();
        self.failing.forget();
        self.herald.forget();
        self.legacy.forget();
        self.writer.forget();
    }

    /// client: only where the watch is late or in doubt.
    async fn decide(&self, key: &ServiceKey) -> Result<Decision, Stop> {
        let found = self.overdue(key).await?;
        let mut confirmed = BTreeSet::new();
        loop {
            let mut snapshot = self.index().snapshot(key).ok_or(Stop::Unlisted)?;
            snapshot.confirmed.clone_from(&confirmed);
            let unseen = |slice: &&Arc<EndpointSlice>| {
                let uid = &slice.metadata.uid;
                !snapshot.slices.iter().any(|seen| seen.metadata.uid == *uid)
            };
            let unseen: Vec<_> = found.iter().filter(unseen).cloned().collect();
            let taken = unseen
                .iter()
                .map(|slice| (SliceKey::of(&slice.metadata), Echo::Exists))
                .collect();
            snapshot.slices.extend(unseen);
            let mut plan = plan(&snapshot);
            if plan.confirm.is_empty() {
                let put_off = self.confirm_service(&snapshot, &mut plan).await?;
                return Ok(Decision {
                    snapshot,
                    plan,
                    taken,
                    put_off,
                });
            }
            for source in plan.confirm {
                debug!(service = %key, slice = %source, "a copy claims to be newer than its source looks: asking");
                self.read(&source).await?;
                confirmed.insert(source);
            }
        }
    }

    /// client: before slices go, a GET says that their Service is still as it looks: not there, not managed, or not
    /// wanting them. A new leader's view of Services may be older than its view of copies. Where nobody answers, the
    /// rest of the plan is carried out, and the deletes are planned again after it: then this says why.
    async fn confirm_service(&self, snapshot: &Snapshot, plan: &mut Plan) -> Result<Option<String>, Stop> {
        if plan.deletes.is_empty() && plan.leftovers.is_empty() {
            return Ok(None);
        }
        let api: Api<Guarded<Service>> = Api::namespaced(self.client.clone(), snapshot.key.namespace());
        let service = match read::object(&api, snapshot.key.name(), self.progress()).await {
            Ok(service) => service,
            Err(Stop::Unread(error)) if !(plan.creates.is_empty() && plan.updates.is_empty()) => {
                plan.deletes.clear();
                plan.leftovers.clear();
                return Ok(Some(error));
            }
            Err(stop) => return Err(stop),
        };
        let is_now = match service.map(|service| service.object).transpose() {
            Ok(service) => service.and_then(|service| self.index().as_managed(&service)),
            Err(unreadable) => {
                return Err(Stop::Unread(format!(
                    "the Service cannot be decoded: {}",
                    unreadable.error
                )));
            }
        };
        let seen = match &snapshot.service {
            ServiceState::Managed(service) => Some(&**service),
            ServiceState::Absent | ServiceState::Unmanaged => None,
        };
        if is_now.as_ref() != seen {
            return Err(Stop::Wait(Instant::now() + ECHO));
        }
        Ok(None)
    }

    /// client: a GET for each write that the watch has not shown in time. Answers the slices that are
    /// not ours where a copy was to be.
    async fn overdue(&self, key: &ServiceKey) -> Result<Vec<Arc<EndpointSlice>>, Stop> {
        let shown = self.memory.compare(key, &self.index());
        let overdue = match shown {
            Shown::All => return Ok(Vec::new()),
            Shown::Wait(until) => return Err(Stop::Wait(until)),
            Shown::Overdue(echoes) => echoes,
        };
        let mut strangers = Vec::new();
        for (slice, _) in overdue {
            let found = self.read(&slice).await?;
            strangers.extend(
                found
                    .filter(|found| ours(found).as_ref() != Some(key))
                    .map(Arc::new),
            );
        }
        self.memory.wait_for(key, Vec::new(), Instant::now());
        Ok(strangers)
    }

    /// One consistent GET of a slice, put into the index. Whatever else depends on it is dirty: the
    /// watch will have no news of it.
    async fn read(&self, key: &SliceKey) -> Result<Option<EndpointSlice>, Stop> {
        let before = self.index().state(key);
        let api: Api<Guarded<EndpointSlice>> = Api::namespaced(self.client.clone(), key.namespace());
        let found = read::object(&api, key.name(), self.progress()).await?;
        let found = match found.map(|found| found.object).transpose() {
            Ok(found) => found,
            Err(unreadable) => {
                // It counts as unchanged, so there is nothing to observe.
                warn!(slice = %key, error = unreadable.error, "an EndpointSlice cannot be decoded");
                self.index().observe_unreadable(&unreadable);
                return Ok(None);
            }
        };
        let Some(dirty) = self.index().observe(key, &before, found.clone()) else {
            return Err(Stop::Wait(Instant::now() + OVERTAKEN));
        };
        self.inbox.mark(dirty);
        Ok(found)
    }

    /// no client.
    fn stopped(&self, key: &ServiceKey, stop: Stop) -> Outcome {
        let (result, again) = match stop {
            Stop::Wait(until) => (SyncResult::Requeued, Again::Resume(until)),
            Stop::Unlisted => (SyncResult::Requeued, Again::WhenDirty),
            Stop::Unread(error) => {
                self.failing.failed(key, &format!("{UNREAD}: {error}"));
                (SyncResult::Error, Again::Later(Severity::Passing))
            }
        };
        self.memory.sync_ended(key, &self.index(), result, None);
        Outcome { again, wrote: false }
    }

    /// no client: what the writes, or their failures, mean for the key.
    fn conclude(
        &self,
        term: &Term,
        snapshot: &Snapshot,
        mut findings: BTreeSet<Finding>,
        taken: Echoes,
        puts_off: bool,
        applied: Applied,
    ) -> Outcome {
        let key = &snapshot.key;
        let wrote = applied.has_written();
        let Applied {
            by_operation: _,
            mut echoes,
            failures,
        } = applied;
        findings.extend(failures.iter().filter_map(|failure| report_failure(key, failure)));
        let now = Instant::now();
        let until = if echoes.is_empty() { now } else { now + ECHO };
        let due = (!echoes.is_empty()).then_some(until);
        let worst = failures.iter().map(|failure| rank(failure.kind)).max();
        let (result, again) = match worst {
            // The rest was done as far as it could be; what is left waits for an answer.
            None | Some(Rank::Silent | Rank::Refused) if puts_off => {
                (SyncResult::Error, Again::Later(Severity::Passing))
            }
            None if wrote && !echoes.is_empty() => (SyncResult::Success, Again::At(until)),
            None if !taken.is_empty() => (SyncResult::Refused, Again::Later(Severity::Final)),
            None if refused(&snapshot.service) => (SyncResult::Refused, Again::WhenDirty),
            None => (SyncResult::Success, Again::WhenDirty),
            Some(Rank::Silent) => (SyncResult::Refused, Again::WhenDirty),
            Some(Rank::Conflict) => (SyncResult::Requeued, Again::Resume(until)),
            Some(Rank::Refused) => (SyncResult::Refused, after_refusals(&failures, due)),
            Some(Rank::Passing) => (SyncResult::Error, Again::Later(Severity::Passing)),
            Some(Rank::TermOver) => (SyncResult::Requeued, Again::WhenDirty),
        };
        echoes.extend(taken);
        self.memory.wait_for(key, echoes, until);
        let index = self.index();
        // What a conflict was about may be here already; then nothing will mark the key again.
        let again = match again {
            Again::Resume(_)
                if worst == Some(Rank::Conflict)
                    && matches!(self.memory.compare(key, &index), Shown::All) =>
            {
                Again::Resume(now + PACE)
            }
            again => again,
        };
        let look_again = match &snapshot.service {
            ServiceState::Managed(service) => self.herald.report(term, service, &findings),
            ServiceState::Absent | ServiceState::Unmanaged => {
                self.herald.gone(key);
                self.legacy.gone(key);
                self.writer.gone(key);
                None
            }
        };
        self.memory.sync_ended(key, &index, result, Some(findings));
        Outcome {
            again: match (again, look_again) {
                // What lasts is said again, though nothing changes.
                (Again::WhenDirty, Some(moment)) => Again::At(moment),
                (again, _) => again,
            },
            wrote,
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }
}

fn refused(service: &ServiceState) -> bool {
    matches!(service, ServiceState::Managed(service) if !matches!(service.intent, Intent::Copy(_)))
}
