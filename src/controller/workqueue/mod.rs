//! Dirty keys, each at most once, and the time before which a key must not be worked on again.
//!
//! A key is in one of four states: not queued, ready, waiting until a moment, or in progress. A key that becomes dirty
//! while it is in progress becomes ready when that work ends.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use crate::controller::outcome::{Backoff, Outcome, Requeue};
use crate::pauses::Pauses;
use crate::telemetry::metrics::Metrics;
use endpoint_copier_core::model::{Priority, ReconcileResult, ServiceKey};

mod dirty_set;
mod overload;

pub use dirty_set::DirtySet;
use overload::Overload;

/// The time from a sync that sent a request to the next sync of its key. A burst of changes costs about fifty syncs a
/// second and not one for each change. The first change of a burst does not wait.
pub const PACE: Duration = Duration::from_millis(20);

/// The number of keys in progress at once. Each makes one call at a time, so this also limits the writes in flight.
const AT_ONCE: usize = 10;

/// The number of these slots that are reserved for the Service of [`Priority::Flagged`]. There is only one such
/// Service, so it never waits.
const FLAGGED: usize = 1;

/// The number of slots reserved for [`Priority::ApiServers`]. There are several, so that a write that hangs does not
/// delay the next.
const API_SERVERS: usize = 2;

/// The number of slots for other Services whose last sync failed. Slow or hanging writes must not delay those that
/// would succeed.
const FAILING: usize = 4;

/// The time between two attempts of a key with reserved slots while the API server is overloaded. These few keys do not
/// wait for the common pause.
const OVERLOADED_API_SERVERS: Duration = Duration::from_secs(1);

/// The lane of a key decides its order, and how many keys of the lane are in progress at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Flagged,
    ApiServers,
    Normal,
    /// Keys whose last sync failed because the API server could not be reached or was too slow.
    Failing,
}

impl Lane {
    /// All lanes, in the order in which they are served.
    const ALL: [Self; 4] = [Self::Flagged, Self::ApiServers, Self::Normal, Self::Failing];

    /// The lane of a key. `failed`: its last sync failed. Keys with reserved slots keep their lane even then.
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
    /// `queued` is the time since which the key waits for its turn.
    Ready { since: Instant, queued: Instant },
    /// `since` is the time of the change that is still to be handled.
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
    failures: HashMap<ServiceKey, (Backoff, Pauses)>,
    /// Keys that were synced a moment ago.
    paced: HashMap<ServiceKey, Instant>,
}

impl WorkQueue {
    /// An empty queue that reports its metrics here.
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

    /// Marks a key as dirty since the given time.
    pub fn mark(&mut self, key: ServiceKey, since: Instant, priority: Priority) {
        match self.states.get_mut(&key) {
            Some(KeyState::Ready { .. }) => {}
            Some(KeyState::Active { dirty, .. }) => _ = dirty.get_or_insert(since),
            Some(KeyState::Waiting { timer, since: first }) => {
                // The change for which it waited is still to be handled. A pause after a sync stays in force.
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

    /// The next key to work on, if a slot is free, and the time since which it is dirty. The key is in progress until
    /// [`WorkQueue::finished`].
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

    /// Ends the work on a key. If it sent requests, the next sync waits for [`PACE`].
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
        let (known, pauses) = self
            .failures
            .entry(key.clone())
            .or_insert_with(|| (backoff, policy(backoff)));
        if *known != backoff {
            (*known, *pauses) = (backoff, policy(backoff));
        }
        pauses.next_pause()
    }

    /// Waits until a waiting key is due and makes it ready, or until the pause of an overloaded API server ends. Never
    /// returns while there is neither.
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

fn policy(kind: Backoff) -> Pauses {
    match kind {
        Backoff::Short => Pauses::new(Duration::from_millis(100), Duration::from_millis(750), 2.0, 0.3),
        Backoff::Long => Pauses::new(Duration::from_secs(5), Duration::from_secs(30), 2.0, 0.0),
    }
}

#[cfg(test)]
mod tests;
