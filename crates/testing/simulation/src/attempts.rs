//! For each replica, the probe results that section 7 of docs/contributing/rules.md depends on. This module follows the
//! rules, not the operator's code. Where the rules define no exact time, the module is lenient, so every violation that
//! it helps to find is real.

use std::collections::BTreeMap;
use std::time::Duration;

use endpoint_copier_core::verdicts::{Reply, Target};

use crate::replica::Life;
use crate::world::{State, World};

/// The time limit of an attempt.
const LIMIT: Duration = Duration::from_secs(1);

/// A timeout that fires more than this long after the limit says nothing about the server.
const LATE_TIMER: Duration = Duration::from_millis(100);

/// A failure contrasts with a response of another server that arrived at least this long before the failure.
const CONTRAST: Duration = Duration::from_millis(300);

/// The number of failures in a row after which a server is down.
const DOWN_AFTER: usize = 3;

/// Relapses within this time lengthen the rise: the time for which a server that was down must answer before it is up
/// again.
const RELAPSE_WINDOW: Duration = Duration::from_secs(600);

/// A server that has answered for this much longer than its rise lasts has certainly risen.
const RISE_MARGIN: Duration = Duration::from_secs(15);

/// A run of failures.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// When each failure arrived.
    pub failures: Vec<Duration>,
    /// When a 2xx, 401, 403 or 429 ended the run, or `None` if the run has not ended.
    pub ended: Option<Duration>,
}

/// One replica's results for one address and port.
#[derive(Debug, Default)]
pub struct Track {
    /// Whether the server has ever answered 2xx, 401, 403 or 429.
    pub was_well: bool,
    /// When the last attempt began.
    pub last_begun: Duration,
    /// When the last 2xx, 401, 403 or 429 arrived.
    pub last_answer: Option<Duration>,
    /// Start and arrival of each of the last 64 2xx responses, newest last.
    pub successes: Vec<(Duration, Duration)>,
    /// The current run of failures, which may be empty, and the run before it.
    pub runs: [Run; 2],
    /// Each time the server went down after it had been well.
    pub falls: Vec<Duration>,
    is_down: bool,
    /// When the rise of the server began, if it was down.
    rising_since: Option<Duration>,
}

impl Track {
    fn answered(&mut self, begun: Duration, now: Duration, is_success: bool) {
        self.was_well = true;
        self.last_answer = Some(now);
        if is_success {
            // No check needs more successes than these, even for the write with the longest delay.
            if self.successes.len() >= 64 {
                self.successes.remove(0);
            }
            self.successes.push((begun, now));
        }
        if !self.runs[0].failures.is_empty() {
            self.runs[0].ended = Some(now);
            self.runs.rotate_right(1);
            self.runs[0] = Run::default();
        }
        if self.is_down && is_success {
            let since = *self.rising_since.get_or_insert(now);
            if now >= since + self.rise(now) + RISE_MARGIN {
                (self.is_down, self.rising_since) = (false, None);
            }
        }
    }

    fn failed(&mut self, now: Duration) {
        self.rising_since = None;
        self.runs[0].failures.push(now);
        if self.was_well && self.runs[0].failures.len() == DOWN_AFTER {
            self.is_down = true;
            // This failure counts as a fall even if the server had not risen yet.
            self.falls.push(now);
        }
    }

    /// Whether the server is not down, or has certainly been up for more than `time`. `time` is shorter than
    /// `RISE_MARGIN`.
    pub fn has_risen_for(&self, time: Duration, now: Duration) -> bool {
        let rises = |since| now > since + self.rise(now) + time;
        !self.is_down || self.rising_since.is_some_and(rises)
    }

    /// The maximum duration of the server's rise, not including the time between two attempts.
    pub fn rise(&self, now: Duration) -> Duration {
        let relapses = self
            .falls
            .iter()
            .filter(|fall| now < **fall + RELAPSE_WINDOW)
            .count();
        let doubled = 3 << relapses.saturating_sub(1).min(6);
        Duration::from_secs(doubled).min(Duration::from_secs(60))
    }

    /// The runs that could have led to a decision made at this time or later.
    pub fn runs_since(&self, decided: Duration) -> impl Iterator<Item = &Run> {
        let counts = move |run: &&Run| run.ended.is_none_or(|ended| ended >= decided);
        self.runs.iter().filter(counts)
    }

    /// Whether this run could mean that the server is down.
    pub fn is_down_by(&self, run: &Run) -> bool {
        self.was_well && (run.failures.len() >= DOWN_AFTER || self.is_down)
    }

    /// Whether a 2xx of this server contrasts with a run of failures of another server.
    pub fn contrasts_with(&self, run: &Run) -> bool {
        let (Some(first), Some(last)) = (run.failures.first(), run.failures.last()) else {
            return false;
        };
        let mut answers = self.successes.iter();
        answers.any(|(begun, arrived)| begun > first && *last >= *arrived + CONTRAST)
    }

    /// Whether a 2xx arrived less than `time` before `now`.
    pub fn answered_within(&self, time: Duration, now: Duration) -> bool {
        let last = self.successes.last();
        last.is_some_and(|(_, arrived)| now < *arrived + time)
    }
}

/// The results of all replicas, by identity.
#[derive(Debug, Default)]
pub struct Attempts {
    tracks: BTreeMap<String, BTreeMap<Target, Track>>,
    /// Attempts whose idle connection was closed. The replica immediately opens another connection, which decides the
    /// result.
    continued: BTreeMap<(String, Target), (Duration, Duration)>,
}

impl Attempts {
    /// A replica's results for one address and port.
    pub fn of(&self, identity: &str, target: Target) -> Option<&Track> {
        self.tracks.get(identity)?.get(&target)
    }

    /// All results of a replica, by address and port.
    pub fn all(&self, identity: &str) -> impl Iterator<Item = (&Target, &Track)> {
        self.tracks.get(identity).into_iter().flatten()
    }

    fn track(&mut self, identity: &str, target: Target) -> &mut Track {
        if !self.tracks.contains_key(identity) {
            self.tracks.insert(identity.to_owned(), BTreeMap::new());
        }
        let tracks = self.tracks.get_mut(identity).expect("just inserted");
        tracks.entry(target).or_default()
    }
}

impl World {
    /// Records that a replica dials, or sends a request on an open connection. Returns when the attempt began.
    pub fn attempt_begins(&self, life: &Life, target: Target) -> Duration {
        let now = self.now();
        let attempts = &mut self.state().probed.attempts;
        attempts.track(&life.identity, target).last_begun = now;
        match attempts.continued.remove(&(life.identity.clone(), target)) {
            Some((at, begun)) if at == now => begun,
            _ => now,
        }
    }

    /// Records that the open connection of an attempt was closed. The attempt continues on another connection.
    pub fn attempt_continues(&self, life: &Life, target: Target, begun: Duration) {
        let now = self.now();
        self.count("probe on a connection that was closed");
        let attempts = &mut self.state().probed.attempts;
        attempts
            .continued
            .insert((life.identity.clone(), target), (now, begun));
    }

    /// Records that an attempt has ended. Without a reply, the attempt was abandoned or reached its time limit.
    pub fn attempt_ends(&self, life: &Life, target: Target, begun: Duration, reply: Option<&Reply>) {
        let now = self.now();
        let age = now.saturating_sub(begun);
        let State {
            probed,
            coverage,
            trace,
            ..
        } = &mut *self.state();
        let track = probed.attempts.track(&life.identity, target);
        let before = track.runs[0].failures.len();
        match reply {
            Some(Reply::Success) => track.answered(begun, now, true),
            Some(Reply::Alive(_)) => track.answered(begun, now, false),
            Some(Reply::Failure(_)) => track.failed(now),
            None if age > LIMIT + LATE_TIMER => {
                coverage.add("timeout discarded because its timer fired late", 1);
            }
            None if age >= LIMIT => track.failed(now),
            // A newer attempt was answered, or nothing probes the target anymore.
            None => {}
        }
        let after = track.runs[0].failures.len();
        if after > before && (2..=DOWN_AFTER).contains(&after) {
            trace.push((
                now,
                format!("{target} failed {after} times for {}", life.identity),
            ));
        } else if after < before && before >= 2 {
            trace.push((now, format!("{target} answers {} again", life.identity)));
        }
    }
}
