//! What a replica knows of the Lease, shared by the watch of it, [`super::cas`] and the candidate.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::cas::Patch;
use super::known::KnownVersion;
use super::lease::Lease;
use super::observed_lease::{ObservedLease, Race};
use super::presented::{PresentedLease, ReadVersion};
use crate::telemetry::metrics::Metrics;

fn version_of(lease: &Lease) -> Option<u64> {
    endpoint_copier_core::model::version(lease.metadata.resource_version.as_deref())
}

/// The holder of a Lease, and its renewal time by the holder's clock.
type Holding = (String, Option<String>);

fn holding(lease: &Lease) -> Option<Holding> {
    let spec = &lease.spec;
    let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty())?;
    Some((holder, spec.renew_time.clone()))
}

/// An [`ObservedLease`] that several parts of a replica add to and wait for.
#[derive(Clone)]
pub struct LeaseObserver {
    observed: Arc<Mutex<ObservedLease>>,
    /// When the Lease was last seen in another state than before.
    news: Arc<Mutex<Option<Instant>>>,
    /// The first of our own writes that the watch has not shown yet: its version, and since when.
    unshown: Arc<Mutex<Option<(u64, Instant)>>>,
    /// What it was held as last.
    held: Arc<Mutex<Option<Holding>>>,
    /// The version that a renewal may build on.
    known: Arc<Mutex<KnownVersion>>,
    changed: Arc<Notify>,
    metrics: Metrics,
}

impl LeaseObserver {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            observed: Arc::default(),
            news: Arc::default(),
            unshown: Arc::default(),
            held: Arc::default(),
            known: Arc::default(),
            changed: Arc::default(),
            metrics,
        }
    }

    /// The watch shows this Lease, or that there is none.
    pub fn shown(&self, lease: Option<&Lease>) {
        let mut unshown = self.unshown.lock();
        let is_later =
            |(ours, _): &(u64, Instant)| lease.and_then(version_of).is_none_or(|shown| shown >= *ours);
        if unshown.as_ref().is_some_and(is_later) {
            *unshown = None;
        }
        drop(unshown);
        self.known.lock().watched(lease);
        self.note(lease, |observed| observed.see_in_watch(lease, Instant::now()));
    }

    /// We wrote it, and this was the answer. The watch has to show it too.
    pub(super) fn wrote(&self, lease: &Lease) {
        if let Some(version) = version_of(lease) {
            let mut unshown = self.unshown.lock();
            // After a restore of etcd a later write has a lower version, and the watch shows only that one.
            if unshown.is_none_or(|(first, _)| version < first) {
                *unshown = Some((version, Instant::now()));
            }
        }
        self.known.lock().wrote(lease);
        self.see(Some(lease));
        self.changed.notify_waiters();
    }

    /// The version for a renewal of the holder `us`, if no read is needed.
    pub(super) fn build_on(&self, us: &str) -> Option<ReadVersion> {
        self.known.lock().build_on(us)
    }

    /// A renewal of this version was refused before the server looked at the Lease.
    pub(super) fn untouched(&self, basis: &ReadVersion) {
        self.known.lock().untouched(basis);
    }

    /// Whether the watch has shown a newer version than this one.
    pub(super) fn is_after(&self, basis: &ReadVersion) -> bool {
        self.known.lock().is_after(basis)
    }

    /// Whether this renewal of the holder `us` was applied, as far as the watch shows it.
    pub(super) fn is_applied(&self, us: &str, patch: &Patch) -> bool {
        let known = self.known.lock();
        known.is_applied(&patch.basis, us, patch.renewed.as_deref())
    }

    /// Waits until the watch shows that this renewal of the holder `us` was applied.
    pub(super) async fn shows(&self, us: &str, patch: &Patch) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_applied(us, patch) {
                return;
            }
            changed.await;
        }
    }

    /// Waits for news of the Lease.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until the watch has not shown a write of ours for so long, and answers its version. Then the watch
    /// has another chance.
    pub async fn behind(&self, limit: Duration) -> u64 {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let unshown = *self.unshown.lock();
            match unshown {
                None => changed.await,
                Some((_, since)) if since.elapsed() < limit => sleep_until(since + limit).await,
                Some((version, _)) => {
                    *self.unshown.lock() = None;
                    return version;
                }
            }
        }
    }

    /// A GET shows this Lease, or that there is none.
    pub fn see(&self, lease: Option<&Lease>) {
        self.note(lease, |observed| observed.see(lease, Instant::now()));
    }

    fn note(&self, lease: Option<&Lease>, see: impl FnOnce(&mut ObservedLease) -> bool) {
        let mut observed = self.observed.lock();
        let before = observed.holder().map(str::to_owned);
        if !see(&mut observed) {
            return;
        }
        *self.news.lock() = Some(Instant::now());
        if before.is_some() && observed.holder() != before.as_deref() {
            self.metrics.leader_changed();
        }
        if let Some(held) = lease.and_then(holding) {
            let last = self.held.lock().replace(held.clone());
            // The first look says nothing: its holder may be dead. Nor does an edit of something else.
            if last.is_some_and(|last| last != held) {
                self.metrics.lease_seen_renewed();
            }
        }
        drop(observed);
        self.changed.notify_waiters();
    }

    /// The last holder that was seen.
    #[must_use]
    pub fn holder(&self) -> Option<String> {
        self.observed.lock().holder().map(str::to_owned)
    }

    /// Why the candidate `us` may try, in words for the log.
    pub(super) fn vacancy(&self, us: &str) -> &'static str {
        self.observed.lock().vacancy(us)
    }

    /// Since when the Lease has looked as it does.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.observed.lock().since()
    }

    /// When the Lease was last seen in another state than before. Unlike [`Self::since`], a gap between two looks
    /// that find no Lease does not change it.
    pub(super) fn news(&self) -> Option<Instant> {
        *self.news.lock()
    }

    /// What the lock of the candidate `us` is to be shown after a GET that was sent at this moment and answered with
    /// this Lease or none; `leads`: it has a valid term. `None`: its leader has to read it again, since nobody knows
    /// whether it still names that one.
    pub(super) fn show(
        &self,
        answer: Option<&Lease>,
        us: &str,
        default_duration: Duration,
        leads: bool,
        sent: Instant,
    ) -> Option<PresentedLease> {
        let now = Instant::now();
        self.known.lock().forget();
        let mut overtaken = false;
        self.note(answer, |observed| {
            let is_news = observed.see_answer(answer, default_duration, sent, now);
            overtaken = is_news.is_none();
            is_news == Some(true)
        });
        let observed = self.observed.lock();
        let shown = PresentedLease::of(answer, overtaken, &observed, us, default_duration, leads, now);
        Some(shown).filter(|shown| !(overtaken && leads && *shown == PresentedLease::Held))
    }

    /// Whether the candidate `us` may try at this moment; `leads`: it has a valid term.
    pub(super) fn may_race(&self, us: &str, default_duration: Duration, leads: bool) -> bool {
        let observed = self.observed.lock();
        observed.may_race(us, default_duration, leads, Instant::now())
    }

    /// Waits until the candidate `us`, who does not lead, may try, or is to look for itself. `told` hears of each
    /// holder on the way.
    pub(super) async fn turn(
        &self,
        us: &str,
        default_duration: Duration,
        mut told: impl FnMut(Option<&str>),
    ) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let race = {
                let observed = self.observed.lock();
                told(observed.holder());
                // A watch that lags does not show that the holder has written it anew, and where there is no Lease
                // nothing refuses another one. So its absence has to be seen again and again, until it has lasted.
                match (
                    observed.race(us, default_duration, false),
                    observed.next_look(default_duration),
                ) {
                    (Race::At(moment), Some(look)) => Race::At(moment.min(look)),
                    (race, _) => race,
                }
            };
            match race {
                Race::Now => return,
                Race::Unknown => changed.await,
                Race::At(moment) => {
                    tokio::select! {
                        // News first: it may be that the holder has renewed at the last moment.
                        biased;
                        () = changed => {}
                        () = sleep_until(moment) => return,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn lease(version: &str, spec: Value) -> Lease {
        serde_json::from_value(json!({"metadata": {"resourceVersion": version}, "spec": spec})).unwrap()
    }

    #[tokio::test]
    async fn a_lease_that_is_released_or_deleted_is_not_seen_renewed_and_one_that_another_holds_is() {
        let metrics = Metrics::new("lease").unwrap();
        let observer = LeaseObserver::new(metrics.clone());
        let never = "endpoint_copier_lease_seen_renewed_timestamp_seconds 0";
        observer.shown(None);
        observer.shown(Some(&lease("1", json!({"holderIdentity": ""}))));
        observer.shown(Some(&lease("2", Value::Null)));
        assert!(metrics.render().lines().any(|line| line == never));
        let renewed = |second: u8| {
            let moment = format!("2026-01-02T03:04:{second:02}.000000Z");
            json!({"holderIdentity": "another", "renewTime": moment})
        };
        observer.shown(Some(&lease("3", renewed(1))));
        observer.shown(Some(&lease("4", renewed(1))));
        assert!(
            metrics.render().lines().any(|line| line == never),
            "it may be dead"
        );
        observer.shown(Some(&lease("5", renewed(3))));
        assert!(!metrics.render().lines().any(|line| line == never));
    }
}
