//! Takes the Lease, renews it while this replica leads, and releases it.

use std::time::Duration;

use futures::future::join;
use kube::Client;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::LeaseObserver;
use super::cas::LeaseCas;
use super::lock_error::{in_one_line, is_conflict};
use super::term::{Term, Writes};
use super::validity::{self, Validity};
use super::view::View;
use crate::config::ElectionConfig;
use crate::pauses::Pauses;
use crate::telemetry::failure_log::FailureLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::watchdog::Watchdog;
use crate::timing::{
    ASIDE, BLIND, LEADERLESS, LEADERLESS_AFTER_EXPIRY, MAX_RACE_PAUSE, RELEASE, RENEWAL_SETTLES,
    WRITES_SETTLE,
};

/// One replica that competes for the Lease.
pub struct LeaderElector {
    lock: LeaseLock,
    cas: LeaseCas,
    /// The namespace and the name, for logs.
    lease: String,
    config: ElectionConfig,
    observer: LeaseObserver,
    view: View,
    terms: channel::Sender<Option<Term>>,
    writes: Writes,
    metrics: Metrics,
    watchdog: Watchdog,
}

/// The result of an attempt to take or renew the Lease.
enum LeaseAttempt {
    /// The Lease is ours. The field says when the write that took or renewed it was sent.
    Acquired(Instant),
    /// Another replica holds the Lease, or may still hold or recreate it.
    NotAcquired,
    /// The attempt failed, or its result is unknown.
    Failed { error: String, conflict: bool },
}

enum Ending {
    Lost,
    Stopped,
    /// This replica does not see enough of the cluster.
    Blind,
}

impl LeaderElector {
    /// Creates an elector that uses the identity and the knowledge of `observer`. Also returns the receiver of the
    /// elector's terms. `client` must not repeat a request that a server may have accepted: a POST is not bound to a
    /// version, so a late POST could take effect after the Lease of another replica was deleted.
    pub fn new(
        client: Client,
        namespace: &str,
        config: ElectionConfig,
        observer: LeaseObserver,
        view: View,
        metrics: Metrics,
    ) -> (Self, channel::Receiver<Option<Term>>) {
        let (terms, receiver) = channel::channel(None);
        let cas = LeaseCas::new(client, observer.clone(), receiver.clone());
        let lease = format!("{namespace}/{}", config.lease_name);
        let params = LeaseLockParams {
            holder_id: observer.us.to_string(),
            lease_name: config.lease_name.clone(),
            lease_ttl: config.lease_duration,
        };
        let lock = LeaseLock::new(cas.client(namespace), namespace, params);
        (
            Self {
                lock,
                cas,
                lease,
                config,
                observer,
                view,
                terms,
                writes: Writes::default(),
                metrics,
                watchdog: Watchdog::default(),
            },
            receiver,
        )
    }

    /// Returns the watchdog that monitors the renewals while this replica leads.
    #[must_use]
    pub fn watchdog(&self) -> Watchdog {
        self.watchdog.clone()
    }

    /// Competes for the Lease, leads, and competes again, until `stop` is canceled. A leader then releases the Lease,
    /// unless one of its writes may still take effect.
    pub async fn run(self, stop: CancellationToken) {
        let mut leader = None;
        loop {
            let (sent, before) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                acquired = self.acquire(&mut leader) => acquired,
            };
            match self.lead(sent, before, &stop).await {
                Ending::Lost => {}
                Ending::Stopped => return,
                Ending::Blind => tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = sleep(ASIDE) => {}
                },
            }
        }
    }

    /// Tries to take the Lease whenever that is allowed, until the Lease is ours. Returns the time at which the
    /// successful write was sent, the previous holder, and why the Lease was free.
    async fn acquire(&self, leader: &mut Option<String>) -> (Instant, (Option<String>, &'static str)) {
        // There may be no leader during these pauses, so they are short even if the retry period is long.
        let longest = self.config.retry_period.min(MAX_RACE_PAUSE);
        let mut pauses = Pauses::new(Duration::from_millis(100), longest, 1.5, 0.3);
        let outage = FailureLog::new(format!("the attempt to take the Lease {}", self.lease));
        loop {
            self.standby(leader).await;
            let before = (self.observer.holder(), self.observer.why_free());
            match self.attempt(self.config.renew_deadline).await {
                LeaseAttempt::Acquired(sent) => {
                    outage.recovered();
                    return (sent, before);
                }
                LeaseAttempt::NotAcquired => {
                    pauses.reset();
                    outage.recovered();
                }
                LeaseAttempt::Failed { error, conflict } => {
                    if conflict {
                        debug!(%error, "another writer was faster");
                    } else {
                        outage.failed(&error);
                    }
                    sleep(pauses.next_pause()).await;
                }
            }
        }
    }

    /// Returns how long the Lease must stay unchanged before this candidate competes even if it sees too little of the
    /// cluster. A holder that no longer renews the Lease keeps it until it expires, and only then can others take it.
    fn leaderless(&self) -> Duration {
        let kept = self.observer.kept_for();
        if kept.is_zero() {
            return LEADERLESS;
        }
        LEADERLESS.max(kept + LEADERLESS_AFTER_EXPIRY)
    }

    /// Waits until this candidate may try to take the Lease, or must read it. Then waits until the candidate sees
    /// enough of the cluster to lead, or until the Lease has not changed for [`Self::leaderless`]. Logs each new holder
    /// in the meantime.
    async fn standby(&self, leader: &mut Option<String>) {
        let mut log_holder = |holder: Option<&str>| {
            if holder != leader.as_deref() {
                *leader = holder.map(str::to_owned);
                if let Some(holder) = holder.filter(|holder| *holder != &*self.observer.us) {
                    info!(lease = self.lease, holder, "standing by");
                }
            }
        };
        loop {
            self.observer.wait_to_race(&mut log_holder).await;
            let changed_at = self.observer.changed_at().unwrap_or_else(Instant::now);
            let competes_at = changed_at + self.leaderless();
            if self.view.is_current() || Instant::now() >= competes_at {
                return;
            }
            tokio::select! {
                () = self.view.current() => {}
                () = self.observer.changed() => {}
                () = sleep_until(competes_at) => {}
            }
        }
    }

    /// Tries to take or renew the Lease, within a time limit.
    async fn attempt(&self, limit: Duration) -> LeaseAttempt {
        let begun = Instant::now();
        let result = timeout(limit, self.lock.try_acquire_or_renew()).await;
        // Even a failed attempt is progress.
        self.watchdog.tick();
        match result {
            Ok(Ok(LeaseLockResult::Acquired(lease))) => {
                self.metrics.observe_renewal(begun.elapsed());
                let holder = lease.spec.and_then(|spec| spec.holder_identity);
                if validity::is_ours(holder.as_deref(), &self.observer.us) {
                    LeaseAttempt::Acquired(self.cas.sent().unwrap_or(begun))
                } else {
                    LeaseAttempt::NotAcquired
                }
            }
            Ok(Ok(LeaseLockResult::NotAcquired(_))) => LeaseAttempt::NotAcquired,
            Ok(Err(error)) => {
                let conflict = is_conflict(&error);
                LeaseAttempt::Failed {
                    error: in_one_line(&error),
                    conflict,
                }
            }
            Err(_) => LeaseAttempt::Failed {
                error: format!("no response within {} ms", limit.as_millis()),
                conflict: false,
            },
        }
    }

    /// Leads until the Lease is lost, or until this replica must stop or sees too little of the cluster. `before`
    /// contains the previous holder and why the Lease was free.
    async fn lead(
        &self,
        sent: Instant,
        before: (Option<String>, &'static str),
        stop: &CancellationToken,
    ) -> Ending {
        let term = Term::new(self.validity(sent), self.writes.clone());
        if term.is_over() {
            return Ending::Lost;
        }
        let (previous, why) = before;
        info!(
            lease = self.lease,
            identity = &*self.observer.us,
            previous,
            why,
            "took the lead"
        );
        self.metrics.set_leader(true);
        self.terms.send_replace(Some(term.clone()));
        self.watchdog.busy();
        let renewals = self.renew_until_over(&term, sent);
        tokio::pin!(renewals);
        let ending = tokio::select! {
            // A lost Lease must not be released.
            biased;
            reason = &mut renewals => {
                warn!(lease = self.lease, reason, "lost the lead");
                Ending::Lost
            }
            () = stop.cancelled() => Ending::Stopped,
            failing = self.view.blind() => {
                let (seconds, aside) = (BLIND.as_secs(), ASIDE.as_secs());
                warn!(
                    lease = self.lease,
                    failing,
                    "releasing the Lease: lists or watches have failed here for {seconds} s, and another replica may see \
                     more; this replica does not compete for the Lease for {aside} s"
                );
                Ending::Blind
            }
        };
        match ending {
            Ending::Lost => term.revoke(),
            Ending::Stopped | Ending::Blind => term.end(),
        }
        self.watchdog.idle();
        self.terms.send_replace(None);
        self.metrics.set_leader(false);
        if !matches!(ending, Ending::Lost) {
            self.release(&term, renewals).await;
        }
        ending
    }

    /// Renews the Lease until the lead is lost, and returns why it was lost.
    async fn renew_until_over(&self, term: &Term, mut sent: Instant) -> String {
        let mut next = sent + self.config.renew_interval();
        let mut last_error = None;
        let outage = FailureLog::new(format!("the renewal of the Lease {}", self.lease));
        loop {
            tokio::select! {
                biased;
                () = term.over() => return last_error.unwrap_or_else(|| "the renew deadline has passed".to_owned()),
                () = sleep_until(next) => {}
            }
            let attempted = Instant::now();
            let left = term.ends_at().saturating_duration_since(Instant::now());
            match self.attempt(left).await {
                LeaseAttempt::Acquired(at) => {
                    sent = at;
                    if term.extend(self.validity(sent)).is_err() {
                        return "the response to the renewal came too late".to_owned();
                    }
                    last_error = None;
                    outage.recovered();
                    next = sent + self.config.renew_interval();
                }
                LeaseAttempt::NotAcquired => {
                    let holder = self.observer.holder().unwrap_or_default();
                    return format!("the Lease names {holder:?}");
                }
                LeaseAttempt::Failed { error, .. } => {
                    outage.failed(&error);
                    last_error = Some(format!("could not renew before the deadline: {error}"));
                    next = attempted + self.config.retry_period;
                }
            }
        }
    }

    /// Releases the Lease, so that a successor does not have to wait, but never while a write may still take effect.
    /// `renewals` completes when no renewal of this ended term is in flight. The response to the last renewal shows the
    /// version that the release is based on, so the release needs no GET.
    async fn release(&self, term: &Term, renewals: impl Future) {
        let deadline = Instant::now() + WRITES_SETTLE + RELEASE;
        _ = join(
            timeout(WRITES_SETTLE, term.settled()),
            timeout(RENEWAL_SETTLES, renewals),
        )
        .await;
        if !term.may_release() {
            warn!(
                lease = self.lease,
                "a write may still take effect, so the Lease is not released and has to expire"
            );
            return;
        }
        match timeout_at(deadline, self.step_down()).await {
            Ok(Ok(())) => info!(lease = self.lease, "released the Lease"),
            Ok(Err(error)) => {
                warn!(
                    lease = self.lease,
                    error = in_one_line(&error),
                    "could not release the Lease"
                );
            }
            Err(_) => warn!(
                lease = self.lease,
                "could not release the Lease: no response in time"
            ),
        }
    }

    /// Writes the release, and tries once more after a conflict: a renewal that was in flight when the leader had to
    /// stop may be applied between the read and the write of the release.
    async fn step_down(&self) -> Result<(), kube_leader_election::Error> {
        match self.lock.step_down().await {
            Err(error) if is_conflict(&error) => self.lock.step_down().await,
            result => result,
        }
    }

    fn validity(&self, sent: Instant) -> Validity {
        Validity::won(sent, self.config.renew_deadline)
    }
}
