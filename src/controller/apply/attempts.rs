//! Remembers the last write of each slice, so that it is not repeated forever: a write that
//! was refused waits, and one that does not last counts as refused.
//!
//! Pure: moments go in.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use endpoint_copier_core::model::{EndpointSlice, ManagedService, ServiceKey, SliceKey};

/// The pause after a refusal: 5 s, doubling to 30 s.
const REFUSAL_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_REFUSAL_PAUSE: Duration = Duration::from_secs(30);

/// The pause after a refusal of something else: what is new may be taken, but is not tried in a flood.
const OTHER: Duration = Duration::from_secs(1);

/// So often the same may be written into a slice that others keep changing: more than a person changes it,
/// and less than a second of a policy that changes all that we write …
const REPAIRS: u32 = 30;

/// … within this time of each other.
const SOON: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Attempts {
    slices: HashMap<SliceKey, WriteAttempt>,
    /// Services whose namespace is going, as they were when that was found.
    hopeless: HashMap<ServiceKey, Arc<ManagedService>>,
}

/// The last write of a slice that the API server has answered.
#[derive(Debug)]
struct WriteAttempt {
    content: u64,
    at: Instant,
    /// Why the API server refused it; `None` if it did not.
    refusal: Option<String>,
    /// Refusals of the same in a row; or successful writes of it, each soon after the one before.
    times: u32,
}

impl WriteAttempt {
    /// How long the same may not be written again.
    fn pause(&self) -> Duration {
        match (&self.refusal, self.times) {
            (Some(_), times) => pause(times - 1),
            (None, times) => times.checked_sub(REPAIRS).map_or(Duration::ZERO, pause),
        }
    }

    /// How long a further attempt counts as its repetition. While a repair waits, repairs are further apart.
    fn counts_for(&self) -> Duration {
        match self.refusal {
            Some(_) => LONGEST_REFUSAL_PAUSE * 3,
            None => SOON.max(self.pause() * 2),
        }
    }
}

impl Attempts {
    /// Whether a slice may be written at a moment.
    ///
    /// # Errors
    /// Not before this moment; why the last attempt failed.
    pub fn check(&self, slice: &EndpointSlice, now: Instant) -> Result<(), (Instant, String)> {
        let Some(last) = self.slices.get(&SliceKey::of(&slice.metadata)) else {
            return Ok(());
        };
        let pause = if last.content == content(slice) {
            last.pause()
        } else if last.refusal.is_some() {
            OTHER
        } else {
            Duration::ZERO
        };
        let until = last.at + pause;
        if now >= until {
            return Ok(());
        }
        let undone = || {
            format!(
                "the copy was written {} times and changed back each time; find out what changes it",
                last.times
            )
        };
        Err((until, last.refusal.clone().unwrap_or_else(undone)))
    }

    /// The namespace of a Service is going: there is nothing to wait for.
    pub fn give_up(&mut self, service: &Arc<ManagedService>) {
        self.hopeless.insert(service.key.clone(), service.clone());
    }

    /// The Service is no longer managed.
    pub fn gone(&mut self, service: &ServiceKey) {
        self.hopeless.remove(service);
    }

    /// Whether a Service was given up, and has not changed since.
    pub fn is_given_up(&self, service: &Arc<ManagedService>) -> bool {
        self.hopeless.get(&service.key) == Some(service)
    }

    /// The API server has refused this, or has accepted it (`None`). Returns when the same may be tried again.
    pub fn ended(&mut self, slice: &EndpointSlice, refusal: Option<&str>, now: Instant) -> Instant {
        let (key, content) = (SliceKey::of(&slice.metadata), content(slice));
        let continues = |last: &&WriteAttempt| {
            last.content == content
                && last.refusal.is_some() == refusal.is_some()
                && now < last.at + last.counts_for()
        };
        let before = self
            .slices
            .get(&key)
            .filter(continues)
            .map_or(0, |last| last.times);
        let attempt = WriteAttempt {
            content,
            at: now,
            refusal: refusal.map(str::to_owned),
            times: before + 1,
        };
        let until = now + attempt.pause();
        self.slices.insert(key, attempt);
        until
    }

    /// Forgets the writes that no further attempt repeats.
    pub fn forget_old(&mut self, now: Instant) {
        self.slices
            .retain(|_, attempt| now < attempt.at + attempt.counts_for());
    }
}

fn pause(times: u32) -> Duration {
    REFUSAL_PAUSE
        .saturating_mul(2_u32.saturating_pow(times))
        .min(LONGEST_REFUSAL_PAUSE)
}

/// A hash of the content of a slice. The version of its source is no part of it.
fn content(slice: &EndpointSlice) -> u64 {
    let mut hasher = DefaultHasher::new();
    let EndpointSlice {
        address_type,
        endpoints,
        metadata: _,
        ports,
    } = slice;
    format!("{address_type:?} {endpoints:?} {ports:?}").hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use endpoint_copier_core::testing::{Build, BuildSlice, service, slice};

    fn showing(address: &str) -> EndpointSlice {
        slice("vip-1").endpoints([address])
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Rule: 2.write-refused-pause
    #[test]
    fn what_was_refused_waits_5_seconds_doubling_to_30() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        for wait in [5, 10, 20, 30, 30, 30] {
            attempts.ended(&showing("10.0.0.1"), Some("no"), now);
            assert_eq!(
                attempts.check(
                    &showing("10.0.0.1"),
                    now + seconds(wait) - Duration::from_millis(1)
                ),
                Err((now + seconds(wait), "no".to_owned()))
            );
            assert_eq!(attempts.check(&showing("10.0.0.1"), now + seconds(wait)), Ok(()));
            now += seconds(wait);
        }
    }

    #[test]
    fn other_content_is_tried_after_a_second() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        attempts.ended(&showing("10.0.0.1"), Some("no"), now);
        assert!(
            attempts
                .check(&showing("10.0.0.2"), now + Duration::from_millis(999))
                .is_err()
        );
        assert!(attempts.check(&showing("10.0.0.2"), now + seconds(1)).is_ok());
    }

    #[test]
    fn another_slice_does_not_wait() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        attempts.ended(&showing("10.0.0.1"), Some("no"), now);
        assert!(attempts.check(&slice("vip-2"), now).is_ok());
    }

    #[test]
    fn success_ends_the_waiting() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        attempts.ended(&showing("10.0.0.1"), Some("no"), now);
        attempts.ended(&showing("10.0.0.1"), None, now + seconds(5));
        assert!(attempts.check(&showing("10.0.0.1"), now + seconds(5)).is_ok());
    }

    #[test]
    fn a_write_that_is_undone_time_after_time_waits_too() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        for _ in 0..REPAIRS {
            assert!(attempts.check(&showing("10.0.0.1"), now).is_ok());
            attempts.ended(&showing("10.0.0.1"), None, now);
            now += Duration::from_millis(50);
        }
        assert!(
            attempts
                .check(&showing("10.0.0.1"), now)
                .unwrap_err()
                .1
                .contains("changed back")
        );
        for wait in [5, 10, 20, 30, 30] {
            now += seconds(wait);
            assert!(
                attempts.check(&showing("10.0.0.1"), now).is_ok(),
                "after {wait} s"
            );
            attempts.ended(&showing("10.0.0.1"), None, now);
            assert!(attempts.check(&showing("10.0.0.1"), now + seconds(1)).is_err());
        }
        assert!(
            attempts.check(&showing("10.0.0.2"), now + seconds(1)).is_ok(),
            "another state of the source is no repair"
        );
    }

    #[test]
    fn repairs_now_and_then_are_no_fight() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        for _ in 0..100 {
            assert!(attempts.check(&showing("10.0.0.1"), now).is_ok());
            attempts.ended(&showing("10.0.0.1"), None, now);
            now += seconds(1);
        }
    }

    /// Rule: survive.memory
    #[test]
    fn a_write_that_nothing_repeats_is_forgotten() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for (refusal, kept) in [(None, 1), (Some("no"), 90)] {
            attempts.ended(&showing("10.0.0.1"), refusal, now);
            attempts.forget_old(now + seconds(kept) - Duration::from_millis(1));
            assert_eq!(attempts.slices.len(), 1);
            attempts.forget_old(now + seconds(kept));
            assert!(attempts.slices.is_empty(), "{refusal:?}");
        }
    }

    #[test]
    fn what_was_given_up_stays_so_until_the_service_changes() {
        let read = |service| {
            Arc::new(ManagedService::read(&service, &endpoint_copier_core::testing::defaults()).unwrap())
        };
        let mut attempts = Attempts::default();
        attempts.give_up(&read(service("vip")));
        assert!(attempts.is_given_up(&read(service("vip"))));
        assert!(!attempts.is_given_up(&read(service("vip").uid("another"))));
        assert!(!attempts.is_given_up(&read(service("other"))));
        attempts.gone(&read(service("vip")).key);
        assert!(attempts.hopeless.is_empty());
    }
}
