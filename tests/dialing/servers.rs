//! API servers on loopback, proxies in front of them, and clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use endpoint_copier_operator::apiserver::Access;
use endpoint_copier_operator::config::{ApiServerConfig, ServerAddress};
use endpoint_copier_operator::telemetry::metrics::Metrics;
use futures::FutureExt as _;
use harness::Listening;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use rustls::ServerConfig;
use testbed::{ApiServer, Serving, Store, builders};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// A time limit that is much longer than any step of these tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// API servers `a`, `b`, … on one store, at separate addresses.
pub struct Servers {
    pub store: Store,
    pub serving: Vec<Option<Serving>>,
}

impl Servers {
    pub async fn start(count: u8) -> Self {
        let store = Store::new();
        store.put(builders::kubernetes_service()).expect("a Service");
        let mut serving = Vec::new();
        for number in 0..count {
            let name = char::from(b'a' + number).to_string();
            let address = SocketAddr::from(([127, 0, 0, 1 + number], 0));
            let server = ApiServer::named(&store, &name);
            serving.push(Some(server.serve(address).await.expect("a free port")));
        }
        Self { store, serving }
    }

    pub fn server(&self, number: usize) -> &Serving {
        self.serving[number].as_ref().expect("a running server")
    }

    pub fn kill(&mut self, number: usize) {
        self.serving[number] = None;
    }

    pub fn address(&self, number: usize) -> ServerAddress {
        address(self.server(number).address())
    }

    /// A client of the first server that also knows the others.
    pub async fn client(&self) -> TestClient {
        let others = (1..self.serving.len()).map(|number| self.address(number));
        self.client_with(ApiServerConfig {
            mode: None,
            addresses: others.collect(),
        })
        .await
    }

    pub async fn client_with(&self, config: ApiServerConfig) -> TestClient {
        self.client_at(&self.server(0).url(), config).await
    }

    /// A client with this URL in its kubeconfig.
    pub async fn client_at(&self, url: &str, config: ApiServerConfig) -> TestClient {
        let first = self.server(0);
        let kubeconfig = first.kubeconfig("admin", "default").replace(&first.url(), url);
        TestClient::of(&kubeconfig, config).await
    }

    /// The servers that received requests since the last call, in order.
    pub fn asked(&self) -> String {
        let requests = self.store.requests().all();
        self.store.requests().clear();
        requests.into_iter().map(|request| request.server).collect()
    }
}

/// A client of API servers, and its metrics.
pub struct TestClient {
    pub access: Access,
    pub kube: Client,
    pub metrics: Metrics,
}

impl TestClient {
    pub async fn of(kubeconfig: &str, config: ApiServerConfig) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("kubeconfig");
        std::fs::write(&file, kubeconfig).expect("a file");
        let metrics = Metrics::new("lease").expect("metrics");
        let access = Access::find(Some(&file), &config, metrics.clone()).await;
        let access = access.expect("a kubeconfig");
        let kube = access.client("test").expect("credentials");
        Self {
            access,
            kube,
            metrics,
        }
    }

    pub async fn get(&self) -> kube::Result<Service> {
        let services: Api<Service> = Api::default_namespaced(self.kube.clone());
        timeout(PATIENCE, services.get("kubernetes"))
            .await
            .expect("no timeout")
    }

    /// Sends two GETs. The server of the first one fails, and another server responds to the second one.
    pub async fn fail_over(&self) {
        self.get().await.expect_err("an error");
        self.get().await.expect("another server answers");
    }

    /// How often the client changed to another API server.
    pub fn changes(&self) -> Option<u32> {
        let text = self.metrics.render();
        let mut lines = text.lines();
        lines.find_map(|line| {
            line.strip_prefix("endpoint_copier_api_address_changes_total ")?
                .parse()
                .ok()
        })
    }
}

pub fn address(address: SocketAddr) -> ServerAddress {
    ServerAddress::new(&address.ip().to_string(), address.port())
}

/// An address that is in no certificate.
pub const NAMELESS: [u8; 4] = [127, 0, 0, 77];

/// A listener that accepts connections, as the kernel does for a stopped process, and never responds.
pub async fn silent() -> (TcpListener, ServerAddress) {
    let listener = TcpListener::bind("127.0.0.20:0").await.expect("a free port");
    let at = address(listener.local_addr().expect("an address"));
    (listener, at)
}

/// A proxy between a client and a server, which can delay and cut connections.
pub struct Relay {
    pub listening: Listening,
    cut: Arc<Notify>,
}

impl Relay {
    /// Starts a proxy that forwards each connection to this server after a pause.
    pub async fn to(server: &Serving, pause: Duration) -> Self {
        let to = server.address();
        let cut = Arc::<Notify>::default();
        let end = cut.clone();
        let listening = Listening::at(to.ip(), move |mut from| {
            let end = end.clone();
            async move {
                let relayed = async {
                    sleep(pause).await;
                    let mut to = TcpStream::connect(to).await?;
                    tokio::io::copy_bidirectional(&mut from, &mut to).await
                };
                tokio::select! {
                    _ = relayed => {}
                    () = end.notified() => {}
                }
            }
        });
        Self {
            listening: listening.await,
            cut,
        }
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }
}

/// A server that speaks HTTP/1.1 without TLS, as some proxies do.
pub async fn plain<S, B>(service: S) -> Listening
where
    S: tower::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<tower::BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<tower::BoxError>,
{
    Listening::at([127, 0, 0, 30].into(), move |stream| {
        let service = TowerToHyperService::new(service.clone());
        let http = hyper::server::conn::http1::Builder::new();
        // How a connection ends does not matter.
        http.serve_connection(TokioIo::new(stream), service).map(drop)
    })
    .await
}

/// A server that accepts this many requests on each connection and refuses all later requests on it, like a server that
/// asks clients to reconnect.
pub async fn refusing(tls: Arc<ServerConfig>, limit: usize) -> Listening {
    Listening::at([127, 0, 0, 5].into(), move |stream| {
        let tls = TlsAcceptor::from(tls.clone());
        async move {
            let stream = tls.accept(stream).await.expect("TLS");
            let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
            let mut left = limit;
            while let Some(Ok((_, mut answer))) = connection.accept().await {
                if left > 0 {
                    left -= 1;
                    answer
                        .send_response(Response::default(), true)
                        .expect("a sent response");
                } else {
                    answer.send_reset(h2::Reason::REFUSED_STREAM);
                }
            }
        }
    })
    .await
}

/// A configuration without addresses other than the URL in the kubeconfig.
pub fn one_address() -> ApiServerConfig {
    ApiServerConfig {
        mode: None,
        addresses: Vec::new(),
    }
}
