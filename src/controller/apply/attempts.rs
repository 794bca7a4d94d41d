//! Remembers the creates and updates that the API server has refused, so that none is repeated without a pause.
//!
//! If RBAC forbids the writes in a namespace, all Services in it share the pause. The chart can limit the operator to
//! some namespaces, while thousands of managed Services may be in others. After each pause, a few requests then show,
//! for all of these Services, whether the writes are still refused.
//!
//! This module is pure: the current time is an argument.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use tokio::time::Instant;

use crate::controller::error::{SyncError, TERMINATING_PAUSE};
use crate::controller::refusals::Refusals;
use endpoint_copier_core::model::{EndpointSlice, ManagedService, Operation, ServiceKey, SliceKey};

#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Writes that RBAC forbids in a namespace, whatever their content.
    rights: Refusals<(String, Operation)>,
    /// Slices whose content is not accepted.
    slices: Refusals<SliceKey, u64>,
    /// Services whose namespace is terminating, as they were when this was detected, and the time of the next attempt.
    abandoned: HashMap<ServiceKey, (Arc<ManagedService>, Instant)>,
}

impl Attempts {
    /// If a write must wait, returns when the wait ends, and the reason for the refusal.
    pub fn waits(
        &self,
        operation: Operation,
        slice: &EndpointSlice,
        now: Instant,
    ) -> Option<(Instant, String)> {
        let key = slice.key();
        let right = (key.namespace().to_owned(), operation);
        let waits = self.rights.waits(&right, || (), now);
        waits.or_else(|| self.slices.waits(&key, || content(slice), now))
    }

    /// Records the response to a write. If the write was refused, sets the time at which the same content may be tried
    /// again.
    pub fn answered<T>(
        &mut self,
        operation: Operation,
        slice: &EndpointSlice,
        answer: &mut Result<T, SyncError>,
        now: Instant,
    ) {
        let key = slice.key();
        let right = (key.namespace().to_owned(), operation);
        match answer {
            Ok(_) => {
                self.rights.accepted(&right);
                self.slices.accepted(&key);
            }
            Err(SyncError::Refused {
                message,
                is_forbidden,
                retry_at,
                ..
            }) => {
                *retry_at = Some(if *is_forbidden {
                    self.rights.refused(right, (), message, now)
                } else {
                    self.slices.refused(key, content(slice), message, now)
                });
            }
            Err(_) => {}
        }
    }

    /// Abandons a Service for a while, because its namespace is terminating.
    pub fn abandon(&mut self, service: &Arc<ManagedService>, now: Instant) {
        let until = now + TERMINATING_PAUSE;
        self.abandoned
            .insert(service.key.clone(), (service.clone(), until));
    }

    /// Forgets a Service that is neither managed nor disabled.
    pub fn gone(&mut self, service: &ServiceKey) {
        self.abandoned.remove(service);
    }

    /// Whether a Service is abandoned and has not changed since.
    pub fn is_abandoned(&self, service: &Arc<ManagedService>, now: Instant) -> bool {
        let abandoned = self.abandoned.get(&service.key);
        abandoned.is_some_and(|(abandoned, until)| abandoned == service && now < *until)
    }
}

/// Returns a hash of the content of a slice, without its metadata.
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
    use std::time::Duration;

    use super::*;
    use endpoint_copier_core::model::Operation::{Create, Update};
    use endpoint_copier_core::testing::{Build, BuildSlice, service, slice};

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    impl Attempts {
        /// Returns the time at which the same content may be tried again.
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
    }

    /// Rule: 2.write-refused-pause
    #[test]
    fn a_refused_write_waits_5_s_unless_its_content_changes() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let copy = slice("vip-1").endpoints(["10.0.0.1"]);
        let until = now + seconds(5);
        assert_eq!(attempts.refused(Update, &copy, false, now), Some(until));
        let soon = now + seconds(1);
        assert_eq!(
            attempts.waits(Update, &copy, soon),
            Some((until, "no".to_owned()))
        );
        assert_eq!(attempts.waits(Update, &copy, until), None);
        let changed = slice("vip-1").endpoints(["10.0.0.2"]);
        assert_eq!(attempts.waits(Update, &changed, soon), None);
        assert_eq!(attempts.waits(Update, &slice("vip-2"), now), None);
        attempts.answered(Update, &copy, &mut Ok(()), soon);
        assert_eq!(attempts.waits(Update, &copy, soon), None);
    }

    /// Rule: 2.write-refused-pause
    #[test]
    fn slices_of_a_namespace_without_the_right_share_a_pause() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let (first, second) = (slice("vip-1").namespace("blue"), slice("vip-2").namespace("blue"));
        let until = now + seconds(5);
        for slice in [&first, &second, &first] {
            let next = attempts.refused(Create, slice, true, now);
            assert_eq!(
                next,
                Some(until),
                "refusals of concurrent writes should share a pause"
            );
        }
        let third = slice("vip-3").namespace("blue");
        assert_eq!(
            attempts.waits(Create, &third, now),
            Some((until, "no".to_owned()))
        );
        assert_eq!(attempts.waits(Update, &first, now), None, "an update waits");
        let red = slice("vip-1").namespace("red");
        assert_eq!(attempts.waits(Create, &red, now), None, "a create in red waits");
        attempts.answered(Create, &second, &mut Ok(()), now);
        assert_eq!(attempts.waits(Create, &first, now), None);
    }

    #[test]
    fn an_abandoned_service_waits_for_a_minute_or_a_change() {
        let read = |service| {
            Arc::new(ManagedService::read(&service, &endpoint_copier_core::testing::defaults()).unwrap())
        };
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        attempts.abandon(&read(service("vip")), now);
        assert!(attempts.is_abandoned(&read(service("vip")), now + seconds(59)));
        assert!(!attempts.is_abandoned(&read(service("vip")), now + seconds(60)));
        assert!(!attempts.is_abandoned(&read(service("vip").uid("another")), now));
        assert!(!attempts.is_abandoned(&read(service("other")), now));
        attempts.gone(&read(service("vip")).key);
        assert!(attempts.abandoned.is_empty());
    }
}
