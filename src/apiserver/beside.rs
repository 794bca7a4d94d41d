//! Requests that are sent again in parallel while they are unanswered.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::ServerAddress;

/// In a request's extensions: it repeats a request that is not answered yet. It uses its own connection, and another
/// server if there is one. Its result does not count against any server. All repetitions of a request carry clones of
/// one value, so that each is meant for a server that no other waits for.
#[derive(Clone, Debug, Default)]
pub struct Beside(Arc<Mutex<Vec<Try>>>);

/// Where a try goes. A repetition has a clone of it while it has no answer, dialing included.
type Try = Arc<Mutex<ServerAddress>>;

/// Each known server has a repetition of the request to answer, so no further one was sent.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no other API server to ask")]
pub struct NoOther;

/// A repetition that is unanswered until this is dropped.
#[derive(Debug)]
pub struct Repetition(Try);

impl Beside {
    /// Begins a repetition. Returns the known servers that it may go to, the least asked first. It is meant for the
    /// first of them. `current` is where requests go now.
    ///
    /// # Errors
    /// There is none.
    pub fn begin(
        &self,
        mut known: Vec<ServerAddress>,
        current: Option<ServerAddress>,
    ) -> Result<(Vec<ServerAddress>, Repetition), NoOther> {
        let mut tries = self.0.lock();
        if tries.is_empty() {
            // The first try was sent to the server that was the current one then.
            tries.extend(current.map(|server| Try::new(server.into())));
        }
        let goes_to = |it: &Try, server: &_| *it.lock() == *server;
        let is_waiting = |server: &_| {
            tries
                .iter()
                .any(|it| Arc::strong_count(it) > 1 && goes_to(it, server))
        };
        known.retain(|server| !is_waiting(server));
        known.sort_by_key(|server| tries.iter().filter(|it| goes_to(it, server)).count());
        let server = known.first().ok_or(NoOther)?.clone();
        let repetition = Try::new(server.into());
        tries.push(repetition.clone());
        Ok((known, Repetition(repetition)))
    }
}

impl Repetition {
    /// The repetition goes to this server: its dial was quicker.
    pub fn goes_to(&self, server: ServerAddress) {
        *self.0.lock() = server;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule: 5.slow
    #[test]
    fn each_server_has_one_repetition_and_the_current_one_the_last() {
        let server = |host: &str| ServerAddress::new(host, 6443);
        let known = || ["a", "b", "c"].map(server).to_vec();
        let beside = Beside::default();
        let begin = |current| beside.begin(known(), Some(server(current)));
        let mut waiting = Vec::new();
        // The line has moved on to b meanwhile, but the first try went to a.
        for (current, wanted) in [("a", "b"), ("b", "c"), ("b", "a")] {
            let (order, next) = begin(current).unwrap();
            assert_eq!(order[0], server(wanted));
            waiting.push(next);
        }
        assert!(begin("b").is_err());
        // b has answered, and may be asked again.
        waiting.remove(0);
        assert_eq!(begin("b").unwrap().0, [server("b")]);
        // Another server was dialed more quickly.
        waiting[0].goes_to(server("b"));
        assert_eq!(begin("b").unwrap().0, [server("c")]);
    }
}
