//! A network namespace with three paths to API servers. Each path can become a black hole.
//!
//! Each path is a pair of virtual Ethernet devices: one end is in the namespace of the test, where an API server
//! listens on the address of that end, and the other end is in the new namespace. To cut a path, [`Network::cut`] gives
//! each end a wrong hardware address for the other end, so packets are sent, but the receiver drops them unread. The
//! sender gets neither a reset nor an "unreachable" error, as if the node had lost power or a firewall dropped the
//! packets.
//!
//! A network requires root, and no kernel module except the one for virtual Ethernet devices.

use std::io;
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
    paths: [NetworkPath; 3],
}

struct NetworkPath {
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
    /// Returns an error if no network can be created here, for example because only root can create namespaces. A test
    /// should print the error and skip itself.
    pub fn new() -> io::Result<Self> {
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let network = Self {
            inside: Namespace::new(format!("endpoint-copier-{process}-{number}"))?,
            paths: [0, 1, 2].map(|path| NetworkPath::new(process, number, path)),
        };
        for NetworkPath { outside, inside } in &network.paths {
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

    /// The addresses on which API servers listen. Each server is reached over its own path.
    pub fn servers(&self) -> [Ipv4Addr; 3] {
        [0, 1, 2].map(|path| self.paths[path].outside.address)
    }

    /// Completes an `ip` command so that it runs a program in the namespace. The program replaces `ip` in the same
    /// process. Sets `PATH`, because the environment of the command might be empty.
    pub fn enter(&self, command: Command, program: &Path) -> Command {
        self.inside.enter(command, program)
    }

    /// An address in the namespace to listen on. It is reached over the second path.
    pub(crate) fn listen_address(&self) -> SocketAddr {
        static PORT: AtomicU16 = AtomicU16::new(20_000);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        (self.paths[1].inside.address, port).into()
    }

    /// Drops all packets on a path from now on.
    pub fn cut(&self, path: usize) {
        self.set_neighbors(path, &format!("lladdr {NOBODY} nud permanent"), "replace");
    }

    /// Restores a path.
    pub fn restore(&self, path: usize) {
        self.set_neighbors(path, "", "delete");
    }

    fn set_neighbors(&self, path: usize, what: &str, verb: &str) {
        let NetworkPath { outside, inside } = &self.paths[path];
        let words = |device: &str, peer| format!("neighbour {verb} {peer} dev {device} {what}");
        let here = self.inside.ip(&words(&inside.device, outside.address));
        here.and_then(|()| ip(&words(&outside.device, inside.address)))
            .expect("the path can be changed");
    }
}

impl NetworkPath {
    /// A path with its own block of four addresses in 10.128.0.0/9. The block depends on the process ID, so that tests
    /// that run in other processes at the same time use other blocks.
    fn new(process: u32, number: u16, path: u8) -> Self {
        let block = process
            .wrapping_mul(8)
            .wrapping_add(u32::from(number) * 4 + u32::from(path));
        let base = (block % (1 << 21)) << 2;
        let end = |side: &str, last: u32| End {
            device: format!("ec{process}{side}{}", number * 4 + u16::from(path)),
            address: Ipv4Addr::from(0x0A80_0000 | base | last),
        };
        Self {
            outside: end("o", 1),
            inside: end("i", 2),
        }
    }
}
