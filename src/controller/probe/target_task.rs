//! Decides when to probe one address and port, and on which connection.
//!
//! While the target responds, it is probed once per period, on a connection that stays open. If an attempt gets no
//! response for a while, the next one starts in parallel. After a failure, the next attempt follows soon, until the
//! number of failures reaches the threshold for marking the target as down. After that, the normal period applies
//! again, because further failures change nothing.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, select_all};
use tokio::time::{Instant, sleep_until};

use super::shared::Probes;
use crate::apiserver::probe_client::{ProbeClient, ProbeConnection};
use crate::config::ProbeConfig;
use crate::timing::{PROBE_CONNECT_PAUSE, PROBE_LATE, PROBE_OVERLAP, PROBE_RESPONSE_PAUSE};
use endpoint_copier_core::verdicts::{Failure, Reply, Target};

/// The maximum number of parallel attempts at one target.
const MAX_PARALLEL: usize = 3;

/// The time from the first failure of a target to the attempts at the others. Only an attempt that begins after the
/// failure provides contrast.
const AFTER_FAILURE: Duration = Duration::from_millis(1);

/// The attempts at one target.
pub(super) struct TargetTask {
    target: Target,
    config: ProbeConfig,
    probes: Probes,
    /// The start of the periods.
    anchor: Instant,
    /// When the next attempt begins.
    due: Instant,
    last_begun: Option<Instant>,
    in_flight: Vec<(Instant, BoxFuture<'static, Ended>)>,
    /// The connection of the last response, while no attempt uses it.
    kept: Option<Box<dyn ProbeConnection>>,
    /// The number of failures in a row.
    failures: u32,
    /// Whether the closing of the kept connection causes the next attempt, and whether it caused the last one.
    close_causes: (bool, bool),
}

/// The result of an attempt.
struct Ended {
    /// `None` if the timer fired so late that the timeout says nothing about the server.
    reply: Option<Reply>,
    /// The pause before the next attempt, if this one failed.
    pause: Duration,
    /// The connection, if it can be reused.
    connection: Option<Box<dyn ProbeConnection>>,
}

impl TargetTask {
    /// Creates a task whose first attempt begins immediately. Its periods begin at `anchor`.
    pub fn new(target: Target, probes: &Probes, anchor: Instant) -> Self {
        Self {
            target,
            config: probes.wiring().config,
            probes: probes.clone(),
            anchor,
            due: Instant::now(),
            last_begun: None,
            in_flight: Vec::new(),
            kept: None,
            failures: 0,
            close_causes: (false, false),
        }
    }

    /// Probes the target until the future is dropped.
    pub async fn run(mut self) {
        let mut rounds = self.probes.rounds();
        loop {
            tokio::select! {
                biased;
                (begun, ended) = next(&mut self.in_flight) => self.ended(begun, ended),
                () = closed(&mut self.kept) => self.kept_closed(),
                round = rounds.changed() => {
                    let origin = *rounds.borrow_and_update();
                    // A failing target is probed soon anyway. Another attempt now would count a shared disturbance
                    // twice.
                    if round.is_ok() && origin != Some(self.target) && self.failures == 0 {
                        self.due = Instant::now() + AFTER_FAILURE;
                    }
                }
                () = sleep_until(self.due), if self.in_flight.len() < MAX_PARALLEL => self.begin(),
            }
        }
    }

    fn begin(&mut self) {
        let begun = Instant::now();
        self.due = if self.is_decided() {
            self.after(begun)
        } else {
            begun + PROBE_OVERLAP
        };
        if self.last_begun.replace(begun) == Some(begun) {
            return;
        }
        self.close_causes = (false, self.close_causes.0);
        self.probes.begin(self.target, begun);
        let (client, kept) = (self.probes.wiring().client.clone(), self.kept.take());
        let attempt = attempt(client, self.target, kept, begun, self.config.limit);
        self.in_flight.push((begun, attempt.boxed()));
    }

    fn ended(&mut self, begun: Instant, ended: Ended) {
        let connection = ended.connection.filter(|connection| !connection.is_closed());
        self.kept = connection.or(self.kept.take());
        match ended.reply {
            Some(Reply::Failure(failure)) => self.failed(begun, failure, ended.pause),
            Some(reply) => self.answered(begun, reply),
            None => self.probes.discard(self.target, begun),
        }
    }

    fn failed(&mut self, begun: Instant, failure: Failure, pause: Duration) {
        self.failures = self.failures.saturating_add(1);
        let now = Instant::now();
        let next = if self.is_decided() {
            self.after(begun).max(now)
        } else {
            now + pause
        };
        self.due = if self.last_begun == Some(begun) {
            next
        } else {
            next.min(self.due)
        };
        self.probes.end(self.target, begun, Reply::Failure(failure));
    }

    fn answered(&mut self, begun: Instant, reply: Reply) {
        self.failures = 0;
        // This response makes older attempts obsolete.
        let (probes, target) = (&self.probes, self.target);
        self.in_flight.retain(|(older, _)| {
            let is_newer = *older > begun;
            if !is_newer {
                probes.discard(target, *older);
            }
            is_newer
        });
        if self.last_begun == Some(begun) {
            self.due = self.after(begun);
        }
        self.probes.end(self.target, begun, reply);
    }

    /// Makes the next attempt due immediately, because the server may have stopped. But closed connections do not cause
    /// two attempts in a row. Otherwise, a server that closes every connection would be probed without a pause.
    fn kept_closed(&mut self) {
        self.kept = None;
        if !self.close_causes.1 {
            self.close_causes.0 = true;
            self.due = Instant::now();
        }
    }

    fn is_decided(&self) -> bool {
        self.failures >= self.config.thresholds.failures
    }

    /// Returns the next start of a period after `begun`.
    fn after(&self, begun: Instant) -> Instant {
        let Some(passed) = begun.checked_duration_since(self.anchor) else {
            return self.anchor;
        };
        let periods = passed.as_nanos() / self.config.period.as_nanos().max(1) + 1;
        self.anchor + self.config.period * u32::try_from(periods).unwrap_or(u32::MAX)
    }
}

/// Waits for the end of one of the attempts, or forever if there is none.
async fn next(in_flight: &mut Vec<(Instant, BoxFuture<'static, Ended>)>) -> (Instant, Ended) {
    if in_flight.is_empty() {
        return pending().await;
    }
    let (ended, place, _) = select_all(in_flight.iter_mut().map(|(_, attempt)| attempt)).await;
    (in_flight.swap_remove(place).0, ended)
}

/// Waits until the kept connection is closed, or forever if there is none.
async fn closed(kept: &mut Option<Box<dyn ProbeConnection>>) {
    match kept {
        Some(connection) => connection.closed().await,
        None => pending().await,
    }
}

/// Makes one attempt, on the kept connection if there is one, or on a new one.
async fn attempt(
    client: Arc<dyn ProbeClient>,
    target: Target,
    kept: Option<Box<dyn ProbeConnection>>,
    begun: Instant,
    limit: Duration,
) -> Ended {
    let deadline = begun + limit;
    tokio::select! {
        // A response that has arrived counts, even if this task runs late.
        biased;
        ended = ask(client, target, kept) => ended,
        () = sleep_until(deadline) => Ended {
            reply: (deadline.elapsed() <= PROBE_LATE).then_some(Reply::Failure(Failure::TimedOut)),
            pause: PROBE_OVERLAP.saturating_sub(limit),
            connection: None,
        },
    }
}

async fn ask(client: Arc<dyn ProbeClient>, target: Target, kept: Option<Box<dyn ProbeConnection>>) -> Ended {
    let on = |connection, reply| Ended {
        reply: Some(reply),
        pause: PROBE_RESPONSE_PAUSE,
        connection: Some(connection),
    };
    if let Some(mut connection) = kept {
        let reply = connection.get().await;
        // The server may have closed the connection before the request arrived, so a new connection decides.
        if reply != Reply::Failure(Failure::Reset) {
            return on(connection, reply);
        }
    }
    match client.connect(target).await {
        Ok(mut connection) => {
            let reply = connection.get().await;
            on(connection, reply)
        }
        Err(failure) => Ended {
            // A server that has sent a certificate has done some work, so the next attempt follows later.
            pause: match failure {
                Failure::Certificate(_) => PROBE_RESPONSE_PAUSE,
                _ => PROBE_CONNECT_PAUSE,
            },
            reply: Some(Reply::Failure(failure)),
            connection: None,
        },
    }
}

#[cfg(test)]
pub(super) mod tests;
