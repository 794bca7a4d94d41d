//! Probes the API servers that copies of `default/kubernetes` list or should list.
//!
//! ```text
//!     index ──> targets ──> a task for each ──> Targets ──> Report ──> dirty Services ──> plan
//! ```
//!
//! Kubernetes keeps listing a dead API server in `default/kubernetes` for 7 to 38 s. Every replica probes, so that a
//! new leader has its own results from the start. The plan decides what to do about the report.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures::future::{AbortHandle, abortable};
use futures::stream::{FuturesUnordered, StreamExt as _};

use endpoint_copier_core::model::ServiceKey;
use endpoint_copier_core::verdicts::Target;

mod objections;
pub mod probing;
mod shared;
mod target_task;

pub use shared::OnUnhealthy;
use shared::Probes;
use target_task::TargetTask;

impl Probes {
    /// Probes these API servers until the future is dropped.
    async fn run(self) {
        tokio::select! {
            biased;
            () = self.follow_index() => {}
            () = self.follow_terms_and_time() => {}
        }
    }

    async fn follow_index(&self) {
        let mut marks = self.wiring().dirty.marks();
        // The tasks are part of this future, so they stop with it.
        let mut tasks = FuturesUnordered::new();
        let mut handles: BTreeMap<Target, AbortHandle> = BTreeMap::new();
        let (mut seen, mut https) = (None, BTreeSet::new());
        let anchor = self.anchor();
        loop {
            let before = handles.keys().copied().collect();
            if let Some((targets, taken_out)) = self.changed_targets(&before, &mut seen, &mut https) {
                self.list(&targets, taken_out);
                handles.retain(|target, task| {
                    let is_listed = targets.contains(target);
                    if !is_listed {
                        task.abort();
                    }
                    is_listed
                });
                for target in targets {
                    handles.entry(target).or_insert_with(|| {
                        let (task, handle) = abortable(TargetTask::new(target, self, anchor).run());
                        tasks.push(task);
                        handle
                    });
                }
            }
            tokio::select! {
                biased;
                () = marks.next_scan() => {}
                // The aborted tasks of targets that are no longer listed end here.
                Some(_) = tasks.next() => {}
            }
        }
    }

    /// Returns the targets, and the addresses that are taken out, if either may have changed. While the API source has
    /// no port, the last known ports count, because its copies may be held.
    fn changed_targets(
        &self,
        before: &BTreeSet<Target>,
        seen: &mut Option<u64>,
        https: &mut BTreeSet<u16>,
    ) -> Option<(BTreeSet<Target>, BTreeSet<IpAddr>)> {
        let index = self.wiring().index.lock();
        let version = index.api_servers_changed();
        if seen.replace(version) == Some(version) {
            return None;
        }
        let ports = index.api_server_ports();
        if !ports.is_empty() {
            *https = ports;
        }
        let targets = index.probe_targets(https, before);
        let listed = index.addresses_of(&ServiceKey::api_source(), "https");
        let addresses = listed.iter().flatten().map(|(address, _)| address.parse());
        let listed: BTreeSet<IpAddr> = addresses.filter_map(Result::ok).collect();
        let metrics = self.wiring().metrics.probes();
        for target in &targets {
            metrics.set_listed(*target, listed.contains(&target.address()));
        }
        Some((targets, index.taken_out_addresses()))
    }
}

#[cfg(test)]
mod tests;
