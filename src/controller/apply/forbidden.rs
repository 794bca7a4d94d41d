//! Remembers which writes RBAC does not allow in a namespace. The chart can limit the operator to some namespaces, and
//! thousands of managed Services may be in others: one request at a time finds out for all of them.
//!
//! Pure: the current time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::attempts::pause;
use endpoint_copier_core::model::Operation;

/// How long a refusal counts as a repetition of the one before.
const COUNTS_FOR: Duration = Duration::from_secs(90);

/// The writes that are not allowed.
#[derive(Debug, Default)]
pub struct ForbiddenWrites {
    namespaces: HashMap<(String, Operation), Refusal>,
}

#[derive(Debug)]
struct Refusal {
    at: Instant,
    times: u32,
    message: String,
}

impl Refusal {
    fn until(&self) -> Instant {
        self.at + pause(self.times - 1)
    }
}

impl ForbiddenWrites {
    /// Checks whether such a write may be sent to this namespace now.
    ///
    /// # Errors
    ///
    /// The earliest time of the next attempt, and the reason of the last failure.
    pub fn check(
        &self,
        namespace: &str,
        operation: Operation,
        now: Instant,
    ) -> Result<(), (Instant, String)> {
        let refusal = self.namespaces.get(&(namespace.to_owned(), operation));
        match refusal.filter(|refusal| now < refusal.until()) {
            Some(refusal) => Err((refusal.until(), refusal.message.clone())),
            None => Ok(()),
        }
    }

    /// Records that such a write is not allowed in this namespace. Returns when the next one may be tried.
    pub fn refused(&mut self, namespace: &str, operation: Operation, message: &str, now: Instant) -> Instant {
        self.namespaces.retain(|_, refusal| now < refusal.at + COUNTS_FOR);
        let key = (namespace.to_owned(), operation);
        let refusal = self.namespaces.entry(key).or_insert(Refusal {
            at: now,
            times: 0,
            message: message.to_owned(),
        });
        // Requests that were sent at the same time are one refusal.
        if refusal.times == 0 || now >= refusal.until() {
            refusal.times += 1;
        }
        refusal.at = now;
        refusal.until()
    }

    /// Records that such a write is allowed.
    pub fn allowed(&mut self, namespace: &str, operation: Operation) {
        if !self.namespaces.is_empty() {
            self.namespaces.remove(&(namespace.to_owned(), operation));
        }
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
    fn a_namespace_without_the_right_waits_5_s_doubling_to_30() {
        let (mut forbidden, mut now) = (ForbiddenWrites::default(), Instant::now());
        for wait in [5, 10, 20, 30, 30] {
            let until = now + seconds(wait);
            for _ in 0..3 {
                let next = forbidden.refused("blue", Operation::Create, "no", now);
                assert_eq!(next, until, "those sent at the same time are one");
            }
            let waits = forbidden.check("blue", Operation::Create, until - seconds(1));
            assert_eq!(waits, Err((until, "no".to_owned())));
            assert_eq!(forbidden.check("blue", Operation::Create, until), Ok(()));
            now = until;
        }
    }

    #[test]
    fn other_namespaces_and_writes_do_not_wait() {
        let (mut forbidden, now) = (ForbiddenWrites::default(), Instant::now());
        forbidden.refused("blue", Operation::Create, "no", now);
        assert!(forbidden.check("blue", Operation::Create, now).is_err());
        assert_eq!(forbidden.check("blue", Operation::Update, now), Ok(()));
        assert_eq!(forbidden.check("red", Operation::Create, now), Ok(()));
        forbidden.allowed("blue", Operation::Create);
        assert_eq!(forbidden.check("blue", Operation::Create, now), Ok(()));
    }

    /// Rule: survive.memory
    #[test]
    fn a_refusal_that_nothing_repeats_is_forgotten() {
        let (mut forbidden, now) = (ForbiddenWrites::default(), Instant::now());
        forbidden.refused("blue", Operation::Create, "no", now);
        forbidden.refused("red", Operation::Create, "no", now + COUNTS_FOR);
        assert_eq!(forbidden.namespaces.len(), 1);
    }
}
