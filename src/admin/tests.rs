//! Tests over real sockets on the loopback address.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::rendering::SharedPage;
use super::*;
use crate::telemetry::watchdog::Watchdog;

/// A time limit far above the usual duration, so that a test that hangs fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) shutdown: CancellationToken,
    pub(super) task: JoinHandle<()>,
}

impl Server {
    fn start(pages: server::Pages, limits: Limits) -> Self {
        Self::serve(Site { pages, secure: None }, limits)
    }

    pub(super) fn serve(site: Site, limits: Limits) -> Self {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server::serve(listener, site, limits, shutdown.clone()));
        Self {
            address,
            shutdown,
            task,
        }
    }

    fn health(health: &Health, limits: Limits) -> Self {
        let limits = Limits {
            keep_alive: false,
            ..limits
        };
        Self::start(health_pages(health.clone()), limits)
    }

    /// Starts a server that keeps connections open, as the metrics server does, and whose pages contain only `ok`.
    fn keeping_connections(limits: Limits) -> Self {
        Self::start(health_pages(Health::default()), limits)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these requests, and waits for the start of the responses without reading them. The kernel buffers little
    /// for this client.
    async fn connect_without_reading(&self, requests: &[u8]) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(self.address).await.unwrap();
        stream.write_all(requests).await.unwrap();
        stream.readable().await.unwrap();
        stream
    }

    /// Connects from this address. All addresses in 127.0.0.0/8 are loopback addresses.
    pub(super) async fn connect_from(&self, address: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Sends `request` and reads until the server closes the connection.
    async fn send(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // The server may close the connection before it has read everything.
        let _ = stream.write_all(request.as_ref()).await;
        rest(&mut stream).await
    }

    async fn get(&self, path: &str) -> String {
        self.send(format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ))
        .await
    }
}

/// Reads until the connection ends, cleanly or not.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection is still open");
    String::from_utf8(bytes).unwrap()
}

/// Reads one response with a body of known length. The connection stays open.
async fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = header(head, "content-length").unwrap().parse::<usize>().unwrap();
            if body.len() >= length {
                return text;
            }
        }
        let byte = timeout(PATIENCE, stream.read_u8())
            .await
            .expect("no response in time")
            .expect("the response broke off");
        bytes.push(byte);
    }
}

fn header<'a>(response: &'a str, name: &str) -> Option<&'a str> {
    let head = response.split("\r\n\r\n").next()?;
    head.lines()
        .skip(1)
        .filter_map(|l| l.split_once(": "))
        .find(|(n, _)| *n == name)
        .map(|(_, value)| value)
}

fn status(response: &str) -> u16 {
    let word = response
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no response: {response:?}"));
    word.parse().unwrap()
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").unwrap().1
}

#[track_caller]
fn assert_alive(response: &str) {
    assert_eq!((status(response), body(response)), (200, "ok"));
}

const KEEP_ALIVE: &[u8] = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";

/// Serves a page of this many bytes for every path.
fn page_of(bytes: usize) -> server::Pages {
    let pieces = Arc::new(vec![Bytes::from("y".repeat(4096)); bytes / 4096]);
    Arc::new(move |_, _| {
        let page = Document {
            status: StatusCode::OK,
            content_type: "text/plain",
            body: Either::Right(SharedPage::new(&pieces)),
        };
        Some(ready(page).boxed())
    })
}

/// Sends a request, or the rest of one, and checks that the response is `ok`.
async fn assert_answered(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).await.unwrap();
    assert_alive(&answer(stream).await);
}

/// Rule: 5.every-replica
#[tokio::test]
async fn the_metrics_address_serves_metrics_and_nothing_else() {
    let metrics = Metrics::new("lease").unwrap();
    let server = Server::start(metrics_pages(metrics), Limits::default());
    let response = server.get("/metrics?x=1").await;
    assert_eq!(status(&response), 200);
    assert_eq!(
        header(&response, "content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    assert!(body(&response).contains("\nleader_election_master_status{name=\"lease\"} 0\n"));
    for path in [
        "/",
        "/metrics/",
        "//metrics",
        "/metrics/x",
        "/healthz",
        "/readyz",
        "/livez",
        "/../metrics",
    ] {
        assert_eq!(status(&server.get(path).await), 404, "{path}");
    }
}

#[tokio::test]
async fn scrapes_within_one_second_show_the_same_page() {
    let metrics = Metrics::new("lease").unwrap();
    let server = Server::start(metrics_pages(metrics.clone()), Limits::default());
    for _ in 0..10 {
        let first = server.get("/metrics").await;
        metrics.leader_changed();
        // A second may pass between the two scrapes, but not in each iteration.
        if body(&first) == body(&server.get("/metrics").await) {
            return;
        }
    }
    panic!("each scrape shows a different page");
}

/// Rule: 5.every-replica
#[tokio::test]
async fn the_health_address_serves_health_and_nothing_else() {
    let server = Server::health(&Health::default(), Limits::default());
    for path in [
        "/healthz",
        "/livez",
        "/readyz",
        "/readyz?x=verbose",
        "/readyz?verbosely",
    ] {
        assert_alive(&server.get(path).await);
    }
    for path in ["/", "/metrics", "/healthz/", "/readyz/ping", "/READYZ"] {
        assert_eq!(status(&server.get(path).await), 404, "{path}");
    }
}

#[tokio::test]
async fn a_failed_check_is_named_with_its_reason() {
    let health = Health::default();
    health.check("caches", Probe::Readiness, || Ok::<_, Infallible>(()));
    health.check("watch/services", Probe::Readiness, || Err("silent for 91 s"));
    let server = Server::health(&health, Limits::default());
    for path in ["/readyz", "/readyz?verbose"] {
        let response = server.get(path).await;
        assert_eq!(status(&response), 503);
        assert_eq!(
            body(&response),
            "[+]ping ok\n[+]caches ok\n[-]watch/services failed: silent for 91 s\n[+]shutdown ok\n\
             readyz check failed\n"
        );
    }
    assert_alive(&server.get("/livez").await);
    assert_alive(&server.get("/healthz").await);
}

#[tokio::test]
async fn stuck_loop_fails_livez_and_readyz_by_name() {
    let (health, watchdog) = (Health::default(), Watchdog::default());
    health.check("caches", Probe::Readiness, || Ok::<_, Infallible>(()));
    let steps = watchdog.clone();
    health.check("worker", Probe::Liveness, move || steps.check(Duration::ZERO));
    let server = Server::health(&health, Limits::default());
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_alive(&server.get(path).await);
    }
    watchdog.busy();
    let stuck = "[-]worker failed: no progress for 0 s\n";
    for (name, checks) in [
        ("healthz", stuck.to_owned()),
        ("livez", stuck.to_owned()),
        ("readyz", format!("[+]caches ok\n{stuck}[+]shutdown ok\n")),
    ] {
        for query in ["", "?verbose"] {
            let response = server.get(&format!("/{name}{query}")).await;
            assert_eq!(status(&response), 503, "{name}");
            let expected = format!("[+]ping ok\n{checks}{name} check failed\n");
            assert_eq!(body(&response), expected);
        }
    }
    watchdog.idle();
    assert_alive(&server.get("/livez").await);
}

#[tokio::test]
async fn verbose_lists_the_checks_of_the_path() {
    let health = Health::default();
    health.check("caches", Probe::Readiness, || Ok::<_, Infallible>(()));
    let server = Server::health(&health, Limits::default());
    for (path, expected) in [
        (
            "/readyz?verbose",
            "[+]ping ok\n[+]caches ok\n[+]shutdown ok\nreadyz check passed\n",
        ),
        (
            "/readyz?a=b&verbose=1",
            "[+]ping ok\n[+]caches ok\n[+]shutdown ok\nreadyz check passed\n",
        ),
        ("/healthz?verbose", "[+]ping ok\nhealthz check passed\n"),
        ("/livez?verbose", "[+]ping ok\nlivez check passed\n"),
    ] {
        assert_eq!(body(&server.get(path).await), expected, "{path}");
    }
}

#[tokio::test]
async fn a_process_that_shuts_down_is_not_ready_but_alive() {
    let health = Health::default();
    let server = Server::health(&health, Limits::default());
    assert_alive(&server.get("/readyz").await);
    health.shutting_down();
    assert_eq!(status(&server.get("/readyz").await), 503);
    assert_alive(&server.get("/livez").await);
}

#[tokio::test]
async fn a_check_that_panics_harms_one_connection_only() {
    let health = Health::default();
    health.check("broken", Probe::Readiness, || -> Result<(), Infallible> {
        panic!("on purpose")
    });
    let server = Server::health(
        &health,
        Limits {
            connections: 1,
            ..Limits::default()
        },
    );
    for _ in 0..3 {
        assert_eq!(server.get("/readyz").await, "");
    }
    assert_alive(&server.get("/livez").await);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = Server::health(&Health::default(), Limits::default());
    let response = server
        .send("HEAD /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert_eq!((status(&response), body(&response)), (200, ""));
    assert_eq!(header(&response, "content-length"), Some("2"));
}

#[tokio::test]
async fn other_methods_are_refused_on_known_paths() {
    let server = Server::health(&Health::default(), Limits::default());
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"] {
        let request = |path| format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let response = server.send(request("/readyz")).await;
        assert_eq!(status(&response), 405, "{method}");
        assert_eq!(header(&response, "allow"), Some("GET, HEAD"), "{method}");
        let response = server.send(request("/nonsense")).await;
        assert_eq!(
            (status(&response), header(&response, "allow")),
            (404, None),
            "{method}"
        );
    }
    assert_eq!(
        status(
            &server
                .send("CONNECT x:1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await
        ),
        404
    );
    assert_eq!(
        status(
            &server
                .send("OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await
        ),
        404
    );
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::keeping_connections(Limits::default());
    let mut requests = KEEP_ALIVE.repeat(50);
    requests.extend_from_slice(b"GET /nonsense HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let response = server.send(requests).await;
    assert_eq!(response.matches("HTTP/1.1 200 OK\r\n").count(), 50);
    assert_eq!(response.matches("HTTP/1.1 ").count(), 51);
    assert!(response.ends_with("404 page not found\n"));
}

#[tokio::test]
async fn malformed_requests_end_their_connection_and_no_other() {
    let server = Server::health(&Health::default(), Limits::default());
    let mut bystander = server.connect().await;
    for request in [
        &b"\0\0\0\0"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: \0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"GET /livez HTTP/1.1\r\ntransfer-encoding: nonsense\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let response = server.send(request).await;
        assert!(
            response.is_empty() || status(&response) == 400,
            "{request:?}: {response}"
        );
    }
    assert_answered(&mut bystander, KEEP_ALIVE).await;
}

#[tokio::test]
async fn server_does_not_wait_for_the_body_of_a_request() {
    let server = Server::health(&Health::default(), Limits::default());
    let response = server
        .send("GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nabc")
        .await;
    assert_alive(&response);
    let chunk = "GET /livez HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffff\r\nabc";
    assert_alive(&server.send(chunk).await);
}

#[tokio::test]
async fn more_headers_than_the_limit_are_refused() {
    let server = Server::health(&Health::default(), Limits::default());
    let request = |headers: usize| {
        let lines = "x: y\r\n".repeat(headers);
        format!("GET /livez HTTP/1.1\r\n{lines}\r\n")
    };
    assert_eq!(status(&server.send(request(33)).await), 431);
    let mut stream = server.connect().await;
    stream.write_all(request(32).as_bytes()).await.unwrap();
    assert_alive(&answer(&mut stream).await);
}

#[tokio::test]
async fn a_head_larger_than_the_buffer_is_refused() {
    let server = Server::health(&Health::default(), Limits::default());
    let long = "y".repeat(9 * 1024);
    assert_eq!(
        status(&server.send(format!("GET /livez HTTP/1.1\r\nx: {long}")).await),
        431
    );
    let response = server.send(format!("GET /{long}")).await;
    assert!(
        response.is_empty() || matches!(status(&response), 414 | 431),
        "{response}"
    );
}

#[tokio::test]
async fn a_client_that_sends_its_headers_too_slowly_is_cut() {
    let limits = Limits {
        header_time: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = Server::health(&Health::default(), limits);
    for beginning in ["", "GET /livez HTTP/1.1\r\nhost: x\r\n"] {
        let (mut read, mut write) = server.connect().await.into_split();
        write.write_all(beginning.as_bytes()).await.unwrap();
        let began = Instant::now();
        let trickle = tokio::spawn(async move {
            // Each byte is progress, but does not extend the time limit.
            while beginning.is_empty() || write.write_all(b"a").await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let mut bytes = Vec::new();
        let _ = timeout(PATIENCE, read.read_to_end(&mut bytes))
            .await
            .expect("the connection is still open");
        trickle.abort();
        assert!(
            began.elapsed() >= Duration::from_millis(290),
            "{:?}",
            began.elapsed()
        );
    }
    assert_alive(&server.get("/livez").await);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_a_while() {
    let limits = Limits {
        header_time: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Server::keeping_connections(limits);
    let mut stream = server.connect().await;
    for _ in 0..3 {
        assert_answered(&mut stream, KEEP_ALIVE).await;
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rest(&mut stream).await, "");
}

/// Rule: survive.unread
#[tokio::test]
async fn a_client_that_never_reads_is_cut_with_little_buffered() {
    let limits = Limits {
        age: Duration::from_millis(100),
        drain: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = Server::start(page_of(16 << 20), limits);
    let mut unread = server.connect_without_reading(KEEP_ALIVE).await;
    // This test needs real time.
    sleep(Duration::from_secs(1)).await;
    let response = rest(&mut unread).await;
    // The client receives what was already sent. The rest is not buffered anywhere.
    assert!(response.len() < 128 << 10, "{} bytes", response.len());
}

/// Rule: survive.probes
#[tokio::test]
async fn a_connection_of_health_ends_with_its_first_answer() {
    let server = Server::health(&Health::default(), Limits::default());
    for requests in [1, 50] {
        let response = server.send(KEEP_ALIVE.repeat(requests)).await;
        assert_alive(&response);
        assert_eq!(header(&response, "connection"), Some("close"));
    }
}

#[tokio::test]
async fn a_connection_of_metrics_is_kept_for_the_next_scrape() {
    let metrics = metrics_pages(Metrics::new("lease").unwrap());
    let server = Server::start(metrics, Limits::default());
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(status(&answer(&mut stream).await), 200);
    }
}

/// Limits with at most three connections.
fn three() -> Limits {
    Limits {
        connections: 3,
        ..Limits::default()
    }
}

/// Rule: survive.probes-places
#[tokio::test]
async fn a_new_connection_ends_the_oldest_without_a_request() {
    let server = Server::health(&Health::default(), three());
    let mut open = [
        server.connect().await,
        server.connect().await,
        server.connect().await,
    ];
    // An incomplete request does not count, and does not make a connection newer.
    for beginning in [&b"GET /livez"[..], b" HTTP/1.1\r\n", b"host: x\r\n"] {
        open[0].write_all(beginning).await.unwrap();
    }
    assert_alive(&server.get("/livez").await);
    let [oldest, others @ ..] = &mut open;
    assert_eq!(rest(oldest).await, "");
    for other in others {
        assert_answered(other, KEEP_ALIVE).await;
    }
}

/// A request that arrives before the server runs again counts as received.
/// Rule: survive.probes-places
#[tokio::test]
async fn received_requests_are_answered_before_the_close() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let server = Server::health(&Health::default(), limits);
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let mut client = std::net::TcpStream::connect(server.address).unwrap();
            io::Write::write_all(&mut client, KEEP_ALIVE).unwrap();
            client.set_nonblocking(true).unwrap();
            TcpStream::from_std(client).unwrap()
        })
        .collect();
    for mut client in clients {
        assert_alive(&rest(&mut client).await);
    }
}

/// Rule: survive.probes-places
#[tokio::test]
async fn a_peer_with_many_connections_loses_its_own() {
    let limits = Limits {
        connections: 20,
        ..Limits::default()
    };
    let server = Server::health(&Health::default(), limits);
    let mut slow = server.connect_from("127.0.0.2").await;
    slow.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let mut greedy = Vec::new();
    for _ in 0..100 {
        greedy.push(server.connect_from("127.0.0.3").await);
    }
    assert_eq!(rest(&mut greedy[0]).await, "");
    assert_answered(&mut slow, b"host: x\r\n\r\n").await;
}

#[tokio::test]
async fn an_idle_connection_ends_before_one_that_reads_its_answer() {
    let server = Server::start(page_of(256 << 10), three());
    let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut reading = server.connect_without_reading(request).await;
    let mut idle = [server.connect().await, server.connect().await];
    for _ in 0..10 {
        assert_eq!(body(&server.get("/").await).len(), 256 << 10);
    }
    assert_eq!(body(&rest(&mut reading).await).len(), 256 << 10);
    for idle in &mut idle {
        assert_eq!(rest(idle).await, "");
    }
}

/// Rule: survive.unread
#[tokio::test]
async fn clients_that_do_not_read_block_no_other() {
    let server = Server::start(page_of(1 << 20), three());
    let mut unread = Vec::new();
    for _ in 0..10 {
        unread.push(server.connect_without_reading(&KEEP_ALIVE.repeat(10)).await);
    }
    assert_eq!(body(&server.get("/").await).len(), 1 << 20);
}

#[tokio::test]
async fn five_hundred_clients_at_once_are_all_answered() {
    let server = Arc::new(Server::health(&Health::default(), Limits::default()));
    let clients: Vec<_> = (0..500)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { server.get("/livez").await })
        })
        .collect();
    for client in clients {
        assert_alive(&client.await.unwrap());
    }
}

#[tokio::test]
async fn shutdown_ends_idle_connections_at_once() {
    let limits = Limits {
        drain: PATIENCE,
        ..Limits::default()
    };
    let server = Server::keeping_connections(limits);
    let mut stream = server.connect().await;
    assert_answered(&mut stream, KEEP_ALIVE).await;
    let began = Instant::now();
    server.shutdown.cancel();
    timeout(PATIENCE, server.task).await.expect("hangs").unwrap();
    assert_eq!(rest(&mut stream).await, "");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(
        TcpStream::connect(server.address).await.is_err(),
        "the server still listens"
    );
}

#[tokio::test]
async fn shutdown_lets_a_running_answer_finish() {
    let server = Server::start(
        page_of(16 << 20),
        Limits {
            drain: PATIENCE,
            ..Limits::default()
        },
    );
    let mut stream = server.connect().await;
    stream.write_all(KEEP_ALIVE).await.unwrap();
    stream.readable().await.unwrap();
    server.shutdown.cancel();
    let response = rest(&mut stream).await;
    assert_eq!(body(&response).len(), 16 << 20);
    timeout(PATIENCE, server.task).await.expect("hangs").unwrap();
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_slow_request() {
    let server = Server::health(&Health::default(), Limits::default());
    let mut slow = server.connect().await;
    slow.write_all(b"GET /livez HTT").await.unwrap();
    assert_alive(&server.get("/livez").await);
    let began = Instant::now();
    server.shutdown.cancel();
    timeout(PATIENCE, server.task).await.expect("hangs").unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(rest(&mut slow).await, "");
}

#[tokio::test]
async fn shutdown_works_while_the_connection_limit_is_reached() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let server = Server::keeping_connections(limits);
    let mut first = server.connect().await;
    assert_answered(&mut first, KEEP_ALIVE).await;
    server.shutdown.cancel();
    timeout(PATIENCE, server.task).await.expect("hangs").unwrap();
}

/// Rule: 4.metrics-address
#[tokio::test]
async fn empty_host_includes_ipv4() {
    let listener = bind(&ServerAddress::new("", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_ok());
    if listener.local_addr().unwrap().is_ipv6() {
        let six = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await;
        assert!(!six.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused));
    }
}

#[tokio::test]
async fn a_host_name_is_resolved() {
    let listener = bind(&ServerAddress::new("localhost", 0)).await.unwrap();
    assert!(listener.local_addr().unwrap().ip().is_loopback());
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    for host in ["127.0.0.1", ""] {
        let listener = bind(&ServerAddress::new(host, 0)).await.unwrap();
        let again = ServerAddress::new(host, listener.local_addr().unwrap().port());
        let error = bind(&again).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(
            error
                .to_string()
                .starts_with(&format!("cannot listen on {again}: ")),
            "{error}"
        );
    }
}

/// Rule: 4.health-address
#[tokio::test]
async fn the_public_servers_serve_until_shutdown() {
    let shutdown = CancellationToken::new();
    let address = ServerAddress::new("127.0.0.1", 0);
    let (first, second) = (bind(&address).await.unwrap(), bind(&address).await.unwrap());
    let (metrics, health) = (first.local_addr().unwrap(), second.local_addr().unwrap());
    let tasks = [
        tokio::spawn(serve_metrics(
            first,
            Metrics::new("lease").unwrap(),
            None,
            shutdown.clone(),
        )),
        tokio::spawn(serve_health(second, Health::default(), shutdown.clone())),
    ];
    for (address, path) in [(metrics, "/metrics"), (health, "/readyz")] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
            .await
            .unwrap();
        assert_eq!(status(&rest(&mut stream).await), 200);
    }
    shutdown.cancel();
    for task in tasks {
        timeout(PATIENCE, task).await.expect("hangs").unwrap();
    }
}
