//! Clients of the operator's own ports that want more than there is for them.

use std::net::SocketAddr;
use std::time::Duration;

use harness::{Cluster, Operator};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::on_both;

/// A probe of the kubelet, which gives up after a second by default.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// The default of many systems is 1,024 open files.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit");
}

/// Keeps one connection open, and opens another when the server closes it; one that talks sends a request every second.
async fn pester(address: SocketAddr, mut stream: TcpStream, talks: bool) {
    let mut buffer = [0; 1024];
    loop {
        if talks {
            _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
        }
        let read = timeout(Duration::from_secs(1), stream.read(&mut buffer)).await;
        sleep(Duration::from_millis(500)).await;
        let is_closed = !matches!(read, Err(_) | Ok(Ok(1..)));
        if is_closed && let Ok(next) = TcpStream::connect(address).await {
            stream = next;
        }
    }
}

on_both! {
    async fn probes_are_answered_while_a_thousand_connections_are_open(cluster: &mut Cluster) {
        allow_many_files();
        let operator = Operator::start(cluster, "one", 0);
        operator.until_ready().await;
        let address = operator.health_address();
        let mut streams = Vec::new();
        for _ in 0..1000 {
            streams.push(TcpStream::connect(address).await.expect("it listens"));
        }
        let mut attackers = JoinSet::new();
        for (number, stream) in streams.into_iter().enumerate() {
            attackers.spawn(pester(address, stream, number % 2 == 0));
        }
        for probe in 0..5 {
            for path in ["/livez", "/readyz"] {
                let answer = timeout(PROBE_LIMIT, operator.get(path)).await;
                assert_eq!(answer, Ok((200, "ok".to_owned())), "{path}, {probe} answered before");
            }
            // Meanwhile those that were closed have come back.
            sleep(Duration::from_millis(500)).await;
        }
        assert!(!operator.log().contains("cannot accept"), "{}", operator.log());
    }
}
