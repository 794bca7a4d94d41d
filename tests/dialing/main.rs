//! The API server that a client uses while API servers freeze, die and fail. The tests use TCP, TLS and real time.

use std::time::{Duration, Instant};

use endpoint_copier_operator::config::{ApiServerConfig, ApiServerMode, ServerAddress};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::WatchParams;
use testbed::ApiServer;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::servers::{NAMELESS, PATIENCE, Servers, silent};

mod connections;
mod endless;
mod leaving;
mod servers;
mod slow;

#[tokio::test]
async fn requests_share_one_connection_to_the_configured_address() {
    let servers = Servers::start(2).await;
    let client = servers.client().await;
    for _ in 0..5 {
        client.get().await.expect("an answer");
    }
    assert_eq!(servers.asked(), "aaaaa");
    assert_eq!(client.changes(), Some(0));
}

#[tokio::test]
async fn a_request_after_a_server_is_killed_goes_to_another() {
    let mut servers = Servers::start(2).await;
    let client = servers.client().await;
    client.get().await.expect("an answer");
    servers.kill(0);
    let start = Instant::now();
    // One request can fail together with the old connection.
    if client.get().await.is_err() {
        client.get().await.expect("the other server answers");
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(servers.asked(), "ab");
    assert_eq!(client.changes(), Some(1));
}

#[tokio::test]
async fn pings_detect_a_frozen_server_and_the_client_leaves_it() {
    let servers = Servers::start(2).await;
    let client = servers.client().await;
    let services: Api<Service> = Api::default_namespaced(client.kube.clone());
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
    client.get().await.expect("the other server answers");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(servers.asked(), "ab");
}

#[tokio::test]
async fn a_silent_address_barely_delays_the_first_request() {
    let servers = Servers::start(1).await;
    let (_listener, dead) = silent().await;
    let config = ApiServerConfig {
        mode: Some(ApiServerMode::Local(dead)),
        addresses: Vec::new(),
    };
    let client = servers.client_with(config).await;
    let start = Instant::now();
    client.get().await.expect("an answer");
    assert!(
        start.elapsed() < Duration::from_millis(1200),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_tls_dial_is_limited_to_1500_ms() {
    let mut servers = Servers::start(1).await;
    let at = servers.server(0).address();
    let client = servers.client().await;
    servers
        .serving
        .pop()
        .flatten()
        .expect("a running server")
        .shutdown()
        .await;
    let _listener = TcpListener::bind(at)
        .await
        .expect("the port of the stopped server");
    let start = Instant::now();
    let error = client.get().await.expect_err("no server speaks TLS");
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
async fn the_error_names_each_unreachable_address() {
    let mut servers = Servers::start(2).await;
    let client = servers.client().await;
    let addresses = [servers.address(0).to_string(), servers.address(1).to_string()];
    servers.kill(0);
    servers.kill(1);
    let text = format!("{:?}", client.get().await.expect_err("no server runs"));
    assert!(addresses.iter().all(|address| text.contains(address)), "{text}");
}

#[tokio::test]
async fn only_mode_auto_uses_discovered_addresses() {
    for (mode, wanted) in [(ApiServerMode::Auto, true), (ApiServerMode::Cluster, false)] {
        let mut servers = Servers::start(2).await;
        let config = ApiServerConfig {
            mode: Some(mode),
            addresses: Vec::new(),
        };
        let client = servers.client_with(config).await;
        let ServerAddress { host, port } = servers.address(1);
        if client.access.learns() {
            client
                .access
                .learn_from(move || [[(host.clone(), port)].into(), [].into()]);
        }
        client.get().await.expect("an answer");
        servers.kill(0);
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(client.get().await.is_ok());
        }
        assert_eq!(answers.ends_with(&[true]), wanted, "{answers:?}");
    }
}

#[tokio::test]
async fn every_address_needs_a_certificate_of_the_cluster_ca() {
    let mut servers = Servers::start(1).await;
    let strangers = Servers::start(1).await;
    let config = ApiServerConfig {
        mode: Some(ApiServerMode::Local(strangers.address(0))),
        addresses: vec![strangers.address(0)],
    };
    let client = servers.client_with(config).await;
    client.get().await.expect("an answer");
    servers.kill(0);
    client.get().await.expect_err("no server of this cluster listens");
    client.get().await.expect_err("no server of this cluster listens");
    assert_eq!(strangers.asked(), "");
}

#[tokio::test]
async fn an_additional_address_is_verified_by_the_cluster_name() {
    let mut servers = Servers::start(1).await;
    let nameless = ApiServer::named(&servers.store, "b")
        .serve((NAMELESS, 0).into())
        .await;
    servers.serving.push(Some(nameless.expect("a free port")));
    let client = servers.client().await;
    servers.kill(0);
    client.get().await.expect("an answer");
    assert_eq!(servers.asked(), "b");
}

#[tokio::test]
async fn the_clock_skew_is_taken_from_the_servers_answers() {
    let servers = Servers::start(1).await;
    let client = servers.client().await;
    assert!(
        client
            .metrics
            .render()
            .contains("endpoint_copier_clock_skew_seconds NaN")
    );
    client.get().await.expect("an answer");
    assert!(
        client
            .metrics
            .render()
            .contains("endpoint_copier_clock_skew_seconds 0\n")
    );
}
