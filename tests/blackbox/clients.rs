//! Clients of the operator's own ports that send too little or too much, or that do not read.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use harness::objects::{managed, slice};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::on_both;

/// The default timeout of a kubelet probe.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Raises the limit for open files. The default of many systems is 1,024.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("a soft limit up to the hard limit");
}

/// Keeps one connection open, and replaces the connection when the server closes it. Checks every 0.5 s to 1.5 s
/// whether the connection is closed. With `sends`, it also sends a request before each check.
async fn pester(address: SocketAddr, mut stream: TcpStream, sends: bool) {
    let mut buffer = [0; 1024];
    loop {
        if sends {
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

/// The connection of a client that requests ten pages and reads none. Its receive buffer is small, so its kernel does
/// not read much either.
async fn request_without_reading(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    let mut stream = socket.connect(address).await.expect("a listening operator");
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(&request.repeat(10)).await.expect("sent");
    stream.readable().await.expect("the beginning of an answer");
    stream
}

on_both! {
    /// Rule: survive.probes
    async fn probes_are_answered_while_a_thousand_connections_are_open(cluster: &mut Cluster) {
        allow_many_files();
        let operator = Operator::start(cluster, "one", 0);
        operator.until_ready().await;
        let address = operator.health_address();
        let mut streams = Vec::new();
        for _ in 0..1000 {
            streams.push(TcpStream::connect(address).await.expect("a listening operator"));
        }
        let mut attackers = JoinSet::new();
        for (number, stream) in streams.into_iter().enumerate() {
            attackers.spawn(pester(address, stream, number % 2 == 0));
        }
        for probe in 0..5 {
            for path in ["/livez", "/readyz"] {
                let answer = timeout(PROBE_LIMIT, operator.get(path)).await;
                assert_eq!(answer, Ok((200, "ok".to_owned())), "{path}, probe {probe}");
            }
            // During this pause, clients reopen the connections that the server closed.
            sleep(Duration::from_millis(500)).await;
        }
        assert!(!operator.log().contains("cannot accept"), "{}", operator.log());
    }

    /// This is the worst case for memory: every 1.1 s, the page is rendered again, and eight more clients request it.
    /// Rule: survive.unread
    async fn clients_that_do_not_read_metrics_cost_two_mib_at_most(cluster: &mut Cluster) {
        cluster.create::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.1"])).await;
        stream::iter(0..300).for_each_concurrent(16, async |number| {
            let service = managed("default", &format!("a-service-of-a-usual-length-{number}"), "default", "source");
            cluster.create::<Service>(service).await;
        }).await;
        let operator = Operator::start(cluster, "one", 0);
        until("all Services are in sync", async || operator.metric("endpoint_copier_services_in_sync").await == Some(300)).await;
        // The baseline includes the memory for rendering, and for clients that read their pages.
        for _ in 0..3 {
            sleep(Duration::from_millis(1100)).await;
            assert!(operator.get("/metrics").await.1.len() > 200_000);
        }
        let memory = || operator.memory() + operator.unsent_bytes();
        let before = memory();
        let mut unread = Vec::new();
        for _ in 0..8 {
            for _ in 0..8 {
                unread.push(request_without_reading(operator.metrics_address()).await);
            }
            sleep(Duration::from_millis(1100)).await;
        }
        let after = memory();
        println!("64 clients that do not read: {} KiB, without them {} KiB", after / 1024, before / 1024);
        assert!(after <= before + (2 << 20), "{before} bytes before, {after} after");
        assert!(operator.get("/metrics").await.1.len() > 200_000);
    }
}
