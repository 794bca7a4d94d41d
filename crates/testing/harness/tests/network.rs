//! Tests of the black hole: packets vanish on the path that is cut, and on no other path.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use harness::{Network, Nodes};

/// The exit code of a dial from the namespace: 0 for a connection, 1 for a refusal, and 124 for no response within the
/// limit.
fn dial(network: &Network, address: SocketAddr, limit: Duration) -> Option<i32> {
    dial_by(
        network.enter(Command::new("ip"), "timeout".as_ref()),
        address,
        limit,
    )
}

/// The exit code of a dial by a command that runs `timeout`.
fn dial_by(mut timeout: Command, address: SocketAddr, limit: Duration) -> Option<i32> {
    let words = format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port());
    timeout
        .arg(limit.as_secs_f32().to_string())
        .args(["bash", "-c", &words]);
    timeout.output().expect("a shell").status.code()
}

fn namespace_exists(namespace: &str) -> bool {
    let output = Command::new("ip").args(["netns", "list"]).output().expect("ip");
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    list.split_whitespace().any(|word| word == namespace)
}

#[test]
fn packets_on_a_cut_path_vanish_without_an_answer() {
    let network = match Network::new() {
        Ok(network) => network,
        Err(reason) => return println!("skipped: needs network namespaces: {reason}"),
    };
    let listeners = network
        .servers()
        .map(|address| TcpListener::bind((address, 0)).expect("an address of this machine"));
    let [first, second, _third] = listeners.map(|listener| (listener.local_addr().expect("bound"), listener));
    let closed = SocketAddr::from((network.servers()[0], 1));
    let (long, short) = (Duration::from_secs(20), Duration::from_secs(2));
    assert_eq!(dial(&network, first.0, long), Some(0));
    assert_eq!(
        dial(&network, closed, long),
        Some(1),
        "no refusal from a closed port"
    );
    network.cut(0);
    assert_eq!(dial(&network, first.0, short), Some(124));
    assert_eq!(
        dial(&network, closed, short),
        Some(124),
        "a closed port answered over a cut path"
    );
    assert_eq!(dial(&network, second.0, long), Some(0));
    network.restore(0);
    assert_eq!(dial(&network, first.0, long), Some(0));
}

#[test]
fn a_network_is_removed_with_its_handle_even_after_a_panic() {
    let made = std::thread::spawn(move || match Network::new() {
        Ok(network) => {
            assert!(namespace_exists(network.name()));
            std::panic::panic_any(network.name().to_owned());
        }
        Err(reason) => println!("skipped: needs network namespaces: {reason}"),
    });
    if let Err(panic) = made.join() {
        let name = panic.downcast_ref::<String>().expect("the name");
        assert!(
            name.starts_with("endpoint-copier-") && !namespace_exists(name),
            "{name}"
        );
    }
}

#[test]
fn node_that_is_unplugged_or_cut_off_is_not_reached() {
    let nodes = match Nodes::new() {
        Ok(nodes) => nodes,
        Err(reason) => return println!("skipped: needs network namespaces: {reason}"),
    };
    let (long, short) = (Duration::from_secs(20), Duration::from_secs(2));
    // Nothing listens on these ports, but a refusal shows that packets arrive.
    let [one, two] = [0, 1].map(|node| SocketAddr::from((nodes.address(node), 6443)));
    let from = |node, to, limit| {
        dial_by(
            nodes.enter(node, Command::new("ip"), "timeout".as_ref()),
            to,
            limit,
        )
    };
    let from_outside = |to, limit| dial_by(Command::new("timeout"), to, limit);
    assert_eq!(from(0, two, long), Some(1));
    nodes.cut(0, two);
    assert_eq!(from(0, two, short), Some(124));
    assert_eq!(from(0, (two.ip(), 6444).into(), long), Some(1), "another port");
    assert_eq!(from(2, two, long), Some(1), "another node");
    assert_eq!(from(1, one, long), Some(1), "the other direction");
    assert_eq!(from_outside(two, long), Some(1));
    nodes.restore(0, two);
    assert_eq!(from(0, two, long), Some(1));
    nodes.unplug(1);
    assert_eq!(from(0, two, short), Some(124));
    assert_eq!(from_outside(two, short), Some(124));
    assert_eq!(from(0, one, long), Some(1));
    nodes.plug(1);
    assert_eq!(from(0, two, long), Some(1));
    assert_eq!(from_outside(two, long), Some(1));
}

#[test]
fn nodes_of_two_tests_have_networks_of_their_own() {
    let nodes: Vec<_> = match [0, 1].map(|_| Nodes::new()).into_iter().collect() {
        Ok(nodes) => nodes,
        Err(reason) => return println!("skipped: needs network namespaces: {reason}"),
    };
    let [one, two] = &nodes[..] else { unreachable!() };
    assert_ne!(one.address(0).octets()[..3], two.address(0).octets()[..3]);
    let namespaces: Vec<_> = nodes.iter().flat_map(Nodes::hosts).collect();
    assert!(namespaces.iter().all(|host| namespace_exists(&host.namespace)));
    drop(nodes);
    assert!(!namespaces.iter().any(|host| namespace_exists(&host.namespace)));
}
