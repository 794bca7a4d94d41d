//! A network namespace with three ways to API servers, each of which can become a black hole.
//!
//! Each way is a pair of virtual Ethernet devices: one end in the test's own namespace, where an API server listens on
//! its address, the other inside. A way is cut by giving both ends a wrong hardware address for each other: packets
//! are sent, and whoever receives them throws them away unread. No reset, no "unreachable": what a node without power
//! and a firewall that drops look like from outside. It needs root, and no kernel module but that of the devices.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::namespace::{Namespace, ip};

/// The hardware address of nobody.
const NOBODY: &str = "02:00:00:00:00:00";

/// A network namespace. Dropped, it is removed with its devices.
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
    /// Makes one.
    ///
    /// # Errors
    /// What cannot be done here, for a test to say why it was skipped. Only root may.
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
            // Both ends begin inside, so that they are gone with the namespace whatever fails here.
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

    /// Its name, as `ip netns` has it.
    pub fn name(&self) -> &str {
        self.inside.name()
    }

    /// Where API servers are to listen: each is reached on a way of its own.
    pub fn servers(&self) -> [Ipv4Addr; 3] {
        [0, 1, 2].map(|way| self.ways[way].outside.address)
    }

    /// Makes of a command `ip`, which may have a clean environment, one that runs a program inside, as the same process.
    pub fn enter(&self, command: Command, program: &Path) -> Command {
        self.inside.enter(command, program)
    }

    /// An address inside to listen on, which is reached on the second way.
    pub(crate) fn listen_address(&self) -> SocketAddr {
        static PORT: AtomicU16 = AtomicU16::new(20_000);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        (self.ways[1].inside.address, port).into()
    }

    /// From now on all packets on a way are lost.
    pub fn cut(&self, way: usize) {
        self.neighbours(way, &format!("lladdr {NOBODY} nud permanent"), "replace");
    }

    /// They arrive again.
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
    /// Four addresses of 10.128.0.0/9 that no other test has at the same time.
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
