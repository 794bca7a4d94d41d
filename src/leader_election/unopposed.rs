//! Leading without election.

use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::term::Term;
use crate::telemetry::metrics::Metrics;

/// The only replica, without election: it may write until it stops.
pub struct Unopposed(channel::Sender<Option<Term>>, Term);

/// A term without end and without a Lease.
#[must_use]
pub fn unopposed(metrics: &Metrics) -> (Unopposed, channel::Receiver<Option<Term>>) {
    warn!("leader election is off: this replica writes without a Lease, so no other replica may run");
    metrics.set_leader(true);
    let term = Term::endless();
    let (terms, receiver) = channel::channel(Some(term.clone()));
    (Unopposed(terms, term), receiver)
}

impl Unopposed {
    /// Holds the term until asked to stop.
    pub async fn run(self, stop: CancellationToken) {
        let Self(_terms, term) = self;
        stop.cancelled().await;
        term.end();
    }
}
