//! What a replica knows about the Lease: state shared by the watch of the Lease, [`super::cas`] and the candidate.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::cas::Patch;
use super::known_version::KnownVersion;
use super::lease::Lease;
use super::observed_lease::ObservedLease;
use super::presented_lease::{PresentedLease, ReadVersion};
use crate::telemetry::metrics::Metrics;
use endpoint_copier_core::model::version_of;

/// The holder of a Lease, and the renewal time by the holder's clock.
type Holding = (String, Option<String>);

fn holding(lease: &Lease) -> Option<Holding> {
    Some((lease.holder()?.to_owned(), lease.spec.renew_time.clone()))
}

/// What one candidate knows about the Lease. Several parts of the replica update this state and wait for changes.
#[derive(Clone)]
pub struct LeaseObserver {
    /// The identity of the candidate.
    pub(super) us: Arc<str>,
    /// The duration of a Lease that does not specify one.
    pub(super) default_duration: Duration,
    state: Arc<Mutex<ObservedState>>,
    /// Notifies waiters of changes to the state.
    changes: watch::Sender<()>,
    metrics: Metrics,
}

#[derive(Default)]
struct ObservedState {
    lease: ObservedLease,
    /// When the state of the Lease last changed.
    changed_at: Option<Instant>,
    /// The first of our own writes that the watch has not shown yet: its version, and the time of its response.
    unwatched: Option<(u64, Instant)>,
    /// The version that the watch showed last.
    watched: Option<u64>,
    /// The last holder of the Lease, with the renewal time.
    held: Option<Holding>,
    /// The version that a renewal may be based on.
    known: KnownVersion,
}

impl LeaseObserver {
    /// Creates an observer that knows nothing yet.
    #[must_use]
    pub fn new(us: &str, default_duration: Duration, metrics: Metrics) -> Self {
        Self {
            us: us.into(),
            default_duration,
            state: Arc::default(),
            changes: watch::Sender::default(),
            metrics,
        }
    }

    /// Records the Lease that the watch shows, or `None` if there is none.
    pub fn watched(&self, lease: Option<&Lease>) {
        let mut state = self.state.lock();
        let version = lease.and_then(|lease| version_of(&lease.metadata));
        state
            .unwatched
            .take_if(|(ours, _)| version.is_none_or(|version| version >= *ours));
        state.watched = version;
        state.known.watched(lease);
        if state.lease.see_in_watch(lease, Instant::now()) {
            self.note_change(&mut state, lease);
        }
    }

    /// Records the response to one of our writes. The watch must show the write too; see [`Self::wait_until_overdue`].
    pub(super) fn wrote(&self, lease: &Lease) {
        let mut state = self.state.lock();
        let version = version_of(&lease.metadata);
        // The watch often shows a write before the response arrives.
        if let Some(version) = version.filter(|version| state.watched != Some(*version)) {
            // After a restore of etcd, a later write has a lower version, and the watch shows only the later write.
            if state.unwatched.is_none_or(|(first, _)| version < first) {
                state.unwatched = Some((version, Instant::now()));
            }
        }
        state.known.wrote(lease);
        if state.lease.see(Some(lease), Instant::now()) {
            self.note_change(&mut state, Some(lease));
        }
        self.changes.send_replace(());
    }

    /// Records that the state of the Lease has changed.
    fn note_change(&self, state: &mut ObservedState, lease: Option<&Lease>) {
        state.changed_at = Some(Instant::now());
        if let Some(held) = lease.and_then(holding) {
            // The first state with a holder does not count as a renewal, because that holder may be dead. Neither does
            // an edit of another field.
            if let Some(last) = state.held.replace(held.clone()).filter(|last| *last != held) {
                self.metrics.lease_seen_renewed();
                if last.0 != held.0 {
                    self.metrics.leader_changed();
                }
            }
        }
        self.changes.send_replace(());
    }

    /// Returns the version that a renewal may be based on, or `None` if the Lease must be read first.
    pub(super) fn version_to_renew(&self) -> Option<ReadVersion> {
        self.state.lock().known.version_to_renew(&self.us)
    }

    /// Records that the server rejected a renewal of this version before it processed the Lease.
    pub(super) fn unprocessed(&self, read_version: &ReadVersion) {
        self.state.lock().known.unprocessed(read_version);
    }

    /// Whether a newer version than this one is known.
    pub(super) fn is_after(&self, read_version: &ReadVersion) -> bool {
        self.state.lock().known.is_after(read_version)
    }

    /// Whether the newest known version shows that this renewal was applied.
    pub(super) fn is_applied(&self, patch: &Patch) -> bool {
        let known = &self.state.lock().known;
        known.is_applied(&patch.read_version, &self.us, patch.renewed.as_deref())
    }

    /// Waits until the newest known version shows that this renewal was applied.
    pub(super) async fn wait_until_applied(&self, patch: &Patch) {
        let mut changes = self.changes.subscribe();
        while !self.is_applied(patch) {
            _ = changes.changed().await;
        }
    }

    /// Waits until the state of the Lease changes.
    pub(super) async fn changed(&self) {
        _ = self.changes.subscribe().changed().await;
    }

    /// Waits until one of our writes has been missing from the watch for `limit`, and returns the version of that
    /// write. The next call does not return the same write again.
    pub async fn wait_until_overdue(&self, limit: Duration) -> u64 {
        let mut changes = self.changes.subscribe();
        loop {
            let unwatched = self.state.lock().unwatched;
            match unwatched {
                None => _ = changes.changed().await,
                Some((_, since)) if since.elapsed() < limit => sleep_until(since + limit).await,
                Some((version, _)) => {
                    self.state.lock().unwatched = None;
                    return version;
                }
            }
        }
    }

    /// Returns the last holder that was seen.
    #[must_use]
    pub fn holder(&self) -> Option<String> {
        self.state.lock().lease.holder().map(str::to_owned)
    }

    /// Returns how long candidates other than the holder must wait after the current state of the Lease is first seen.
    pub(super) fn kept_for(&self) -> Duration {
        let state = self.state.lock();
        state.lease.kept_for("", self.default_duration, false)
    }

    /// Returns why the candidate may try to take the Lease, for the log.
    pub(super) fn why_free(&self) -> &'static str {
        self.state.lock().lease.why_free(&self.us)
    }

    /// Returns when the current state of the Lease began, as far as is known.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.state.lock().lease.since()
    }

    /// Returns the time of the last change to the state of the Lease. Unlike the result of [`Self::since`], this time
    /// does not move after a gap between two reads that find no Lease.
    pub(super) fn changed_at(&self) -> Option<Instant> {
        self.state.lock().changed_at
    }

    /// Returns what to present to the candidate's lock after a GET that was sent at `sent` and returned this Lease, or
    /// found none. `leads` says whether the candidate has a valid term. Returns `None` if the leader must read the
    /// Lease again, because the Lease may no longer name this replica.
    pub(super) fn present(
        &self,
        answer: Option<&Lease>,
        leads: bool,
        sent: Instant,
    ) -> Option<PresentedLease> {
        let (now, default) = (Instant::now(), self.default_duration);
        let mut state = self.state.lock();
        state.known.read(answer);
        let is_change = state.lease.see_answer(answer, default, sent, now);
        if is_change == Some(true) {
            self.note_change(&mut state, answer);
        }
        let overtaken = is_change.is_none();
        let to_present = PresentedLease::of(answer, overtaken, &state.lease, &self.us, default, leads, now);
        Some(to_present).filter(|presented| !(overtaken && leads && *presented == PresentedLease::Held))
    }

    /// Whether the candidate may try to take or renew the Lease now. `leads` says whether the candidate has a valid
    /// term.
    pub(super) fn may_race(&self, leads: bool) -> bool {
        let lease = &self.state.lock().lease;
        lease.may_race(&self.us, self.default_duration, leads, Instant::now())
    }

    /// Waits until a candidate that does not lead may try to take the Lease, or must read it. Calls `on_holder` with
    /// each holder that it sees in the meantime.
    pub(super) async fn wait_to_race(&self, mut on_holder: impl FnMut(Option<&str>)) {
        let mut changes = self.changes.subscribe();
        loop {
            let moment = {
                let observed = &self.state.lock().lease;
                on_holder(observed.holder());
                let race = observed.race(&self.us, self.default_duration, false);
                // A lagging watch does not show that the holder has written the Lease again, and nothing rejects the
                // creation of a missing Lease. So the candidate reads the Lease repeatedly until it has been missing
                // for long enough.
                let look = observed.next_look(self.default_duration);
                race.map(|race| look.map_or(race, |look| look.min(race)))
            };
            match moment {
                None => _ = changes.changed().await,
                Some(moment) if moment <= Instant::now() => return,
                Some(moment) => {
                    tokio::select! {
                        // A change takes precedence, because the holder may have renewed at the last moment.
                        biased;
                        _ = changes.changed() => {}
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
    async fn only_a_held_lease_counts_as_renewed() {
        let metrics = Metrics::new("lease").unwrap();
        let observer = LeaseObserver::new("us", Duration::from_secs(6), metrics.clone());
        let never = "endpoint_copier_lease_seen_renewed_timestamp_seconds 0";
        observer.watched(None);
        observer.watched(Some(&lease("1", json!({"holderIdentity": ""}))));
        observer.watched(Some(&lease("2", Value::Null)));
        assert!(metrics.render().lines().any(|line| line == never));
        let renewed = |second: u8| {
            let moment = format!("2026-01-02T03:04:{second:02}.000000Z");
            json!({"holderIdentity": "another", "renewTime": moment})
        };
        observer.watched(Some(&lease("3", renewed(1))));
        observer.watched(Some(&lease("4", renewed(1))));
        assert!(
            metrics.render().lines().any(|line| line == never),
            "a renewal was counted although the holder may be dead"
        );
        observer.watched(Some(&lease("5", renewed(3))));
        assert!(!metrics.render().lines().any(|line| line == never));
    }
}
