//! What the probes of each replica were answered, as far as the rules depend on it. Written from the rules, and generous
//! where they leave a moment open: what is wrong here is wrong for sure.

use std::collections::BTreeMap;
use std::time::Duration;

use endpoint_copier_core::verdicts::{Reply, Target};

use crate::replica::Life;
use crate::world::{State, World};

/// Time limit of an attempt.
const LIMIT: Duration = Duration::from_secs(1);

/// A timeout that comes later than this says nothing about the server.
const LATE: Duration = Duration::from_millis(100);

/// A failure contrasts with an answer of another server that came so much before it.
const CONTRAST: Duration = Duration::from_millis(300);

/// Failures in a row of a server that is down.
const DOWN: usize = 3;

/// Relapses within this time make the rise longer.
const RELAPSES: Duration = Duration::from_secs(600);

/// A server whose last result was an answer for so much longer than its rise takes has risen.
const SURELY_RISEN: Duration = Duration::from_secs(15);

/// A run of failures.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// When each of them came.
    pub failures: Vec<Duration>,
    /// When an answer ended the run.
    pub ended: Option<Duration>,
}

/// What one replica knows of one address and port.
#[derive(Debug, Default)]
pub struct Track {
    /// It was answered by 2xx, 401, 403 or 429.
    pub was_well: bool,
    /// Whether the latest result is an answer, and whether it is 2xx.
    pub latest: Option<(bool, bool)>,
    /// When the last attempt began.
    pub last_begun: Duration,
    /// When the last answer of any kind came.
    pub last_answer: Option<Duration>,
    /// Begin and arrival of each 2xx, the newest last.
    pub successes: Vec<(Duration, Duration)>,
    /// Failures since the last answer, and the run before.
    pub runs: [Run; 2],
    /// When it became down after it had been well.
    pub falls: Vec<Duration>,
    is_down: bool,
    /// Since when it rises, if it was down.
    rises: Option<Duration>,
}

impl Track {
    fn answered(&mut self, begun: Duration, now: Duration, is_success: bool) {
        self.was_well = true;
        self.latest = Some((true, is_success));
        self.last_answer = Some(now);
        if is_success {
            // So many are enough for the longest delay of a write.
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
            // Also if it was not well again yet.
            self.falls.push(now);
        }
    }

    /// How long its rise takes at most, without the time between two attempts.
    pub fn rise(&self, now: Duration) -> Duration {
        let relapses = self.falls.iter().filter(|fall| now < **fall + RELAPSES).count();
        let doubled = 3 << relapses.saturating_sub(1).min(6);
        Duration::from_secs(doubled).min(Duration::from_secs(60))
    }

    /// The runs that a decision may rest on which was made no earlier than this.
    pub fn runs_since(&self, decided: Duration) -> impl Iterator<Item = &Run> {
        let counts = move |run: &&Run| run.ended.is_none_or(|ended| ended >= decided);
        self.runs.iter().filter(counts)
    }

    /// Whether a run makes it down.
    pub fn is_down_by(&self, run: &Run) -> bool {
        self.was_well && (run.failures.len() >= DOWN || self.is_down)
    }

    /// Whether an answer of another server contrasts with a run of failures of this one.
    pub fn contrasts_with(&self, run: &Run) -> bool {
        let (Some(first), Some(last)) = (run.failures.first(), run.failures.last()) else {
            return false;
        };
        let mut answers = self.successes.iter();
        answers.any(|(begun, arrived)| begun > first && *last >= *arrived + CONTRAST)
    }

    /// Whether a 2xx came in the time before a moment.
    pub fn answered_within(&self, time: Duration, now: Duration) -> bool {
        let last = self.successes.last();
        last.is_some_and(|(_, arrived)| now < *arrived + time)
    }
}

/// What all replicas know, by identity.
#[derive(Debug, Default)]
pub struct Attempts {
    tracks: BTreeMap<String, BTreeMap<Target, Track>>,
    /// Attempts whose kept connection was closed: a new connection decides, at once.
    going_on: BTreeMap<(String, Target), (Duration, Duration)>,
}

impl Attempts {
    /// What a replica knows of one address and port.
    pub fn of(&self, identity: &str, target: Target) -> Option<&Track> {
        self.tracks.get(identity)?.get(&target)
    }

    /// What a replica knows.
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
    /// A replica dials, or asks on a connection that it kept. Returns when its attempt began.
    pub fn attempt_begins(&self, life: &Life, target: Target) -> Duration {
        let now = self.now();
        let attempts = &mut self.state().probed.attempts;
        attempts.track(&life.identity, target).last_begun = now;
        match attempts.going_on.remove(&(life.identity.clone(), target)) {
            Some((at, begun)) if at == now => begun,
            _ => now,
        }
    }

    /// The kept connection of an attempt was closed.
    pub fn attempt_goes_on(&self, life: &Life, target: Target, begun: Duration) {
        let now = self.now();
        self.count("probe on a connection that was closed");
        let attempts = &mut self.state().probed.attempts;
        attempts
            .going_on
            .insert((life.identity.clone(), target), (now, begun));
    }

    /// An attempt has ended, or was given up.
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
            // A newer attempt was answered, or nobody asks any more.
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
