//! This replica's knowledge of the Lease, by its own monotonic clock, and the time at which it may try to take the
//! Lease.
//!
//! This module is pure: callers pass in each state of the Lease with the time at which they saw it, and the wall clock
//! never matters. The timestamps in a Lease come from other machines, so only their changes count, never their values.
//! The model in `crates/testing/election-model` calls the same functions.

use std::time::Duration;

use tokio::time::Instant;

use super::lease::{Lease, LeaseSpec};
use super::presented_lease::ReadVersion;
use crate::timing::MAX_LEASE_DURATION;

/// The known state of the Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObservedLease {
    /// The last seen state of the Lease, and the time since which this state has lasted. `None` before the Lease was
    /// first observed.
    state: Option<(LeaseState, Instant)>,
    /// The last holder that was seen. Deletions and empty states do not change it.
    holder: Option<String>,
    /// The duration that this holder stated, up to the limit that is honored.
    duration: Option<Duration>,
    /// The time at which the Lease was last seen to be missing.
    missed: Option<Instant>,
}

/// A state of the Lease. By default, there is no Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct LeaseState {
    version: Option<ReadVersion>,
    /// The renewal time that the Lease states. It serves only to distinguish states that have the same version, which
    /// happens after a restore of etcd.
    renewed: Option<String>,
    /// Whether there is a Lease with a holder.
    names_holder: bool,
    released: bool,
}

impl ObservedLease {
    /// Records what a watch shows at the time `now`, or `None` if there is no Lease. Returns whether that is a change.
    /// A watch may lag behind a GET, so a state that is older than the known one is ignored.
    pub fn see_in_watch(&mut self, lease: Option<&Lease>, now: Instant) -> bool {
        let is_old = |(known, _): &(LeaseState, Instant)| known.is_after(&LeaseState::of(lease));
        !self.state.as_ref().is_some_and(is_old) && self.see(lease, now)
    }

    /// Records what a GET or the response to a write shows at the time `now`, or `None` if there is no Lease. Returns
    /// whether that is a change. A lower version is a change too, because versions restart at a lower number when etcd
    /// is restored from a backup. A late response does no harm: it only makes the wait longer, and the API server
    /// rejects a write that builds on it.
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

    /// Records the response, which arrived at the time `now`, to a GET that was sent at the time `sent`. Returns
    /// whether that is a change. Returns `None` if the response is ignored, because another state was seen after `sent`
    /// and it is unknown which of the two is newer.
    ///
    /// A missing Lease counts as missing only while it is read repeatedly. After a gap, the wait restarts, because the
    /// holder may have written the Lease in the meantime, and a watch that lags or was cut off does not show that.
    pub fn see_answer(
        &mut self,
        lease: Option<&Lease>,
        default_duration: Duration,
        sent: Instant,
        now: Instant,
    ) -> Option<bool> {
        // A single read that fails is not a gap.
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

    /// Returns the earliest time at which the candidate `us` may try, unless the Lease changes before then. `leads`
    /// says whether the candidate has a valid term. `None` before the Lease was first observed. A Lease that was
    /// released, or never showed a holder, is free. A Lease that names us is ours to renew. Any other Lease belongs to
    /// its last holder until that holder's duration has passed since the present state was first seen, even if the
    /// Lease was deleted, emptied or garbled, because the holder may be alive and about to write it again. Only the
    /// leader may write such a Lease immediately: if we are the last holder that we saw but do not lead, there may have
    /// been another holder since.
    #[must_use]
    pub fn race(&self, us: &str, default_duration: Duration, leads: bool) -> Option<Instant> {
        let (_, since) = self.state.as_ref()?;
        Some(*since + self.kept_for(us, default_duration, leads))
    }

    /// Returns for how long the present state, once seen, keeps the Lease from the candidate `us`; see [`Self::race`].
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

    /// Returns the reason why the candidate `us` may try, for the log.
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

    /// Whether the candidate `us` may try at the time `now`.
    #[must_use]
    pub fn may_race(&self, us: &str, default_duration: Duration, leads: bool, now: Instant) -> bool {
        let race = self.race(us, default_duration, leads);
        race.is_some_and(|moment| now >= moment)
    }

    /// Returns the time at which a candidate has to read a missing Lease again, if the Lease had a holder. With the
    /// default times, the candidate reads more often than a holder renews. `None` if the Lease was last seen to exist,
    /// or if no holder was ever seen.
    #[must_use]
    pub fn next_look(&self, default_duration: Duration) -> Option<Instant> {
        let missed = self.missed.filter(|_| self.holder.is_some())?;
        Some(missed + self.look_interval(default_duration))
    }

    fn look_interval(&self, default_duration: Duration) -> Duration {
        let default = default_duration.min(MAX_LEASE_DURATION);
        default.min(self.duration.unwrap_or(default)) / 6
    }

    /// Returns the time since which the Lease has had its present state, or has been missing. `None` before the Lease
    /// was first observed.
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
            // client-go and `LeaseLock` release a Lease like this: no holder, and a duration of one second.
            released: lease.holder().is_none() && lease.spec.lease_duration_seconds == Some(1),
        };
        lease.map(state).unwrap_or_default()
    }

    /// Whether `self` is a later state of the same Lease than `other`. A watch may lag behind a GET.
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
