//! Requests that are sent again in parallel while they are unanswered.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::ServerAddress;

/// In a request's extensions: it repeats a request that is not answered yet. It uses its own connection, and another
/// server if there is one. Its result does not count against any server. All repetitions of a request carry clones of
/// one value, so that no two of them wait for the same server.
#[derive(Clone, Debug, Default)]
pub struct Beside(Arc<Mutex<Tries>>);

#[derive(Debug, Default)]
struct Tries {
    /// The server of each try. The first try was sent to the server that was the current one then.
    asked: Vec<ServerAddress>,
    /// Where a repetition is unanswered.
    waiting: Vec<ServerAddress>,
}

/// Each known server has a repetition of the request to answer, so no further one was sent.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no other API server to ask")]
pub struct NoOther;

/// A repetition that is unanswered until this is dropped.
#[derive(Debug)]
pub struct Waiting {
    beside: Beside,
    server: ServerAddress,
}

impl Beside {
    /// Of the known servers those that a repetition may go to, the least asked first. `current` is where requests go
    /// now.
    ///
    /// # Errors
    /// There is none.
    pub fn servers(
        &self,
        mut known: Vec<ServerAddress>,
        current: Option<ServerAddress>,
    ) -> Result<Vec<ServerAddress>, NoOther> {
        let mut tries = self.0.lock();
        if tries.asked.is_empty() {
            tries.asked.extend(current);
        }
        known.retain(|server| !tries.waiting.contains(server));
        known.sort_by_key(|server| tries.asked.iter().filter(|asked| *asked == server).count());
        if known.is_empty() { Err(NoOther) } else { Ok(known) }
    }

    /// A repetition is sent to this server.
    #[must_use]
    pub fn sent_to(&self, server: ServerAddress) -> Waiting {
        let mut tries = self.0.lock();
        tries.asked.push(server.clone());
        tries.waiting.push(server.clone());
        Waiting {
            beside: self.clone(),
            server,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let waiting = &mut self.beside.0.lock().waiting;
        if let Some(at) = waiting.iter().position(|server| *server == self.server) {
            waiting.swap_remove(at);
        }
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
        let next = |current| {
            beside
                .servers(known(), Some(server(current)))
                .map(|mut all| all.remove(0))
        };
        let mut waiting = Vec::new();
        // The line has moved on to b meanwhile, but the first try went to a.
        for (current, wanted) in [("a", "b"), ("b", "c"), ("b", "a")] {
            assert_eq!(next(current).unwrap(), server(wanted));
            waiting.push(beside.sent_to(server(wanted)));
        }
        assert!(next("b").is_err());
        // b has answered, and may be asked again.
        waiting.remove(0);
        assert_eq!(next("b").unwrap(), server("b"));
    }
}
