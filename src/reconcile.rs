//! One key: snapshot, plan, apply, outcome.
//!
//! After a write the key waits until the watch shows it, at most a second; then one GET decides.
//! So the next plan is never made from a view that is older than our own last write.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::apply::{Applied, Echo, Kind, Writer};
use crate::election::term::Term;
use crate::index::{Index, SharedIndex};
use crate::metrics::{Metrics, SyncResult};
use crate::model::{Finding, Intent, Reason, ServiceKey, ServiceState, SliceKey, Snapshot, ours};
use crate::plan::{Plan, plan};
use crate::queue::{Again, Severity};

/// How long a write may take to show in the watch before a GET is made.
const ECHO: Duration = Duration::from_secs(1);

/// Time limit of a GET.
const READ: Duration = Duration::from_secs(5);

/// How a sync ended, for the queue.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// When to work on the key again.
    pub again: Again,
    /// It changed something.
    pub wrote: bool,
}

/// What the leader remembers of a key between two syncs.
#[derive(Debug, Default)]
struct Memory {
    /// Writes that the watch has not shown yet, and until when to wait for it.
    echoes: Vec<(SliceKey, Echo)>,
    until: Option<Instant>,
    findings: BTreeSet<Finding>,
}

/// Makes copies right, one managed Service at a time.
pub struct Reconciler {
    client: Client,
    writer: Writer,
    index: SharedIndex,
    metrics: Metrics,
    memory: Mutex<HashMap<ServiceKey, Memory>>,
    in_sync: Mutex<HashSet<ServiceKey>>,
}

/// What stops a sync before its end.
enum Stop {
    /// The watch has still time to show our last write.
    Wait(Instant),
    /// Too little is listed yet; the lists will mark the key again.
    Unlisted,
    /// A read failed.
    Unread(String),
    /// The name of a copy belongs to a slice that is not ours.
    Taken(Finding),
}

impl Reconciler {
    /// A reconciler that reads and writes with `client`.
    #[must_use]
    pub fn new(client: Client, index: SharedIndex, metrics: Metrics) -> Self {
        let writer = Writer::new(client.clone(), metrics.clone());
        Self {
            client,
            writer,
            index,
            metrics,
            memory: Mutex::default(),
            in_sync: Mutex::default(),
        }
    }

    /// Makes one Service's copies right. `since`: when it got dirty.
    pub async fn reconcile(&self, key: &ServiceKey, since: Instant, term: &Term) -> Outcome {
        let (snapshot, plan) = match self.decide(key).await {
            Ok(decided) => decided,
            Err(stop) => return self.stopped(key, stop),
        };
        let findings = plan.findings.iter().cloned().collect();
        let applied = self.writer.apply(term, plan).await;
        self.conclude(key, since, &snapshot, findings, applied)
    }

    /// client: only where the watch is late or in doubt. The plan that comes out needs no more reads.
    async fn decide(&self, key: &ServiceKey) -> Result<(Snapshot, Plan), Stop> {
        self.await_echoes(key).await?;
        let mut confirmed = BTreeSet::new();
        loop {
            let mut snapshot = self.index().snapshot(key).ok_or(Stop::Unlisted)?;
            snapshot.confirmed.clone_from(&confirmed);
            let plan = plan(&snapshot);
            if plan.confirm.is_empty() {
                return Ok((snapshot, plan));
            }
            for source in plan.confirm {
                debug!(service = %key, slice = %source, "a copy claims to be newer than its source looks: asking");
                self.read(&source).await?;
                confirmed.insert(source);
            }
        }
    }

    /// client: a GET for each write that the watch has not shown in time.
    async fn await_echoes(&self, key: &ServiceKey) -> Result<(), Stop> {
        let unshown = {
            let index = self.index();
            let mut memory = self.memory.lock();
            let Some(memory) = memory.get_mut(key) else {
                return Ok(());
            };
            memory
                .echoes
                .retain(|(slice, echo)| !echo.is_shown(index.slice(slice).map(AsRef::as_ref)));
            match memory.until {
                Some(until) if !memory.echoes.is_empty() && Instant::now() < until => {
                    return Err(Stop::Wait(until));
                }
                _ => memory.echoes.clone(),
            }
        };
        for (slice, echo) in unshown {
            let found = self.read(&slice).await?;
            if echo == Echo::Exists && found.is_some_and(|found| ours(&found).as_ref() != Some(key)) {
                return Err(Stop::Taken(Finding::new(
                    Reason::NameTaken,
                    format!(
                        "EndpointSlice {} is not ours and has the name of a copy; rename or delete it",
                        slice.name()
                    ),
                )));
            }
        }
        if let Some(memory) = self.memory.lock().get_mut(key) {
            memory.echoes.clear();
        }
        Ok(())
    }

    /// One consistent GET of a slice, put into the index.
    async fn read(&self, key: &SliceKey) -> Result<Option<EndpointSlice>, Stop> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), key.namespace());
        let found = match timeout(READ, api.get_opt(key.name())).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(Stop::Unread(error.to_string())),
            Err(_) => return Err(Stop::Unread(format!("no answer within {READ:?}"))),
        };
        self.index().observe(key, found.clone());
        Ok(found)
    }

    /// no client.
    fn stopped(&self, key: &ServiceKey, stop: Stop) -> Outcome {
        let again = match stop {
            Stop::Wait(until) => Again::At(until),
            Stop::Unlisted => Again::WhenDirty,
            Stop::Unread(error) => {
                warn!(service = %key, error, "cannot read an EndpointSlice");
                self.sync_ended(key, SyncResult::Error, None);
                return Outcome {
                    again: Again::Later(Severity::Passing),
                    wrote: false,
                };
            }
            Stop::Taken(finding) => {
                self.sync_ended(key, SyncResult::Refused, Some(BTreeSet::from([finding])));
                return Outcome {
                    again: Again::Later(Severity::Final),
                    wrote: false,
                };
            }
        };
        self.metrics.sync_finished(SyncResult::Requeued);
        Outcome { again, wrote: false }
    }

    /// no client: what the writes, or their failures, mean for the key.
    fn conclude(
        &self,
        key: &ServiceKey,
        since: Instant,
        snapshot: &Snapshot,
        mut findings: BTreeSet<Finding>,
        applied: Applied,
    ) -> Outcome {
        let Applied {
            written,
            echoes,
            failures,
        } = applied;
        let until = Instant::now() + ECHO;
        let waits = !echoes.is_empty();
        let mut worst = None;
        for failure in &failures {
            worst = worst.max(Some(rank(failure.kind)));
            match failure.kind {
                Kind::TermOver => {}
                Kind::Conflict => {
                    debug!(slice = %failure.key, operation = failure.operation.as_str(), "conflict: looking again")
                }
                Kind::Passing => {
                    warn!(service = %key, slice = %failure.key, operation = failure.operation.as_str(), error = failure.message, "write failed, will be tried again");
                }
                Kind::NamespaceTerminating => debug!(service = %key, "the namespace is being deleted"),
                Kind::Refused => {
                    findings.insert(Finding::new(
                        Reason::WriteRefused,
                        format!(
                            "the API server refuses to {} EndpointSlice {}: {}",
                            failure.operation.as_str(),
                            failure.key.name(),
                            failure.message
                        ),
                    ));
                }
            }
        }
        let (result, again) = match worst {
            None if written > 0 => {
                self.report_write(key, since, snapshot, written);
                (
                    SyncResult::Success,
                    if waits { Again::At(until) } else { Again::WhenDirty },
                )
            }
            None if refused(&snapshot.service) => (SyncResult::Refused, Again::WhenDirty),
            None => (SyncResult::Success, Again::WhenDirty),
            Some(Rank::Silent) => (SyncResult::Refused, Again::WhenDirty),
            Some(Rank::Conflict) => (SyncResult::Requeued, Again::At(until)),
            Some(Rank::Refused) => (SyncResult::Refused, Again::Later(Severity::Final)),
            Some(Rank::Passing) => (SyncResult::Error, Again::Later(Severity::Passing)),
            Some(Rank::TermOver) => (SyncResult::Requeued, Again::WhenDirty),
        };
        {
            let mut memory = self.memory.lock();
            let memory = memory.entry(key.clone()).or_default();
            memory.echoes = echoes;
            memory.until = Some(until);
        }
        self.sync_ended(key, result, Some(findings));
        if matches!(snapshot.service, ServiceState::Absent | ServiceState::Unmanaged)
            && !waits
            && failures.is_empty()
        {
            self.memory.lock().remove(key);
        }
        Outcome {
            again,
            wrote: written > 0,
        }
    }

    fn report_write(&self, key: &ServiceKey, since: Instant, snapshot: &Snapshot, written: usize) {
        let took = since.elapsed();
        self.metrics.observe_propagation(took);
        let source = snapshot.source.as_ref();
        let endpoints: usize = source
            .iter()
            .flat_map(|source| &source.slices)
            .map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len))
            .sum();
        info!(
            service = %key,
            source = source.map(|source| source.key.to_string()),
            endpoints,
            writes = written,
            ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "copies written"
        );
    }

    /// no client: metrics, and a log line for each finding that appears or goes.
    fn sync_ended(&self, key: &ServiceKey, result: SyncResult, findings: Option<BTreeSet<Finding>>) {
        self.metrics.sync_finished(result);
        if let Some(findings) = findings {
            self.report_findings(key, findings);
        }
        let mut in_sync = self.in_sync.lock();
        let (managed, count) = {
            let index = self.index();
            // A conflict or a wait says nothing new.
            match result {
                SyncResult::Success if index.is_managed(key) => _ = in_sync.insert(key.clone()),
                SyncResult::Requeued => {}
                SyncResult::Success | SyncResult::Error | SyncResult::Refused => _ = in_sync.remove(key),
            }
            (index.managed().count(), in_sync.len())
        };
        self.metrics.set_services(managed, count);
    }

    fn report_findings(&self, key: &ServiceKey, findings: BTreeSet<Finding>) {
        let mut memories = self.memory.lock();
        let memory = memories.entry(key.clone()).or_default();
        for finding in findings.difference(&memory.findings) {
            warn!(service = %key, reason = %finding.reason, "{}", finding.note);
        }
        for finding in memory.findings.difference(&findings) {
            if !findings.iter().any(|other| other.reason == finding.reason) {
                info!(service = %key, reason = %finding.reason, "no longer so");
            }
        }
        if memory.findings == findings {
            return;
        }
        memory.findings = findings;
        let mut counts = BTreeMap::new();
        for finding in memories.values().flat_map(|memory| &memory.findings) {
            *counts.entry(finding.reason.as_str()).or_insert(0) += 1;
        }
        self.metrics.set_findings(&counts);
    }

    /// The term is over: what the leader remembers is worth nothing to a later one.
    pub fn forget(&self) {
        self.memory.lock().clear();
        self.in_sync.lock().clear();
        self.metrics.set_services(0, 0);
        self.metrics.set_findings(&BTreeMap::new());
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }
}

fn refused(service: &ServiceState) -> bool {
    matches!(service, ServiceState::Managed(service) if !matches!(service.intent, Intent::Copy(_)))
}

/// Failures by how much they decide about the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Silent,
    Conflict,
    Refused,
    Passing,
    TermOver,
}

fn rank(kind: Kind) -> Rank {
    match kind {
        Kind::NamespaceTerminating => Rank::Silent,
        Kind::Conflict => Rank::Conflict,
        Kind::Refused => Rank::Refused,
        Kind::Passing => Rank::Passing,
        Kind::TermOver => Rank::TermOver,
    }
}
