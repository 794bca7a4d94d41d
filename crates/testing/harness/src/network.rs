//! A network namespace with three paths to API servers, each of which can become a black hole.
//!
//! Each path is a pair of virtual Ethernet devices: one end is in the namespace of the test, where an API server
//! listens on its address, and the other end is inside. To cut a path, both ends get a wrong hardware address for each
//! other: packets are sent, and the receiver drops them unread. There is no reset and no "unreachable". From outside, a
//! node without power and a firewall that drops packets look the same.
//!
//! This needs root, and no kernel module except the one for the devices.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::namespace::{Namespace, ip};

/// A hardware address that no device has.
const NOBODY: &str = "02:00:00:00:00:00";

/// A network namespace. `Drop` removes it with its devices.
pub struct Network {
    inside: Namespace,
    ways: [Way; 3],
}

struct Way {
    outside: End,
    inside: End,
}

struct End {
    device: String,
    address: Ipv4Addr,
}

impl Network {
    /// Creates a network namespace.
    ///
    /// # Errors
    ///
    /// The reason why this is impossible here, which the test prints when it is skipped. Only root may do it.
    pub fn new() -> Result<Self, String> {
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let network = Self {
            inside: Namespace::new(format!("endpoint-copier-{process}-{number}"))?,
            ways: [0, 1, 2].map(|way| Way::new(process, number, way)),
        };
        for Way { outside, inside } in &network.ways {
            let namespace = &network.inside;
            // Both ends are created in the namespace, so that they are removed with it if anything fails here.
            namespace.ip(&format!(
                "link add {} type veth peer name {}",
                outside.device, inside.device
            ))?;
            namespace.ip(&format!("link set {} netns {process}", outside.device))?;
            ip(&format!(
                "address add {}/30 dev {}",
                outside.address, outside.device
            ))?;
            ip(&format!("link set {} up", outside.device))?;
            namespace.ip(&format!(
                "address add {}/30 dev {}",
                inside.address, inside.device
            ))?;
            namespace.ip(&format!("link set {} up", inside.device))?;
        }
        Ok(network)
    }

    /// The name of the namespace, for `ip netns`.
    pub fn name(&self) -> &str {
        self.inside.name()
    }

    /// The addresses on which API servers listen. Each is reached on its own path.
    pub fn servers(&self) -> [Ipv4Addr; 3] {
        [0, 1, 2].map(|way| self.ways[way].outside.address)
    }

    /// Prepares an `ip` command, possibly with a clean environment, that runs a program in the namespace, as the same
    /// process.
    pub fn enter(&self, command: Command, program: &Path) -> Command {
        self.inside.enter(command, program)
    }

    /// An address in the namespace to listen on. It is reached over the second path.
    pub(crate) fn listen_address(&self) -> SocketAddr {
        static PORT: AtomicU16 = AtomicU16::new(20_000);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        (self.ways[1].inside.address, port).into()
    }

    /// Drops all packets on a path from now on.
    pub fn cut(&self, way: usize) {
        self.neighbours(way, &format!("lladdr {NOBODY} nud permanent"), "replace");
    }

    /// Restores a path.
    pub fn restore(&self, way: usize) {
        self.neighbours(way, "", "delete");
    }

    fn neighbours(&self, way: usize, what: &str, verb: &str) {
        let Way { outside, inside } = &self.ways[way];
        let words = |device: &str, peer| format!("neighbour {verb} {peer} dev {device} {what}");
        let here = self.inside.ip(&words(&inside.device, outside.address));
        here.and_then(|()| ip(&words(&outside.device, inside.address)))
            .expect("root still");
    }
}

impl Way {
    /// Four addresses of 10.128.0.0/9 that no other test uses at the same time.
    fn new(process: u32, number: u16, way: u8) -> Self {
        let block = process
            .wrapping_mul(8)
            .wrapping_add(u32::from(number) * 4 + u32::from(way));
        let base = (block % (1 << 21)) << 2;
        let end = |side: &str, last: u32| End {
            device: format!("ec{process}{side}{}", number * 4 + u16::from(way)),
            address: Ipv4Addr::from(0x0A80_0000 | base | last),
        };
        Self {
            outside: end("o", 1),
            inside: end("i", 2),
        }
    }
}
