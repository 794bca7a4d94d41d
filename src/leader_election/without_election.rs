//! Leadership without leader election.

use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::term::Term;
use crate::telemetry::metrics::Metrics;

/// Grants the only replica a term without a Lease. Returns a future that ends the term when `stop` is canceled, and
/// the receiver of the term.
pub fn without_election(
    metrics: &Metrics,
    stop: CancellationToken,
) -> (impl Future<Output = ()> + use<>, channel::Receiver<Option<Term>>) {
    warn!("leader election is off: this replica writes without a Lease, so no other replica may run");
    metrics.set_leader(true);
    let term = Term::endless();
    let (terms, receiver) = channel::channel(Some(term.clone()));
    let leading = async move {
        stop.cancelled().await;
        term.end();
        drop(terms);
    };
    (leading, receiver)
}
