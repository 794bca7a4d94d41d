//! Requests that are sent again in parallel while they are unanswered.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::ServerAddress;

/// Marks a request, in its extensions, as a hedge: it repeats a request that is not answered yet. A hedge uses its own
/// connection, and another server if there is one. Its result does not count against any server. All hedges of a
/// request carry clones of one value, so that each of them goes to a server from which no other hedge awaits a response.
/// A *try* is the first request or one of its hedges.
#[derive(Clone, Debug, Default)]
pub struct Hedging(Arc<Mutex<Vec<Try>>>);

/// The server to which a try goes. A hedge holds a clone of this from its dial until its response.
type Try = Arc<Mutex<ServerAddress>>;

/// The hedge was not sent, because each known server already has an unanswered hedge.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no other API server to ask")]
pub struct NoOtherServer;

/// A hedge that is unanswered until this value is dropped.
#[derive(Debug)]
pub struct Hedge(Try);

impl Hedging {
    /// Begins a hedge. Returns the known servers to which the hedge may go, those with the fewest tries first, and a
    /// value to keep until the hedge is answered. The first server is the preferred one. `current` is the server that
    /// requests use now.
    ///
    /// # Errors
    /// Returns an error if the hedge may go to none of the known servers.
    pub fn begin(
        &self,
        mut known: Vec<ServerAddress>,
        current: Option<ServerAddress>,
    ) -> Result<(Vec<ServerAddress>, Hedge), NoOtherServer> {
        let mut tries = self.0.lock();
        if tries.is_empty() {
            // The first try probably went to the current server.
            tries.extend(current.map(|server| Try::new(server.into())));
        }
        let goes_to = |it: &Try, server: &_| *it.lock() == *server;
        let is_awaited = |server: &_| {
            tries
                .iter()
                .any(|it| Arc::strong_count(it) > 1 && goes_to(it, server))
        };
        known.retain(|server| !is_awaited(server));
        known.sort_by_key(|server| tries.iter().filter(|it| goes_to(it, server)).count());
        let server = known.first().ok_or(NoOtherServer)?.clone();
        let hedge = Try::new(server.into());
        tries.push(hedge.clone());
        Ok((known, Hedge(hedge)))
    }
}

impl Hedge {
    /// Records that the hedge goes to this server. The dial may have reached a server other than the preferred one.
    pub fn set_server(&self, server: ServerAddress) {
        *self.0.lock() = server;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule: 5.slow
    #[test]
    fn each_server_gets_one_hedge_and_the_first_tried_is_last() {
        let server = |host: &str| ServerAddress::new(host, 6443);
        let known = || ["a", "b", "c"].map(server).to_vec();
        let hedging = Hedging::default();
        let begin = |current| hedging.begin(known(), Some(server(current)));
        let mut waiting = Vec::new();
        // The client has switched to b in the meantime, but the first try went to a.
        for (current, wanted) in [("a", "b"), ("b", "c"), ("b", "a")] {
            let (order, next) = begin(current).unwrap();
            assert_eq!(order[0], server(wanted));
            waiting.push(next);
        }
        assert!(begin("b").is_err());
        // b has answered, and may be asked again.
        waiting.remove(0);
        assert_eq!(begin("b").unwrap().0, [server("b")]);
        // Another server answered the dial first.
        waiting[0].set_server(server("b"));
        assert_eq!(begin("b").unwrap().0, [server("c")]);
    }
}
