//! Failures of lists and watches of Nodes, and limits on the writes of a replica that has not seen Nodes yet.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::Sender;
use tower::BoxError;

use crate::fault::Verb;
use crate::replica::Life;
use crate::reply::Reply;
use crate::sent::Sent;
use crate::sight::Blindness;
use crate::slices::version;
use crate::stream::Ending;
use crate::topology;
use crate::verdicts::is_of_api_servers;
use crate::world::{REPLICAS, World};

/// Longer than any schedule.
pub const FOR_GOOD: Duration = Duration::from_secs(3600);

/// The requests for Nodes that fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Lists only.
    Lists,
    /// Watches only.
    Watches,
    /// Lists and watches.
    All,
}

/// The failures of requests for Nodes from which schedules choose.
pub const FAILURES: [Blindness; 5] = [
    Blindness::Status(403),
    Blindness::Status(403),
    Blindness::Status(500),
    Blindness::NoAnswer,
    Blindness::Undecodable,
];

/// A failure of requests for Nodes.
#[derive(Clone, Copy, Debug)]
struct Failure {
    until: Duration,
    part: Part,
    how: Blindness,
}

/// The current failure of each replica's requests for Nodes.
#[derive(Debug, Default)]
pub struct Failures([Option<Failure>; REPLICAS]);

impl World {
    /// Makes requests for Nodes fail for a time, either those of one replica or those of all replicas.
    pub fn fail_nodes(self: &Arc<Self>, replica: Option<usize>, part: Part, how: Blindness, time: Duration) {
        let until = self.now() + time;
        for meant in (0..REPLICAS).filter(|it| replica.is_none_or(|only| only == *it)) {
            self.state().nodes_fail.0[meant] = Some(Failure { until, part, how });
            for stream in self.state().streams.values_mut() {
                if stream.replica == meant && stream.resource == "nodes" {
                    stream.ended = Some(Ending::Abrupt);
                    stream.wake();
                }
            }
        }
    }

    /// Ends all failures of requests for Nodes.
    pub fn heal_nodes(&self) {
        self.state().nodes_fail = Failures::default();
    }

    /// How the response to a request is withheld or replaced now, if it is.
    pub fn blindness_to(&self, replica: usize, sent: &Sent) -> Option<Blindness> {
        if let Some(sight) = sent.sight {
            return self.blindness(replica, sight);
        }
        if sent.resource != "nodes" {
            return None;
        }
        let now = self.now();
        let failure = self.state().nodes_fail.0[replica]?;
        let is_meant = match failure.part {
            Part::Lists => sent.verb == Verb::Read,
            Part::Watches => sent.verb == Verb::Watch,
            Part::All => true,
        };
        (now < failure.until && is_meant).then_some(failure.how)
    }

    /// Withholds the response to a request, or replaces it.
    pub async fn withhold(&self, sent: &Sent, how: Blindness, reply: Sender<Result<Reply, BoxError>>) {
        if sent.resource == "nodes" {
            self.count(match (sent.verb, how) {
                (_, Blindness::Status(403)) => "Nodes forbidden",
                (Verb::Watch, _) => "watch of Nodes fails",
                _ => "list of Nodes fails",
            });
        }
        how.answer(reply).await;
    }

    /// Records violations by a replica that has not seen all Nodes yet. Until it has seen them, copies keep the data
    /// that they have from Nodes.
    pub fn judge_nodes(&self, life: &Life, sent: &Sent) {
        let is_write = matches!(sent.verb, Verb::Create | Verb::Update);
        if !is_write || sent.resource != "endpointslices" || !is_of_api_servers(&sent.body) {
            return;
        }
        let is_listed = {
            let shown = &mut self.state().views;
            shown.entry(life.identity.clone()).or_default().nodes_listed
        };
        let there = self.store.get("endpointslices", &sent.namespace, &sent.name);
        // The API server refuses this write.
        if is_listed || there.as_ref().map_or(0, version) != version(&sent.body) {
            return;
        }
        let (wrong, is_second) = {
            let state = self.state();
            let source = state.observer.source_of(&sent.body);
            topology::wrong_without_nodes(there.as_ref(), &sent.body, source)
        };
        if !is_second && topology::is_beside_second(&self.store, &sent.body) {
            self.count("copy written before Nodes are listed, beside a second family");
        }
        for what in wrong {
            self.complain(&format!(
                "{} was never shown the Nodes, and writes {}/{}: {what}",
                life.identity, sent.namespace, sent.name
            ));
        }
    }
}
