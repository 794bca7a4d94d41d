//! Which API server a client uses while API servers freeze, die and fail: over TCP and TLS, in real time.

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
mod left;
mod servers;
mod slow;

#[tokio::test]
async fn the_configured_address_is_first_on_one_connection() {
    let servers = Servers::start(2).await;
    let way = servers.access().await;
    for _ in 0..5 {
        way.get().await.expect("an answer");
    }
    assert_eq!(servers.asked(), "aaaaa");
    assert_eq!(way.changes(), Some(0));
}

#[tokio::test]
async fn a_request_after_a_server_is_killed_goes_to_another() {
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
async fn a_silent_address_barely_delays_the_first_request() {
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
async fn a_tls_dial_is_limited_to_1500_ms() {
    let mut servers = Servers::start(1).await;
    let at = servers.server(0).address();
    let way = servers.access().await;
    servers.serving.pop().flatten().expect("it runs").shutdown().await;
    let _listener = TcpListener::bind(at).await.expect("the port that was left");
    let start = Instant::now();
    let error = way.get().await.expect_err("no server speaks TLS");
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
    let way = servers.access().await;
    let addresses = [servers.address(0).to_string(), servers.address(1).to_string()];
    servers.kill(0);
    servers.kill(1);
    let text = format!("{:?}", way.get().await.expect_err("no server is there"));
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
        let way = servers.access_with(config).await;
        let ServerAddress { host, port } = servers.address(1);
        if way.access.learns() {
            way.access
                .learn_from(move || [[(host.clone(), port)].into(), [].into()]);
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
async fn every_address_needs_a_certificate_of_the_cluster_ca() {
    let mut servers = Servers::start(1).await;
    let strangers = Servers::start(1).await;
    let config = ApiServerConfig {
        mode: Some(ApiServerMode::Local(strangers.address(0))),
        addresses: vec![strangers.address(0)],
    };
    let way = servers.access_with(config).await;
    way.get().await.expect("an answer");
    servers.kill(0);
    way.get().await.expect_err("no server of this cluster is there");
    way.get().await.expect_err("no server of this cluster is there");
    assert_eq!(strangers.asked(), "");
}

#[tokio::test]
async fn a_discovered_address_is_verified_by_the_cluster_name() {
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
