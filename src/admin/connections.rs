//! The open connections, and which of them to close when there are too many.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use tokio::task::AbortHandle;

/// Peers with at most this many connections count as equal. The kubelet opens two or three connections at the same
/// time, and should not be the first peer to lose one while many others have one connection each.
const FEW_CONNECTIONS: usize = 8;

/// Open connections, the oldest first.
#[derive(Default)]
pub(super) struct Connections(Vec<OpenConnection>);

struct OpenConnection {
    peer: IpAddr,
    /// A `Weak` of this exists while a response is in progress: after the head of the request has arrived, and until
    /// the response has been written completely.
    answers: Arc<()>,
    task: AbortHandle,
}

impl Connections {
    /// Adds the newest connection. Each response in progress holds a `Weak` of `answers`. The connection ends when
    /// `task` ends.
    pub(super) fn add(&mut self, peer: IpAddr, answers: Arc<()>, task: AbortHandle) {
        let peer = network(peer);
        self.0.push(OpenConnection { peer, answers, task });
    }

    /// Returns the number of connections, including those that have ended since the last [`Self::shrink_to`].
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Closes connections until at most `limit` are open.
    pub(super) fn shrink_to(&mut self, limit: usize) {
        self.0.retain(|connection| !connection.task.is_finished());
        while self.0.len() > limit {
            self.0.remove(self.first_to_close()).task.abort();
        }
    }

    /// Returns the position of the connection to close. Among the connections of the peer with the most connections
    /// (see [`FEW_CONNECTIONS`]), this is the oldest one without a request to answer or, if there is none, the oldest
    /// one. The newest connection stays, because it has had no time to send anything.
    fn first_to_close(&self) -> usize {
        let of_peer = |peer| self.0.iter().filter(|other| other.peer == peer).count();
        let older = self.0.iter().enumerate().rev().skip(1);
        let first = older.max_by_key(|(_, connection)| {
            (
                of_peer(connection.peer).max(FEW_CONNECTIONS),
                Arc::weak_count(&connection.answers) == 0,
            )
        });
        first.map_or(0, |(position, _)| position)
    }
}

/// Returns the network that counts as one peer: an IPv4 address itself, or the /64 of an IPv6 address, because a host
/// usually has all addresses of its /64.
pub(super) fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Weak;

    use super::*;

    /// Open connections, the oldest first, each named by its peer. A capital letter means that a request on this
    /// connection is being answered.
    struct Open {
        connections: Connections,
        _answers: Vec<Weak<()>>,
    }

    fn open(peers: &str) -> Open {
        let mut connections = Connections::default();
        let mut under_way = Vec::new();
        for peer in peers.bytes() {
            let answers = Arc::new(());
            if peer.is_ascii_uppercase() {
                under_way.push(Arc::downgrade(&answers));
            }
            let address = [10, 0, 0, peer.to_ascii_lowercase()].into();
            connections.add(address, answers, tokio::spawn(pending::<()>()).abort_handle());
        }
        Open {
            connections,
            _answers: under_way,
        }
    }

    /// Rule: survive.probes-places
    #[tokio::test]
    async fn the_busiest_peer_loses_its_oldest_idle_connection() {
        for (peers, first, why) in [
            ("aaaaaaaaaa", 0, "the oldest of the only peer"),
            ("baaaaaaaaaa", 1, "a peer with few keeps them"),
            ("abbbbbbbbbaaaaaaaaa", 0, "the newest counts for its peer, too"),
            ("AAaaaaaaaaa", 2, "one with a request stays"),
            ("bAAAAAAAAAA", 1, "unless its peer has no other"),
            ("abcdefghij", 0, "the oldest of many peers with one each"),
            ("cdefghijbbbk", 0, "a peer with three counts as equal"),
            ("Cdefghijbbbk", 1, "one with a request stays with many peers, too"),
            ("AAAAAAAAAAa", 0, "the newest stays even without a request"),
        ] {
            assert_eq!(open(peers).connections.first_to_close(), first, "{peers}: {why}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_makes_room_first() {
        let mut open = open("aab");
        let ended = tokio::spawn(async {});
        open.connections
            .add([10, 0, 0, 1].into(), Arc::default(), ended.abort_handle());
        ended.await.unwrap();
        open.connections.shrink_to(3);
        assert_eq!(open.connections.len(), 3);
        assert!(
            open.connections
                .0
                .iter()
                .all(|connection| !connection.task.is_finished())
        );
    }

    /// Rule: survive.probes-places
    #[test]
    fn ipv6_peers_count_by_64_bits_and_mapped_ones_as_ipv4() {
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
        ] {
            let [a, b] = [one, other].map(|peer| network(peer.parse().unwrap()));
            assert_eq!(a == b, same, "{one} {other}");
        }
    }
}
