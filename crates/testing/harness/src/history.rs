//! A timed record of the addresses in the slices of a Service. It comes from a watch, so no state is missing.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::objects;
use crate::wait::PATIENCE;

type Entries = Vec<(Instant, Vec<String>)>;

/// The addresses in the slices of a Service, with one entry for each change.
pub struct History {
    entries: watch::Receiver<Entries>,
    task: JoinHandle<()>,
}

impl History {
    /// Starts recording.
    pub(crate) fn start(slices: Api<EndpointSlice>, service: &str) -> Self {
        let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}"));
        let (sender, entries) = watch::channel(Entries::new());
        let task = tokio::spawn(async move {
            let mut slices_seen = BTreeMap::new();
            let mut stream = pin!(watcher(slices, config));
            while let Some(event) = stream.next().await {
                let now = Instant::now();
                match event.expect("a watch that does not fail") {
                    Event::Init | Event::InitDone => {}
                    Event::Apply(slice) | Event::InitApply(slice) => {
                        slices_seen.insert(slice.metadata.name.clone(), slice);
                    }
                    Event::Delete(slice) => _ = slices_seen.remove(&slice.metadata.name),
                }
                let addresses = objects::addresses(slices_seen.values());
                sender.send_if_modified(|entries| {
                    let known = entries.last().map(|(_, addresses)| addresses.as_slice());
                    let changed = known.unwrap_or_default() != addresses;
                    if changed {
                        entries.push((now, addresses));
                    }
                    changed
                });
            }
        });
        Self { entries, task }
    }

    /// Waits until the last entry has these addresses, and returns the time of that entry. Before the first entry, an
    /// empty list matches, and the result is the current time. Returns `None` if no such entry comes within `limit`.
    pub async fn shows(&self, addresses: &[&str], limit: Duration) -> Option<Instant> {
        let mut entries = self.entries.clone();
        let shown = timeout(
            limit,
            entries.wait_for(|entries| {
                let last = entries.last().map(|(_, addresses)| addresses.as_slice());
                last.unwrap_or_default() == addresses
            }),
        );
        let entries = shown.await.ok()?.expect("a watch that does not fail");
        Some(entries.last().map_or_else(Instant::now, |(at, _)| *at))
    }

    /// Waits until the last entry has the addresses `last`, and returns the addresses of all entries.
    pub async fn up_to(&self, last: &[&str]) -> Vec<Vec<String>> {
        let shown = self.shows(last, PATIENCE).await;
        let entries = self.entries.borrow();
        assert!(shown.is_some(), "never {last:?}: {entries:?}");
        entries.iter().map(|(_, addresses)| addresses.clone()).collect()
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}
