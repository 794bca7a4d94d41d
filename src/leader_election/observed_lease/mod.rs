//! What this replica knows about the Lease, by its own monotonic clock, and when it may try to take the Lease.
//!
//! This module is pure: callers pass in each state of the Lease and when they saw it. The wall clock never matters. The
//! timestamps in a Lease come from other machines, so only changes to them count, never their values. The model in
//! `crates/testing/election-model` calls the same functions.

use std::time::Duration;

use tokio::time::Instant;

use super::lease::{Lease, LeaseSpec};
use super::presented_lease::ReadVersion;
use crate::timing::MAX_LEASE_DURATION;

/// The known state of the Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObservedLease {
    /// The last seen state of the Lease, and when this state began, as far as is known. `None` before the Lease is
    /// first observed.
    state: Option<(LeaseState, Instant)>,
    /// The last holder that was seen. Deletions and empty states do not change it.
    holder: Option<String>,
    /// The lease duration that this holder specified, at most [`MAX_LEASE_DURATION`].
    duration: Option<Duration>,
    /// When the Lease was last seen to be missing.
    missed: Option<Instant>,
}

/// A state of the Lease. By default, there is no Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct LeaseState {
    version: Option<ReadVersion>,
    /// The renewal time in the Lease. It is used only to distinguish states with the same version, which can occur
    /// after etcd is restored.
    renewed: Option<String>,
    /// Whether there is a Lease with a holder.
    names_holder: bool,
    released: bool,
}

impl ObservedLease {
    /// Records the Lease that a watch shows at `now`, or `None` if there is no Lease. Returns whether the state has
    /// changed. A watch may lag behind a GET, so a state older than the known one is ignored.
    pub fn see_in_watch(&mut self, lease: Option<&Lease>, now: Instant) -> bool {
        let is_old = |(known, _): &(LeaseState, Instant)| known.is_after(&LeaseState::of(lease));
        !self.state.as_ref().is_some_and(is_old) && self.see(lease, now)
    }

    /// Records the Lease that a GET or the response to a write shows at `now`, or `None` if there is no Lease. Returns
    /// whether the state has changed. A lower version is a change too, because versions restart at a lower number when
    /// etcd is restored from a backup. A late response does no harm: it only prolongs the wait, and the API server
    /// rejects a write that is based on it.
    pub fn see(&mut self, lease: Option<&Lease>, now: Instant) -> bool {
        let state = LeaseState::of(lease);
        if self.state.as_ref().is_some_and(|(known, _)| *known == state) {
            return false;
        }
        self.state = Some((state, now));
        self.missed = lease.is_none().then_some(now);
        if let Some(lease) = lease
            && let Some(holder) = lease.holder()
        {
            self.holder = Some(holder.to_owned());
            self.duration = stated_duration(&lease.spec);
        }
        true
    }

    /// Records the response to a GET that was sent at `sent` and returned at `now`. Returns whether the state has
    /// changed, or `None` if the response is ignored: another state was seen after `sent`, and it is unknown which of
    /// the two is newer.
    ///
    /// A Lease counts as missing only while repeated reads find none. After a gap between reads, the wait restarts: the
    /// holder may have written the Lease in the meantime, and a watch that lags or was cut off does not show that.
    pub fn see_answer(
        &mut self,
        lease: Option<&Lease>,
        default_duration: Duration,
        sent: Instant,
        now: Instant,
    ) -> Option<bool> {
        // A single failed read is not a gap.
        let gap = self.look_interval(default_duration) * 2;
        match &mut self.state {
            Some((known, since)) if *since > sent => (*known == LeaseState::of(lease)).then_some(false),
            Some((state, since)) if lease.is_none() && *state == LeaseState::default() => {
                if self.missed.is_none_or(|missed| sent > missed + gap) {
                    *since = now;
                }
                self.missed = Some(now);
                Some(false)
            }
            _ => Some(self.see(lease, now)),
        }
    }

    /// Returns the earliest time at which the candidate `us` may try to take or renew the Lease, unless the Lease
    /// changes before then. Returns `None` before the Lease is first observed. `leads` says whether the candidate has a
    /// valid term.
    ///
    /// A Lease that was released, or was never seen with a holder, is free. A Lease that names us is ours to renew. Any
    /// other Lease belongs to its last holder until that holder's lease duration has passed since the current state was
    /// first seen. This includes a Lease that was deleted, emptied or garbled: its holder may be alive and about to
    /// write it again. Only the leader may write such a Lease immediately. If we do not lead, another replica may have
    /// held the Lease since, even if we are the last holder that we saw.
    #[must_use]
    pub fn race(&self, us: &str, default_duration: Duration, leads: bool) -> Option<Instant> {
        let (_, since) = self.state.as_ref()?;
        Some(*since + self.kept_for(us, default_duration, leads))
    }

    /// Returns how long the candidate `us` must wait after the current state is first seen; see [`Self::race`].
    #[must_use]
    pub fn kept_for(&self, us: &str, default_duration: Duration, leads: bool) -> Duration {
        let is_free = self.state.as_ref().is_none_or(|(state, _)| {
            let ours = self.holder.as_deref() == Some(us) && (state.names_holder || leads);
            state.released || ours || self.holder.is_none()
        });
        if is_free {
            return Duration::ZERO;
        }
        let default = default_duration.min(MAX_LEASE_DURATION);
        self.duration.unwrap_or(default)
    }

    /// Returns why the candidate `us` may try to take the Lease, for the log.
    #[must_use]
    pub fn why_free(&self, us: &str) -> &'static str {
        let absent = LeaseState::default();
        let state = self.state.as_ref().map_or(&absent, |(state, _)| state);
        match self.holder.as_deref() {
            _ if state.released => "it was released",
            None if state.version.is_some() => "it had no holder",
            None => "there was none",
            Some(holder) if holder == us => "it was held by this replica",
            Some(_) if state.names_holder => "its holder has not renewed it in time",
            Some(_) => "its holder has not written it again in time",
        }
    }

    /// Whether the candidate `us` may try to take or renew the Lease at `now`.
    #[must_use]
    pub fn may_race(&self, us: &str, default_duration: Duration, leads: bool, now: Instant) -> bool {
        let race = self.race(us, default_duration, leads);
        race.is_some_and(|moment| now >= moment)
    }

    /// Returns when a candidate must read a missing Lease again, or `None` if the Lease was last seen to exist or no
    /// holder was ever seen. With the default times, the candidate reads more often than a holder renews.
    #[must_use]
    pub fn next_look(&self, default_duration: Duration) -> Option<Instant> {
        let missed = self.missed.filter(|_| self.holder.is_some())?;
        Some(missed + self.look_interval(default_duration))
    }

    fn look_interval(&self, default_duration: Duration) -> Duration {
        let default = default_duration.min(MAX_LEASE_DURATION);
        default.min(self.duration.unwrap_or(default)) / 6
    }

    /// Returns when the current state of the Lease began, as far as is known, or `None` before the Lease is first
    /// observed.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.state.as_ref().map(|(_, since)| *since)
    }

    /// Returns the last holder that was seen.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.holder.as_deref()
    }
}

impl LeaseState {
    fn of(lease: Option<&Lease>) -> Self {
        let state = |lease: &Lease| Self {
            version: ReadVersion::of(lease),
            renewed: lease.spec.renew_time.clone(),
            names_holder: lease.holder().is_some(),
            // To release a Lease, client-go and `LeaseLock` remove its holder and set its duration to one second.
            released: lease.holder().is_none() && lease.spec.lease_duration_seconds == Some(1),
        };
        lease.map(state).unwrap_or_default()
    }

    /// Whether `self` is a later state of the same Lease than `other`.
    fn is_after(&self, other: &Self) -> bool {
        matches!((&self.version, &other.version), (Some(known), Some(new)) if known.is_after(new))
    }
}

fn stated_duration(spec: &LeaseSpec) -> Option<Duration> {
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())?;
    (seconds > 0).then(|| Duration::from_secs(seconds).min(MAX_LEASE_DURATION))
}

#[cfg(test)]
mod tests;
