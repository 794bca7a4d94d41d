//! Which API server a client talks to while API servers freeze, die and fall ill: over TCP and TLS, in real time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use endpoint_copier_operator::cli::{ApiServerConfig, ApiServerMode, ServerAddress};
use endpoint_copier_operator::client::Access;
use endpoint_copier_operator::metrics::Metrics;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::api::WatchParams;
use kube::{Api, Client};
use testbed::{ApiServer, Effect, Fault, Match, Serving, Store, builders};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// API servers `a`, `b`, … on one store, at addresses of their own.
struct Servers {
    store: Store,
    serving: Vec<Option<Serving>>,
}

impl Servers {
    async fn start(count: u8) -> Self {
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

    fn server(&self, number: usize) -> &Serving {
        self.serving[number].as_ref().expect("it runs")
    }

    fn kill(&mut self, number: usize) {
        self.serving[number] = None;
    }

    fn address(&self, number: usize) -> ServerAddress {
        address(self.server(number).address())
    }

    /// A way to the first server, with the others behind it.
    async fn access(&self) -> Way {
        let others = (1..self.serving.len()).map(|number| self.address(number));
        self.access_with(ApiServerConfig {
            mode: None,
            addresses: others.collect(),
        })
        .await
    }

    async fn access_with(&self, config: ApiServerConfig) -> Way {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("kubeconfig");
        let first = self.server(0);
        first.write_kubeconfig(&file, "admin", "default").expect("a file");
        let metrics = Metrics::new("lease").expect("metrics");
        let access = Access::find(Some(&file), &config, metrics.clone()).await;
        let access = access.expect("a kubeconfig");
        let client = access.client("test").expect("credentials");
        Way {
            access,
            client,
            metrics,
        }
    }

    /// The servers that were asked since the last time, in order.
    fn asked(&self) -> String {
        let requests = self.store.requests().all();
        self.store.requests().clear();
        requests.into_iter().map(|request| request.server).collect()
    }
}

struct Way {
    access: Access,
    client: Client,
    metrics: Metrics,
}

impl Way {
    async fn get(&self) -> kube::Result<Service> {
        let services: Api<Service> = Api::default_namespaced(self.client.clone());
        timeout(PATIENCE, services.get("kubernetes"))
            .await
            .expect("an end")
    }

    fn changes(&self) -> Option<u32> {
        let text = self.metrics.render();
        let mut lines = text.lines();
        lines.find_map(|line| {
            line.strip_prefix("endpoint_copier_api_address_changes_total ")?
                .parse()
                .ok()
        })
    }
}

fn address(address: SocketAddr) -> ServerAddress {
    ServerAddress::new(&address.ip().to_string(), address.port())
}

/// An address that no certificate names.
const NAMELESS: [u8; 4] = [127, 0, 0, 77];

/// Something that accepts connections, as the kernel does for a stopped process, and never says a word.
async fn silent() -> (TcpListener, ServerAddress) {
    let listener = TcpListener::bind("127.0.0.20:0").await.expect("a free port");
    let at = address(listener.local_addr().expect("an address"));
    (listener, at)
}

#[tokio::test]
async fn the_configured_address_comes_first_and_one_connection_serves_all() {
    let servers = Servers::start(2).await;
    let way = servers.access().await;
    for _ in 0..5 {
        way.get().await.expect("an answer");
    }
    assert_eq!(servers.asked(), "aaaaa");
    assert_eq!(way.changes(), Some(0));
}

#[tokio::test]
async fn after_a_server_is_killed_the_next_request_goes_to_another() {
    let mut servers = Servers::start(2).await;
    let way = servers.access().await;
    way.get().await.expect("an answer");
    servers.kill(0);
    let start = Instant::now();
    // One request may meet the end of the old connection.
    if way.get().await.is_err() {
        way.get().await.expect("the other answers");
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(servers.asked(), "ab");
    assert_eq!(way.changes(), Some(1));
}

#[tokio::test]
async fn a_frozen_server_is_noticed_by_pings_and_left() {
    let servers = Servers::start(2).await;
    let way = servers.access().await;
    let services: Api<Service> = Api::default_namespaced(way.client.clone());
    let watch = services
        .watch(&WatchParams::default(), "0")
        .await
        .expect("a watch");
    let mut watch = std::pin::pin!(watch);
    watch.next().await.expect("an event").expect("the Service");
    servers.server(0).freeze();
    let start = Instant::now();
    while let Some(Ok(_)) = timeout(PATIENCE, watch.next())
        .await
        .expect("the end of the watch")
    {}
    way.get().await.expect("the other answers");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(servers.asked(), "ab");
}

#[tokio::test]
async fn a_request_that_is_given_up_without_an_answer_takes_its_server_with_it() {
    let servers = Servers::start(2).await;
    let way = servers.access().await;
    way.get().await.expect("an answer");
    let hang = Fault::new(Match::any().verb("get"), Effect::Hang).times(1);
    servers.server(0).server().faults().add(hang);
    let given_up = timeout(Duration::from_millis(700), way.get()).await;
    assert!(given_up.is_err());
    way.get().await.expect("the other answers");
    assert_eq!(servers.asked(), "aab");
}

#[tokio::test]
async fn a_request_that_is_given_up_at_once_says_nothing_about_its_server() {
    let servers = Servers::start(2).await;
    let way = servers.access().await;
    way.get().await.expect("an answer");
    let hang = Fault::new(Match::any().verb("get"), Effect::Hang).times(1);
    servers.server(0).server().faults().add(hang);
    assert!(timeout(Duration::from_millis(50), way.get()).await.is_err());
    way.get().await.expect("an answer");
    assert_eq!(servers.asked(), "aaa");
}

#[tokio::test]
async fn a_server_that_answers_500_is_left_while_there_is_another_and_not_for_429_or_404() {
    let servers = Servers::start(2).await;
    let way = servers.access().await;
    let faults = |number: usize| servers.server(number).server().faults();
    for code in [429, 404, 503] {
        faults(0).add(Fault::status(Match::any().verb("get"), code).times(1));
        way.get().await.expect_err("an error");
    }
    way.get().await.expect("the other answers");
    assert_eq!(servers.asked(), "aaab");
    // With nowhere better to go, one stays: a cluster without etcd is not helped by new connections.
    faults(1).add(Fault::status(Match::any().verb("get"), 503).times(3));
    for _ in 0..3 {
        way.get().await.expect_err("an error");
    }
    way.get().await.expect("an answer");
    assert_eq!(servers.asked(), "bbbb");
    assert_eq!(way.changes(), Some(1));
}

#[tokio::test]
async fn an_address_that_accepts_and_says_nothing_delays_the_first_request_by_little() {
    let servers = Servers::start(1).await;
    let (_listener, dead) = silent().await;
    let config = ApiServerConfig {
        mode: Some(ApiServerMode::Local(dead)),
        addresses: Vec::new(),
    };
    let way = servers.access_with(config).await;
    let start = Instant::now();
    way.get().await.expect("an answer");
    assert!(
        start.elapsed() < Duration::from_millis(1200),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_dial_with_tls_is_done_within_a_second_and_a_half_or_given_up() {
    let mut servers = Servers::start(1).await;
    let at = servers.server(0).address();
    let way = servers.access().await;
    servers.serving.pop().flatten().expect("it runs").shutdown().await;
    let _listener = TcpListener::bind(at).await.expect("the port that was left");
    let start = Instant::now();
    let error = way.get().await.expect_err("nobody speaks TLS");
    let took = start.elapsed();
    assert!(
        (Duration::from_millis(1400)..Duration::from_secs(3)).contains(&took),
        "{took:?}"
    );
    let text = format!("{error:?}");
    assert!(
        text.contains(&at.to_string()) && text.contains("1500 ms"),
        "{text}"
    );
}

#[tokio::test]
async fn when_none_can_be_reached_the_error_names_each_address() {
    let mut servers = Servers::start(2).await;
    let way = servers.access().await;
    let addresses = [servers.address(0).to_string(), servers.address(1).to_string()];
    servers.kill(0);
    servers.kill(1);
    let text = format!("{:?}", way.get().await.expect_err("nobody is there"));
    assert!(addresses.iter().all(|address| text.contains(address)), "{text}");
}

#[tokio::test]
async fn mode_auto_goes_to_the_addresses_that_the_cluster_names_and_mode_cluster_does_not() {
    for (mode, wanted) in [(ApiServerMode::Auto, true), (ApiServerMode::Cluster, false)] {
        let mut servers = Servers::start(2).await;
        let config = ApiServerConfig {
            mode: Some(mode),
            addresses: Vec::new(),
        };
        let way = servers.access_with(config).await;
        let ServerAddress { host, port } = servers.address(1);
        if way.access.learns() {
            way.access.learn_from(move || [(host.clone(), port)].into());
        }
        way.get().await.expect("an answer");
        servers.kill(0);
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(way.get().await.is_ok());
        }
        assert_eq!(answers.ends_with(&[true]), wanted, "{answers:?}");
    }
}

#[tokio::test]
async fn every_address_must_show_a_certificate_of_the_clusters_authority() {
    let mut servers = Servers::start(1).await;
    let strangers = Servers::start(1).await;
    let config = ApiServerConfig {
        mode: Some(ApiServerMode::Local(strangers.address(0))),
        addresses: vec![strangers.address(0)],
    };
    let way = servers.access_with(config).await;
    way.get().await.expect("an answer");
    servers.kill(0);
    way.get().await.expect_err("nobody of this cluster is there");
    way.get().await.expect_err("nobody of this cluster is there");
    assert_eq!(strangers.asked(), "");
}

#[tokio::test]
async fn an_address_behind_the_configured_one_is_known_by_the_name_of_the_cluster() {
    let mut servers = Servers::start(1).await;
    let nameless = ApiServer::named(&servers.store, "b")
        .serve((NAMELESS, 0).into())
        .await;
    servers.serving.push(Some(nameless.expect("a free port")));
    let way = servers.access().await;
    servers.kill(0);
    way.get().await.expect("an answer");
    assert_eq!(servers.asked(), "b");
}

#[tokio::test]
async fn the_clock_skew_is_taken_from_the_servers_answers() {
    let servers = Servers::start(1).await;
    let way = servers.access().await;
    assert!(
        way.metrics
            .render()
            .contains("endpoint_copier_clock_skew_seconds NaN")
    );
    way.get().await.expect("an answer");
    assert!(
        way.metrics
            .render()
            .contains("endpoint_copier_clock_skew_seconds 0\n")
    );
}
