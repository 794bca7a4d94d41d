//! Namespaces in which the operator is not allowed to write conditions.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::pauses::Pauses;

/// The pause after a refusal: 5 s, doubling to 30 s.
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long after its pause a refusal counts for the next one.
const COUNTS_FOR: Duration = Duration::from_secs(60);

/// Until when the Services of a namespace wait. They share the pause, because thousands of Services may be in namespaces
/// without permission.
#[derive(Debug, Default)]
pub(super) struct Forbidden(pub(super) HashMap<String, (Instant, Pauses)>);

impl Forbidden {
    /// Until when the Services of a namespace wait, if they do.
    pub fn until(&self, namespace: &str, now: Instant) -> Option<Instant> {
        let (until, _) = self.0.get(namespace)?;
        Some(*until).filter(|until| now < *until)
    }

    /// Records a refusal, and returns the end of the pause. Requests that were sent before the pause do not prolong it.
    pub fn refused(&mut self, namespace: String, now: Instant) -> Instant {
        self.0.retain(|_, (until, _)| now < *until + COUNTS_FOR);
        let new = || (now, Pauses::new(PAUSE, LONGEST_PAUSE, 2.0, 0.0));
        let (until, pauses) = self.0.entry(namespace).or_insert_with(new);
        if *until <= now {
            *until = now + pauses.next_pause();
        }
        *until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_waits_5_s_doubling_to_30_s_whatever_was_in_flight() {
        let (mut forbidden, mut now) = (Forbidden::default(), Instant::now());
        for pause in [5, 10, 20, 30, 30] {
            for _ in 0..6 {
                let until = forbidden.refused("web".to_owned(), now);
                assert_eq!(until - now, Duration::from_secs(pause));
                assert_eq!(forbidden.until("web", now), Some(until));
            }
            now += Duration::from_secs(pause);
            assert_eq!(forbidden.until("web", now), None);
        }
        now += COUNTS_FOR;
        forbidden.refused("app".to_owned(), now);
        assert_eq!(forbidden.0.len(), 1, "old refusals take no memory");
    }
}
