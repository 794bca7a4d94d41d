//! The watch of Nodes. It runs while a managed Service needs Nodes, and for [`LINGER`] longer. No sync waits for it:
//! while there is no watch, copies keep the addresses that they have from Nodes.

use std::time::Duration;

use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio::time::{Instant, timeout};

use super::Watches;
use super::reader::errors::status_of;
use crate::apiserver::decode::Guarded;
use crate::apiserver::http_status;
use crate::controller::workqueue::Marks;
use crate::telemetry::failure_log::FailureLog;
use endpoint_copier_core::index::{Dirty, Index};
use endpoint_copier_core::model::{Node, NodeObject, NodesUnknown, WatchKind};

/// The maximum number of Nodes on a page of a list. Each Node takes about 12 KB, mostly image names.
const NODES_PAGE: u32 = 16;

/// The watch continues for this long after it is no longer needed, so that a user who edits a Service back and forth
/// does not cause a list each time.
const LINGER: Duration = Duration::from_secs(30);

/// The pause after a list or watch that is forbidden. Until somebody grants the permission, each such request counts as
/// an error.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(60);

/// How long lists must fail before the Nodes count as unknown. A forbidden list makes them unknown immediately.
const FAILING: Duration = Duration::from_secs(30);

/// Watches the Nodes that `selector` selects, while a managed Service needs them. An empty selector selects all Nodes.
pub async fn nodes(watches: Watches, selector: String) {
    let mut marks = watches.dirty.marks();
    loop {
        until(&watches, &mut marks, true).await;
        tokio::select! {
            () = watches.follow_nodes(&selector) => return,
            () = until_not_needed(&watches, &mut marks) => {}
        }
        watches.index.lock().forget_nodes();
    }
}

/// Waits until Nodes have not been needed for [`LINGER`].
async fn until_not_needed(watches: &Watches, marks: &mut Marks) {
    loop {
        until(watches, marks, false).await;
        if timeout(LINGER, until(watches, marks, true)).await.is_err() {
            return;
        }
    }
}

/// Waits until a managed Service needs Nodes or, if `needed` is false, until none does.
async fn until(watches: &Watches, marks: &mut Marks, needed: bool) {
    let mut seen = None;
    let mut is_so = || {
        let index = watches.index.lock();
        let version = index.api_servers_changed();
        seen.replace(version) != Some(version) && index.needs_nodes() == needed
    };
    loop {
        if is_so() {
            return;
        }
        marks.next_scan().await;
    }
}

impl Watches {
    async fn follow_nodes(&self, selector: &str) {
        let mut config = watcher::Config::default().page_size(NODES_PAGE);
        if !selector.is_empty() {
            config = config.labels(selector);
        }
        let (mut listed, log) = (Vec::new(), FailureLog::new("decoding a Node"));
        let mut failing = None;
        let handle = |event: Result<Event<Guarded<NodeObject>>, &watcher::Error>| {
            let event = match event {
                Ok(event) => event,
                Err(error) => return self.nodes_failed(error, &mut failing),
            };
            let dirty = match event {
                Event::Init => {
                    listed.clear();
                    return None;
                }
                Event::InitApply(node) => {
                    listed.push(read(node, &log));
                    return None;
                }
                Event::Apply(node) => apply(&mut self.index.lock(), read(node, &log)),
                Event::Delete(node) => {
                    let name = node.slim_metadata().name.as_deref().unwrap_or_default();
                    self.index.lock().delete_node(name)
                }
                // A list is recorded as a whole. Otherwise, a deleted Node and the Node that replaced it would both
                // have their addresses until the last page arrives.
                Event::InitDone => {
                    failing = None;
                    let names = listed.iter().map(|(name, _)| name.clone()).collect();
                    let mut index = self.index.lock();
                    let mut dirty: Dirty = listed
                        .drain(..)
                        .flat_map(|node| apply(&mut index, node))
                        .collect();
                    dirty.extend(index.nodes_listed(&names));
                    dirty
                }
            };
            self.mark_for_nodes(dirty);
            None
        };
        self.reader
            .follow_with_errors(WatchKind::Nodes, Api::all, config, handle)
            .await;
    }

    /// Records a failure. Returns a pause if reading Nodes is forbidden. A watch that breaks does not make the Nodes
    /// unknown: a dying API server breaks this watch just when the addresses of that server must leave the copies of
    /// both families.
    fn nodes_failed(&self, error: &watcher::Error, failing: &mut Option<Instant>) -> Option<Duration> {
        let is_forbidden = status_of(error).is_some_and(http_status::is_forbidden);
        if matches!(error, watcher::Error::InitialListFailed(_)) {
            let since = failing.get_or_insert_with(Instant::now);
            let unknown = if is_forbidden {
                Some(NodesUnknown::Forbidden)
            } else {
                (since.elapsed() >= FAILING).then_some(NodesUnknown::Failing)
            };
            if let Some(unknown) = unknown {
                let dirty = self.index.lock().nodes_unknown(unknown);
                self.mark_for_nodes(dirty);
            }
        }
        is_forbidden.then_some(FORBIDDEN_PAUSE)
    }

    /// Marks Services because Nodes have changed. A heartbeat of a Node causes no mark.
    fn mark_for_nodes(&self, dirty: Dirty) {
        if !dirty.is_empty() {
            self.dirty.mark(dirty);
        }
    }
}

/// The name of a Node, and the Node itself unless it cannot be decoded.
type Read = (String, Option<Node>);

fn read(node: Guarded<NodeObject>, log: &FailureLog) -> Read {
    let name = node.slim_metadata().name.clone().unwrap_or_default();
    match node.object {
        Ok(node) => (name, Some(node.node)),
        Err(object) => {
            // Nodes are alike, so a problem with one Node usually affects many.
            log.failed_by(String::new(), &format!("{name}: {}", object.error));
            (name, None)
        }
    }
}

fn apply(index: &mut Index, (name, node): Read) -> Dirty {
    match node {
        Some(node) => index.apply_node(node),
        None => index.apply_unreadable_node(&name),
    }
}
