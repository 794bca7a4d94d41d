//! Tests against servers on loopback that use the certificates of a cluster.

use std::collections::VecDeque;
use std::net::IpAddr;

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn as serve;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use testbed::Store;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A time limit that is much longer than any of these tests takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq)]
struct Received {
    path: String,
    token: Option<String>,
    agent: Option<String>,
    /// The number of the connection.
    connection: usize,
}

/// A server that gives the responses in `answers` (code and length of the body), one after the other, and then 200.
struct Server {
    target: Target,
    received: Arc<Mutex<Vec<Received>>>,
    answers: Arc<Mutex<VecDeque<(u16, usize)>>>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start(tls: Arc<ServerConfig>, ip: &str, port: u16) -> Self {
        let ip: IpAddr = ip.parse().unwrap();
        let listener = TcpListener::bind((ip, port)).await.unwrap();
        let target = Target::new(ip, listener.local_addr().unwrap().port());
        let (received, answers) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<Mutex<VecDeque<_>>>::default(),
        );
        let (log, script) = (received.clone(), answers.clone());
        let task = tokio::spawn(async move {
            let mut connection = 0;
            let mut serving = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                connection += 1;
                let (log, script) = (log.clone(), script.clone());
                let tls = TlsAcceptor::from(tls.clone());
                let answer = serve(move |request: Request<Incoming>| {
                    let header = |name| {
                        let value = request.headers().get(name);
                        value.map(|value: &HeaderValue| value.to_str().unwrap().to_owned())
                    };
                    log.lock().push(Received {
                        path: request.uri().to_string(),
                        token: header(header::AUTHORIZATION),
                        agent: header(header::USER_AGENT),
                        connection,
                    });
                    let (code, length) = script.lock().pop_front().unwrap_or((200, 2));
                    let mut answer = Response::new(Full::new(Bytes::from(vec![b'x'; length])));
                    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                serving.push(AbortOnDropHandle::new(tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else {
                        return;
                    };
                    let http = hyper::server::conn::http1::Builder::new();
                    _ = http.serve_connection(TokioIo::new(stream), answer).await;
                })));
            }
        });
        Self {
            target,
            received,
            answers,
            _task: AbortOnDropHandle::new(task),
        }
    }

    async fn on_loopback(store: &Store) -> Self {
        Self::start(store.proxy_tls(&[KUBERNETES]), "127.0.0.1", 0).await
    }

    fn then(&self, codes: &[u16]) {
        self.answers.lock().extend(codes.iter().map(|code| (*code, 2)));
    }
}

fn config(store: &Store, token: &str) -> Config {
    let mut config = Config::new("https://192.0.2.1:6443".parse().unwrap());
    let authority = CertificateDer::from_pem_slice(store.ca_pem().as_bytes()).unwrap();
    config.root_cert = Some(vec![authority.to_vec()]);
    config.auth_info.token = Some(token.to_owned().into());
    let agent = (header::USER_AGENT, HeaderValue::from_static("us"));
    config.headers.push(agent);
    config
}

fn client(config: Config) -> HttpsProbeClient {
    HttpsProbeClient::new(config, None).unwrap()
}

async fn probe(client: &HttpsProbeClient, target: Target) -> Reply {
    let probe = async {
        match client.connect(target).await {
            Ok(mut connection) => connection.get().await,
            Err(failure) => Reply::Failure(failure),
        }
    };
    timeout(PATIENCE, probe).await.expect("the probe has not ended")
}

/// Rule: 7.request
#[tokio::test]
async fn readyz_is_requested_with_our_token_on_one_connection() {
    let store = Store::new();
    let server = Server::on_loopback(&store).await;
    let client = client(config(&store, "secret"));
    let mut connection = client.connect(server.target).await.ok().unwrap();
    for _ in 0..2 {
        assert_eq!(connection.get().await, Reply::Success);
        assert!(!connection.is_closed());
    }
    let received = Received {
        path: "/readyz".to_owned(),
        token: Some("Bearer secret".to_owned()),
        agent: Some("us".to_owned()),
        connection: 1,
    };
    assert_eq!(*server.received.lock(), [received.clone(), received]);
}

/// Rule: 7.reply
#[tokio::test]
async fn each_status_code_becomes_the_right_reply() {
    let store = Store::new();
    let server = Server::on_loopback(&store).await;
    let client = client(config(&store, "secret"));
    for (code, expected) in [
        (204, Reply::Success),
        (403, Reply::Alive(403)),
        (429, Reply::Alive(429)),
        (302, Reply::Failure(Failure::Status(302))),
        (404, Reply::Failure(Failure::Status(404))),
        (500, Reply::Failure(Failure::Status(500))),
    ] {
        server.then(&[code]);
        assert_eq!(probe(&client, server.target).await, expected);
    }
}

/// Rule: 7.credentials-again
#[tokio::test]
async fn a_401_is_repeated_once_with_credentials_read_again() {
    let store = Store::new();
    let server = Server::on_loopback(&store).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "old").unwrap();
    let mut config = config(&store, "");
    config.auth_info.token = None;
    config.auth_info.token_file = Some(file.path().display().to_string());
    let client = client(config);
    assert_eq!(probe(&client, server.target).await, Reply::Success);
    std::fs::write(file.path(), "new").unwrap();
    tokio::time::sleep(REREAD_PAUSE).await;
    server.then(&[401]);
    assert_eq!(probe(&client, server.target).await, Reply::Success);
    server.then(&[401, 401]);
    assert_eq!(probe(&client, server.target).await, Reply::Alive(401));
    let tokens: Vec<_> = server
        .received
        .lock()
        .iter()
        .map(|received| received.token.clone().unwrap())
        .collect();
    assert_eq!(
        tokens,
        [
            "Bearer old",
            "Bearer old",
            "Bearer new",
            "Bearer new",
            "Bearer new"
        ]
    );
}

/// Rule: 7.credentials-again
#[tokio::test]
async fn a_ca_that_is_read_again_decides_on_a_certificate_error() {
    let (old, new) = (Store::new(), Store::new());
    let server = Server::on_loopback(&new).await;
    let folder = tempfile::tempdir().unwrap();
    let (ca, kubeconfig) = (folder.path().join("ca.crt"), folder.path().join("config"));
    std::fs::write(&ca, old.ca_pem()).unwrap();
    let text = testbed::kubeconfig("https://192.0.2.1:6443", old.ca_pem(), "secret", "default");
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["clusters"][0]["cluster"] = serde_json::json!({
        "server": "https://192.0.2.1:6443", "certificate-authority": ca,
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let source = ConfigSource {
        kubeconfig: Some(kubeconfig),
        in_pod: false,
    };
    let config = read(&source).await.unwrap();
    let client = HttpsProbeClient::new(config, Some(source)).unwrap();
    let refused = |reply| matches!(reply, Reply::Failure(Failure::Certificate(_)));
    assert!(refused(probe(&client, server.target).await));
    tokio::time::sleep(REREAD_PAUSE).await;
    assert!(
        refused(probe(&client, server.target).await),
        "the server was trusted although the CA has not changed"
    );
    std::fs::write(&ca, new.ca_pem()).unwrap();
    tokio::time::sleep(REREAD_PAUSE).await;
    assert_eq!(probe(&client, server.target).await, Reply::Success);
    assert_eq!(
        server.received.lock().len(),
        1,
        "a request was sent before the certificate was verified"
    );
}

/// Rule: 7.token
#[tokio::test]
async fn an_unknown_server_gets_no_token_even_with_tls_checks_off() {
    let store = Store::new();
    for tls in [
        Store::new().proxy_tls(&[KUBERNETES]),
        store.proxy_tls(&["kubernetes"]),
    ] {
        let server = Server::start(tls, "127.0.0.1", 0).await;
        let mut config = config(&store, "secret");
        config.accept_invalid_certs = true;
        let reply = probe(&client(config), server.target).await;
        assert!(
            matches!(reply, Reply::Failure(Failure::Certificate(_))),
            "{reply:?}"
        );
        assert_eq!(*server.received.lock(), []);
    }
}

/// Rule: 7.request
#[tokio::test]
async fn the_tls_server_name_of_a_kubeconfig_is_verified() {
    let store = Store::new();
    let server = Server::start(store.proxy_tls(&["api.example.com"]), "127.0.0.1", 0).await;
    let mut config = config(&store, "secret");
    config.tls_server_name = Some("api.example.com".to_owned());
    assert_eq!(probe(&client(config), server.target).await, Reply::Success);
}

/// Rule: 7.request
#[tokio::test]
async fn an_ipv6_address_is_dialed_as_it_is() {
    let store = Store::new();
    let server = Server::start(store.proxy_tls(&[KUBERNETES]), "::1", 0).await;
    let client = client(config(&store, "secret"));
    assert_eq!(probe(&client, server.target).await, Reply::Success);
}

/// Rule: 7.request, 7.token
#[tokio::test]
async fn the_supervisor_is_pinged_without_credentials() {
    let store = Store::new();
    // No other test listens on this address.
    let tls = store.proxy_tls(&[KUBERNETES]);
    let server = Server::start(tls, "127.0.0.93", SUPERVISOR_PORT).await;
    server.then(&[401]);
    let reply = probe(&client(config(&store, "secret")), server.target).await;
    assert_eq!(reply, Reply::Alive(401));
    let received = Received {
        path: "/ping".to_owned(),
        token: None,
        agent: Some("us".to_owned()),
        connection: 1,
    };
    assert_eq!(*server.received.lock(), [received]);
}

/// Rule: 7.body-limit
#[tokio::test]
async fn a_long_answer_is_not_read_to_its_end() {
    let store = Store::new();
    let server = Server::on_loopback(&store).await;
    server.answers.lock().push_back((200, 64 << 20));
    let client = client(config(&store, "secret"));
    let mut connection = client.connect(server.target).await.ok().unwrap();
    assert_eq!(connection.get().await, Reply::Success);
    timeout(PATIENCE, connection.closed())
        .await
        .expect("the connection is still open");
    assert!(connection.is_closed());
}

/// Rule: 7.reply
#[tokio::test]
async fn a_port_without_a_listener_refuses() {
    let store = Store::new();
    let target = Server::on_loopback(&store).await.target;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let reply = probe(&client(config(&store, "secret")), target).await;
    assert_eq!(reply, Reply::Failure(Failure::Refused));
}

/// Rule: 7.kept-connection
#[tokio::test]
async fn a_server_that_ends_is_noticed_on_an_idle_connection() {
    let store = Store::new();
    let server = Server::on_loopback(&store).await;
    let client = client(config(&store, "secret"));
    let mut connection = client.connect(server.target).await.ok().unwrap();
    assert_eq!(connection.get().await, Reply::Success);
    drop(server);
    timeout(PATIENCE, connection.closed())
        .await
        .expect("the connection is still open");
    assert_eq!(connection.get().await, Reply::Failure(Failure::Reset));
}

/// Rule: 7.reply
#[tokio::test]
async fn a_connection_that_is_cut_off_in_the_handshake_is_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::new([127, 0, 0, 1].into(), listener.local_addr().unwrap().port());
    let cut = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        _ = stream.shutdown().await;
    });
    let store = Store::new();
    let reply = probe(&client(config(&store, "secret")), target).await;
    assert_eq!(reply, Reply::Failure(Failure::Reset));
    cut.await.unwrap();
}
