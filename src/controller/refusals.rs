//! The pauses after refusals, such as 403 and 422: an API server that has refused a request will probably refuse it
//! again. A 429 is not a refusal; see `crate::apiserver::http_status`.
//!
//! This module is pure: the current time is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use crate::pauses::Pauses;

/// The pauses after a refusal: 5 s, doubling to 30 s.
pub(super) const REFUSAL_PAUSE: Duration = Duration::from_secs(5);
pub(super) const MAX_REFUSAL_PAUSE: Duration = Duration::from_secs(30);

/// A refusal that does not recur is forgotten after this time. Until then, it lengthens the pause after the next
/// refusal.
const RETENTION: Duration = Duration::from_secs(90);

/// The pause between a refusal and a request with different content. That content may be accepted, but frequent changes
/// must not cause a flood of writes.
const OTHER_CONTENT_PAUSE: Duration = Duration::from_secs(1);

/// The last refusals. Requests with the same key share a pause if they have the same content.
#[derive(Debug)]
pub(super) struct Refusals<K, C = ()>(HashMap<K, RefusedContent<C>>);

#[derive(Debug)]
struct RefusedContent<C> {
    content: C,
    reason: String,
    /// The start and the end of the pause.
    at: Instant,
    until: Instant,
    pauses: Pauses,
}

impl<K, C> Default for Refusals<K, C> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, C: PartialEq> Refusals<K, C> {
    /// If a request must wait, returns when the wait ends, and the reason for the refusal.
    pub fn waits(&self, key: &K, content: impl FnOnce() -> C, now: Instant) -> Option<(Instant, String)> {
        let refusal = self.0.get(key)?;
        let until = if refusal.content == content() {
            refusal.until
        } else {
            refusal.at + OTHER_CONTENT_PAUSE
        };
        (now < until).then(|| (until, refusal.reason.clone()))
    }

    /// Records a refusal, and returns the end of the pause. A request that was in flight when the pause began does not
    /// prolong it.
    pub fn refused(&mut self, key: K, content: C, reason: &str, now: Instant) -> Instant {
        // Forget refusals that have not recurred for some time, and the refusal of other content for this key.
        self.0.retain(|other, refusal| {
            now < refusal.at + RETENTION && (*other != key || refusal.content == content)
        });
        let refusal = self.0.entry(key).or_insert_with(|| RefusedContent {
            content,
            reason: String::new(),
            at: now,
            until: now,
            pauses: Pauses::new(REFUSAL_PAUSE, MAX_REFUSAL_PAUSE, 2.0, 0.0),
        });
        if refusal.until <= now {
            (refusal.at, refusal.until) = (now, now + refusal.pauses.next_pause());
        }
        reason.clone_into(&mut refusal.reason);
        refusal.until
    }

    /// Records that a request was accepted.
    pub fn accepted(&mut self, key: &K) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Rule: 2.write-refused-pause
    #[test]
    fn key_waits_5_s_doubling_to_30_s_whatever_was_in_flight() {
        let (mut refusals, mut now) = (Refusals::<&str>::default(), Instant::now());
        for pause in [5, 10, 20, 30, 30] {
            let until = now + seconds(pause);
            for _ in 0..6 {
                assert_eq!(refusals.refused("web", (), "no", now), until);
                now += Duration::from_millis(1);
                assert_eq!(refusals.waits(&"web", || (), now), Some((until, "no".to_owned())));
            }
            now = until;
            assert_eq!(refusals.waits(&"web", || (), now), None);
        }
    }

    #[test]
    fn changed_content_is_tried_after_a_second() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let waits = |refusals: &Refusals<&str, u64>, content, after| {
            let waits = refusals.waits(&"vip", || content, now + after);
            waits.map(|(until, _)| until - now)
        };
        refusals.refused("vip", 1, "no", now);
        assert_eq!(waits(&refusals, 2, Duration::from_millis(999)), Some(seconds(1)));
        assert_eq!(waits(&refusals, 2, seconds(1)), None);
        assert_eq!(
            refusals.refused("vip", 2, "no", now + seconds(1)),
            now + seconds(6)
        );
        assert_eq!(waits(&refusals, 2, seconds(2)), Some(seconds(6)));
        refusals.accepted(&"vip");
        assert_eq!(waits(&refusals, 2, seconds(2)), None);
    }

    /// Rule: survive.memory
    #[test]
    fn a_refusal_that_does_not_recur_is_forgotten() {
        let (mut refusals, now) = (Refusals::<&str>::default(), Instant::now());
        refusals.refused("web", (), "no", now);
        refusals.refused("app", (), "no", now + seconds(90) - Duration::from_millis(1));
        assert_eq!(refusals.0.len(), 2);
        refusals.refused("app", (), "no", now + seconds(90));
        assert_eq!(refusals.0.len(), 1);
    }
}
