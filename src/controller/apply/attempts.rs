//! Remembers the last write of each slice, so that it is not repeated forever. A refused write waits, and a write that
//! others keep undoing counts as refused.
//!
//! Pure: the current time is an argument.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use endpoint_copier_core::model::{EndpointSlice, ManagedService, ServiceKey, SliceKey};

/// The pause after a refusal: 5 s, doubling to 30 s.
const REFUSAL_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_REFUSAL_PAUSE: Duration = Duration::from_secs(30);

/// The pause after a refusal before different content is tried. It may be accepted, but must not cause a flood of
/// writes.
const OTHER: Duration = Duration::from_secs(1);

/// The number of times in a row that the same content is written into a slice that others keep changing. No person
/// changes it that often, and a policy that changes all our writes reaches it within a second.
const REPAIRS: u32 = 30;

/// Writes are in a row if each follows the previous one within this time.
const SOON: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Attempts {
    slices: HashMap<SliceKey, WriteAttempt>,
    /// Services whose namespace is terminating, in the state in which that was found.
    hopeless: HashMap<ServiceKey, Arc<ManagedService>>,
}

/// The last write of a slice that the API server has answered.
#[derive(Debug)]
struct WriteAttempt {
    content: u64,
    at: Instant,
    /// The reason of the refusal, or `None` if the write succeeded.
    refusal: Option<String>,
    /// The number of consecutive refusals of the same content, or of successful writes that each followed soon after
    /// the previous one.
    times: u32,
}

impl WriteAttempt {
    /// How long the same content must wait.
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
    /// Checks whether a slice may be written now.
    ///
    /// # Errors
    ///
    /// The earliest time of the next attempt, and the reason of the last failure.
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

    /// Gives a Service up because its namespace is terminating.
    pub fn give_up(&mut self, service: &Arc<ManagedService>) {
        self.hopeless.insert(service.key.clone(), service.clone());
    }

    /// Forgets a Service that is no longer managed.
    pub fn gone(&mut self, service: &ServiceKey) {
        self.hopeless.remove(service);
    }

    /// Whether a Service was given up and has not changed since.
    pub fn is_given_up(&self, service: &Arc<ManagedService>) -> bool {
        self.hopeless.get(&service.key) == Some(service)
    }

    /// Records that the API server has refused this content, or has accepted it (`None`). Returns when the same content
    /// may be tried again.
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

/// The pause after this many refusals before the last one.
pub(super) fn pause(times: u32) -> Duration {
    REFUSAL_PAUSE
        .saturating_mul(2_u32.saturating_pow(times))
        .min(LONGEST_REFUSAL_PAUSE)
}

/// A hash of the content of a slice, without the version of its source.
pub(super) fn content(slice: &EndpointSlice) -> u64 {
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
    fn a_refused_write_waits_5_seconds_doubling_to_30() {
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
    fn success_ends_the_wait() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        attempts.ended(&showing("10.0.0.1"), Some("no"), now);
        attempts.ended(&showing("10.0.0.1"), None, now + seconds(5));
        assert!(attempts.check(&showing("10.0.0.1"), now + seconds(5)).is_ok());
    }

    #[test]
    fn a_write_that_is_undone_repeatedly_waits() {
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
    fn occasional_repairs_are_no_fight() {
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
    fn an_abandoned_write_waits_until_the_service_changes() {
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
