//! The state of one watch: when it last showed life, which version it has reached, and whether it works.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::timing::CAUGHT_UP;

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
    /// The API server has gone back to an earlier resourceVersion than the watch has reached, so the watch would show
    /// nothing until the server catches up. This happens when etcd is restored from a backup, and is not the fault of a
    /// server.
    Rewound,
}

/// When one watch last showed life, which version it has reached, and whether it has to restart.
#[derive(Clone, Debug)]
pub struct WatchState {
    status: Arc<Mutex<WatchStatus>>,
    news: Arc<Notify>,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the fields are independent of each other"
)]
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
    /// The number of objects that the current list has shown.
    shown: usize,
    /// The largest number of objects that a list has shown since the watch last worked, or `usize::MAX` after a
    /// complete list. A list shows progress only if it exceeds this number. After a complete list, only the watch can
    /// show progress.
    shown_before: usize,
    /// When the watch last worked or a list last made progress, or when the watch began if neither has ever happened.
    well: Instant,
    /// Whether the watch has ever worked.
    has_worked: bool,
    /// Whether a list or the watch has failed since the watch last worked, for a cause that may concern only this
    /// replica.
    failing: bool,
}

impl WatchStatus {
    fn record_success(&mut self) {
        (self.well, self.has_worked, self.failing) = (Instant::now(), true, false);
        (self.shown, self.shown_before) = (0, 0);
    }

    /// Whether the response to the watch has been open for long enough to count as working.
    fn is_answered(&self) -> bool {
        self.open.is_some_and(|since| since.elapsed() >= WORKING_TIME)
    }
}

impl WatchState {
    pub(super) fn new() -> Self {
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
            shown: 0,
            shown_before: 0,
            well: Instant::now(),
            has_worked: false,
            failing: false,
        };
        Self {
            status: Arc::new(Mutex::new(status)),
            news: Arc::default(),
        }
    }

    /// Records activity of the watch.
    pub fn touch(&self) {
        self.status.lock().last = Instant::now();
    }

    /// Records that an overloaded API server has asked the watch to wait until this time.
    pub fn pause_until(&self, until: Instant) {
        self.status.lock().pause_ends = Some(until);
    }

    /// For how long the watch has shown no life, not counting pauses that an API server asked for.
    pub(super) fn silence(&self) -> Duration {
        let state = self.status.lock();
        let since = state.pause_ends.map_or(state.last, |end| end.max(state.last));
        since.elapsed()
    }

    /// Records that the watch begins with a list. Earlier events no longer count, and a requested restart is done.
    pub fn list_begins(&self) {
        let mut state = self.status.lock();
        (state.version, state.listed, state.restart) = (0, None, None);
        state.resumed = false;
        state.shown_before = std::mem::take(&mut state.shown).max(state.shown_before);
    }

    /// Records that the list has shown an object. This is a sign of life only if the list gets further than those that
    /// failed before it. Otherwise, a list whose second page always fails would look as if it worked.
    pub fn record_list_progress(&self) {
        let mut state = self.status.lock();
        state.shown += 1;
        if state.shown > state.shown_before {
            let now = Instant::now();
            (state.last, state.well) = (now, now);
        }
    }

    /// Records that the list of the watch is complete.
    pub fn record_list(&self) {
        // An empty list has shown no object, but it is progress too.
        self.record_list_progress();
        let (mut state, now) = (self.status.lock(), Instant::now());
        (state.last, state.listed, state.has_listed) = (now, Some(now), true);
        (state.shown, state.shown_before) = (0, usize::MAX);
    }

    /// Records that the watch has reached this version, or asks for changes after it.
    pub fn record_version(&self, version: Option<u64>) {
        let mut state = self.status.lock();
        state.version = version.unwrap_or(0).max(state.version);
    }

    /// Records that the watch works.
    pub fn record_success(&self) {
        self.status.lock().record_success();
    }

    /// Records that the list or the watch has failed. `for_all` says whether it fails for every replica, for example
    /// because a permission is missing. Such a failure ends a run of failures, because no other replica would see more.
    pub fn record_failure(&self, for_all: bool) {
        let mut state = self.status.lock();
        if for_all {
            state.well = Instant::now();
        }
        state.failing = !for_all;
    }

    /// Returns how long the lists and the watch have been failing, or zero if they work.
    pub(super) fn failing(&self) -> Duration {
        let state = self.status.lock();
        if state.failing && !state.is_answered() {
            state.well.elapsed()
        } else {
            Duration::ZERO
        }
    }

    pub(super) fn has_worked(&self) -> bool {
        let state = self.status.lock();
        state.has_worked || state.is_answered()
    }

    /// Records whether the API server answers the watch from now on.
    pub fn set_open(&self, is_open: bool) {
        let mut state = self.status.lock();
        if state.is_answered() {
            state.record_success();
        }
        // A watch that follows a list begins with the state of the list. A watch that follows a break has to catch up.
        state.resumed |= !is_open;
        state.open = is_open.then(Instant::now);
    }

    /// Whether the watch probably shows the current state. After a break, the missed events arrive after the response
    /// begins, so the response must have been open for [`CAUGHT_UP`].
    pub(super) fn is_current(&self) -> bool {
        let resumed = self.status.lock().resumed;
        self.is_open(if resumed { CAUGHT_UP } else { Duration::ZERO })
    }

    /// Whether the watch may show an outdated state: its list was complete more than [`WATCH_START`] ago, and no
    /// current watch follows the list. A watch that is still listing shows nothing, so it shows nothing outdated.
    pub(super) fn is_doubtful(&self) -> bool {
        let listed = self.status.lock().listed;
        listed.is_some_and(|listed| listed.elapsed() > WATCH_START) && !self.is_current()
    }

    /// The time of the last sign of life.
    pub(super) fn last(&self) -> Instant {
        self.status.lock().last
    }

    /// The highest resourceVersion that the watch has shown or asked for since its list began.
    pub(super) fn version(&self) -> u64 {
        self.status.lock().version
    }

    /// Whether a list of the watch has ever been complete.
    pub(super) fn has_listed(&self) -> bool {
        self.status.lock().has_listed
    }

    /// Whether this is a clone of another state.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.status, &other.status)
    }

    /// Whether the API server has answered the watch for at least this time.
    pub fn is_open(&self, time: Duration) -> bool {
        let open = self.status.lock().open;
        open.is_some_and(|since| since.elapsed() >= time)
    }

    pub(super) fn ask_to_restart(&self, cause: Cause) {
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
