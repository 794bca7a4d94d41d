//! TLS and authorization for the clients of `/metrics`.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use hyper::{HeaderMap, StatusCode};
use kube::Client;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tracing::debug;

use super::authorization::Authorization;
use super::certificate::Certificate;
use super::rate_limit::RateLimit;
use crate::apiserver::access_review::Verdict;
use crate::config::SecureMetrics;

/// The maximum number of handshakes per second: for one peer, and for all peers. An RSA signature takes about a
/// millisecond on the thread that also renews the Lease.
const HANDSHAKES: (usize, usize) = (16, 128);

/// The number of bytes that TLS buffers for a client that does not read.
const BUFFER: usize = 8 * 1024;

/// A client connection, with or without TLS.
pub(super) type ClientStream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Adds TLS to the metrics server, and serves only clients whose token allows them to get `/metrics`.
pub struct Secure {
    certificate: Certificate,
    authorization: Authorization,
    handshakes: Mutex<RateLimit>,
}

impl Secure {
    /// Loads the certificate. `client` sends the `TokenReviews` and `SubjectAccessReviews`.
    ///
    /// # Errors
    /// Returns an error if no certificate can be created.
    pub fn new(config: &SecureMetrics, client: Client) -> io::Result<Self> {
        let certificate = Certificate::load(config.cert_path.as_deref())?;
        Ok(Self {
            certificate,
            authorization: Authorization::new(client),
            handshakes: Mutex::new(RateLimit::new(HANDSHAKES.0, HANDSHAKES.1)),
        })
    }

    /// Switches to each new certificate. Never returns.
    pub(super) async fn follow_certificate(&self) {
        self.certificate.follow().await;
    }

    /// Whether this peer may begin a handshake now.
    pub(super) fn admits(&self, peer: IpAddr) -> bool {
        self.handshakes.lock().admits(peer, Instant::now())
    }

    /// Returns the stream after the handshake, or `None` if the handshake fails or takes longer than `limit`.
    pub(super) async fn handshake(&self, stream: TcpStream, limit: Duration) -> Option<ClientStream> {
        let acceptor = TlsAcceptor::from(self.certificate.tls());
        let handshake = acceptor.accept_with(stream, |tls| tls.set_buffer_limit(Some(BUFFER)));
        match timeout(limit, handshake).await {
            Ok(Ok(stream)) => Some(Either::Right(Box::new(stream))),
            Ok(Err(error)) => {
                debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_) => None,
        }
    }

    /// Checks whether a client may read the metrics. If not, the error contains the status and the text to send to the
    /// client.
    pub(super) async fn check(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<(), (StatusCode, &'static str)> {
        match self.authorization.verdict(headers, peer).await {
            Some(Verdict::Allowed) => Ok(()),
            Some(Verdict::Unauthenticated) => Err((StatusCode::UNAUTHORIZED, "401 unauthorized\n")),
            Some(Verdict::Forbidden) => Err((StatusCode::FORBIDDEN, "403 forbidden\n")),
            None => Err((
                StatusCode::SERVICE_UNAVAILABLE,
                "503 the token cannot be reviewed now\n",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::join_all;
    use harness::{https_get, tls};
    use testbed::{ApiServer, Store};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::metrics_pages;
    use super::super::server::{Limits, Site};
    use super::super::tests::{PATIENCE, Server};
    use super::*;
    use crate::apiserver;
    use crate::telemetry::metrics::Metrics;

    /// Two peers: every address in 127.0.0.0/8 is a loopback address.
    const ONE: &str = "127.0.0.1";
    const TWO: &str = "127.0.0.2";

    /// Starts a server that lets every client with a valid token read its metrics.
    fn start(limits: Limits) -> Server {
        let metrics = Metrics::new("lease").unwrap();
        let api = ApiServer::new(&Store::new());
        let client = apiserver::over(api, "default", &metrics);
        let secure = Secure::new(&SecureMetrics { cert_path: None }, client).unwrap();
        let site = Site {
            pages: metrics_pages(metrics),
            secure: Some(Arc::new(secure)),
        };
        Server::serve(site, limits)
    }

    async fn answer(server: &Server, from: &str, path: &str, token: Option<&str>) -> u16 {
        let stream = server.connect_from(from).await;
        let answer = timeout(PATIENCE, https_get(stream, path, token)).await;
        answer.expect("no response in time").unwrap().code
    }

    async fn assert_cut(mut stream: TcpStream) {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        _ = read.expect("the connection is still open");
    }

    /// Rule: survive.metrics-authorized
    #[tokio::test]
    async fn metrics_are_served_only_over_tls_and_with_a_token() {
        let server = start(Limits::default());
        let token = Some(testbed::ADMIN_TOKEN);
        for (path, token, code) in [
            ("/metrics", token, 200),
            ("/metrics", None, 401),
            ("/other", None, 404),
            ("/other", token, 404),
        ] {
            assert_eq!(answer(&server, ONE, path, token).await, code, "{path} {token:?}");
        }
        let refused = https_get(server.connect_from(ONE).await, "/metrics", None)
            .await
            .unwrap();
        assert!(
            refused.head.contains("www-authenticate: Bearer"),
            "{}",
            refused.head
        );
        let stream = tls(server.connect_from(ONE).await).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut plain = server.connect_from(ONE).await;
        let request = harness::request("/metrics", token);
        plain.write_all(request.as_bytes()).await.unwrap();
        assert_cut(plain).await;
    }

    /// Rule: survive.metrics-handshakes
    #[tokio::test]
    async fn a_slow_handshake_times_out_and_delays_no_other() {
        let limits = Limits {
            header_time: Duration::from_millis(500),
            connections: 4,
            ..Limits::default()
        };
        let server = start(limits);
        let mut slow = Vec::new();
        for _ in 0..3 {
            let mut stream = server.connect_from(ONE).await;
            // The beginning of a handshake.
            stream.write_all(b"\x16\x03\x01").await.unwrap();
            slow.push(stream);
        }
        let began = Instant::now();
        assert_eq!(answer(&server, ONE, "/metrics", None).await, 401);
        assert!(began.elapsed() < limits.header_time, "{:?}", began.elapsed());
        for stream in slow {
            assert_cut(stream).await;
        }
        // There are more slow handshakes than the connection limit allows.
        let slow = [(); 10].map(|()| server.connect_from(ONE));
        let _slow = join_all(slow).await;
        assert_eq!(answer(&server, TWO, "/metrics", None).await, 401);
    }

    /// Rule: survive.metrics-handshakes
    #[tokio::test]
    async fn handshakes_of_one_peer_are_limited() {
        let server = start(Limits::default());
        let handshakes = [(); 40].map(async |()| tls(server.connect_from(ONE).await).await.is_err());
        let cut = join_all(handshakes).await;
        assert!(
            cut.contains(&true),
            "none of 40 handshakes within a fraction of a second was cut off"
        );
        assert_eq!(answer(&server, TWO, "/metrics", None).await, 401);
    }

    #[tokio::test]
    async fn shutdown_does_not_wait_for_a_handshake() {
        let limits = Limits {
            drain: PATIENCE,
            ..Limits::default()
        };
        let server = start(limits);
        let slow = server.connect_from(ONE).await;
        assert_eq!(answer(&server, TWO, "/metrics", None).await, 401);
        server.shutdown.cancel();
        let began = Instant::now();
        timeout(PATIENCE, server.task).await.expect("hangs").unwrap();
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert_cut(slow).await;
    }
}
