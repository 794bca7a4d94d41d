//! API servers on loopback, what stands in front of them, and the way of a client to them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use endpoint_copier_operator::cli::{ApiServerConfig, ServerAddress};
use endpoint_copier_operator::client::Access;
use endpoint_copier_operator::metrics::Metrics;
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use rustls::ServerConfig;
use testbed::{ApiServer, Serving, Store, builders};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Far more than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// API servers `a`, `b`, … on one store, at addresses of their own.
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
        self.serving[number].as_ref().expect("it runs")
    }

    pub fn kill(&mut self, number: usize) {
        self.serving[number] = None;
    }

    pub fn address(&self, number: usize) -> ServerAddress {
        address(self.server(number).address())
    }

    /// A way to the first server, with the others behind it.
    pub async fn access(&self) -> Way {
        let others = (1..self.serving.len()).map(|number| self.address(number));
        self.access_with(ApiServerConfig {
            mode: None,
            addresses: others.collect(),
        })
        .await
    }

    pub async fn access_with(&self, config: ApiServerConfig) -> Way {
        self.access_at(&self.server(0).url(), config).await
    }

    /// A way that is configured to begin at this URL.
    pub async fn access_at(&self, url: &str, config: ApiServerConfig) -> Way {
        let first = self.server(0);
        let kubeconfig = first.kubeconfig("admin", "default").replace(&first.url(), url);
        Way::of(&kubeconfig, config).await
    }

    /// The servers that were asked since the last time, in order.
    pub fn asked(&self) -> String {
        let requests = self.store.requests().all();
        self.store.requests().clear();
        requests.into_iter().map(|request| request.server).collect()
    }
}

pub struct Way {
    pub access: Access,
    pub client: Client,
    pub metrics: Metrics,
}

impl Way {
    pub async fn of(kubeconfig: &str, config: ApiServerConfig) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("kubeconfig");
        std::fs::write(&file, kubeconfig).expect("a file");
        let metrics = Metrics::new("lease").expect("metrics");
        let access = Access::find(Some(&file), &config, metrics.clone()).await;
        let access = access.expect("a kubeconfig");
        let client = access.client("test").expect("credentials");
        Self {
            access,
            client,
            metrics,
        }
    }

    pub async fn get(&self) -> kube::Result<Service> {
        let services: Api<Service> = Api::default_namespaced(self.client.clone());
        timeout(PATIENCE, services.get("kubernetes"))
            .await
            .expect("an end")
    }

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

/// An address that no certificate names.
pub const NAMELESS: [u8; 4] = [127, 0, 0, 77];

/// Something that accepts connections, as the kernel does for a stopped process, and never says a word.
pub async fn silent() -> (TcpListener, ServerAddress) {
    let listener = TcpListener::bind("127.0.0.20:0").await.expect("a free port");
    let at = address(listener.local_addr().expect("an address"));
    (listener, at)
}

/// What stands between a client and a server: it counts connections, may hold them up, and may cut them.
pub struct Relay {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    cut: Arc<Notify>,
    _task: JoinSet<()>,
}

impl Relay {
    /// Each connection is passed on after a pause.
    pub async fn to(server: &Serving, pause: Duration) -> Self {
        let to = server.address();
        let listener = TcpListener::bind((to.ip(), 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (accepted, cut) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
        let (count, end) = (accepted.clone(), cut.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let end = end.clone();
                connections.spawn(async move {
                    let relayed = async {
                        sleep(pause).await;
                        let mut to = TcpStream::connect(to).await?;
                        tokio::io::copy_bidirectional(&mut from, &mut to).await
                    };
                    tokio::select! {
                        _ = relayed => {}
                        () = end.notified() => {}
                    }
                });
            }
        });
        Self {
            address,
            accepted,
            cut,
            _task: task,
        }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// So many connections were made so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }
}

/// A server that speaks HTTP/1.1 without TLS, as some proxies do.
pub struct Plain {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Plain {
    pub async fn serve<S, B>(service: S) -> Self
    where
        S: tower::Service<Request<hyper::body::Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<tower::BoxError>,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<tower::BoxError>,
    {
        let listener = TcpListener::bind("127.0.0.30:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let accepted = Arc::<AtomicUsize>::default();
        let count = accepted.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let service = TowerToHyperService::new(service.clone());
                let http = hyper::server::conn::http1::Builder::new();
                connections.spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self {
            address,
            accepted,
            _task: task,
        }
    }

    pub fn server(&self) -> ServerAddress {
        address(self.address)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// So many connections were made so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// A server that takes so many requests on each connection and refuses the others, as one does that asks for another one.
pub struct Refusing {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Refusing {
    pub async fn serve(tls: Arc<ServerConfig>, takes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.5:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let accepted = Arc::<AtomicUsize>::default();
        let count = accepted.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let stream = TlsAcceptor::from(tls.clone()).accept(stream).await.expect("TLS");
                connections.spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                    let mut left = takes;
                    while let Some(Ok((_, mut answer))) = connection.accept().await {
                        if left > 0 {
                            left -= 1;
                            answer.send_response(Response::default(), true).expect("sent");
                        } else {
                            answer.send_reset(h2::Reason::REFUSED_STREAM);
                        }
                    }
                });
            }
        });
        Self {
            address,
            accepted,
            _task: task,
        }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// So many connections were made so far.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Nothing but the configured address.
pub fn alone() -> ApiServerConfig {
    ApiServerConfig {
        mode: None,
        addresses: Vec::new(),
    }
}
