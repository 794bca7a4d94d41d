//! Decides what a sync of one key does: makes a plan that needs no more reads.
//!
//! If a watch may be late, one consistent read of each object in doubt decides, and its result goes into the index. If
//! the watch of Services or of copies does not show that result a second later, this watch is restarted, at another API
//! server if there is one, but at most once every 10 s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::debug;

use super::Reconciler;
use super::confirm::overtaken;
use super::expectations::Expected;
use crate::controller::apply::Expectation;
use crate::controller::error::SyncError;
use endpoint_copier_core::model::{
    EndpointSlice, Kept, ObjectMeta, ServiceKey, SliceKey, SlicesByKey, Snapshot, Unreadable, WatchKind,
    version_of,
};
use endpoint_copier_core::plan::{Plan, copy, plan};

/// A plan that needs no more reads, and the snapshot that it was made from.
pub(super) struct Decision {
    pub snapshot: Snapshot,
    pub plan: Plan,
    /// The names of copies that are taken by slices outside our watches.
    pub taken: Expected,
    /// Whether the plan depends on source slices that no watch shows, so that nothing marks the key when they change.
    pub is_unwatched: bool,
    /// The error that makes the plan incomplete, if there is one. The plan then contains no copies of source slices
    /// that could not be read and, if a copy to update could not be read, no updates. It contains no deletes either,
    /// because they are not confirmed, and no leftovers of the Go operator are deleted. Deletes of copies without
    /// consent are an exception: they are confirmed separately.
    pub postponed: Option<SyncError>,
}

/// The result of a GET of a slice.
enum SliceRead {
    /// The slice, or `None` if it does not exist. `is_news` says whether the response changes the result for any
    /// Service.
    Readable {
        slice: Option<Arc<EndpointSlice>>,
        is_news: bool,
    },
    /// The slice cannot be decoded. The index has it, and a watch will show when it can be decoded again.
    Unreadable,
    /// The slice cannot be decoded, and no watch shows it.
    Unwatched(Box<Unreadable>),
}

/// What the reads of one decision have shown.
#[derive(Default)]
struct Reads {
    /// Slices of other owners that have the names of copies.
    found: Vec<Arc<EndpointSlice>>,
    /// Slices that the plan asked to confirm: they were read, or could not be read.
    confirmed: BTreeSet<SliceKey>,
    /// Slices to confirm that could not be read. If they are source slices, their copies wait.
    unread: BTreeSet<SliceKey>,
    /// Source slices that cannot be decoded and that no watch shows.
    unwatched: BTreeMap<SliceKey, Box<Unreadable>>,
    /// Sources that were read to find out whether they give consent. `None` before these reads.
    answered: Option<BTreeSet<ServiceKey>>,
    is_service_read: bool,
    /// An error that postpones deletes.
    postponed: Option<SyncError>,
}

impl Reads {
    /// Adds what was read to a snapshot. Returns the names of copies that are taken.
    fn add_to(&self, snapshot: &mut Snapshot) -> Expected {
        snapshot.confirmed.clone_from(&self.confirmed);
        if let Some(source) = &mut snapshot.source {
            for (slice, unreadable) in &self.unwatched {
                source.set_aside(slice, unreadable);
            }
        }
        let is_unseen = |slice: &EndpointSlice| {
            let seen = snapshot.slice(&slice.key());
            seen.is_none_or(|seen| seen.metadata.uid != slice.metadata.uid)
        };
        let unseen = self.found.iter().filter(|slice| is_unseen(slice));
        let unseen: SlicesByKey = unseen.map(|slice| (slice.key(), slice.clone())).collect();
        let taken = unseen.keys().map(|key| (key.clone(), Expectation::Exists));
        let taken = taken.collect();
        snapshot.others.extend(unseen);
        taken
    }

    /// Removes from a plan what must wait because of an error. Sets an error if nothing can be planned yet.
    fn postpone(&mut self, snapshot: &Snapshot, plan: &mut Plan) {
        if let Some(error) = &self.postponed {
            debug!(service = %snapshot.key, %error, "deletes are postponed");
            plan.deletes.clear();
            plan.leftovers.clear();
            plan.removes_leftovers = false;
        }
        if snapshot.is_undecided() && plan.withdrawn.is_empty() {
            self.postponed.get_or_insert(SyncError::Unlisted);
        }
    }
}

impl Reconciler {
    /// Makes the plan for a key. Reads from the API only if a watch is late or in doubt, to confirm deletes, or to get
    /// what the index does not keep. Sets `has_read` if it reads.
    pub(super) async fn decide(
        &self,
        key: &ServiceKey,
        since: Instant,
        has_read: &mut bool,
    ) -> Result<Decision, SyncError> {
        let mut reads = Reads {
            found: self.read_overdue(key, has_read).await?,
            ..Reads::default()
        };
        loop {
            let mut snapshot = self.index().snapshot(key).ok_or(SyncError::Unlisted)?;
            snapshot.cause = Some(wall_clock(since).to_string());
            snapshot.in_doubt |= self.watch_health.is_doubtful(WatchKind::Sources);
            let taken = reads.add_to(&mut snapshot);
            let mut plan = plan(&snapshot, &(self.verdicts)());
            if !self
                .confirm_plan(&snapshot, &mut plan, &mut reads, has_read)
                .await
            {
                continue;
            }
            if let Err(error) = self.complete(&snapshot, &mut plan, has_read).await {
                plan.updates.clear();
                plan.triggers.clear();
                reads.postponed = Some(error);
            }
            reads.postpone(&snapshot, &mut plan);
            let has_writes =
                !(plan.creates.is_empty() && plan.updates.is_empty() && plan.withdrawn.is_empty());
            return match reads.postponed {
                Some(error) if !has_writes => Err(error),
                postponed => Ok(Decision {
                    snapshot,
                    plan,
                    taken,
                    is_unwatched: !reads.unwatched.is_empty(),
                    postponed,
                }),
            };
        }
    }

    /// Reads what a plan depends on, and leaves out what could not be confirmed. Returns `false` if a read may change
    /// the plan.
    async fn confirm_plan(
        &self,
        snapshot: &Snapshot,
        plan: &mut Plan,
        reads: &mut Reads,
        has_read: &mut bool,
    ) -> bool {
        if !plan.confirm.is_empty() {
            for source in std::mem::take(&mut plan.confirm) {
                self.confirm_slice(&snapshot.key, source, reads, has_read).await;
            }
            return false;
        }
        let refusing = self.refusing_sources(snapshot, plan);
        if !refusing.is_empty() && reads.answered.is_none() {
            let answered = self
                .read_sources(&snapshot.key, refusing, &mut reads.postponed, has_read)
                .await;
            reads.answered = Some(answered);
            return false;
        }
        let has_answered = |source| reads.answered.iter().flatten().any(|answered| answered == source);
        if !refusing.iter().all(has_answered) {
            plan.withdrawn.clear();
            reads.postponed.get_or_insert_with(overtaken);
        }
        if !reads.unread.is_empty() {
            leave_out(plan, &reads.unread);
        }
        if reads.postponed.is_none() {
            reads.postponed = match self.confirm_service(snapshot, plan, has_read).await {
                Ok(true) => None,
                Ok(false) if !reads.is_service_read => {
                    reads.is_service_read = true;
                    return false;
                }
                // The Service changes faster than it can be read.
                Ok(false) => Some(overtaken()),
                Err(error) => Some(error),
            };
        }
        true
    }

    /// Reads a slice that the plan asks to confirm: a source slice whose watch may be late, or a slice of which the
    /// index keeps only an outline.
    async fn confirm_slice(
        &self,
        key: &ServiceKey,
        source: SliceKey,
        reads: &mut Reads,
        has_read: &mut bool,
    ) {
        debug!(service = %key, slice = %source, "reading a slice: its watch may be late, or only an outline is known");
        // An overloaded API server gets no further requests.
        if reads.postponed.as_ref().is_some_and(SyncError::is_overload) {
            reads.unread.insert(source.clone());
        } else {
            match self.read(&source, has_read).await {
                Ok(SliceRead::Readable { .. } | SliceRead::Unreadable) => {}
                Ok(SliceRead::Unwatched(unreadable)) => {
                    reads.unwatched.insert(source.clone(), unreadable);
                }
                Err(error) => {
                    reads.unread.insert(source.clone());
                    reads.postponed = Some(error);
                }
            }
        }
        reads.confirmed.insert(source);
    }

    /// The index does not keep all metadata that others have added to copies. If the plan updates a copy that may have
    /// such metadata, this function reads the copy and adds the metadata to the update.
    async fn complete(
        &self,
        snapshot: &Snapshot,
        plan: &mut Plan,
        has_read: &mut bool,
    ) -> Result<(), SyncError> {
        for update in &mut plan.updates {
            let key = update.key();
            if snapshot.copy(&key).is_none_or(|copy| copy.kept == Kept::Whole) {
                continue;
            }
            let SliceRead::Readable {
                slice: Some(current), ..
            } = self.read(&key, has_read).await?
            else {
                return Err(overtaken());
            };
            if current.metadata.resource_version != update.metadata.resource_version {
                return Err(overtaken());
            }
            *update = copy::over(&current, std::mem::take(update));
        }
        Ok(())
    }

    /// Sends a GET for each expectation that the watch has not fulfilled in time. Returns slices of other owners that
    /// have the name of a copy, even if they cannot be decoded and no watch shows them. The other copies do not wait
    /// for these slices.
    async fn read_overdue(
        &self,
        key: &ServiceKey,
        has_read: &mut bool,
    ) -> Result<Vec<Arc<EndpointSlice>>, SyncError> {
        let overdue = self.expectations.overdue(key, &self.index())?;
        let mut strangers = Vec::new();
        for (slice, _) in overdue {
            let found = match self.read(&slice, has_read).await? {
                SliceRead::Readable {
                    slice: found,
                    is_news,
                } => {
                    // Another watch shows slices that are not copies.
                    if is_news && found.as_ref().is_none_or(|found| found.is_labeled_as_copy()) {
                        let version = found.as_ref().and_then(|found| version_of(&found.metadata));
                        self.copy_watch.missed(version);
                    }
                    found
                }
                SliceRead::Unreadable => None,
                SliceRead::Unwatched(unreadable) => Some(Arc::new(stranger(&slice, *unreadable))),
            };
            strangers.extend(found.filter(|found| !found.is_copy_for(key)));
        }
        self.expectations.expect(key, Expected::new(), Instant::now());
        Ok(strangers)
    }

    /// Reads a slice with one consistent GET, and puts it into the index if a watch covers it. Marks the Services that
    /// depend on it as dirty, because the watch will no longer report this change as new.
    async fn read(&self, key: &SliceKey, has_read: &mut bool) -> Result<SliceRead, SyncError> {
        let before = self.index().state(key);
        let slice = match self
            .get::<EndpointSlice>(key.namespace(), key.name(), has_read)
            .await?
            .transpose()
        {
            Ok(slice) => slice,
            Err(unreadable) => {
                // The slice counts as unchanged, so the index keeps it.
                self.undecoded.failed(&format!("{key}: {}", unreadable.error));
                let mut index = self.index();
                if index.state(key) != before {
                    return Err(overtaken());
                }
                let dirty = index.observe_unreadable(&unreadable);
                drop(index);
                let Some(dirty) = dirty else {
                    return Ok(SliceRead::Unwatched(unreadable));
                };
                self.dirty.mark(dirty);
                return Ok(SliceRead::Unreadable);
            }
        };
        let Some(dirty) = self.index().observe(key, &before, slice.clone()) else {
            return Err(overtaken());
        };
        let is_news = !dirty.is_empty();
        self.dirty.mark(dirty);
        Ok(SliceRead::Readable {
            slice: slice.map(Arc::new),
            is_news,
        })
    }
}

/// Converts an instant in the past to wall-clock time.
fn wall_clock(at: Instant) -> Timestamp {
    let ago = SignedDuration::try_from(at.elapsed()).unwrap_or_default();
    Timestamp::now().checked_sub(ago).unwrap_or_default()
}

/// Converts an unreadable slice that no watch shows and that has the name of a copy. Only its metadata matters.
fn stranger(key: &SliceKey, unreadable: Unreadable) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: Some(key.namespace().to_owned()),
            name: Some(key.name().to_owned()),
            ..unreadable.metadata
        },
        ..EndpointSlice::default()
    }
}

/// Leaves the copies of these source slices out of a plan, and also the updates that empty other copies: an old copy
/// keeps its endpoints until the new copies exist.
fn leave_out(plan: &mut Plan, sources: &BTreeSet<SliceKey>) {
    let is_read = |copy: &EndpointSlice| copy.source().is_none_or(|source| !sources.contains(&source));
    plan.creates.retain(is_read);
    plan.updates.retain(|copy| is_read(copy) && !copy.is_empty());
    // It is not known which triggers belong to the remaining updates.
    plan.triggers.clear();
}

#[cfg(test)]
mod tests {
    use endpoint_copier_core::plan::Delete;
    use endpoint_copier_core::testing::world::World;

    use super::*;

    #[test]
    fn postponed_plan_has_no_unconfirmed_deletes() {
        let delete = || Delete {
            key: SliceKey::new("default", "vip-x"),
            uid: "uid-1".to_owned(),
            resource_version: "1".to_owned(),
        };
        let mut plan = Plan {
            deletes: vec![delete()],
            leftovers: vec![delete()],
            removes_leftovers: true,
            ..Plan::default()
        };
        let mut reads = Reads {
            postponed: Some(overtaken()),
            ..Reads::default()
        };
        let snapshot = World::new().snapshot(&ServiceKey::new("default", "vip"));
        reads.postpone(&snapshot, &mut plan);
        assert_eq!(plan, Plan::default());
    }
}
