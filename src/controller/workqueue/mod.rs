//! The queue of dirty keys. It holds each key at most once, and knows how long a key must wait before it is processed
//! again.
//!
//! A key is in one of four states: not queued, ready, waiting until a set time, or in progress. A key that becomes
//! dirty while it is in progress is queued again when that work ends. Each key in progress uses a *slot*; some slots
//! are reserved for Services with certain priorities.
//!
//! The next key is the first one of the first `Lane` that has a ready key and a free slot. In each lane, namespaces
//! take turns (`FairQueue`). Keys without a reserved slot wait while the API server is overloaded, and during a
//! `HeadStart`.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use crate::controller::budget::Budgets;
use crate::controller::outcome::{Backoff, Outcome, Requeue};
use crate::pauses::Pauses;
use crate::telemetry::metrics::{Controller, Metrics};
use endpoint_copier_core::model::{Priority, ReconcileResult, ServiceKey};

mod dirty_set;
mod fair_queue;
mod head_start;
mod lane;
mod pause;

pub use dirty_set::{DirtySet, Mark, Marks};
use fair_queue::FairQueue;
use head_start::HeadStart;
use lane::Lane;
use pause::Overload;

/// After a sync that sent a request, a change to the key causes the next sync only after this time. A burst of changes
/// causes at most fifty such syncs of the key per second, not one for each change. The first change of a burst does not
/// wait.
pub const PACE: Duration = Duration::from_millis(20);

/// The number of slots. A sync sends one write at a time, so this also limits the number of concurrent writes of
/// copies.
const SLOTS: usize = 10;

/// The number of slots that are reserved for the Service of [`Priority::Flagged`]. There is only one such Service, so
/// it never waits for a slot.
const FLAGGED_SLOTS: usize = 1;

/// The number of slots reserved for [`Priority::ApiServers`]. There are several, so that a hanging write does not delay
/// the next one.
const API_SERVER_SLOTS: usize = 2;

/// The maximum number of slots for other Services whose last sync failed because the API server was unavailable. Slow
/// or hanging writes must not delay those that would succeed.
const FAILING_SLOTS: usize = 4;

/// The maximum number of slots for other Services that one namespace may use. Even if all writes in one namespace hang,
/// one slot is left for the others. With fewer slots, it would take at least 30 s to sync a hundred Services of one
/// namespace if each request took 1.5 s.
const NAMESPACE_SLOTS: usize = 6;

/// The time after which a key with reserved slots is tried again if an overloaded API server rejected a request for it.
/// These few keys do not wait for the pause of all other keys; see [`Overload`].
const RESERVED_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The number of edits in one namespace that are handled without delay in a burst. An edit is a change to a managed
/// Service itself. The limit keeps a user who constantly edits Services from delaying other users.
const EDIT_BURST: u32 = 1_000;

/// The interval at which the budget of a namespace regains one edit.
const EDIT_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug)]
enum KeyState {
    /// `since` is the time of the first change that is not handled yet. `queued` is when the key became ready.
    Ready { since: Instant, queued: Instant },
    /// `since` is the time of the first change that is not handled yet, if there is one. `has_turn` says whether the
    /// key has taken an edit from the budget of its namespace and waits until it may use that edit.
    Waiting {
        timer: delay_queue::Key,
        since: Option<Instant>,
        has_turn: bool,
    },
    Active {
        since: Instant,
        begun: Instant,
        dirty: Option<Mark>,
        lane: Lane,
    },
}

/// The queue of one worker loop.
pub struct WorkQueue {
    metrics: Option<Metrics>,
    /// The states of the keys that are queued or in progress. At the start of a term, there is one for each key that
    /// the worker handles. Unlike a `HashMap`, a `BTreeMap` frees memory when keys leave.
    states: BTreeMap<ServiceKey, KeyState>,
    ready: [FairQueue; Lane::ALL.len()],
    active: [usize; Lane::ALL.len()],
    /// The slots in use by each namespace, not counting reserved slots.
    active_of: HashMap<Box<str>, usize>,
    /// The budgets of edits, by namespace.
    edits: Budgets<Box<str>>,
    timers: DelayQueue<ServiceKey>,
    overload: Overload,
    head_start: HeadStart,
    failures: HashMap<ServiceKey, (Backoff, Pauses)>,
    /// Keys whose last sync sent a request, or had one rejected by an overloaded API server, and when a change may
    /// cause the next sync.
    paced: HashMap<ServiceKey, Instant>,
}

impl WorkQueue {
    /// Creates an empty queue that reports to these metrics.
    #[must_use]
    pub fn new(metrics: impl Into<Option<Metrics>>) -> Self {
        Self {
            metrics: metrics.into(),
            states: BTreeMap::new(),
            ready: Default::default(),
            active: [0; Lane::ALL.len()],
            active_of: HashMap::new(),
            edits: Budgets::new(EDIT_BURST, EDIT_INTERVAL),
            timers: DelayQueue::new(),
            overload: Overload::default(),
            head_start: HeadStart::default(),
            failures: HashMap::new(),
            paced: HashMap::new(),
        }
    }

    fn count(&self, count: impl Fn(&Controller)) {
        self.metrics.as_ref().map(Metrics::controller).map(count);
    }

    /// Marks a key as dirty. An edit waits while the budget of its namespace is spent, unless the key has reserved
    /// slots.
    pub fn mark(&mut self, key: ServiceKey, mark: Mark, priority: Priority) {
        let (since, now) = (mark.since, Instant::now());
        let is_edit = mark.is_edit && priority == Priority::Other;
        let edits = &mut self.edits;
        let mut turn = || {
            if is_edit {
                edits.reserve(key.namespace().into(), now)
            } else {
                now
            }
        };
        let earlier = |first: Option<Instant>| Some(first.map_or(since, |first| first.min(since)));
        match self.states.get_mut(&key) {
            Some(KeyState::Ready { since: first, .. }) => *first = (*first).min(since),
            Some(KeyState::Active { dirty, .. }) => {
                let mark = Mark { since, is_edit };
                *dirty = Some(dirty.map_or(mark, |known| known.and(mark)));
            }
            Some(KeyState::Waiting {
                since: first,
                has_turn: true,
                ..
            }) if is_edit => *first = earlier(*first),
            Some(KeyState::Waiting {
                timer,
                since: first,
                has_turn,
            }) => {
                let turn = turn();
                if turn <= now {
                    // The key is waiting because of an earlier change, so the time of that change counts. `PACE` still
                    // applies.
                    let since = earlier(*first).unwrap_or(since);
                    if *has_turn {
                        self.edits.refund(key.namespace());
                    }
                    self.timers.remove(timer);
                    return self.schedule(key, since, priority);
                }
                *first = earlier(*first);
                let turn = self.paced.get(&key).map_or(turn, |paced| turn.max(*paced));
                if turn < self.timers.deadline(timer) {
                    self.timers.reset_at(timer, turn);
                    *has_turn = true;
                } else {
                    self.edits.refund(key.namespace());
                }
            }
            None => match turn() {
                turn if turn <= now => self.schedule(key, since, priority),
                turn => {
                    let paced = self.paced.get(&key).copied().unwrap_or(now);
                    self.wait(key, turn.max(paced), Some(since), true);
                }
            },
        }
    }

    fn schedule(&mut self, key: ServiceKey, since: Instant, priority: Priority) {
        match self.paced.get(&key) {
            Some(until) if *until > Instant::now() => self.wait(key, *until, Some(since), false),
            _ => self.enqueue(key, since, priority),
        }
    }

    fn wait(&mut self, key: ServiceKey, until: Instant, since: Option<Instant>, has_turn: bool) {
        let timer = self.timers.insert_at(key.clone(), until);
        let state = KeyState::Waiting {
            timer,
            since,
            has_turn,
        };
        self.states.insert(key, state);
    }

    fn enqueue(&mut self, key: ServiceKey, since: Instant, priority: Priority) {
        let queued = Instant::now();
        self.states.insert(key.clone(), KeyState::Ready { since, queued });
        self.count(Controller::queued);
        let failed = matches!(self.failures.get(&key), Some((Backoff::Short, _)));
        self.ready[Lane::of(priority, failed) as usize].push(key);
    }

    /// Returns the next key to work on, if a slot is free, and when the key became dirty. The key is in progress until
    /// [`WorkQueue::finished`].
    pub fn pop(&mut self) -> Option<(ServiceKey, Instant)> {
        let (lane, key) = Lane::in_order(self.active[Lane::Failing as usize])
            .into_iter()
            .find_map(|lane| Some((lane, self.next_of(lane)?)))?;
        let begun = Instant::now();
        let (since, queued) = match self.states.remove(&key) {
            Some(KeyState::Ready { since, queued }) => (since, queued),
            _ => (begun, begun),
        };
        self.count(|controller| controller.begun(begun - queued));
        self.active[lane as usize] += 1;
        // No head start begins during a pause, because it could outlast the pause. If its key were then rejected, the
        // next pause would begin before other keys got a turn.
        if lane.is_reserved() && !self.overload.is_pausing() {
            self.head_start.begin();
        }
        if !lane.is_reserved() {
            *self.active_of.entry(key.namespace().into()).or_default() += 1;
        }
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

    /// Takes the next key of this lane, if the lane has a free slot and so does the namespace of the key.
    fn next_of(&mut self, lane: Lane) -> Option<ServiceKey> {
        if !self.has_room(lane) {
            return None;
        }
        let active_of = &self.active_of;
        let in_use = |namespace: &str| active_of.get(namespace).copied().unwrap_or(0);
        self.ready[lane as usize].pop(|namespace| lane.is_reserved() || in_use(namespace) < NAMESPACE_SLOTS)
    }

    fn has_room(&self, lane: Lane) -> bool {
        let [flagged, api_servers, normal, failing] = self.active;
        let others = normal + failing;
        let room = api_servers + others < SLOTS - FLAGGED_SLOTS;
        let must_wait = self.overload.is_pausing() || self.head_start.is_on();
        let room_for_others = room && others < SLOTS - FLAGGED_SLOTS - API_SERVER_SLOTS && !must_wait;
        match lane {
            Lane::Flagged => flagged < FLAGGED_SLOTS,
            Lane::ApiServers => room,
            Lane::Normal => room_for_others,
            Lane::Failing => room_for_others && failing < FAILING_SLOTS,
        }
    }

    /// Ends the sync of a key. If the sync sent requests, changes to the key wait for [`PACE`]. If an overloaded API
    /// server rejected one for a key with reserved slots, changes to that key wait for its retry.
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
        self.count(|controller| controller.ended(begun.elapsed(), result));
        self.active[lane as usize] -= 1;
        if Lane::ALL
            .iter()
            .all(|lane| !lane.is_reserved() || self.active[*lane as usize] == 0)
        {
            self.head_start.end();
        }
        if !lane.is_reserved()
            && let Some(in_use) = self.active_of.get_mut(key.namespace())
        {
            *in_use -= 1;
            if *in_use == 0 {
                self.active_of.remove(key.namespace());
            }
        }
        let now = Instant::now();
        let (until, undone) = match outcome.requeue {
            Requeue::WhenDirty => (None, None),
            Requeue::At(until) => (Some(until), None),
            Requeue::Resume(until) => (Some(until), Some(since)),
            Requeue::Backoff(backoff) => (Some(now + self.delay(&key, backoff)), Some(since)),
            Requeue::Overloaded(retry_after) => (Some(self.pause(retry_after, priority)), Some(since)),
        };
        if undone.is_none() {
            self.failures.remove(&key);
        }
        let paced = match outcome.requeue {
            // Otherwise, a key with reserved slots that changes often would be tried after each change. The lanes of
            // other keys pause.
            Requeue::Overloaded(_) if priority != Priority::Other => until,
            _ => outcome.has_sent.then_some(now + PACE),
        };
        if let Some(until) = paced {
            self.paced.retain(|_, until| *until > now);
            self.paced.insert(key.clone(), until);
        }
        if outcome.has_written && result != ReconcileResult::Error {
            self.overload.accepted();
        }
        if let Some(until) = until {
            self.wait(key.clone(), until, undone, false);
        }
        if let Some(mark) = dirty {
            self.mark(key, mark, priority);
        }
    }

    /// Records that an overloaded API server has rejected a request for a key, which starts the pause unless one is in
    /// force. Returns when the key is tried again.
    fn pause(&mut self, retry_after: Duration, priority: Priority) -> Instant {
        let pause = self.overload.rejected(retry_after);
        match priority {
            Priority::Flagged | Priority::ApiServers => Instant::now() + RESERVED_RETRY_PAUSE,
            Priority::Other => pause,
        }
    }

    /// Returns the next delay of a key that failed.
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

    /// Waits until a waiting key is due, and makes it ready. Also returns when a head start ends, or when the pause
    /// after a rejection by an overloaded API server ends. Does not return while there is nothing to wait for.
    pub async fn due(&mut self, priority: impl Fn(&ServiceKey) -> Priority) {
        let expired = poll_fn(|context| match self.timers.poll_expired(context) {
            std::task::Poll::Ready(None) => std::task::Poll::Pending,
            other => other,
        });
        let expired = tokio::select! {
            expired = expired => expired,
            () = self.overload.over() => None,
            () = self.head_start.over() => None,
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
        self.count(Controller::stopped);
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
