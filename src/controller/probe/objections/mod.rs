//! Asks the other replicas for objections before an endpoint is taken out (marked as not ready in copies), and responds
//! when another replica asks. `endpoint_copier_core::verdicts::hearing` decides whether a replica objects. To ask, the
//! leader writes a *suspicion* into the probe Lease: a target (address and port) that keeps failing.
//!
//! ```text
//!     leader: suspects ──> PATCH ──> probe Lease ──> watch ──> Hearing ──> Report
//!     others: probe Lease ──> watch ──> Peer ──> PATCH of their own annotation
//! ```
//!
//! A suspicion counts as stored once this replica has seen it in the Lease, not when the PATCH succeeds: if the watch
//! does not show the suspicion, it would not show an objection either. While the watch is behind, the leader reads the
//! Lease. Once nothing is suspected and the suspicions are removed, nothing is written, so the annotation of a replica
//! that no longer exists can stay until the next suspicion.

use std::collections::BTreeSet;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::Probes;
use crate::apiserver::error::one_line;
use crate::apiserver::http_status::{status_of, throttled};
use crate::controller::watch::pauses;
use crate::leader_election::term::Term;
use crate::telemetry::failure_log::FailureLog;
use endpoint_copier_core::verdicts::{Peer, Phase, Report, SUSPECTED, Target};

mod lease;
mod view;

use lease::Changes;
pub use lease::ProbeLease;
use view::{LeaseView, SeenLease};

/// The interval at which this replica checks again while time alone may change what it must write.
const OBJECTION_TICK: Duration = Duration::from_millis(50);

/// The longest pause, apart from jitter, after a call that failed or a write that somebody undid, unless the API server
/// requests a longer one.
const MAX_CALL_PAUSE: Duration = Duration::from_secs(2);

/// The time from a write to the first read of the Lease, if its watch has not shown the write by then. This time is
/// short, because a target whose suspicion is stored late is taken out only after more failures.
const FIRST_LEASE_READ: Duration = Duration::from_millis(50);
/// The time between two reads of the Lease while its watch is behind. This time is shorter than the leader's wait for
/// objections.
const READ_PERIOD: Duration = Duration::from_millis(200);
/// The time after a write during which reads are frequent. A watch that is still behind after this time will probably
/// not recover soon.
const FREQUENT_READS: Duration = Duration::from_secs(1);
/// The time between two reads after [`FREQUENT_READS`]. It is shorter than the lifetime of an objection.
const SLOW_READ_PERIOD: Duration = Duration::from_secs(2);

/// One replica's part in the exchange of suspicions and objections, whether or not the replica leads.
pub struct Objections {
    lease: ProbeLease,
    probes: Probes,
    terms: watch::Receiver<Option<Term>>,
    reports: watch::Receiver<Arc<Report>>,
    own_addresses: BTreeSet<IpAddr>,
    peer: Peer,
    seen: watch::Receiver<Option<SeenLease>>,
    view: LeaseView,
    written: Option<LeaseWrite>,
}

/// The last write of a leader.
#[derive(Clone, Copy, Debug)]
struct LeaseWrite {
    version: u64,
    at: Instant,
    next_read: Instant,
}

enum Step {
    Write(Changes),
    Read,
    /// Wait until something changes, or until this time.
    Wait(Option<Instant>),
}

impl Objections {
    /// Creates the part of this replica. `identity` is its identity in the election. `own_addresses` are the addresses
    /// of this node: a replica that reaches the server on its own node learns nothing about the network.
    #[must_use]
    pub fn new(lease: ProbeLease, probes: Probes, identity: &str, own_addresses: BTreeSet<IpAddr>) -> Self {
        let view = LeaseView {
            probes: probes.clone(),
            seen: watch::Sender::new(None),
        };
        Self {
            lease,
            terms: probes.wiring().terms.clone(),
            reports: probes.reports(),
            probes,
            own_addresses,
            peer: Peer::new(identity),
            seen: view.seen.subscribe(),
            view,
            written: None,
        }
    }

    /// Asks and responds until the future is dropped.
    pub async fn run(mut self) {
        let (lease, view) = (self.lease.clone(), self.view.clone());
        let (terms, probes) = (self.terms.clone(), self.probes.clone());
        tokio::select! {
            // The suspicions of a term that has ended are forgotten before the next step is decided.
            biased;
            () = forget_with_terms(terms, probes) => {}
            () = lease.follow(|shown| view.show(shown)) => {}
            () = self.write_and_read() => {}
        }
    }

    async fn write_and_read(&mut self) {
        let outage = FailureLog::new(format!("a write of the Lease {}", self.lease.key()));
        let mut pauses = pauses(MAX_CALL_PAUSE);
        let mut stored = Changes::new();
        loop {
            let result = match self.next() {
                Step::Write(changes) => {
                    let result = self.write(&changes).await;
                    if result.is_ok() {
                        if stored == changes {
                            // Somebody undoes this write each time.
                            sleep(pauses.next_pause()).await;
                            continue;
                        }
                        stored = changes;
                    }
                    result
                }
                Step::Read => self.read().await,
                Step::Wait(until) => {
                    self.wait(until).await;
                    continue;
                }
            };
            match result {
                Ok(()) => {
                    pauses.reset();
                    outage.recovered();
                }
                Err(error) => {
                    outage.failed(&one_line(&error));
                    let pause = pauses.next_pause();
                    let requested = status_of(&error).and_then(throttled);
                    sleep(pause.max(requested.unwrap_or_default())).await;
                }
            }
        }
    }

    fn leads(&self) -> bool {
        self.terms.borrow().as_ref().is_some_and(|term| !term.is_over())
    }

    fn next(&mut self) -> Step {
        if self.leads() { self.ask() } else { self.answer() }
    }

    /// Returns the leader's next step.
    fn ask(&mut self) -> Step {
        let suspects = self.probes.suspects();
        let Some(seen) = self.seen.borrow_and_update().clone() else {
            // The round numbers of earlier suspicions are not known yet.
            return if suspects.is_empty() {
                Step::Wait(self.tick())
            } else {
                Step::Read
            };
        };
        let mut due = None;
        if let Some(written) = self.written.filter(|written| seen.watched < written.version) {
            if Instant::now() >= written.next_read {
                return Step::Read;
            }
            due = Some(written.next_read);
            if seen.lease.version < written.version {
                return Step::Wait(due);
            }
        }
        let changes = self.changes(&suspects);
        if !changes.is_empty() {
            return Step::Write(changes);
        }
        if suspects.is_empty() {
            // Nothing is suspected, and nothing has to be removed.
            self.written = None;
            due = None;
        }
        Step::Wait([due, self.tick()].into_iter().flatten().min())
    }

    /// Returns the changes that a leader must make to the Lease.
    fn changes(&mut self, suspects: &BTreeSet<Target>) -> Changes {
        let now = self.probes.now();
        let mut changes = Changes::new();
        let mut hearing = self.probes.hearing().lock();
        if let Some(value) = hearing.suspect(suspects) {
            let value = Some(value).filter(|value| !value.is_empty());
            changes.insert(SUSPECTED.to_owned(), value);
        }
        // A leader does not object to its own suspicions.
        changes.extend(self.peer.answer("", |_| false, &self.own_addresses, now));
        if !suspects.is_empty() || !changes.is_empty() {
            changes.extend(hearing.stale(now).into_iter().map(|key| (key, None)));
        }
        changes
    }

    /// Returns the next step of a replica that does not lead.
    fn answer(&mut self) -> Step {
        self.written = None;
        let suspected = match &*self.seen.borrow_and_update() {
            Some(seen) => seen.lease.values.get(SUSPECTED).cloned(),
            None => None,
        };
        let suspected = suspected.unwrap_or_default();
        let probes = &self.probes;
        let is_clearly_well = |target| probes.is_clearly_well(target);
        let change = self
            .peer
            .answer(&suspected, is_clearly_well, &self.own_addresses, probes.now());
        match change {
            Some(change) => Step::Write([change].into()),
            None if suspected.is_empty() => Step::Wait(None),
            None => Step::Wait(Some(Instant::now() + OBJECTION_TICK)),
        }
    }

    /// If a target is failing, returns when a leader checks again.
    fn tick(&self) -> Option<Instant> {
        is_failing(&self.reports.borrow()).then(|| Instant::now() + OBJECTION_TICK)
    }

    async fn write(&mut self, changes: &Changes) -> kube::Result<()> {
        match self.lease.annotate(changes).await {
            Ok(version) => {
                let at = Instant::now();
                let next_read = at + FIRST_LEASE_READ;
                if self.leads() {
                    self.written = Some(LeaseWrite {
                        version,
                        at,
                        next_read,
                    });
                }
                Ok(())
            }
            Err(error) => {
                if changes.contains_key(self.peer.key()) {
                    self.peer.failed();
                }
                Err(error)
            }
        }
    }

    async fn read(&mut self) -> kube::Result<()> {
        let lease = self.lease.get().await?;
        if self
            .written
            .is_some_and(|written| lease.version < written.version)
        {
            // The write succeeded before this read began, but the read does not show it: somebody deleted the Lease, or
            // restored etcd.
            self.written = None;
            self.view.replace(lease);
            return Ok(());
        }
        self.view.read(lease);
        if let Some(written) = &mut self.written {
            let pause = if written.at.elapsed() < FREQUENT_READS {
                READ_PERIOD
            } else {
                SLOW_READ_PERIOD
            };
            written.next_read = Instant::now() + pause;
        }
        Ok(())
    }

    async fn wait(&mut self, until: Option<Instant>) {
        tokio::select! {
            biased;
            Ok(()) = self.seen.changed() => {}
            Ok(()) = self.terms.changed() => {}
            Ok(()) = self.reports.changed() => {}
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            else => pending().await,
        }
    }
}

/// Forgets suspicions whenever a term begins or ends, because the next term needs new rounds.
async fn forget_with_terms(mut terms: watch::Receiver<Option<Term>>, probes: Probes) {
    while terms.changed().await.is_ok() {
        probes.hearing().lock().start_term();
    }
    pending::<()>().await;
}

/// Whether a target may become suspected without a change to the report.
fn is_failing(report: &Report) -> bool {
    let mut facts = report.targets.values();
    facts.any(|facts| facts.phase == Phase::Failing)
}

#[cfg(test)]
mod tests;
