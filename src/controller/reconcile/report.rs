//! Reports the result of a sync: log lines, the time since the change, the condition, and the `Synced` Event.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Reconciler;
use crate::controller::apply::Applied;
use crate::leader_election::term::Term;
use endpoint_copier_core::model::{Condition, EndpointCounts, Finding, Reason, Snapshot};

impl Reconciler {
    /// Records how long ago the change arrived and, from `triggers`, how long ago the events that caused it occurred.
    pub(super) fn measure(&self, since: Instant, term: &Term, triggers: &[String]) {
        // The age of changes that a new leader finds is unknown.
        if since > term.began() {
            self.metrics.observe_propagation(since.elapsed());
        }
        for trigger in triggers
            .iter()
            .filter_map(|trigger| trigger.parse::<Timestamp>().ok())
        {
            let took = Timestamp::now().duration_since(trigger);
            // The clock of the source may be ahead of ours.
            let took = Duration::try_from(took).unwrap_or_default();
            self.metrics.observe_trigger_propagation(took);
        }
    }

    /// Reports the condition of a Service. `is_done` says whether nothing is left to write.
    pub(super) fn report_condition(&self, snapshot: &Snapshot, is_done: bool, findings: &BTreeSet<Finding>) {
        if let Some(conditions) = &self.conditions {
            let is_managed = snapshot.service.as_ref().is_some_and(|it| it.is_managed());
            let condition = is_managed.then(|| Condition::decided(is_done, findings));
            conditions.decided(&snapshot.key, condition);
        }
    }

    /// Sends a `Synced` Event if one is due. Call this only while the copies are in sync and no finding rules out the
    /// Event.
    pub(super) fn report_synced(
        &self,
        term: &Term,
        snapshot: &Snapshot,
        endpoints: usize,
    ) -> Option<Instant> {
        let (service, source) = (snapshot.service.as_ref()?, snapshot.source.as_ref()?);
        self.recorder.synced(term, service, || {
            let plural = if endpoints == 1 { "" } else { "s" };
            format!(
                "the copies are in sync with {}: {endpoints} endpoint{plural}",
                source.key
            )
        })
    }

    /// Logs the API servers that a sync took out of the copies, and those that it put back. Other writes of the sync
    /// may have failed.
    pub(super) fn log_verdicts(&self, snapshot: &Snapshot, applied: &Applied) {
        let key = &snapshot.key;
        let slices = || snapshot.source.iter().flat_map(|source| source.slices.values());
        let is_listed =
            |address: &IpAddr| slices().any(|slice| slice.addresses().any(|listed| listed == *address));
        for (address, why) in &applied.taken_out {
            self.metrics.probes().endpoint_removed();
            // The source never lists an address that comes from a Node.
            let what = if is_listed(address) { "it" } else { "its server" };
            warn!(service = %key, "took {address} out of {key}: {why}; the source still lists {what}");
        }
        for address in &applied.returned {
            info!(service = %key, "put {address} back into {key}");
        }
    }

    /// Logs a sync that wrote copies, at debug level if the Service has no log budget left.
    pub(super) fn log_write(&self, since: Instant, snapshot: &Snapshot, endpoints: usize, applied: &Applied) {
        let key = &snapshot.key;
        if !self.log_budgets.lock().spend(key.clone(), Instant::now()) {
            debug!(service = %key, "copies written");
            return;
        }
        let took = since.elapsed();
        let [created, updated, deleted] = applied.by_operation;
        let before = EndpointCounts::of(snapshot.copies.values().map(AsRef::as_ref)).total();
        info!(
            service = %key,
            source = snapshot.source.as_ref().map(|source| tracing::field::display(&source.key)),
            before,
            endpoints,
            created,
            updated,
            deleted,
            ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "copies written"
        );
    }
}

/// Whether a finding rules out a `Synced` Event.
pub(super) fn rules_out_synced(finding: &Finding) -> bool {
    finding.reason.leaves_undone()
        || matches!(
            finding.reason,
            Reason::SourceEmptyHeld | Reason::SourceNotFound | Reason::OtherInstallation
        )
}
