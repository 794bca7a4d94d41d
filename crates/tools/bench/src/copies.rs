//! Counts the copies in a cluster, to see when all of them show a change.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use harness::Cluster;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The maximum time to wait until all copies show an address.
const PATIENCE: Duration = Duration::from_secs(300);

/// The error if not all copies show a change in time.
pub const NOT_SHOWN: &str = "not all copies showed the change in time";

/// The number of copies in a namespace by the addresses that they list, joined with commas.
pub struct Copies {
    by_address: watch::Receiver<(Instant, BTreeMap<String, usize>)>,
    task: JoinHandle<()>,
}

impl Copies {
    /// Watches the copies in a namespace from now on.
    pub fn watch(cluster: &Cluster, namespace: &str) -> Self {
        let slices = Api::<EndpointSlice>::namespaced(cluster.client(), namespace);
        let config = watcher::Config::default()
            .labels("endpointslice.kubernetes.io/managed-by=endpoint-copier-operator");
        let (sender, by_address) = watch::channel((Instant::now(), BTreeMap::new()));
        let task = tokio::spawn(async move {
            let mut seen = BTreeMap::<String, String>::new();
            let mut stream = pin!(watcher(slices, config));
            while let Some(event) = stream.next().await {
                let (Event::Apply(slice) | Event::InitApply(slice)) = event.expect("a watch without errors")
                else {
                    continue;
                };
                let new = harness::objects::addresses([&slice]).join(",");
                let name = slice.metadata.name.unwrap_or_default();
                let old = seen.insert(name, new.clone());
                sender.send_modify(|(at, counts)| {
                    *at = Instant::now();
                    *counts.entry(new).or_default() += 1;
                    if let Some(count) = old.and_then(|old| counts.get_mut(&old)) {
                        *count -= 1;
                    }
                });
            }
        });
        Self { by_address, task }
    }

    /// Waits until exactly this many copies show an address, or several addresses joined with commas. Returns when the
    /// last copy did, or `None` if that takes too long.
    pub async fn until_shown(&self, address: &str, copies: usize) -> Option<Instant> {
        let mut by_address = self.by_address.clone();
        let shown = by_address.wait_for(|(_, counts)| counts.get(address) == Some(&copies));
        let shown = timeout(PATIENCE, shown).await.ok()?;
        let (at, _) = *shown.expect("a watch without an end");
        Some(at)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.task.abort();
    }
}
