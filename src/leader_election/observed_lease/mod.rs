//! What this replica knows of the Lease, by its own monotonic clock, and when it may try to take it.
//!
//! Pure: states of the Lease go in with the moment at which they were seen; the wall clock never matters. The
//! times that a Lease states are those of other machines: that they change is seen, what they say is not read. The
//! model in `crates/testing/election-model` calls the same functions.

use std::time::Duration;

use tokio::time::Instant;

use super::lease::{Lease, LeaseSpec};
use super::presented::ReadVersion;
use crate::timing::LONGEST_LEASE;

/// What is known of the Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObservedLease {
    /// The state of the Lease that was seen last, and since when; `None` before the first look.
    state: Option<(LeaseState, Instant)>,
    /// The last holder that was ever seen, through deletions and empty states.
    holder: Option<String>,
    /// The duration that this holder stated, as far as it is honoured.
    duration: Option<Duration>,
    /// When there was the last evidence that there is no Lease.
    missed: Option<Instant>,
}

/// A state of the Lease. The default: there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct LeaseState {
    version: Option<ReadVersion>,
    /// The moment that it states, which says nothing but that another one is another state: after a restore of
    /// etcd the same versions are given again.
    renewed: Option<String>,
    /// Whether it names its holder: it was not released, emptied or garbled.
    names_holder: bool,
    released: bool,
}

impl ObservedLease {
    /// Notes what a watch shows at a moment; `None`: there is no Lease. Returns whether that is a change. A watch may
    /// lag behind a GET, so what is older than what is known is passed over.
    pub fn see_in_watch(&mut self, lease: Option<&Lease>, now: Instant) -> bool {
        let is_old = |(known, _): &(LeaseState, Instant)| known.is_after(&LeaseState::of(lease));
        !self.state.as_ref().is_some_and(is_old) && self.see(lease, now)
    }

    /// Notes what a GET shows, or the answer to a write, at a moment; `None`: there is no Lease. Returns whether that
    /// is a change. A lower version is one too: when etcd has been restored from a backup, versions start again at a
    /// lower one. An answer that is merely late does no harm: it makes the wait longer, and a write that builds on
    /// it is refused.
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

    /// Notes the answer to a GET that was sent at a moment. Returns whether that is a change; `None`: it is passed
    /// over, since something else has been seen after that moment, and nobody knows which of the two is the newer.
    ///
    /// An absence lasts while it is looked at again and again. After a gap it starts again: its holder may have written
    /// the Lease meanwhile, and a watch that lags or was cut off does not show it.
    pub fn see_answer(
        &mut self,
        lease: Option<&Lease>,
        default_duration: Duration,
        sent: Instant,
        now: Instant,
    ) -> Option<bool> {
        // One look that fails is no gap.
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

    /// From when on the candidate `us` may try, unless the Lease changes before; `leads`: it has a valid term. `None`
    /// before the first look. A Lease that was released is free; one that never showed a holder too; one that names us
    /// is ours to renew. Any other belongs to its last holder until the duration has passed since its present state was
    /// first seen, also when it was deleted, emptied or garbled meanwhile: its holder may be alive and about to write it
    /// again. That is for the leader alone: if we were the last holder that we saw, there may have been another since.
    #[must_use]
    pub fn race(&self, us: &str, default_duration: Duration, leads: bool) -> Option<Instant> {
        let (state, since) = self.state.as_ref()?;
        let ours = self.holder.as_deref() == Some(us) && (state.names_holder || leads);
        if state.released || ours || self.holder.is_none() {
            return Some(*since);
        }
        let default = default_duration.min(LONGEST_LEASE);
        Some(*since + self.duration.unwrap_or(default))
    }

    /// Why the candidate `us` may try, in words for the log.
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

    /// Whether the candidate `us` may try at this moment.
    #[must_use]
    pub fn may_race(&self, us: &str, default_duration: Duration, leads: bool, now: Instant) -> bool {
        let race = self.race(us, default_duration, leads);
        race.is_some_and(|moment| now >= moment)
    }

    /// When a candidate has to look again whether there is still no Lease, although there has been a holder: more
    /// often than its holder would write it again. `None`: the last look showed one.
    #[must_use]
    pub fn next_look(&self, default_duration: Duration) -> Option<Instant> {
        let missed = self.missed.filter(|_| self.holder.is_some())?;
        Some(missed + self.look_interval(default_duration))
    }

    fn look_interval(&self, default_duration: Duration) -> Duration {
        let default = default_duration.min(LONGEST_LEASE);
        default.min(self.duration.unwrap_or(default)) / 6
    }

    /// Since when the Lease has looked as it does, or its absence has lasted; `None` before the first look.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.state.as_ref().map(|(_, since)| *since)
    }

    /// The last holder that was seen.
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
            // As client-go and `LeaseLock` give a Lease up: no holder, one second.
            released: lease.holder().is_none() && lease.spec.lease_duration_seconds == Some(1),
        };
        lease.map(state).unwrap_or_default()
    }

    /// Whether `self` is a later state of the same Lease: a watch may lag behind a GET.
    fn is_after(&self, other: &Self) -> bool {
        matches!((&self.version, &other.version), (Some(known), Some(new)) if known.is_after(new))
    }
}

fn stated_duration(spec: &LeaseSpec) -> Option<Duration> {
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())?;
    (seconds > 0).then(|| Duration::from_secs(seconds).min(LONGEST_LEASE))
}

#[cfg(test)]
mod tests;
