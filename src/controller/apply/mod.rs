//! Carries out a plan as API calls, under a [`Term`].
//!
//! A create is a POST, which fails if the name is taken. An update is a PUT with the resourceVersion and UID that were
//! seen. A delete has both as preconditions. So a late write from a former leader cannot overwrite or delete a newer
//! state.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Request;
use kube::Client;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::controller::error::SyncError;
use crate::leader_election::term::{Term, TermOver};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::watchdog::Watchdog;
use crate::timing::WRITE_LIMIT;
use endpoint_copier_core::model::{
    EndpointSlice, Finding, ManagedService, Operation, ServiceKey, SliceKey, Snapshot, version_of,
};
use endpoint_copier_core::plan::{Delete, Plan};

mod applied;
mod attempts;
mod contests;
mod request;
mod send;

pub use applied::{Applied, Expectation};
use attempts::Attempts;
use contests::Contests;
pub(super) use request::as_seen;
pub(super) use send::{Written, send};

/// Writes EndpointSlices.
pub struct Writer {
    client: Client,
    metrics: Metrics,
    attempts: Mutex<Attempts>,
    contests: Mutex<Contests>,
    pub(crate) watchdog: Watchdog, // The end of each call counts as progress, even if the call failed.
}

impl Writer {
    /// Creates a writer that uses this client.
    #[must_use]
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self {
            client,
            metrics,
            attempts: Mutex::default(),
            contests: Mutex::default(),
            watchdog: Watchdog::default(),
        }
    }

    /// Forgets a Service that is neither managed nor disabled.
    pub fn gone(&self, service: &ServiceKey) {
        self.attempts.lock().gone(service);
        self.contests.lock().gone(service);
    }

    /// Whether this replica has written this copy of a Service in this term.
    pub fn has_written(&self, service: &ServiceKey, copy: &SliceKey) -> bool {
        self.contests.lock().has_written(service, copy)
    }

    /// Forgets those copies of a Service that neither exist nor are created by the plan.
    pub fn prune(&self, snapshot: &Snapshot, plan: &Plan) {
        let created: BTreeSet<_> = plan.creates.iter().map(EndpointSlice::key).collect();
        let is_kept = |copy: &SliceKey| snapshot.copies.contains_key(copy) || created.contains(copy);
        self.contests.lock().retain(&snapshot.key, is_kept);
    }

    /// Forgets the writes of a term that has ended.
    pub fn forget(&self) {
        self.contests.lock().forget();
    }

    /// Returns the finding for a Service whose copies somebody else keeps writing, and when to check the Service again.
    pub fn contested(&self, service: &ServiceKey) -> Option<(Finding, Instant)> {
        self.contests.lock().finding(service, Instant::now())
    }

    /// Carries out the plan for a Service in this order: deletes of copies for which consent is missing, creates,
    /// updates, deletes of other copies, and deletes of leftovers of the Go operator. Among the updates, those that
    /// take endpoints out follow those that do not, and those that empty copies come last. A contested copy that serves
    /// clients as planned may be left for later; see [`Writer::contested`].
    ///
    /// After any failure, leftovers are not deleted. After a failure other than a refusal:
    /// - No update takes out another endpoint. After a conflict, the endpoints that the plan relies on may be gone.
    ///   After a write without a response, the plan may be out of date.
    /// - If the failure occurs before the updates that empty copies, these updates and the deletes of other copies are
    ///   not sent.
    pub async fn apply(&self, term: &Term, service: Option<&Arc<ManagedService>>, plan: Plan) -> Applied {
        let Plan {
            withdrawn,
            creates,
            updates,
            deletes,
            leftovers,
            taken_out,
            returned,
            cosmetic,
            ..
        } = plan;
        let key = service.map(|service| &service.key);
        let mut applied = Applied::default();
        self.delete(term, key, withdrawn, &mut applied).await;
        let now = Instant::now();
        let is_abandoned = service.is_some_and(|service| self.attempts.lock().is_abandoned(service, now));
        for slice in creates {
            if is_abandoned {
                applied.fail(SyncError::NamespaceTerminating {
                    operation: Operation::Create,
                    slice: slice.key(),
                });
            } else if self.write(term, key, &slice, &mut applied).await {
                applied.written(&slice, &taken_out, &returned);
            }
        }
        let is_terminating = |error: &SyncError| matches!(error, SyncError::NamespaceTerminating { .. });
        if let Some(service) = service
            && !is_abandoned
            && applied.failures.iter().any(is_terminating)
        {
            self.attempts.lock().abandon(service, now);
        }
        let must_wait = |slice: &EndpointSlice| {
            let (contests, copy) = (self.contests.lock(), slice.key());
            let may_repair = |key| contests.may_repair(key, &copy, Instant::now());
            cosmetic.contains(&copy) && !key.is_none_or(may_repair)
        };
        let (later, updates): (Vec<_>, Vec<_>) = updates.into_iter().partition(must_wait);
        applied.leaves_repairs = !later.is_empty();
        let (emptied, mut updates): (Vec<_>, Vec<_>) = updates.into_iter().partition(EndpointSlice::is_empty);
        let takes_out = |slice: &EndpointSlice| {
            let out = slice.unreachable();
            out.iter().any(|address| taken_out.contains_key(address))
        };
        // If one endpoint is put back because another is taken out, it returns before the other is out.
        updates.sort_by_key(takes_out);
        for slice in updates {
            // The failure that holds an update back also causes a new plan.
            let is_held_back = applied.has_failed() && takes_out(&slice);
            if !is_held_back && self.write(term, key, &slice, &mut applied).await {
                applied.written(&slice, &taken_out, &returned);
            }
        }
        if !applied.has_failed() {
            for slice in emptied {
                self.write(term, key, &slice, &mut applied).await;
            }
            self.delete(term, key, deletes, &mut applied).await;
        }
        if applied.failures.is_empty() {
            self.delete(term, key, leftovers, &mut applied).await;
        }
        applied
    }

    /// Creates a slice or, if `slice` has the resourceVersion of an existing one, replaces that one. Returns whether
    /// the write succeeded.
    async fn write(
        &self,
        term: &Term,
        service: Option<&ServiceKey>,
        slice: &EndpointSlice,
        applied: &mut Applied,
    ) -> bool {
        // The next plan contains the rest.
        if applied.is_overloaded() {
            return false;
        }
        let key = slice.key();
        let (operation, request, seen) = if slice.metadata.resource_version.is_none() {
            (Operation::Create, request::create(slice), Expectation::Exists)
        } else {
            let seen = version_of(&slice.metadata).unwrap_or(0);
            (
                Operation::Update,
                request::update(slice),
                Expectation::NewerThan(seen),
            )
        };
        let now = Instant::now();
        let waits = self.attempts.lock().waits(operation, slice, now);
        let waits = waits.or_else(|| self.contests.lock().waits(service?, slice, now));
        if let Some((until, message)) = waits {
            applied.fail(SyncError::Refused {
                operation,
                slice: key,
                message,
                is_forbidden: false,
                retry_at: Some(until),
            });
            return false;
        }
        let mut answer = self.send(term, operation, &key, request).await;
        if let (Some(before), Ok(written)) = (version_of(&slice.metadata), &answer)
            && written.version() == Some(before)
        {
            answer = Err(SyncError::reverted(&key));
        }
        let now = Instant::now();
        self.attempts.lock().answered(operation, slice, &mut answer, now);
        if let (Ok(written), Some(service)) = (&answer, service) {
            self.contests.lock().wrote(service, slice, written.version(), now);
        }
        let expectation = answer.map(|written| written.version().map(Expectation::Version));
        let is_written = expectation.is_ok();
        self.record(operation, key, expectation, seen, applied);
        is_written
    }

    async fn delete(
        &self,
        term: &Term,
        service: Option<&ServiceKey>,
        deletes: Vec<Delete>,
        applied: &mut Applied,
    ) {
        for delete in deletes {
            if applied.is_overloaded() {
                return;
            }
            let request = request::delete(&delete);
            let answer = self.send(term, Operation::Delete, &delete.key, request).await;
            if let (Ok(_), Some(service)) = (&answer, service) {
                self.contests.lock().deleted(service, &delete.key);
            }
            let expectation = answer.map(|left| {
                let remains = left.version().filter(|_| left.is_being_deleted());
                Some(remains.map_or(Expectation::Gone(delete.uid), Expectation::Version))
            });
            let seen = Expectation::NewerThan(delete.resource_version.parse().unwrap_or(0));
            self.record(Operation::Delete, delete.key, expectation, seen, applied);
        }
    }

    /// Sends one write if the term allows it, and waits for the response.
    async fn send(
        &self,
        term: &Term,
        operation: Operation,
        slice: &SliceKey,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Written, SyncError> {
        let failed = |error: &kube::Error| SyncError::write(operation, slice, error);
        let request = request.map_err(|error| failed(&kube::Error::BuildRequest(error)))?;
        let answer = send(&self.client, &self.watchdog, term, WRITE_LIMIT, request).await;
        let answer = answer.map_err(|TermOver| SyncError::TermOver)?;
        answer.map_err(|error| failed(&error))
    }

    /// Records the result of a write. `expectation` is what the watch will show after a successful write, and `seen` is
    /// what it will show after a conflict.
    fn record(
        &self,
        operation: Operation,
        key: SliceKey,
        expectation: Result<Option<Expectation>, SyncError>,
        seen: Expectation,
        applied: &mut Applied,
    ) {
        match expectation {
            Ok(expectation) => {
                self.metrics.slice_changed(operation);
                applied.by_operation[operation as usize] += 1;
                applied
                    .expectations
                    .extend(expectation.map(|expectation| (key, expectation)));
            }
            Err(error) => {
                if matches!(error, SyncError::Conflict { .. }) {
                    applied.expectations.push((key, seen));
                }
                applied.fail(error);
            }
        }
    }
}

#[cfg(test)]
mod tests;
