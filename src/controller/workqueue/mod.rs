//! Dirty keys, each at most once, and the time before which a key must not be worked on again.
//!
//! A key is in one of four states: not here, ready, waiting until a moment, or being worked on.
//! A key that gets dirty while it is worked on becomes ready when that work ends.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use crate::controller::outcome::{Backoff, Outcome, Requeue};
use crate::telemetry::metrics::Metrics;
use endpoint_copier_core::model::{Priority, ReconcileResult, ServiceKey};

mod dirty_set;
mod overload;

pub use dirty_set::DirtySet;
use overload::Overload;

/// The time from a sync that sent a request to the next sync of its key. A burst of changes costs some fifty
/// syncs a second, not one per change; the first change of a burst does not wait.
pub const PACE: Duration = Duration::from_millis(20);

/// Keys worked on at once. Each makes one call at a time, so this many writes are in flight at most.
const AT_ONCE: usize = 10;

/// One slot of these is reserved for the Service of [`Priority::Flagged`]. There is only one, so it never
/// waits.
const FLAGGED: usize = 1;

/// Slots reserved for [`Priority::ApiServers`]. More than one, so that a write that hangs does not delay the
/// next.
const API_SERVERS: usize = 2;

/// The most slots for other Services whose last sync failed: slow or hanging writes must not delay those that
/// would succeed.
const FAILING: usize = 4;

/// The time between two tries of a key with reserved slots while the API server is overloaded. These few do not wait for
/// the common pause.
const OVERLOADED_API_SERVERS: Duration = Duration::from_secs(1);

/// The lane of a key decides when it goes, and how many keys go at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Flagged,
    ApiServers,
    Normal,
    /// The API server could not be reached, or took too long, last time.
    Failing,
}

impl Lane {
    /// All levels, in the order in which they are served.
    const ALL: [Self; 4] = [Self::Flagged, Self::ApiServers, Self::Normal, Self::Failing];

    /// The level of a key. `failed`: its last sync failed. Keys that go first do so even then.
    fn of(priority: Priority, failed: bool) -> Self {
        match priority {
            Priority::Flagged => Self::Flagged,
            Priority::ApiServers => Self::ApiServers,
            Priority::Other if failed => Self::Failing,
            Priority::Other => Self::Normal,
        }
    }
}

#[derive(Debug)]
enum KeyState {
    /// `queued`: it waits for its turn since then.
    Ready { since: Instant, queued: Instant },
    /// `since`: what was dirty is still to be done.
    Waiting {
        timer: delay_queue::Key,
        since: Option<Instant>,
    },
    Active {
        since: Instant,
        begun: Instant,
        dirty: Option<Instant>,
        lane: Lane,
    },
}

/// The queue of one worker loop.
pub struct WorkQueue {
    metrics: Metrics,
    /// At the start of a term each Service is in it; a `BTreeMap` gives the memory back when they leave.
    states: BTreeMap<ServiceKey, KeyState>,
    ready: [VecDeque<ServiceKey>; Lane::ALL.len()],
    active: [usize; Lane::ALL.len()],
    timers: DelayQueue<ServiceKey>,
    overload: Overload,
    failures: HashMap<ServiceKey, (Backoff, ExponentialBackoff)>,
    /// Keys that were synced a moment ago.
    paced: HashMap<ServiceKey, Instant>,
}

impl WorkQueue {
    /// An empty queue that counts here what goes through it.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            states: BTreeMap::new(),
            ready: Default::default(),
            active: [0; Lane::ALL.len()],
            timers: DelayQueue::new(),
            overload: Overload::default(),
            failures: HashMap::new(),
            paced: HashMap::new(),
        }
    }

    /// Marks a key dirty, since the given time.
    pub fn mark(&mut self, key: ServiceKey, since: Instant, priority: Priority) {
        match self.states.get_mut(&key) {
            Some(KeyState::Ready { .. }) => {}
            Some(KeyState::Active { dirty, .. }) => _ = dirty.get_or_insert(since),
            Some(KeyState::Waiting { timer, since: first }) => {
                // What it waited for is still to be done; a pause after a sync is kept all the same.
                let since = first.map_or(since, |first| first.min(since));
                self.timers.remove(timer);
                self.schedule(key, since, priority);
            }
            None => self.schedule(key, since, priority),
        }
    }

    fn schedule(&mut self, key: ServiceKey, since: Instant, priority: Priority) {
        match self.paced.get(&key) {
            Some(until) if *until > Instant::now() => self.wait(key, *until, Some(since)),
            _ => self.enqueue(key, since, priority),
        }
    }

    fn wait(&mut self, key: ServiceKey, until: Instant, since: Option<Instant>) {
        let timer = self.timers.insert_at(key.clone(), until);
        self.states.insert(key, KeyState::Waiting { timer, since });
    }

    fn enqueue(&mut self, key: ServiceKey, since: Instant, priority: Priority) {
        let queued = Instant::now();
        self.states.insert(key.clone(), KeyState::Ready { since, queued });
        self.metrics.controller().queued();
        let failed = matches!(self.failures.get(&key), Some((Backoff::Short, _)));
        self.ready[Lane::of(priority, failed) as usize].push_back(key);
    }

    /// The next key to work on, if there is room for it, and since when it is dirty. It is being worked
    /// on until [`WorkQueue::finished`].
    pub fn pop(&mut self) -> Option<(ServiceKey, Instant)> {
        let lane = Lane::ALL
            .into_iter()
            .find(|lane| !self.ready[*lane as usize].is_empty() && self.has_room(*lane))?;
        let key = self.ready[lane as usize].pop_front()?;
        let begun = Instant::now();
        let (since, queued) = match self.states.remove(&key) {
            Some(KeyState::Ready { since, queued }) => (since, queued),
            _ => (begun, begun),
        };
        self.metrics.controller().begun(begun - queued);
        self.active[lane as usize] += 1;
        self.states.insert(
            key.clone(),
            KeyState::Active {
                since,
                begun,
                dirty: None,
                lane,
            },
        );
        Some((key, since))
    }

    fn has_room(&self, lane: Lane) -> bool {
        let [flagged, api_servers, normal, failing] = self.active;
        let others = normal + failing;
        let room = api_servers + others < AT_ONCE - FLAGGED;
        let room_for_others = room && others < AT_ONCE - FLAGGED - API_SERVERS && !self.overload.is_pausing();
        match lane {
            Lane::Flagged => flagged < FLAGGED,
            Lane::ApiServers => room,
            Lane::Normal => room_for_others,
            Lane::Failing => room_for_others && failing < FAILING,
        }
    }

    /// Work on a key has ended. If it sent requests, the next sync waits for [`PACE`].
    pub fn finished(&mut self, key: ServiceKey, outcome: &Outcome, priority: Priority) {
        let Some(KeyState::Active {
            since,
            begun,
            dirty,
            lane,
        }) = self.states.remove(&key)
        else {
            return;
        };
        let result = outcome.reconcile_result();
        self.metrics.controller().ended(begun.elapsed(), result);
        self.active[lane as usize] -= 1;
        if outcome.has_sent {
            let now = Instant::now();
            self.paced.retain(|_, until| *until > now);
            self.paced.insert(key.clone(), now + PACE);
        }
        let (until, undone) = match outcome.requeue {
            Requeue::WhenDirty => (None, None),
            Requeue::At(until) => (Some(until), None),
            Requeue::Resume(until) => (Some(until), Some(since)),
            Requeue::Backoff(backoff) => (Some(Instant::now() + self.delay(&key, backoff)), Some(since)),
            Requeue::Overloaded(retry_after) => (Some(self.pause(retry_after, priority)), Some(since)),
        };
        if undone.is_none() {
            self.failures.remove(&key);
        }
        if outcome.has_written && result != ReconcileResult::Error {
            self.overload.accepted();
        }
        if let Some(changed) = dirty {
            self.schedule(
                key,
                undone.map_or(changed, |undone| undone.min(changed)),
                priority,
            );
        } else if let Some(until) = until {
            self.wait(key, until, undone);
        }
    }

    /// When a key that an overloaded API server has rejected is tried again.
    fn pause(&mut self, retry_after: Duration, priority: Priority) -> Instant {
        let pause = self.overload.rejected(retry_after);
        match priority {
            Priority::Flagged | Priority::ApiServers => Instant::now() + OVERLOADED_API_SERVERS,
            Priority::Other => pause,
        }
    }

    /// The next delay of a key that failed.
    fn delay(&mut self, key: &ServiceKey, backoff: Backoff) -> Duration {
        let (known, delays) = self
            .failures
            .entry(key.clone())
            .or_insert_with(|| (backoff, policy(backoff)));
        if *known != backoff {
            (*known, *delays) = (backoff, policy(backoff));
        }
        delays.next_backoff().unwrap_or(delays.max_interval)
    }

    /// Waits until a waiting key is due, and makes it ready, or until an overloaded API server has had its pause. Never
    /// ends while neither is awaited.
    pub async fn due(&mut self, priority: impl Fn(&ServiceKey) -> Priority) {
        let expired = poll_fn(|context| match self.timers.poll_expired(context) {
            std::task::Poll::Ready(None) => std::task::Poll::Pending,
            other => other,
        });
        let expired = tokio::select! {
            expired = expired => expired,
            () = self.overload.over() => None,
        };
        if let Some(expired) = expired {
            let key = expired.into_inner();
            if let Some(KeyState::Waiting { since, .. }) = self.states.remove(&key) {
                let priority = priority(&key);
                self.enqueue(key, since.unwrap_or_else(Instant::now), priority);
            }
        }
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        self.metrics.controller().stopped();
    }
}

fn policy(kind: Backoff) -> ExponentialBackoff {
    match kind {
        Backoff::Short => backoff(Duration::from_millis(100), Duration::from_millis(750), 0.3),
        Backoff::Long => backoff(Duration::from_secs(5), Duration::from_secs(30), 0.0),
    }
}

/// A delay that doubles each time, without an end: a key is never given up.
fn backoff(first: Duration, longest: Duration, jitter: f64) -> ExponentialBackoff {
    ExponentialBackoffBuilder::new()
        .with_initial_interval(first)
        .with_multiplier(2.0)
        .with_max_interval(longest)
        .with_max_elapsed_time(None)
        .with_randomization_factor(jitter)
        .build()
}

#[cfg(test)]
mod tests;
