//! The certificates that a client in a Pod accepts.

use std::time::Duration;

use http::Request;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use testbed::Store;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A time limit that is much longer than a handshake.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on loopback whose certificate is signed by the cluster's CA, for the names given to [`Self::named`].
struct Proxy {
    store: Store,
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Proxy {
    async fn named(names: &[&str]) -> Self {
        let store = Store::new();
        Self {
            tls: store.proxy_tls(names).into(),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            store,
        }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Whether a client in a Pod trusts this server in one of the first `handshakes` handshakes. The client is
    /// configured with `url`, and also knows `address` if there is one.
    async fn is_trusted(&self, url: String, address: Option<ServerAddress>, handshakes: usize) -> bool {
        let mut config = Config::new(url.parse().unwrap());
        let authority = CertificateDer::from_pem_slice(self.store.ca_pem().as_bytes()).unwrap();
        config.root_cert = Some(vec![authority.to_vec()]);
        let api_server = ApiServerConfig {
            mode: Some(ApiServerMode::Cluster),
            addresses: address.into_iter().collect(),
        };
        let metrics = Metrics::new("lease").unwrap();
        let source = ConfigSource {
            kubeconfig: None,
            in_pod: true,
        };
        let access = Access::to(config, source, &api_server, metrics).unwrap();
        let client = access.client("test").unwrap();
        let request = Request::get("/livez").body(Body::empty()).unwrap();
        tokio::spawn(async move { client.send(request).await.map(drop) });
        for _ in 0..handshakes {
            let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
            if timeout(PATIENCE, self.tls.accept(stream)).await.unwrap().is_ok() {
                return true;
            }
        }
        false
    }
}

/// Rule: survive.api-proxy-in-pod
#[tokio::test]
async fn client_in_a_pod_accepts_the_configured_dns_name_of_a_proxy() {
    let proxy = Proxy::named(&["localhost"]).await;
    let url = format!("https://localhost:{}", proxy.port());
    assert!(proxy.is_trusted(url, None, 2).await);
}

/// Rule: survive.api-proxy-in-pod
#[tokio::test]
async fn name_of_a_proxy_is_accepted_only_at_its_configured_address() {
    let proxy = Proxy::named(&["localhost", "127.0.0.1"]).await;
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let other = ServerAddress::new("127.0.0.1", proxy.port());
    let url = format!("https://localhost:{}", dead.port());
    assert!(!proxy.is_trusted(url, Some(other), 1).await);
}

/// Rule: survive.api-proxy-in-pod
#[tokio::test]
async fn client_in_a_pod_accepts_the_api_name_at_every_address() {
    let server = Proxy::named(&[dial::KUBERNETES]).await;
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{}", server.port());
        assert!(server.is_trusted(url, None, 2).await, "{host}");
    }
}
