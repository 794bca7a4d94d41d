//! Tests of the black hole: packets vanish on the path that is cut, and on no other.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use harness::Network;

/// The result of a dial from inside: 0 connected, 1 refused or unreachable, 124 no answer within the limit.
fn dial(network: &Network, address: SocketAddr, limit: Duration) -> Option<i32> {
    let words = format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port());
    let mut command = network.enter(Command::new("ip"), "timeout".as_ref());
    command
        .arg(limit.as_secs_f32().to_string())
        .args(["bash", "-c", &words]);
    command.output().expect("a shell").status.code()
}

#[test]
fn packets_on_a_cut_path_vanish_without_an_answer() {
    let network = match Network::new() {
        Ok(network) => network,
        Err(reason) => return println!("skipped: needs network namespaces: {reason}"),
    };
    let listeners = network
        .servers()
        .map(|address| TcpListener::bind((address, 0)).expect("an address of ours"));
    let [first, second, _third] = listeners.map(|listener| (listener.local_addr().expect("bound"), listener));
    let closed = SocketAddr::from((network.servers()[0], 1));
    let (long, short) = (Duration::from_secs(20), Duration::from_secs(2));
    assert_eq!(dial(&network, first.0, long), Some(0));
    assert_eq!(dial(&network, closed, long), Some(1), "a refusal is an answer");
    network.cut(0);
    assert_eq!(dial(&network, first.0, short), Some(124));
    assert_eq!(dial(&network, closed, short), Some(124), "not even a refusal");
    assert_eq!(dial(&network, second.0, long), Some(0));
    network.restore(0);
    assert_eq!(dial(&network, first.0, long), Some(0));
}

#[test]
fn a_network_is_removed_with_its_handle_even_after_a_panic() {
    let is_there = |name: &str| {
        let output = Command::new("ip").args(["netns", "list"]).output().expect("ip");
        let list = String::from_utf8_lossy(&output.stdout).into_owned();
        list.split_whitespace().any(|word| word == name)
    };
    let made = std::thread::spawn(move || match Network::new() {
        Ok(network) => {
            assert!(is_there(network.name()));
            std::panic::panic_any(network.name().to_owned());
        }
        Err(reason) => println!("skipped: needs network namespaces: {reason}"),
    });
    if let Err(panic) = made.join() {
        let name = panic.downcast_ref::<String>().expect("the name");
        assert!(name.starts_with("endpoint-copier-") && !is_there(name), "{name}");
    }
}
