//! Decides when a term ends, and when its Lease may be released.
//!
//! This module is pure: it uses no clock and no async code. The model in `crates/testing/election-model` calls the same
//! functions as [`super::term`].

use std::time::Duration;

use tokio::time::Instant;

/// The term has ended, so this replica may no longer write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica no longer leads")]
pub struct TermOver;

/// How long a term lasts. A term that is over stays over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Validity {
    /// The deadline, or `None` if the term was ended early.
    deadline: Option<Instant>,
}

impl Validity {
    /// Returns the validity of a term that was won or renewed by a request *sent* at this time. A term measured from
    /// the response could outlast the Lease, because the API server accepts the request before it responds.
    pub fn won(sent: Instant, renew_deadline: Duration) -> Self {
        Self {
            deadline: Some(sent + renew_deadline),
        }
    }

    /// The deadline, unless the term is over.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.deadline.filter(|deadline| now < *deadline)
    }

    /// Moves the deadline after a successful renewal, but never back.
    ///
    /// # Errors
    /// Returns an error if the term is over, however early the renewal was sent.
    pub fn extend(&mut self, renewed: Self, now: Instant) -> Result<(), TermOver> {
        let known = self.deadline(now).ok_or(TermOver)?;
        self.deadline = renewed.deadline.max(Some(known));
        Ok(())
    }

    /// Ends the term now.
    pub fn end(&mut self) {
        self.deadline = None;
    }
}

/// Whether the Lease is ours according to the holder in the response to a takeover or renewal. The response to a
/// late renewal may name another holder.
#[must_use]
pub fn is_ours(holder: Option<&str>, us: &str) -> bool {
    holder == Some(us)
}

/// Whether the Lease may be released: no write of the replica, from any of its terms, can still take effect. From
/// `doubtful` on, a write that got no response can no longer be carried out.
pub fn may_release(in_flight: usize, doubtful: Option<Instant>, now: Instant) -> bool {
    in_flight == 0 && doubtful.is_none_or(|until| now >= until)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn at(n: u64) -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        *START + seconds(n)
    }

    #[test]
    fn a_term_lasts_from_when_the_renewal_is_sent_to_the_deadline() {
        let validity = Validity::won(at(10), seconds(4));
        assert_eq!(validity.deadline(at(13)), Some(at(14)));
        assert_eq!(validity.deadline(at(14)), None);
    }

    #[test]
    fn a_renewal_never_moves_the_deadline_back() {
        let mut validity = Validity::won(at(10), seconds(4));
        validity
            .extend(Validity::won(at(12), seconds(4)), at(13))
            .unwrap();
        validity
            .extend(Validity::won(at(11), seconds(4)), at(13))
            .unwrap();
        assert_eq!(validity.deadline(at(13)), Some(at(16)));
    }

    #[test]
    fn a_validity_that_is_over_stays_over() {
        let mut late = Validity::won(at(10), seconds(4));
        assert_eq!(
            late.extend(Validity::won(at(13), seconds(4)), at(14)),
            Err(TermOver)
        );
        let mut ended = Validity::won(at(10), seconds(4));
        ended.end();
        assert_eq!(
            ended.extend(Validity::won(at(10), seconds(4)), at(11)),
            Err(TermOver)
        );
        assert_eq!((late.deadline(at(14)), ended.deadline(at(11))), (None, None));
    }

    #[test]
    fn a_lease_is_released_only_when_no_write_can_take_effect() {
        for (in_flight, doubtful, may) in [
            (0, None, true),
            (1, None, false),
            (0, Some(at(11)), false),
            (0, Some(at(10)), true),
            (2, Some(at(9)), false),
        ] {
            assert_eq!(
                may_release(in_flight, doubtful, at(10)),
                may,
                "{in_flight} {doubtful:?}"
            );
        }
    }

    #[test]
    fn an_answer_that_names_another_holder_is_not_ours() {
        for (holder, ours) in [
            (Some("us"), true),
            (Some("a"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(is_ours(holder, "us"), ours, "{holder:?}");
        }
    }
}
