//! Decides what to do about one key: a plan that needs no more reads.
//!
//! If a watch may be late, one consistent GET decides and its result goes into the index. A watch that does
//! not show that result a second later is restarted at another API server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use tokio::time::Instant;
use tracing::debug;

use super::Reconciler;
use super::expectations::{Expected, Shown};
use super::read::{self, Unanswered};
use crate::apiserver::decode::Guarded;
use crate::controller::apply::Expectation;
use crate::controller::workqueue::{Requeue, Severity};
use crate::telemetry::metrics::SyncResult;
use endpoint_copier_core::model::WatchKind;
use endpoint_copier_core::model::{
    EndpointSlice, Service, ServiceKey, ServiceState, SliceKey, Snapshot, claims_to_be_ours, ours,
    source_slice, version_of,
};
use endpoint_copier_core::plan::{Plan, plan};

/// The pause after a GET that the watch has overtaken.
const OVERTAKEN: Duration = Duration::from_millis(100);

/// A plan that needs no more reads, and what it was made from.
pub(super) struct Decision {
    pub snapshot: Snapshot,
    pub plan: Plan,
    /// Names of copies that are taken by slices that our watches do not show.
    pub taken: Expected,
    /// The reason why deletes, and copies of source slices that cannot be read, are left out of the plan: they are not
    /// confirmed.
    pub put_off: Option<Stop>,
}

/// A slice as a GET shows it.
struct Read {
    slice: Option<EndpointSlice>,
    /// The index had a different version, or none.
    is_news: bool,
}

/// The result of a GET of a Service, compared with the watch.
enum Confirmed {
    AsSeen,
    /// The index now holds the new state.
    Changed,
}

/// Why a sync, or a part of it, stops early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The watch still has time to show our last write.
    Wait(Instant),
    /// Too little is listed yet; the lists will mark the key again.
    Unlisted,
    /// A read failed.
    Unread(Unanswered),
}

impl Stop {
    /// The result of the stopped sync, and when the key is processed again.
    pub fn ending(&self) -> (SyncResult, Requeue) {
        match self {
            Self::Wait(until) => (SyncResult::Requeued, Requeue::Resume(*until)),
            Self::Unlisted => (SyncResult::Requeued, Requeue::WhenDirty),
            Self::Unread(unanswered) => (SyncResult::Error, Requeue::Later(unanswered.severity)),
        }
    }
}

/// Source slices that could not be read, so that their copies wait.
#[derive(Default)]
struct Unread {
    sources: BTreeSet<SliceKey>,
    /// Why the last of them that was tried was not read.
    stop: Option<Stop>,
}

impl Unread {
    /// An overloaded API server is not asked for more.
    fn is_overload(&self) -> bool {
        matches!(&self.stop, Some(Stop::Unread(unanswered)) if matches!(unanswered.severity, Severity::Overloaded(_)))
    }

    /// Takes their copies out of a plan, and what empties other copies: an old copy shows its endpoints until the
    /// new ones are there. Returns why.
    fn take_from(&mut self, plan: &mut Plan) -> Option<Stop> {
        let stop = self.stop.take()?;
        let is_read =
            |copy: &EndpointSlice| source_slice(copy).is_none_or(|source| !self.sources.contains(&source));
        let is_empty = |copy: &EndpointSlice| copy.endpoints.as_ref().is_none_or(Vec::is_empty);
        plan.creates.retain(is_read);
        plan.updates.retain(|copy| is_read(copy) && !is_empty(copy));
        // Which of them belong to the updates that are left is not known.
        plan.triggers.clear();
        Some(stop)
    }
}

impl Reconciler {
    /// client: only where the watch is late or in doubt. Sets `has_read` when it sends a request.
    pub(super) async fn decide(&self, key: &ServiceKey, has_read: &mut bool) -> Result<Decision, Stop> {
        let found = self.overdue(key, has_read).await?;
        let (mut confirmed, mut is_service_read) = (BTreeSet::new(), false);
        let mut unread = Unread::default();
        loop {
            let mut snapshot = self.index().snapshot(key).ok_or(Stop::Unlisted)?;
            snapshot.confirmed.clone_from(&confirmed);
            snapshot.in_doubt |= self.watch_health.is_doubtful(WatchKind::Sources.as_str());
            let unseen = |slice: &&Arc<EndpointSlice>| {
                let uid = &slice.metadata.uid;
                !snapshot.slices.iter().any(|seen| seen.metadata.uid == *uid)
            };
            let unseen: Vec<_> = found.iter().filter(unseen).cloned().collect();
            let taken = unseen
                .iter()
                .map(|slice| (SliceKey::of(&slice.metadata), Expectation::Exists))
                .collect();
            snapshot.slices.extend(unseen);
            let mut plan = plan(&snapshot);
            if !plan.confirm.is_empty() {
                for source in plan.confirm {
                    debug!(service = %key, slice = %source, "the view of a source slice is in doubt: reading it");
                    if unread.is_overload() {
                        unread.sources.insert(source.clone());
                    } else if let Err(stop) = self.read(&source, has_read).await {
                        unread.sources.insert(source.clone());
                        unread.stop = Some(stop);
                    }
                    confirmed.insert(source);
                }
                continue;
            }
            let confirmation = match unread.take_from(&mut plan) {
                Some(stop) => Err(stop),
                None => self.confirm_service(&snapshot, &plan, has_read).await,
            };
            let put_off = match confirmation {
                Ok(Confirmed::AsSeen) => None,
                Ok(Confirmed::Changed) if !is_service_read => {
                    is_service_read = true;
                    continue;
                }
                // It changes faster than we can read it.
                Ok(Confirmed::Changed) => Some(Stop::Wait(Instant::now() + OVERTAKEN)),
                Err(stop) => Some(stop),
            };
            if let Some(stop) = &put_off {
                debug!(service = %key, ?stop, "deletes are put off");
                plan.deletes.clear();
                plan.leftovers.clear();
            }
            return match put_off {
                Some(stop) if plan.creates.is_empty() && plan.updates.is_empty() => Err(stop),
                put_off => Ok(Decision {
                    snapshot,
                    plan,
                    taken,
                    put_off,
                }),
            };
        }
    }

    /// client: before slices are deleted, a GET confirms the state of their Service: gone, not managed, or
    /// not wanting them. A new leader's view of Services may be older than its view of copies. If the GET
    /// differs, the index is updated and the plan must be computed again. If the GET fails, the rest of the
    /// plan is carried out and the deletes are planned again later.
    async fn confirm_service(
        &self,
        snapshot: &Snapshot,
        plan: &Plan,
        has_read: &mut bool,
    ) -> Result<Confirmed, Stop> {
        if plan.deletes.is_empty() && plan.leftovers.is_empty() {
            return Ok(Confirmed::AsSeen);
        }
        let key = &snapshot.key;
        let before = self.index().service_version(key);
        let api: Api<Guarded<Service>> = Api::namespaced(self.client.clone(), key.namespace());
        *has_read = true;
        let service = read::object(&api, key.name(), self.watchdog()).await?;
        let service = service.map(|service| service.object).transpose();
        let service = service.map_err(|unreadable| {
            Stop::Unread(Unanswered {
                error: format!("the Service cannot be decoded: {}", unreadable.error),
                severity: Severity::Passing,
            })
        })?;
        let seen = match &snapshot.service {
            ServiceState::Managed(service) => Some(&**service),
            ServiceState::Absent | ServiceState::Unmanaged => None,
        };
        let mut index = self.index();
        let is_now = service.as_ref().and_then(|service| index.as_managed(service));
        if is_now.as_ref() == seen {
            return Ok(Confirmed::AsSeen);
        }
        let dirty = index.observe_service(key, &before, service.as_ref());
        drop(index);
        let mut dirty = dirty.ok_or_else(|| Stop::Wait(Instant::now() + OVERTAKEN))?;
        // Its plan is computed again right here.
        dirty.remove(key);
        self.dirty.mark(dirty);
        let version = service.and_then(|service| version_of(&service.metadata));
        self.service_watch.missed(version);
        Ok(Confirmed::Changed)
    }

    /// client: a GET for each write that the watch has not shown in time. Returns the slices that are not
    /// ours but have the name of a copy.
    async fn overdue(&self, key: &ServiceKey, has_read: &mut bool) -> Result<Vec<Arc<EndpointSlice>>, Stop> {
        let shown = self.expectations.compare(key, &self.index());
        let overdue = match shown {
            Shown::All => return Ok(Vec::new()),
            Shown::Wait(until) => return Err(Stop::Wait(until)),
            Shown::Overdue(expectations) => expectations,
        };
        let mut strangers = Vec::new();
        for (slice, _) in overdue {
            let Read {
                slice: found,
                is_news,
            } = self.read(&slice, has_read).await?;
            // Slices that are not copies appear on another watch.
            if is_news && found.as_ref().is_none_or(claims_to_be_ours) {
                let version = found.as_ref().and_then(|found| version_of(&found.metadata));
                self.copy_watch.missed(version);
            }
            strangers.extend(
                found
                    .filter(|found| ours(found).as_ref() != Some(key))
                    .map(Arc::new),
            );
        }
        self.expectations.wait_for(key, Vec::new(), Instant::now());
        Ok(strangers)
    }

    /// Reads a slice with one consistent GET and puts it into the index. Marks everything else that depends
    /// on it dirty, because the watch will show no change any more.
    async fn read(&self, key: &SliceKey, has_read: &mut bool) -> Result<Read, Stop> {
        let before = self.index().state(key);
        let api: Api<Guarded<EndpointSlice>> = Api::namespaced(self.client.clone(), key.namespace());
        *has_read = true;
        let slice = read::object(&api, key.name(), self.watchdog()).await?;
        let slice = match slice.map(|slice| slice.object).transpose() {
            Ok(slice) => slice,
            Err(unreadable) => {
                // It counts as unchanged, so the index keeps its slice.
                self.undecoded.failed(&format!("{key}: {}", unreadable.error));
                self.index().observe_unreadable(&unreadable);
                return Ok(Read {
                    slice: None,
                    is_news: false,
                });
            }
        };
        let Some(dirty) = self.index().observe(key, &before, slice.clone()) else {
            return Err(Stop::Wait(Instant::now() + OVERTAKEN));
        };
        let is_news = !dirty.is_empty();
        self.dirty.mark(dirty);
        Ok(Read { slice, is_news })
    }
}
