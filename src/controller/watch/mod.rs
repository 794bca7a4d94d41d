//! Turns the event streams of the API into index changes. Each watch has its own backoff, so a failing watch does not
//! delay the others. There is one exception: the watch of copies begins after the first list of Services.
//!
//! The index is compared with each complete list, because a list does not show which objects were deleted before it.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio::sync::oneshot;
use tracing::warn;

use crate::apiserver::decode::Guarded;
use crate::controller::workqueue::DirtySet;
use crate::leader_election::{Lease, LeaseObserver};
use crate::telemetry::failure_log::FailureLog;
use crate::telemetry::watch_health::Cause;
use crate::timing::OWN_RENEWAL;
use endpoint_copier_core::index::{Dirty, Scope, SharedIndex};
use endpoint_copier_core::model::{
    EndpointSlice, MANAGED_BY_US, Service, ServiceKey, SliceKey, Unreadable, WatchKind, label,
};

mod backoff;
mod check;
mod grants;
mod named;
mod nodes;
mod reader;

pub(super) use backoff::{WatchBackoff, pauses};
pub use grants::grants;
pub use named::named_slices;
use named::split::{SELECTOR_BYTES, split};
pub use nodes::nodes;
pub use reader::Reader;
pub(super) use reader::errors::status_of;

/// The watches of Services, slices, ReferenceGrants and Nodes.
#[derive(Clone)]
pub struct Watches {
    /// The client, the health of the watches, and the metrics.
    pub reader: Reader,
    /// The index that the watches feed.
    pub index: SharedIndex,
    /// Receives the dirty keys.
    pub dirty: DirtySet,
}

impl Watches {
    /// Watches all Services. `conditions` receives the Services whose condition has changed. Sends to `listed_once`
    /// when the first list is complete.
    pub async fn services(self, conditions: DirtySet, listed_once: oneshot::Sender<()>) {
        let (mut listed, mut listed_once) = (HashSet::new(), Some(listed_once));
        let log = undecoded(WatchKind::Services);
        self.reader
            .follow(
                WatchKind::Services,
                Api::all,
                watcher::Config::default(),
                |event: Event<Guarded<Service>>| {
                    let mut index = self.index.lock();
                    let edited = match &event {
                        Event::Apply(service) | Event::Delete(service) => {
                            Some(ServiceKey::of(service.slim_metadata()))
                        }
                        Event::Init | Event::InitApply(_) | Event::InitDone => None,
                    };
                    let is_listed = matches!(event, Event::InitApply(_));
                    let dirty = match event {
                        Event::Init => {
                            listed.clear();
                            index.services_list_begins();
                            Dirty::new()
                        }
                        // A read has already shown a later state.
                        Event::Apply(service) | Event::Delete(service)
                            if index.knows_newer_service(service.slim_metadata()) =>
                        {
                            Dirty::new()
                        }
                        Event::InitApply(service) | Event::Apply(service) => {
                            if is_listed {
                                listed.insert(ServiceKey::of(service.slim_metadata()));
                            }
                            let is_gone = index.is_service_gone(service.slim_metadata());
                            match service.object {
                                _ if is_gone => Dirty::new(),
                                Ok(service) => index.apply_service(&service),
                                Err(object) => {
                                    log(&object);
                                    index.service_unreadable(&object)
                                }
                            }
                        }
                        Event::Delete(service) => index.service_deleted(service.slim_metadata()),
                        Event::InitDone => {
                            // The receiver is dropped when the replica stops.
                            listed_once.take().map(|sender| sender.send(()));
                            index.services_listed(&std::mem::take(&mut listed))
                        }
                    };
                    let other_conditions = index.changed_conditions();
                    drop(index);
                    if !other_conditions.is_empty() {
                        conditions.mark(other_conditions);
                    }
                    match edited {
                        Some(edited) => self.dirty.mark_edit(dirty, &edited),
                        None => self.dirty.mark(dirty),
                    }
                },
            )
            .await;
    }

    /// Watches the slices with our managed-by label, once Services are listed, because the Services determine how much
    /// of each copy the index keeps.
    pub async fn copies(self, services_listed: oneshot::Receiver<()>) {
        // The sender is dropped when the replica stops.
        _ = services_listed.await;
        let selector = copies_selector();
        self.slices(WatchKind::Copies, &selector, &Scope::Copies, None)
            .await;
    }

    /// Watches the slices with this selector. Sends to `listed_once` when the first list is complete.
    async fn slices(
        &self,
        watch: WatchKind,
        selector: &str,
        scope: &Scope,
        mut listed_once: Option<oneshot::Sender<()>>,
    ) {
        let mut listed = HashSet::new();
        let log = undecoded(watch);
        let config = watcher::Config::default().labels(selector);
        self.reader
            .follow(watch, Api::all, config, |event: Event<Guarded<EndpointSlice>>| {
                let mut index = self.index.lock();
                let is_listed = matches!(event, Event::InitApply(_));
                let dirty = match event {
                    Event::Init => {
                        listed.clear();
                        index.list_begins(scope);
                        Dirty::new()
                    }
                    Event::InitApply(slice) | Event::Apply(slice) => {
                        if is_listed {
                            listed.insert(SliceKey::of(slice.slim_metadata()));
                        }
                        match slice.object {
                            Ok(slice) if is_listed => index.list_slice(scope, slice),
                            Ok(slice) => index.apply_slice(scope, slice),
                            Err(object) => {
                                log(&object);
                                if is_listed {
                                    index.list_unreadable_slice(scope, &object)
                                } else {
                                    index.apply_unreadable_slice(scope, &object)
                                }
                            }
                        }
                    }
                    Event::Delete(slice) => index.delete_slice(scope, slice.slim_metadata()),
                    Event::InitDone => {
                        // The receiver is dropped when the replica stops.
                        listed_once.take().map(|sender| sender.send(()));
                        index.slices_listed(scope, &std::mem::take(&mut listed))
                    }
                };
                drop(index);
                self.dirty.mark(dirty);
            })
            .await;
    }
}

/// Logs the objects of one watch that cannot be decoded: at most eight lines a minute, each about a different object or
/// error. Objects or errors that differ only in digits count as the same.
fn undecoded(watch: WatchKind) -> impl Fn(&Unreadable) {
    let log = FailureLog::new(format!("decoding one of the {watch}"));
    move |object| log.failed(&format!("{}: {}", ServiceKey::of(&object.metadata), object.error))
}

/// After this time, an open watch should show the current state. A watch without a response is an outage, not a stale
/// view, and has its own pauses and log lines.
const TIME_TO_BE_CURRENT: Duration = Duration::from_secs(1);

/// Watches one Lease for the leader election. Restarts the watch if it does not show our own renewals, or all watches
/// if the resourceVersions of the API server went backward.
pub async fn lease(reader: Reader, namespace: &str, name: &str, observer: LeaseObserver) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let api = |client| Api::<Guarded<Lease>>::namespaced(client, namespace);
    let mut found = false;
    let follow = reader.follow(WatchKind::Lease, api, config, |event| match event {
        Event::Init => found = false,
        Event::InitApply(lease) => {
            found = true;
            observer.watched(Some(&lease.object.unwrap_or_default()));
        }
        Event::Apply(lease) => observer.watched(Some(&lease.object.unwrap_or_default())),
        Event::Delete(_) => observer.watched(None),
        Event::InitDone if !found => observer.watched(None),
        Event::InitDone => {}
    });
    let check = async {
        loop {
            let (watch_health, watch) = (&reader.watch_health, WatchKind::Lease);
            let renewed = observer.wait_until_overdue(OWN_RENEWAL).await;
            if renewed < watch_health.version(&[watch]) {
                watch_health.rewound();
            } else if watch_health.is_open(watch, TIME_TO_BE_CURRENT) {
                warn!("the watch of the Lease does not show our own renewals; restarting it");
                watch_health.restart(watch, Cause::Behind);
            }
        }
    };
    tokio::select! {
        // An event that arrives at the deadline still counts.
        biased;
        () = follow => {}
        () = check => {}
    }
}

/// Returns the selector of slices with our managed-by label.
#[must_use]
pub fn copies_selector() -> String {
    format!("{}={MANAGED_BY_US}", label::MANAGED_BY)
}

/// Returns the selectors of slices that are not ours and that belong to Services with these names. Each selector is
/// preceded by the names in it. There is more than one selector only if a single one would exceed the length limit.
#[must_use]
pub fn named_selectors(names: &BTreeSet<String>) -> Vec<(BTreeSet<String>, String)> {
    let shards = split(names, SELECTOR_BYTES).into_iter();
    let with_selector = |names: BTreeSet<String>| {
        let selector = named_selector(&names);
        (names, selector)
    };
    shards.map(with_selector).collect()
}

/// Returns the selector of slices that are not ours and that belong to Services with these names.
fn named_selector(names: &BTreeSet<String>) -> String {
    let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    format!(
        "{} in ({names}),{}!={MANAGED_BY_US}",
        label::SERVICE_NAME,
        label::MANAGED_BY
    )
}
