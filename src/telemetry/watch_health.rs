//! Records signs of life from watches, the versions that they have reached, and whether they must restart. The view of
//! a watch without a recent sign of life is stale, however quiet the cluster is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::warn;

use endpoint_copier_core::model::WatchKind;

mod watch_state;

pub use watch_state::{Cause, WatchState};

/// The time between two checks of whether watches are current. It is short, because the first copy waits for these
/// watches.
const CURRENT_POLL: Duration = Duration::from_millis(5);

/// The health of all running watches.
#[derive(Clone, Debug, Default)]
pub struct WatchHealth {
    watches: Arc<Mutex<Vec<(WatchKind, WatchState)>>>,
    answered: Arc<Notify>,
}

/// The watches that are silent, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SilentWatches(String);

/// A running watch. When this is dropped, the watch is no longer expected to show life.
pub struct Running {
    watch_health: WatchHealth,
    state: WatchState,
}

impl WatchHealth {
    /// Expects a watch of this kind to show life until the returned value is dropped.
    #[must_use]
    pub fn start(&self, watch: WatchKind) -> Running {
        let state = WatchState::new();
        self.watches.lock().push((watch, state.clone()));
        let watch_health = self.clone();
        Running { watch_health, state }
    }

    /// Restarts the watches of this kind. Those that are already listing are not restarted.
    pub fn restart(&self, watch: WatchKind, cause: Cause) {
        for (_, watch) in self.of(&[watch]) {
            watch.ask_to_restart(cause);
        }
    }

    /// Restarts all watches except those that are already listing, because the resourceVersions of the API server went
    /// back.
    pub fn rewound(&self) {
        warn!(
            "the resourceVersions of the API server went back, as after a restore of etcd from a backup; \
             restarting all watches"
        );
        for (_, watch) in self.watches.lock().iter() {
            watch.ask_to_restart(Cause::Rewound);
        }
    }

    /// Records that an API server answers a watch that had no response before.
    pub(crate) fn answered(&self) {
        self.answered.notify_waiters();
    }

    /// Pauses a watch that failed. The pause ends early when another watch is answered again, but not before
    /// `shortest`. Without `shortest`, a server that accepts one request and drops the next would get requests without
    /// a pause.
    pub(crate) async fn pause(&self, shortest: Duration, longest: Duration) {
        let answered = self.answered.notified();
        tokio::pin!(answered);
        answered.as_mut().enable();
        sleep(shortest).await;
        _ = timeout(longest.saturating_sub(shortest), answered).await;
    }

    /// Returns the watches of these kinds, each with its kind.
    fn of(&self, kinds: &[WatchKind]) -> Vec<(WatchKind, WatchState)> {
        let watches = self.watches.lock();
        let meant = watches.iter().filter(|(kind, _)| kinds.contains(kind));
        meant.cloned().collect()
    }

    /// Returns the highest resourceVersion that the watches of these kinds have reached.
    #[must_use]
    pub fn version(&self, watches: &[WatchKind]) -> u64 {
        let meant = self.of(watches);
        let versions = meant.iter().map(|(_, watch)| watch.version());
        versions.max().unwrap_or(0)
    }

    /// Whether a watch of this kind has been answered for at least this time.
    #[must_use]
    pub fn is_open(&self, watch: WatchKind, time: Duration) -> bool {
        self.of(&[watch]).iter().any(|(_, watch)| watch.is_open(time))
    }

    /// Whether each watch of these kinds is answered, and has caught up. Ignores watches that have never completed a
    /// list, because they show nothing yet. Each new Service name starts such a watch, and any user who may edit a
    /// Service can add names.
    #[must_use]
    pub fn are_current(&self, watches: &[WatchKind]) -> bool {
        let meant = self.of(watches);
        let mut showing = meant.iter().filter(|(_, watch)| watch.has_listed());
        showing.all(|(_, watch)| watch.is_current())
    }

    /// Waits until the watches of these kinds are current.
    pub async fn until_current(&self, watches: &[WatchKind]) {
        while !self.are_current(watches) {
            sleep(CURRENT_POLL).await;
        }
    }

    /// Returns the names of the kinds that have no working watch, but at least one watch that has been failing for this
    /// long. If one of several watches of a kind works, the cause is in the requests of the others, for example a
    /// tenant's selector. A watch that has never worked does not count as working: it may be the watch of a new name.
    #[must_use]
    pub fn failing(&self, watches: &[WatchKind], time: Duration) -> Vec<&'static str> {
        let (mut failing, mut working) = (BTreeSet::new(), BTreeSet::new());
        for (kind, watch) in self.of(watches) {
            if watch.failing() >= time {
                failing.insert(kind.as_str());
            } else if watch.has_worked() {
                working.insert(kind.as_str());
            }
        }
        failing.difference(&working).copied().collect()
    }

    /// Whether a watch of this kind may show an outdated state.
    #[must_use]
    pub fn is_doubtful(&self, watch: WatchKind) -> bool {
        self.of(&[watch]).iter().any(|(_, watch)| watch.is_doubtful())
    }

    /// Returns when the watches of each kind last showed life. If a kind has several watches, this is the time of the
    /// one that has been silent longest.
    #[must_use]
    pub fn last(&self) -> BTreeMap<WatchKind, SystemTime> {
        let (mut last, now) = (BTreeMap::new(), SystemTime::now());
        for (kind, watch) in self.watches.lock().iter() {
            let silence = watch.last().elapsed();
            let moment = now.checked_sub(silence).unwrap_or(now);
            let silent = last.entry(*kind).or_insert(moment);
            *silent = moment.min(*silent);
        }
        last
    }

    /// Whether every watch has shown life within `limit`. Pauses that API servers asked for do not count as silence,
    /// because a replica that honors such a pause is as good as any other. Optional watches are ignored, because a
    /// replica without them still copies everything else.
    ///
    /// # Errors
    /// Returns the names of the watches that have not shown life within `limit`, if there are any.
    pub fn check(&self, limit: Duration) -> Result<(), SilentWatches> {
        let all = self.watches.lock();
        let mut silent: Vec<_> = all
            .iter()
            .filter(|(kind, _)| !WatchKind::OPTIONAL.contains(kind))
            .map(|(kind, watch)| (kind.as_str(), watch.silence()))
            .filter(|(_, age)| *age > limit)
            .collect();
        silent.sort();
        let line = |(watch, age): (_, Duration)| format!("{watch}: silent for {} s", age.as_secs());
        let lines: Vec<_> = silent.into_iter().map(line).collect();
        if lines.is_empty() {
            Ok(())
        } else {
            Err(SilentWatches(lines.join(", ")))
        }
    }
}

impl Running {
    pub(crate) fn state(&self) -> WatchState {
        self.state.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut watches = self.watch_health.watches.lock();
        watches.retain(|(_, watch)| !watch.is_same(&self.state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    /// Rule: 5.readyz
    #[tokio::test(start_paused = true)]
    async fn silent_watch_is_named_and_one_that_ended_is_not() {
        let watch_health = WatchHealth::default();
        let services = watch_health.start(WatchKind::Services);
        let copies = watch_health.start(WatchKind::Copies);
        tokio::time::advance(Duration::from_secs(80)).await;
        services.state().touch();
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(
            watch_health
                .check(Duration::from_secs(90))
                .unwrap_err()
                .to_string(),
            "copies: silent for 100 s"
        );
        drop(copies);
        assert_eq!(watch_health.check(Duration::from_secs(90)), Ok(()));
    }

    /// Rule: 8.not-ready
    #[tokio::test(start_paused = true)]
    async fn silent_watch_of_nodes_is_shown_and_the_replica_stays_ready() {
        let watch_health = WatchHealth::default();
        let _nodes = watch_health.start(WatchKind::Nodes);
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert_eq!(watch_health.check(Duration::from_secs(90)), Ok(()));
        assert!(watch_health.last()[&WatchKind::Nodes].elapsed().unwrap() > Duration::from_secs(900));
    }

    #[tokio::test(start_paused = true)]
    async fn watch_that_is_listing_is_not_restarted_again() {
        let watch_health = WatchHealth::default();
        let running = watch_health.start(WatchKind::Sources);
        let watch = running.state();
        let is_asked = async || {
            let asked = timeout(Duration::from_secs(1), watch.restart());
            asked.await.ok()
        };
        watch.list_begins();
        watch_health.restart(WatchKind::Sources, Cause::Behind);
        watch.record_list();
        assert_eq!(is_asked().await, None, "a request from before the list counted");
        // While the watch pauses after an error, no task waits for this request. The watch then lists anyway.
        watch_health.rewound();
        watch.list_begins();
        assert_eq!(is_asked().await, None);
        watch.record_list();
        watch_health.restart(WatchKind::Copies, Cause::Behind);
        assert_eq!(is_asked().await, None, "a request for another kind counted");
        watch_health.restart(WatchKind::Sources, Cause::Behind);
        assert_eq!(is_asked().await, Some(Cause::Behind));
        assert_eq!(is_asked().await, None, "one request counted twice");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_when_another_watch_is_answered_but_not_at_once() {
        let [shortest, longest] = [100, 500].map(Duration::from_millis);
        for (answered, took) in [(None, 500), (Some(50), 100), (Some(200), 200), (Some(600), 500)] {
            let (watch_health, start) = (WatchHealth::default(), Instant::now());
            let other = async {
                if let Some(after) = answered {
                    sleep(Duration::from_millis(after)).await;
                    watch_health.answered();
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = watch_health.pause(shortest, longest) => {}
                () = other => {}
            }
            assert_eq!(start.elapsed(), Duration::from_millis(took), "{answered:?}");
        }
    }

    /// Rule: 5.blind
    #[tokio::test(start_paused = true)]
    async fn failure_of_a_watch_counts_from_its_last_success() {
        let [second, nearly, limit] = [1, 29, 30].map(Duration::from_secs);
        let watch_health = WatchHealth::default();
        let running = watch_health.start(WatchKind::Services);
        let watch = running.state();
        let failing = || watch_health.failing(&[WatchKind::Services, WatchKind::Copies], limit);
        tokio::time::advance(limit).await;
        assert!(failing().is_empty(), "failing without a failure");
        watch.record_failure(false);
        assert_eq!(failing(), ["services"], "the first failure did not count");
        // A response that breaks immediately does not count as a success. A response that continues does.
        watch.set_open(true);
        watch.set_open(false);
        assert_eq!(failing(), ["services"]);
        watch.set_open(true);
        tokio::time::advance(second).await;
        assert!(failing().is_empty());
        watch.set_open(false);
        watch.record_failure(false);
        tokio::time::advance(nearly).await;
        assert!(failing().is_empty());
        watch.record_failure(false);
        tokio::time::advance(second).await;
        assert_eq!(failing(), ["services"]);
        watch.record_success();
        watch.record_failure(false);
        assert!(failing().is_empty());
        tokio::time::advance(limit).await;
        watch.record_failure(true);
        assert!(failing().is_empty(), "a failure of all replicas counted");
    }

    /// Rule: 5.blind, 5.readyz
    #[tokio::test(start_paused = true)]
    async fn list_is_progress_only_if_it_gets_further_than_before() {
        let second = Duration::from_secs(1);
        let watch_health = WatchHealth::default();
        let running = watch_health.start(WatchKind::Services);
        let watch = running.state();
        let is_progress = async |objects: u64| {
            watch.list_begins();
            tokio::time::advance(second).await;
            (0..objects).for_each(|_| watch.record_list_progress());
            watch.record_failure(false);
            let is_failing = !watch_health.failing(&[WatchKind::Services], second).is_empty();
            assert_eq!(watch_health.check(Duration::ZERO).is_err(), is_failing);
            !is_failing
        };
        for (objects, expected) in [(0, false), (5, true), (3, false), (5, false), (6, true)] {
            assert_eq!(is_progress(objects).await, expected, "{objects}");
        }
        watch.record_list();
        assert!(!is_progress(9).await, "a list hides that the watch fails");
        watch.record_success();
        assert!(
            is_progress(1).await,
            "a list after a watch that worked did not count"
        );
    }

    /// One watch alone may fail, for example because a tenant's selector is longer than a server accepts.
    /// Rule: 5.blind
    #[tokio::test(start_paused = true)]
    async fn a_kind_fails_only_if_all_its_watches_fail() {
        let limit = Duration::from_secs(30);
        let watch_health = WatchHealth::default();
        let names = [(); 2].map(|()| watch_health.start(WatchKind::Sources));
        for name in &names {
            name.state().record_success();
        }
        names[0].state().record_failure(false);
        tokio::time::advance(limit).await;
        assert!(watch_health.failing(&[WatchKind::Sources], limit).is_empty());
        names[1].state().record_failure(false);
        assert_eq!(watch_health.failing(&[WatchKind::Sources], limit), ["sources"]);
    }

    /// Any user who may edit a Service can repeatedly cause new watches.
    #[tokio::test(start_paused = true)]
    async fn watch_that_never_worked_does_not_hide_other_failures() {
        let limit = Duration::from_secs(30);
        let watch_health = WatchHealth::default();
        let old = watch_health.start(WatchKind::Sources);
        old.state().record_success();
        old.state().record_failure(false);
        tokio::time::advance(limit).await;
        let new = watch_health.start(WatchKind::Sources);
        assert_eq!(watch_health.failing(&[WatchKind::Sources], limit), ["sources"]);
        new.state().record_failure(false);
        assert_eq!(watch_health.failing(&[WatchKind::Sources], limit), ["sources"]);
        new.state().record_success();
        assert!(watch_health.failing(&[WatchKind::Sources], limit).is_empty());
    }

    /// Rule: 2.create-confirmed
    #[tokio::test(start_paused = true)]
    async fn view_is_doubtful_until_its_watch_is_answered_and_current() {
        let watch_health = WatchHealth::default();
        let running = watch_health.start(WatchKind::Sources);
        let watch = running.state();
        let is_doubtful = |after: u64| {
            let watch_health = watch_health.clone();
            async move {
                sleep(Duration::from_millis(after)).await;
                watch_health.is_doubtful(WatchKind::Sources)
            }
        };
        watch.list_begins();
        assert!(!is_doubtful(5000).await, "doubtful before its list");
        watch.record_list();
        assert!(!is_doubtful(1000).await, "doubtful just after its list");
        assert!(
            is_doubtful(1).await,
            "not doubtful without a watch after its list"
        );
        watch.set_open(true);
        assert!(
            !is_doubtful(0).await,
            "doubtful although the watch follows its list"
        );
        watch.set_open(false);
        assert!(is_doubtful(0).await);
        watch.set_open(true);
        assert!(is_doubtful(49).await, "not doubtful before it can have caught up");
        assert!(!is_doubtful(1).await);
        assert!(
            !watch_health.is_doubtful(WatchKind::Copies),
            "another kind is doubtful"
        );
    }

    #[test]
    fn version_of_a_watch_is_reset_when_it_lists() {
        let watch_health = WatchHealth::default();
        let (sources, lease) = (
            watch_health.start(WatchKind::Sources),
            watch_health.start(WatchKind::Lease),
        );
        sources.state().record_version(Some(7));
        sources.state().record_version(Some(5));
        sources.state().record_version(None);
        lease.state().record_version(Some(9));
        assert_eq!(watch_health.version(&[WatchKind::Sources, WatchKind::Copies]), 7);
        sources.state().list_begins();
        assert_eq!(watch_health.version(&[WatchKind::Sources, WatchKind::Copies]), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_watch_does_not_hide_its_successor() {
        let watch_health = WatchHealth::default();
        let first = watch_health.start(WatchKind::Sources);
        let _second = watch_health.start(WatchKind::Sources);
        drop(first);
        tokio::time::advance(Duration::from_secs(100)).await;
        assert!(watch_health.check(Duration::from_secs(90)).is_err());
    }
}
