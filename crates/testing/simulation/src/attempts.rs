//! The results that the probes of each replica got, as far as the rules depend on them. Written from the rules, and
//! lenient where they do not fix a moment: a violation that this finds is certainly one.

use std::collections::BTreeMap;
use std::time::Duration;

use endpoint_copier_core::verdicts::{Reply, Target};

use crate::replica::Life;
use crate::world::{State, World};

/// The time limit of an attempt.
const LIMIT: Duration = Duration::from_secs(1);

/// A timeout that fires later than this says nothing about the server.
const LATE: Duration = Duration::from_millis(100);

/// A failure contrasts with a response of another server that arrived at least this much before it.
const CONTRAST: Duration = Duration::from_millis(300);

/// The number of failures in a row after which a server is down.
const DOWN: usize = 3;

/// Relapses within this time make the rise longer.
const RELAPSES: Duration = Duration::from_secs(600);

/// A server has risen for certain once it has answered for this much longer than its rise takes.
const SURELY_RISEN: Duration = Duration::from_secs(15);

/// A run of failures.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// When each of them arrived.
    pub failures: Vec<Duration>,
    /// When a response ended the run.
    pub ended: Option<Duration>,
}

/// The knowledge of one replica about one address and port.
#[derive(Debug, Default)]
pub struct Track {
    /// Whether it has ever answered 2xx, 401, 403 or 429.
    pub was_well: bool,
    /// Whether the latest result is a response, and whether that is 2xx.
    pub latest: Option<(bool, bool)>,
    /// When the last attempt began.
    pub last_begun: Duration,
    /// When the last response of any kind arrived.
    pub last_answer: Option<Duration>,
    /// Start and arrival of each 2xx, newest last.
    pub successes: Vec<(Duration, Duration)>,
    /// The failures since the last response, and the run before.
    pub runs: [Run; 2],
    /// When it became down after it had been well.
    pub falls: Vec<Duration>,
    is_down: bool,
    /// When its rise began, if it was down.
    rises: Option<Duration>,
}

impl Track {
    fn answered(&mut self, begun: Duration, now: Duration, is_success: bool) {
        self.was_well = true;
        self.latest = Some((true, is_success));
        self.last_answer = Some(now);
        if is_success {
            // Enough for the longest delay of a write.
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
            let since = *self.rises.get_or_insert(now);
            if now >= since + self.rise(now) + SURELY_RISEN {
                (self.is_down, self.rises) = (false, None);
            }
        }
    }

    fn failed(&mut self, now: Duration) {
        self.latest = Some((false, false));
        self.rises = None;
        self.runs[0].failures.push(now);
        if self.was_well && self.runs[0].failures.len() == DOWN {
            self.is_down = true;
            // It counts even if the server was not well again yet.
            self.falls.push(now);
        }
    }

    /// The maximum duration of its rise, without the time between two attempts.
    pub fn rise(&self, now: Duration) -> Duration {
        let relapses = self.falls.iter().filter(|fall| now < **fall + RELAPSES).count();
        let doubled = 3 << relapses.saturating_sub(1).min(6);
        Duration::from_secs(doubled).min(Duration::from_secs(60))
    }

    /// The runs that may have led to a decision made no earlier than this.
    pub fn runs_since(&self, decided: Duration) -> impl Iterator<Item = &Run> {
        let counts = move |run: &&Run| run.ended.is_none_or(|ended| ended >= decided);
        self.runs.iter().filter(counts)
    }

    /// Whether it is down because of this run.
    pub fn is_down_by(&self, run: &Run) -> bool {
        self.was_well && (run.failures.len() >= DOWN || self.is_down)
    }

    /// Whether a response of another server contrasts with a run of failures of this one.
    pub fn contrasts_with(&self, run: &Run) -> bool {
        let (Some(first), Some(last)) = (run.failures.first(), run.failures.last()) else {
            return false;
        };
        let mut answers = self.successes.iter();
        answers.any(|(begun, arrived)| begun > first && *last >= *arrived + CONTRAST)
    }

    /// Whether a 2xx arrived in this time before `now`.
    pub fn answered_within(&self, time: Duration, now: Duration) -> bool {
        let last = self.successes.last();
        last.is_some_and(|(_, arrived)| now < *arrived + time)
    }
}

/// The knowledge of all replicas, by identity.
#[derive(Debug, Default)]
pub struct Attempts {
    tracks: BTreeMap<String, BTreeMap<Target, Track>>,
    /// Attempts whose idle connection was closed: a new connection decides the result at once.
    going_on: BTreeMap<(String, Target), (Duration, Duration)>,
}

impl Attempts {
    /// The knowledge of a replica about one address and port.
    pub fn of(&self, identity: &str, target: Target) -> Option<&Track> {
        self.tracks.get(identity)?.get(&target)
    }

    /// The knowledge of a replica.
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
    /// A replica dials, or sends a request on an open connection. Returns when its attempt began.
    pub fn attempt_begins(&self, life: &Life, target: Target) -> Duration {
        let now = self.now();
        let attempts = &mut self.state().probed.attempts;
        attempts.track(&life.identity, target).last_begun = now;
        match attempts.going_on.remove(&(life.identity.clone(), target)) {
            Some((at, begun)) if at == now => begun,
            _ => now,
        }
    }

    /// The open connection of an attempt was closed.
    pub fn attempt_goes_on(&self, life: &Life, target: Target, begun: Duration) {
        let now = self.now();
        self.count("probe on a connection that was closed");
        let attempts = &mut self.state().probed.attempts;
        attempts
            .going_on
            .insert((life.identity.clone(), target), (now, begun));
    }

    /// An attempt has ended, or was abandoned.
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
            None if age > LIMIT + LATE => {
                coverage.add("timeout discarded, as its timer fired late", 1);
            }
            None if age >= LIMIT => track.failed(now),
            // A newer attempt was answered, or nothing probes the target anymore.
            None => {}
        }
        let after = track.runs[0].failures.len();
        if after > before && (2..=DOWN).contains(&after) {
            trace.push((
                now,
                format!("{target} failed {after} times for {}", life.identity),
            ));
        } else if after < before && before >= 2 {
            trace.push((now, format!("{target} answers {} again", life.identity)));
        }
    }
}
