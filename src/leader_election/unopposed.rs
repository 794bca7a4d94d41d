//! Leading without election.

use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::term::Term;
use crate::telemetry::metrics::Metrics;

/// The only replica, without election, and the term that it holds until asked to stop: without end and without a Lease.
pub fn unopposed(
    metrics: &Metrics,
    stop: CancellationToken,
) -> (impl Future<Output = ()> + use<>, channel::Receiver<Option<Term>>) {
    warn!("leader election is off: this replica writes without a Lease, so no other replica may run");
    metrics.set_leader(true);
    let term = Term::endless();
    let (terms, receiver) = channel::channel(Some(term.clone()));
    let holds = async move {
        stop.cancelled().await;
        term.end();
        drop(terms);
    };
    (holds, receiver)
}
