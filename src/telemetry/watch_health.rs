//! Records signs of life of watches, the versions that they have reached, and whether they must restart. The view of a
//! watch without a recent sign of life is stale, however quiet the cluster is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use crate::timing::CAUGHT_UP;
use endpoint_copier_core::model::WatchKind;

/// The time between two checks of whether watches are current. It is short, because the first copy waits for these
/// watches.
const CURRENT_POLL: Duration = Duration::from_millis(5);

/// A watch counts as working once its response has been open for this long, because a watch that breaks immediately
/// proves nothing.
const WORKING_TIME: Duration = Duration::from_secs(1);

/// A watch starts within this time after its list. Until the watch starts, the list is current enough.
const WATCH_START: Duration = Duration::from_secs(1);

/// Why a watch has to restart with a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The watch does not show what the API shows. If its API server answers the watch, that server is behind.
    Behind,
    /// The API server continues from an earlier resourceVersion than the watch has reached, so the watch would show
    /// nothing until the server passes the version that the watch has reached. This happens when etcd is restored from
    /// a backup, and is not the fault of a server.
    Rewound,
}

/// When one watch last showed life, which version it has reached, and whether it has to restart.
#[derive(Clone, Debug)]
pub struct WatchState {
    status: Arc<Mutex<WatchStatus>>,
    news: Arc<Notify>,
}

#[derive(Debug)]
struct WatchStatus {
    last: Instant,
    /// The end of the pause that an overloaded API server has asked for. The pause does not count as silence.
    pause_ends: Option<Instant>,
    /// The highest resourceVersion that the watch has shown or asked for.
    version: u64,
    /// Since when the list of the watch has been complete.
    listed: Option<Instant>,
    /// Whether a list of the watch has ever been complete.
    has_listed: bool,
    /// Since when the response to the watch has been open. `None` if there is no open response.
    open: Option<Instant>,
    /// Whether a response to the watch has ended since its list.
    resumed: bool,
    restart: Option<Cause>,
    /// When the list or the watch last worked, or when the watch began if neither has ever worked.
    well: Instant,
    has_worked: bool,
    /// Whether the list or the watch has failed since `well`, for a cause that may concern only this replica.
    failing: bool,
}

impl WatchStatus {
    fn record_success(&mut self) {
        (self.well, self.has_worked, self.failing) = (Instant::now(), true, false);
    }
}

impl WatchState {
    /// Records activity of the watch.
    pub fn touch(&self) {
        self.status.lock().last = Instant::now();
    }

    /// Records that an overloaded API server has asked the watch to wait until this time.
    pub fn pause_until(&self, until: Instant) {
        self.status.lock().pause_ends = Some(until);
    }

    /// For how long the watch has shown no life, not counting pauses that an API server asked for.
    fn silence(&self) -> Duration {
        let state = self.status.lock();
        let since = state.pause_ends.map_or(state.last, |end| end.max(state.last));
        since.elapsed()
    }

    /// Records that the watch begins with a list. Earlier events no longer count, and a requested restart is done.
    pub fn list_begins(&self) {
        let mut state = self.status.lock();
        (state.version, state.listed, state.restart) = (0, None, None);
        state.resumed = false;
    }

    /// Records that the list of the watch is complete.
    pub fn record_list(&self) {
        let mut state = self.status.lock();
        (state.listed, state.has_listed) = (Some(Instant::now()), true);
    }

    /// Records that the watch has reached this version, or asks for changes after it.
    pub fn record_version(&self, version: Option<u64>) {
        let mut state = self.status.lock();
        state.version = version.unwrap_or(0).max(state.version);
    }

    /// Records that the list or the watch works.
    pub fn record_success(&self) {
        self.status.lock().record_success();
    }

    /// Records that the list or the watch has failed. `for_all` says whether it fails for every replica, for example
    /// because a permission is missing. Such a failure counts as a success, because no other replica would see more.
    pub fn record_failure(&self, for_all: bool) {
        if for_all {
            self.record_success();
        } else {
            self.status.lock().failing = true;
        }
    }

    /// Returns how long the lists and the watch have been failing, or zero if they work.
    fn failing(&self) -> Duration {
        let state = self.status.lock();
        let is_answered = state.open.is_some_and(|since| since.elapsed() >= WORKING_TIME);
        if state.failing && !is_answered {
            state.well.elapsed()
        } else {
            Duration::ZERO
        }
    }

    /// Records whether the API server answers the watch from now on.
    pub fn set_open(&self, is_open: bool) {
        let mut state = self.status.lock();
        if state.open.is_some_and(|since| since.elapsed() >= WORKING_TIME) {
            state.record_success();
        }
        // A watch that follows a list begins with the state of the list. A watch that follows a break has to catch up.
        state.resumed |= !is_open;
        state.open = is_open.then(Instant::now);
    }

    /// Whether the watch probably shows the current state. After a break, the missed events arrive after the response
    /// begins, so the response must have been open for [`CAUGHT_UP`].
    fn is_current(&self) -> bool {
        let resumed = self.status.lock().resumed;
        self.is_open(if resumed { CAUGHT_UP } else { Duration::ZERO })
    }

    /// Whether the watch may show an outdated state: its list was complete more than [`WATCH_START`] ago, and no
    /// current watch follows the list. A watch that is still listing shows nothing, so it shows nothing outdated.
    fn is_doubtful(&self) -> bool {
        let listed = self.status.lock().listed;
        listed.is_some_and(|listed| listed.elapsed() > WATCH_START) && !self.is_current()
    }

    /// Whether the API server has answered the watch for at least this time.
    pub fn is_open(&self, time: Duration) -> bool {
        let open = self.status.lock().open;
        open.is_some_and(|since| since.elapsed() >= time)
    }

    fn ask_to_restart(&self, cause: Cause) {
        let mut state = self.status.lock();
        if state.listed.is_some() {
            state.restart = Some(cause);
            self.news.notify_one();
        }
    }

    /// Waits until this watch has to restart, and returns the cause.
    pub async fn restart(&self) -> Cause {
        loop {
            if let Some(cause) = self.status.lock().restart.take() {
                return cause;
            }
            self.news.notified().await;
        }
    }
}

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
        let status = WatchStatus {
            // The first activity is due like any other.
            last: Instant::now(),
            pause_ends: None,
            version: 0,
            listed: None,
            has_listed: false,
            open: None,
            resumed: false,
            restart: None,
            well: Instant::now(),
            has_worked: false,
            failing: false,
        };
        let state = WatchState {
            status: Arc::new(Mutex::new(status)),
            news: Arc::default(),
        };
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
        let versions = meant.iter().map(|(_, watch)| watch.status.lock().version);
        versions.max().unwrap_or(0)
    }

    /// Whether a watch of this kind has been answered for at least this time.
    #[must_use]
    pub fn is_open(&self, watch: WatchKind, time: Duration) -> bool {
        self.of(&[watch]).iter().any(|(_, watch)| watch.is_open(time))
    }

    /// Whether each watch of these kinds is answered, and has caught up. A watch that has never completed a list does
    /// not count, because it shows nothing yet. Each new Service name starts one, and any user who may edit a Service
    /// can add names.
    #[must_use]
    pub fn are_current(&self, watches: &[WatchKind]) -> bool {
        let meant = self.of(watches);
        let mut showing = meant.iter().filter(|(_, watch)| watch.status.lock().has_listed);
        showing.all(|(_, watch)| watch.is_current())
    }

    /// Waits until the watches of these kinds are current.
    pub async fn until_current(&self, watches: &[WatchKind]) {
        while !self.are_current(watches) {
            sleep(CURRENT_POLL).await;
        }
    }

    /// Returns the names of the kinds of which no watch works and at least one has failed for this long. If one of
    /// several watches of a kind works, the cause is in the requests of the others, for example a tenant's selector. A
    /// watch that has never worked does not count as working: it may be the watch of a new name.
    #[must_use]
    pub fn failing(&self, watches: &[WatchKind], time: Duration) -> Vec<&'static str> {
        let (mut failing, mut working) = (BTreeSet::new(), BTreeSet::new());
        for (kind, watch) in self.of(watches) {
            if watch.failing() >= time {
                failing.insert(kind.as_str());
            } else if watch.status.lock().has_worked {
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
            let silence = watch.status.lock().last.elapsed();
            let moment = now.checked_sub(silence).unwrap_or(now);
            let silent = last.entry(*kind).or_insert(moment);
            *silent = moment.min(*silent);
        }
        last
    }

    /// Whether every watch has shown life within `limit`, not counting pauses that API servers asked for, because a
    /// replica that honors such a pause is as good as any other. Optional watches do not count, because without them
    /// a replica still copies everything else.
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
        watches.retain(|(_, watch)| !Arc::ptr_eq(&watch.status, &self.state.status));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Any user who may edit a Service can cause new watches again and again.
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
