//! Three nodes on one switch, each of which is a network namespace. A node can lose its link, or its path to one API
//! server.
//!
//! The switch is a bridge in its own namespace. A pair of virtual Ethernet devices connects it to the namespace of the
//! test, which can therefore reach all nodes. The nodes require root, iproute2, and a kernel with bridge support.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use testbed::real::Host;

use crate::namespace::{Namespace, ip, output_of_ip};

/// A hardware address that no device has.
const NOBODY: &str = "02:00:00:00:00:00";

/// The last octet of an address that no device has. Packets that must be lost are routed to it.
const BLACK_HOLE: u8 = 250;

/// The last octet of the address of the test itself.
const OUTSIDE: u8 = 254;

/// The number of /24 networks in 198.18.0.0/15, which RFC 2544 reserves for tests of network devices.
const SUBNETS: u16 = 512;

/// Three nodes. `Drop` removes them with all their devices.
pub struct Nodes {
    namespaces: [Namespace; 3],
    switch: Namespace,
    subnet: Subnet,
    _outside: Device,
}

/// A device in the namespace of the test. `Drop` removes it with its other end and its routes.
struct Device(String);

/// A /24 network, identified by its first three octets.
#[derive(Clone, Copy)]
struct Subnet([u8; 3]);

impl Nodes {
    /// Creates three nodes and connects them.
    ///
    /// # Errors
    /// Returns an error if no nodes can be created here, for example because only root can create namespaces. A test
    /// should print the error and skip itself.
    pub fn new() -> io::Result<Self> {
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let namespace = |name: &str| Namespace::new(format!("endpoint-copier-{process}-{name}-{number}"));
        let switch = namespace("switch")?;
        switch.ip("link add bridge type bridge")?;
        switch.ip("link set dev bridge up")?;
        let outside = Device(format!("ec{process}s{number}"));
        let Device(name) = &outside;
        switch.ip(&format!(
            "link add outside type veth peer name {name} netns {process}"
        ))?;
        connect(&switch, "outside")?;
        ip(&format!("link set dev {name} up"))?;
        let subnet = Subnet::claim(name, process)?;
        ip(&format!("address add {}/32 dev {name}", subnet.address(OUTSIDE)))?;
        let namespaces = [namespace("one")?, namespace("two")?, namespace("three")?];
        for (number, node) in namespaces.iter().enumerate() {
            let port = format!("node-{number}");
            node.ip(&format!(
                "link add uplink type veth peer name {port} netns {}",
                switch.name()
            ))?;
            connect(&switch, &port)?;
            node.ip("link set dev lo up")?;
            node.ip(&format!("address add {}/24 dev uplink", subnet.node(number)))?;
            node.ip("link set dev uplink up")?;
        }
        Ok(Self {
            namespaces,
            switch,
            subnet,
            _outside: outside,
        })
    }

    /// The address of a node.
    pub fn address(&self, node: usize) -> Ipv4Addr {
        self.subnet.node(node)
    }

    /// The network namespace of each node.
    pub fn hosts(&self) -> Vec<Host> {
        let nodes = self.namespaces.iter().enumerate();
        nodes
            .map(|(number, node)| Host {
                namespace: node.name().to_owned(),
                address: self.address(number),
            })
            .collect()
    }

    /// Completes an `ip` command so that it runs a program on a node. The program replaces `ip` in the same process.
    /// Sets `PATH`, because the environment of the command might be empty.
    pub fn enter(&self, node: usize, command: Command, program: &Path) -> Command {
        self.namespaces[node].enter(command, program)
    }

    /// Takes the link of a node down. To the other nodes, this looks as if the node had lost power.
    pub fn unplug(&self, node: usize) {
        self.link(node, "down");
    }

    /// Brings the link of a node up again.
    pub fn plug(&self, node: usize) {
        self.link(node, "up");
    }

    fn link(&self, node: usize, state: &str) {
        let set = self.switch.ip(&format!("link set dev node-{node} {state}"));
        set.expect("still root");
    }

    /// Drops all TCP packets from a node to this address and port of another node from now on.
    pub fn cut(&self, node: usize, port: SocketAddr) {
        let nowhere = self.subnet.address(BLACK_HOLE);
        for words in [
            format!("neighbour replace {nowhere} lladdr {NOBODY} nud permanent dev uplink"),
            format!("route replace {} via {nowhere} dev uplink table 100", port.ip()),
            rule("add", port),
        ] {
            self.namespaces[node].ip(&words).expect("still root");
        }
    }

    /// Ends the effect of `cut` for this node, address and port.
    pub fn restore(&self, node: usize, port: SocketAddr) {
        self.namespaces[node]
            .ip(&rule("delete", port))
            .expect("still root");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Removing the namespace of the switch removes the device too, but later.
        let _ = ip(&format!("link delete dev {}", self.0));
    }
}

fn connect(switch: &Namespace, device: &str) -> io::Result<()> {
    switch.ip(&format!("link set dev {device} master bridge"))?;
    switch.ip(&format!("link set dev {device} up"))
}

fn rule(verb: &str, port: SocketAddr) -> String {
    let (ip, port) = (port.ip(), port.port());
    format!("rule {verb} to {ip} ipproto tcp dport {port} table 100")
}

impl Subnet {
    /// Finds a network to which this machine has no route, and routes it to a device. A network can have only one
    /// route, so no other test gets the same network.
    fn claim(device: &str, process: u32) -> io::Result<Self> {
        let first = u16::try_from(process % u32::from(SUBNETS)).unwrap_or_default();
        for offset in 0..SUBNETS {
            let [high, low] = ((first + offset) % SUBNETS).to_be_bytes();
            let subnet = Self([198, 18 + high, low]);
            if subnet.is_known()? {
                continue;
            }
            match ip(&format!("route add {}/24 dev {device}", subnet.address(0))) {
                Err(error) if error.to_string().contains("File exists") => {}
                claimed => return claimed.map(|()| subnet),
            }
        }
        Err(io::Error::other("no network of 198.18.0.0/15 is free"))
    }

    /// Whether a route other than the default route leads to this network, to a part of it, or to a larger network.
    fn is_known(self) -> io::Result<bool> {
        for relation in ["match", "root"] {
            let routes = output_of_ip(&format!("route show {relation} {}/24", self.address(0)))?;
            if routes.lines().any(|route| !route.starts_with("default")) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn node(self, number: usize) -> Ipv4Addr {
        self.address([11, 12, 13][number])
    }

    fn address(self, last: u8) -> Ipv4Addr {
        let Self([a, b, c]) = self;
        Ipv4Addr::new(a, b, c, last)
    }
}
