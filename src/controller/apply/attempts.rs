//! Remembers the last responses to writes, so that no write is repeated forever. A refused write waits, and a write
//! that others keep undoing counts as refused.
//!
//! If RBAC does not allow such writes in a namespace, all of its Services share the pause. The chart can limit the
//! operator to some namespaces, and thousands of managed Services may be in others: one request at a time finds out for
//! all of them.
//!
//! Pure: the current time is an argument.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::controller::error::SyncError;
use endpoint_copier_core::model::{EndpointSlice, ManagedService, Operation, ServiceKey, SliceKey};

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
    last: HashMap<Subject, Attempt>,
    /// Services whose namespace is terminating, in the state in which that was found.
    hopeless: HashMap<ServiceKey, Arc<ManagedService>>,
}

/// What an attempt has shown something about.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Subject {
    /// The content of a slice.
    Slice(SliceKey),
    /// The permission for such writes in a namespace.
    Right(String, Operation),
}

impl Subject {
    /// What distinguishes attempts about it. The permission for a write does not depend on the slice.
    fn content(&self, slice: &EndpointSlice) -> u64 {
        match self {
            Self::Slice(_) => content(slice),
            Self::Right(..) => 0,
        }
    }
}

/// The last attempt that the API server has answered.
#[derive(Debug)]
struct Attempt {
    content: u64,
    at: Instant,
    /// The reason of the refusal, or `None` if the write succeeded.
    refusal: Option<String>,
    /// The number of consecutive refusals of the same content, or of successful writes that each followed soon after
    /// the previous one.
    times: u32,
}

impl Attempt {
    /// How long the same content must wait.
    fn pause(&self) -> Duration {
        let refusals = match self.refusal {
            Some(_) => self.times.checked_sub(1),
            None => self.times.checked_sub(REPAIRS),
        };
        refusals.map_or(Duration::ZERO, |before| {
            REFUSAL_PAUSE
                .saturating_mul(2_u32.saturating_pow(before))
                .min(LONGEST_REFUSAL_PAUSE)
        })
    }

    /// How long a further attempt counts as its repetition. While a repair waits, repairs are further apart.
    fn counts_for(&self) -> Duration {
        match self.refusal {
            Some(_) => LONGEST_REFUSAL_PAUSE * 3,
            None => SOON.max(self.pause() * 2),
        }
    }

    /// Until when this content must wait, if it must, and why.
    fn waits(&self, content: u64, now: Instant) -> Option<(Instant, String)> {
        let pause = match self.refusal {
            _ if self.content == content => self.pause(),
            Some(_) => OTHER,
            None => Duration::ZERO,
        };
        let undone = || {
            format!(
                "the copy was written {} times and changed back each time; find out what changes it",
                self.times
            )
        };
        let until = self.at + pause;
        (now < until).then(|| (until, self.refusal.clone().unwrap_or_else(undone)))
    }
}

impl Attempts {
    /// Checks whether a slice may be written now.
    ///
    /// # Errors
    ///
    /// The last refusal, with the earliest time of the next attempt.
    pub fn check(&self, operation: Operation, slice: &EndpointSlice, now: Instant) -> Result<(), SyncError> {
        for subject in subjects(operation, slice) {
            let last = self.last.get(&subject);
            let waits = last.and_then(|last| last.waits(subject.content(slice), now));
            if let Some((until, message)) = waits {
                return Err(SyncError::Refused {
                    operation,
                    slice: slice.key(),
                    message,
                    is_forbidden: matches!(subject, Subject::Right(..)),
                    retry_at: Some(until),
                });
            }
        }
        Ok(())
    }

    /// Records the response to a write. Adds to a refusal the time at which the same content may be tried again.
    pub fn answered<T>(
        &mut self,
        operation: Operation,
        slice: &EndpointSlice,
        answer: &mut Result<T, SyncError>,
        now: Instant,
    ) {
        // Nothing repeats these anymore.
        self.last
            .retain(|_, attempt| now < attempt.at + attempt.counts_for());
        let [right, this] = subjects(operation, slice);
        match answer {
            Ok(_) => {
                self.last.remove(&right);
                self.ended(this, slice, None, now);
            }
            Err(SyncError::Refused {
                message,
                is_forbidden,
                retry_at,
                ..
            }) => {
                let about = if *is_forbidden { right } else { this };
                *retry_at = Some(self.ended(about, slice, Some(message), now));
            }
            Err(_) => {}
        }
    }

    /// Records that the API server has refused this content, or has accepted it (`None`). Returns when the same content
    /// may be tried again.
    fn ended(
        &mut self,
        subject: Subject,
        slice: &EndpointSlice,
        refusal: Option<&str>,
        now: Instant,
    ) -> Instant {
        let content = subject.content(slice);
        let continues = |last: &&Attempt| {
            last.content == content
                && last.refusal.is_some() == refusal.is_some()
                && now < last.at + last.counts_for()
        };
        let times = match self.last.get(&subject).filter(continues) {
            // Requests that were sent at the same time are one.
            Some(last) if now < last.at + last.pause() => last.times,
            Some(last) => last.times + 1,
            None => 1,
        };
        let attempt = Attempt {
            content,
            at: now,
            refusal: refusal.map(str::to_owned),
            times,
        };
        let until = now + attempt.pause();
        self.last.insert(subject, attempt);
        until
    }

    /// Abandons a Service because its namespace is terminating.
    pub fn give_up(&mut self, service: &Arc<ManagedService>) {
        self.hopeless.insert(service.key.clone(), service.clone());
    }

    /// Forgets a Service that is no longer managed.
    pub fn gone(&mut self, service: &ServiceKey) {
        self.hopeless.remove(service);
    }

    /// Whether a Service was abandoned and has not changed since.
    pub fn is_given_up(&self, service: &Arc<ManagedService>) -> bool {
        self.hopeless.get(&service.key) == Some(service)
    }
}

/// What a write needs: permission, whatever its content, and that its content is accepted.
fn subjects(operation: Operation, slice: &EndpointSlice) -> [Subject; 2] {
    let key = slice.key();
    let right = Subject::Right(key.namespace().to_owned(), operation);
    [right, Subject::Slice(key)]
}

/// A hash of the content of a slice, without the version of its source.
pub(super) fn content(slice: &EndpointSlice) -> u64 {
    let mut hasher = DefaultHasher::new();
    let EndpointSlice {
        address_type,
        endpoints,
        metadata: _,
        ports,
        kept: _,
    } = slice;
    format!("{address_type:?} {endpoints:?} {ports:?}").hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use endpoint_copier_core::model::Operation::{Create, Update};
    use endpoint_copier_core::testing::{Build, BuildSlice, service, slice};

    fn showing(address: &str) -> EndpointSlice {
        slice("vip-1").endpoints([address])
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    impl Attempts {
        /// Returns when the same content may be tried again.
        fn refused(
            &mut self,
            operation: Operation,
            slice: &EndpointSlice,
            is_forbidden: bool,
            now: Instant,
        ) -> Option<Instant> {
            let refused = SyncError::Refused {
                operation,
                slice: SliceKey::of(&slice.metadata),
                message: "no".to_owned(),
                is_forbidden,
                retry_at: None,
            };
            let mut answer = Err::<(), _>(refused);
            self.answered(operation, slice, &mut answer, now);
            match answer {
                Err(SyncError::Refused { retry_at, .. }) => retry_at,
                _ => None,
            }
        }

        fn ended_with(&mut self, address: &str, refusal: Option<&str>, now: Instant) {
            let slice = showing(address);
            match refusal {
                Some(_) => _ = self.refused(Update, &slice, false, now),
                None => self.answered(Update, &slice, &mut Ok(()), now),
            }
        }

        fn checked(
            &self,
            operation: Operation,
            slice: &EndpointSlice,
            now: Instant,
        ) -> Result<(), (Option<Instant>, String)> {
            self.check(operation, slice, now).map_err(|error| match error {
                SyncError::Refused {
                    retry_at, message, ..
                } => (retry_at, message),
                other => panic!("{other}"),
            })
        }

        fn allows(&self, address: &str, now: Instant) -> bool {
            self.checked(Update, &showing(address), now).is_ok()
        }
    }

    /// Rule: 2.write-refused-pause
    #[test]
    fn a_refused_write_waits_5_seconds_doubling_to_30() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        let slice = showing("10.0.0.1");
        for wait in [5, 10, 20, 30, 30, 30] {
            let until = now + seconds(wait);
            assert_eq!(attempts.refused(Update, &slice, false, now), Some(until));
            assert_eq!(
                attempts.checked(Update, &slice, until - Duration::from_millis(1)),
                Err((Some(until), "no".to_owned()))
            );
            assert_eq!(attempts.checked(Update, &slice, until), Ok(()));
            now = until;
        }
    }

    #[test]
    fn other_content_is_tried_after_a_second() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        attempts.ended_with("10.0.0.1", Some("no"), now);
        assert!(!attempts.allows("10.0.0.2", now + Duration::from_millis(999)));
        assert!(attempts.allows("10.0.0.2", now + seconds(1)));
    }

    #[test]
    fn another_slice_does_not_wait() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        attempts.ended_with("10.0.0.1", Some("no"), now);
        assert_eq!(attempts.checked(Update, &slice("vip-2"), now), Ok(()));
    }

    #[test]
    fn success_ends_the_wait() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        attempts.ended_with("10.0.0.1", Some("no"), now);
        attempts.ended_with("10.0.0.1", None, now + seconds(5));
        assert!(attempts.allows("10.0.0.1", now + seconds(5)));
    }

    #[test]
    fn a_write_that_is_undone_repeatedly_waits() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        for _ in 0..REPAIRS {
            assert!(attempts.allows("10.0.0.1", now));
            attempts.ended_with("10.0.0.1", None, now);
            now += Duration::from_millis(50);
        }
        let (_, why) = attempts.checked(Update, &showing("10.0.0.1"), now).unwrap_err();
        assert!(why.contains("changed back"), "{why}");
        for wait in [5, 10, 20, 30, 30] {
            now += seconds(wait);
            assert!(attempts.allows("10.0.0.1", now), "after {wait} s");
            attempts.ended_with("10.0.0.1", None, now);
            assert!(!attempts.allows("10.0.0.1", now + seconds(1)));
        }
        assert!(
            attempts.allows("10.0.0.2", now + seconds(1)),
            "another state of the source is no repair"
        );
    }

    #[test]
    fn occasional_repairs_are_no_fight() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        for _ in 0..100 {
            assert!(attempts.allows("10.0.0.1", now));
            attempts.ended_with("10.0.0.1", None, now);
            now += seconds(1);
        }
    }

    /// Rule: 2.write-refused-pause
    #[test]
    fn a_namespace_without_the_right_waits_5_s_doubling_to_30() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        let (first, second) = (slice("vip-1"), slice("vip-2"));
        for wait in [5, 10, 20, 30, 30] {
            let until = now + seconds(wait);
            for slice in [&first, &second, &first] {
                let next = attempts.refused(Create, slice, true, now);
                assert_eq!(next, Some(until), "those sent at the same time are one");
            }
            let waits = attempts.checked(Create, &slice("vip-3"), until - seconds(1));
            assert_eq!(waits, Err((Some(until), "no".to_owned())));
            assert_eq!(attempts.checked(Create, &first, until), Ok(()));
            now = until;
        }
    }

    #[test]
    fn other_namespaces_and_writes_do_not_wait() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let (blue, red) = (slice("vip").namespace("blue"), slice("vip").namespace("red"));
        attempts.refused(Create, &blue, true, now);
        assert!(attempts.checked(Create, &blue, now).is_err());
        assert_eq!(attempts.checked(Update, &blue, now), Ok(()));
        assert_eq!(attempts.checked(Create, &red, now), Ok(()));
        attempts.answered(Create, &blue, &mut Ok(()), now);
        assert_eq!(attempts.checked(Create, &blue, now), Ok(()));
    }

    /// Rule: survive.memory
    #[test]
    fn a_write_that_nothing_repeats_is_forgotten() {
        let slice = showing("10.0.0.1");
        for (what, kept) in [("success", 1), ("refused", 90), ("forbidden", 90)] {
            let (mut attempts, now) = (Attempts::default(), Instant::now());
            match what {
                "success" => attempts.answered(Update, &slice, &mut Ok(()), now),
                _ => _ = attempts.refused(Update, &slice, what == "forbidden", now),
            }
            let mut unanswered = Err::<(), _>(SyncError::TermOver);
            let later = now + seconds(kept);
            attempts.answered(Update, &slice, &mut unanswered, later - Duration::from_millis(1));
            assert_eq!(attempts.last.len(), 1);
            attempts.answered(Update, &slice, &mut unanswered, later);
            assert!(attempts.last.is_empty(), "{what}");
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
