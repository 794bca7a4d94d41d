//! The right to write, as a value. Without a [`Term`], no copy can be written.
//!
//! A term ends by itself at its deadline. Each renewal moves the deadline, which is measured from when the renewal was
//! *sent*. Unless the Lease is released, another replica may take it only after the lease duration has passed since the
//! API server accepted that renewal. By then, writing under this term has ended.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

pub use super::validity::TermOver;
use super::validity::{Validity, may_release};

/// The longest time that an API server works on a request with the default `--request-timeout`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A term of leadership. Clones share the same term.
#[derive(Clone, Debug)]
pub struct Term {
    began: Instant,
    state: Arc<Mutex<TermState>>,
    /// Notifies waiters when the term is ended before its deadline.
    ended: watch::Sender<()>,
    writes: Writes,
}

#[derive(Debug)]
struct TermState {
    validity: Validity,
    /// When the last renewal was confirmed, by its response or by the watch.
    renewed: Instant,
    is_revoked: bool,
}

/// The writes of one replica that may still take effect, from all of its terms: a replica that loses the Lease may win
/// it again while a write of the earlier term is in flight. Clones share the same writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Writes(watch::Sender<UnsettledWrites>);

#[derive(Debug, Default)]
struct UnsettledWrites {
    in_flight: usize,
    /// When a write that got no response can no longer be carried out.
    doubtful: Option<Instant>,
}

/// The permit for a write in flight. The Lease is not released while a permit exists, or for a minute after a permit is
/// dropped without [`WritePermit::answered`].
#[derive(Debug)]
pub struct WritePermit {
    term: Term,
    /// The deadline for sending the write. The response must also arrive by then, unless the term is renewed in the
    /// meantime.
    pub deadline: Instant,
    /// Whether the write may be carried out after the permit is dropped.
    in_doubt: bool,
}

impl Term {
    /// Creates a term of the replica that these writes belong to. Only the election grants terms.
    pub(super) fn new(validity: Validity, writes: Writes) -> Self {
        Self {
            began: Instant::now(),
            state: Arc::new(Mutex::new(TermState {
                validity,
                renewed: Instant::now(),
                is_revoked: false,
            })),
            ended: watch::Sender::default(),
            writes,
        }
    }

    /// Creates a term that never ends, for a single replica without leader election.
    pub(super) fn endless() -> Self {
        // A century is long enough, and sums with it do not overflow.
        let century = Duration::from_secs(100 * 365 * 86_400);
        Self::new(Validity::won(Instant::now(), century), Writes::default())
    }

    #[cfg(test)]
    pub(crate) fn for_tests(length: Duration) -> Self {
        Self::new(Validity::won(Instant::now(), length), Writes::default())
    }

    /// Returns the start of the term.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Returns the time at which the last renewal was confirmed, by its response or by the watch. Until the first
    /// renewal, this is the start of the term.
    #[must_use]
    pub fn renewed(&self) -> Instant {
        self.state.lock().renewed
    }

    /// Renews the term as if a renewal were sent now.
    #[cfg(test)]
    pub(crate) fn renew_for_tests(&self, length: Duration) {
        _ = self.extend(Validity::won(Instant::now(), length));
    }

    /// Returns the time at which the term ends unless it is renewed, or `None` if the term is over.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.state.lock().validity.deadline(Instant::now())
    }

    /// Begins a write.
    ///
    /// # Errors
    /// Returns an error if the term is over.
    pub fn begin_write(&self) -> Result<WritePermit, TermOver> {
        // The mutex stays locked while the write is counted, so a release either sees this write or has already ended
        // the term.
        let state = self.state.lock();
        let deadline = state.validity.deadline(Instant::now()).ok_or(TermOver)?;
        self.writes.0.send_modify(|writes| writes.in_flight += 1);
        Ok(WritePermit {
            term: self.clone(),
            deadline,
            in_doubt: true,
        })
    }

    /// Whether the term has ended. Writing is then no longer allowed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.deadline().is_none()
    }

    /// Waits for the end of the term.
    pub async fn over(&self) {
        let mut ended = self.ended.subscribe();
        while let Some(deadline) = self.deadline() {
            tokio::select! {
                () = sleep_until(deadline) => {}
                _ = ended.changed() => {}
            }
        }
    }

    /// Waits until a write that began with this deadline must stop waiting for its response: until the deadline or, if
    /// the term is renewed, until the new deadline. If the term is ended early, writes in flight may still wait until
    /// their deadline.
    pub async fn outlived(&self, mut deadline: Instant) {
        loop {
            sleep_until(deadline).await;
            match self.deadline() {
                Some(later) if later > deadline => deadline = later,
                _ => return,
            }
        }
    }

    /// Moves the deadline. A term that is over stays over.
    pub(super) fn extend(&self, renewed: Validity) -> Result<(), TermOver> {
        let (mut state, now) = (self.state.lock(), Instant::now());
        state.validity.extend(renewed, now)?;
        state.renewed = now;
        Ok(())
    }

    /// Returns the current deadline, or now if the term is over.
    pub(super) fn ends_at(&self) -> Instant {
        self.deadline().unwrap_or_else(Instant::now)
    }

    /// Ends the term because the Lease is lost, so writes in flight must be dropped too.
    pub(super) fn revoke(&self) {
        self.state.lock().is_revoked = true;
        self.end();
    }

    /// Whether writes in flight must be dropped instead of awaited.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.state.lock().is_revoked
    }

    /// Ends the term now. Writes in flight continue until they get a response or time out.
    pub(super) fn end(&self) {
        self.state.lock().validity.end();
        self.ended.send_replace(());
    }

    /// Whether the Lease may be released: no write of this replica can take effect anymore.
    pub(crate) fn may_release(&self) -> bool {
        let writes = self.writes.0.borrow();
        may_release(writes.in_flight, writes.doubtful, Instant::now())
    }

    /// Waits until no write is in flight.
    pub(super) async fn settled(&self) {
        let mut writes = self.writes.0.subscribe();
        // The wait cannot fail, because `self` holds a sender.
        _ = writes.wait_for(|writes| writes.in_flight == 0).await;
    }
}

impl WritePermit {
    /// Records that the API server has responded, so the write was carried out or never will be.
    pub fn answered(mut self) {
        self.in_doubt = false;
    }
}

impl Drop for WritePermit {
    fn drop(&mut self) {
        self.term.writes.0.send_modify(|writes| {
            writes.in_flight -= 1;
            if self.in_doubt {
                writes.doubtful = Some(Instant::now() + REQUEST_TIMEOUT);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Returns a term of 4 s that was won by a request sent at `sent`.
    fn won(sent: Instant) -> Term {
        Term::new(Validity::won(sent, seconds(4)), Writes::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_ends_at_its_deadline_by_itself() {
        let term = won(Instant::now());
        assert!(term.begin_write().is_ok());
        let start = Instant::now();
        term.over().await;
        assert_eq!(start.elapsed().as_secs(), 4);
        assert_eq!(term.begin_write().unwrap_err(), TermOver);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_never_moves_the_deadline_back() {
        let start = Instant::now();
        let term = won(start);
        term.extend(Validity::won(start, seconds(6))).unwrap();
        term.extend(Validity::won(start, seconds(5))).unwrap();
        term.over().await;
        assert_eq!(start.elapsed().as_secs(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_of_a_renewal_counts_from_its_answer() {
        let start = Instant::now();
        let term = won(start);
        assert_eq!(term.renewed(), start);
        tokio::time::advance(seconds(3)).await;
        term.extend(Validity::won(start + seconds(2), seconds(4)))
            .unwrap();
        assert_eq!(term.renewed(), start + seconds(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_that_is_over_stays_over() {
        let start = Instant::now();
        let term = won(start);
        tokio::time::advance(seconds(4)).await;
        assert_eq!(
            term.extend(Validity::won(Instant::now(), seconds(4))),
            Err(TermOver)
        );
        assert_eq!(term.renewed(), start);
        assert!(term.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn write_must_be_sent_before_the_deadline_it_began_with() {
        let start = Instant::now();
        let term = won(start);
        let write = term.begin_write().unwrap();
        term.extend(Validity::won(start, seconds(8))).unwrap();
        assert_eq!(write.deadline, start + seconds(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_is_settled_when_its_last_write_has_ended() {
        let term = Term::endless();
        let write = term.begin_write().unwrap();
        term.end();
        assert!(term.begin_write().is_err(), "a write began in an ended term");
        assert!(tokio::time::timeout(seconds(1), term.settled()).await.is_err());
        write.answered();
        term.settled().await;
        assert!(term.may_release());
    }

    /// Rule: 5.release
    #[tokio::test(start_paused = true)]
    async fn unanswered_write_forbids_release_while_it_may_take_effect() {
        let term = Term::endless();
        drop(term.begin_write().unwrap());
        term.settled().await;
        assert!(!term.may_release());
        tokio::time::advance(REQUEST_TIMEOUT).await;
        assert!(term.may_release());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_never_began_is_not_in_doubt() {
        let term = Term::endless();
        term.end();
        assert!(term.begin_write().is_err());
        assert!(term.may_release());
    }
}
