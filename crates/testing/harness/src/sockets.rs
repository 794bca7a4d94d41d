//! The connections of a process, read from `/proc` without cooperation from the process.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

/// The state `TCP_ESTABLISHED`, in hexadecimal.
const ESTABLISHED: &str = "01";

/// The peers of the established IPv4 connections of a process.
pub fn peers(process: u32) -> Vec<SocketAddr> {
    connections(process).into_iter().map(|(peer, _)| peer).collect()
}

/// The number of bytes that a process has written to its established IPv4 connections but its peers have not
/// acknowledged yet.
pub fn unsent(process: u32) -> u64 {
    connections(process).into_iter().map(|(_, unsent)| unsent).sum()
}

/// The peer and the number of unacknowledged bytes of each established connection.
fn connections(process: u32) -> Vec<(SocketAddr, u64)> {
    let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten();
    let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    let sockets: BTreeSet<String> = links
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    // The table of the network namespace of the process.
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    table
        .lines()
        .filter_map(|line| connection(line, &sockets))
        .collect()
}

fn connection(line: &str, sockets: &BTreeSet<String>) -> Option<(SocketAddr, u64)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [_, _, peer, state, queues, _, _, _, _, inode, ..] = words[..] else {
        return None;
    };
    if state != ESTABLISHED || !sockets.contains(inode) {
        return None;
    }
    let (address, port) = peer.split_once(':')?;
    // The kernel prints the address as a native-endian integer. Its bytes in memory are in network order.
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    let peer = (Ipv4Addr::from(address), u16::from_str_radix(port, 16).ok()?).into();
    let (unsent, _) = queues.split_once(':')?;
    Some((peer, u64::from_str_radix(unsent, 16).ok()?))
}

#[test]
fn connections_are_listed_with_their_peers() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    assert!(!peers(std::process::id()).contains(&address));
    let _connection = std::net::TcpStream::connect(address).expect("a listener");
    assert!(peers(std::process::id()).contains(&address));
}
