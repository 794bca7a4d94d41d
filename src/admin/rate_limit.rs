//! Limits the rate at which clients may do something: the clients at one peer address, and all clients together.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::connections::network;

const SECOND: Duration = Duration::from_secs(1);

/// Counts the admissions within the last second.
pub(super) struct RateLimit {
    per_peer: usize,
    total: usize,
    recent: Vec<(IpAddr, Instant)>,
}

impl RateLimit {
    /// Allows at most `per_peer` admissions per second for one peer, and at most `total` for all peers.
    pub(super) fn new(per_peer: usize, total: usize) -> Self {
        Self {
            per_peer,
            total,
            recent: Vec::new(),
        }
    }

    /// Whether this peer may proceed now. If so, this counts as an admission.
    pub(super) fn admits(&mut self, peer: IpAddr, now: Instant) -> bool {
        let peer = network(peer);
        self.recent
            .retain(|(_, then)| now.saturating_duration_since(*then) < SECOND);
        let of_peer = self.recent.iter().filter(|(other, _)| *other == peer);
        let admits = of_peer.count() < self.per_peer && self.recent.len() < self.total;
        if admits {
            self.recent.push((peer, now));
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_peer_leaves_room_for_others_each_second() {
        let mut limit = RateLimit::new(2, 3);
        let [greedy, other, third] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        let start = Instant::now();
        let admitted =
            |limit: &mut RateLimit, peer, millis| limit.admits(peer, start + Duration::from_millis(millis));
        for (peer, millis, expected, why) in [
            (greedy, 0, true, "the first"),
            (greedy, 500, true, "the second"),
            (greedy, 600, false, "one too many of this peer"),
            (other, 600, true, "another peer"),
            (third, 700, false, "one too many of all"),
            (greedy, 999, false, "within a second"),
            (greedy, 1000, true, "the first is a second old"),
            (greedy, 1001, false, "the second is not"),
        ] {
            assert_eq!(admitted(&mut limit, peer, millis), expected, "{why}");
        }
    }
}
