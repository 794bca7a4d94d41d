//! The number of connections, the requests that wait for a connection, and the requests that are sent on one.

use std::pin::pin;
use std::time::{Duration, Instant};

use endpoint_copier_operator::apiserver::{SendDeadline, TooLate};
use endpoint_copier_operator::config::{ApiServerConfig, ApiServerMode};
use futures::StreamExt as _;
use futures::future::join_all;
use http::Request;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::WatchParams;
use kube::client::Body;
use testbed::real::RealCluster;
use tokio::time::{sleep, timeout};

use harness::Listening;

use crate::servers::{PATIENCE, Relay, Servers, TestClient, one_address, plain, refusing, silent};

/// Sends twenty requests at the same time, and returns how many succeeded.
async fn send_twenty(client: &TestClient) -> usize {
    let responses = join_all((0..20).map(|_| client.get())).await;
    responses.iter().filter(|response| response.is_ok()).count()
}

#[tokio::test]
async fn twenty_requests_share_one_connection_even_after_a_loss() {
    let servers = Servers::start(1).await;
    let relay = Relay::to(servers.server(0), Duration::ZERO).await;
    let client = servers
        .client_at(&relay.listening.url("https"), one_address())
        .await;
    assert_eq!(send_twenty(&client).await, 20);
    assert_eq!(relay.listening.accepted(), 1);
    for lost in 1..=3 {
        let watch = Api::<Service>::default_namespaced(client.kube.clone());
        let watch = watch.watch(&WatchParams::default(), "0").await.expect("a watch");
        let mut watch = pin!(watch);
        relay.cut();
        while let Some(Ok(_)) = timeout(PATIENCE, watch.next())
            .await
            .expect("the end of the watch")
        {}
        assert_eq!(send_twenty(&client).await, 20);
        assert_eq!(relay.listening.accepted(), 1 + lost);
    }
    assert_eq!(client.changes(), Some(0));
}

#[tokio::test]
async fn a_dial_continues_after_its_first_request_is_dropped() {
    let servers = Servers::start(1).await;
    let (listener, dead) = silent().await;
    let config = ApiServerConfig {
        mode: Some(ApiServerMode::Local(dead)),
        addresses: Vec::new(),
    };
    let client = servers.client_with(config).await;
    assert!(timeout(Duration::from_millis(100), client.get()).await.is_err());
    client.get().await.expect("a response");
    listener.accept().await.expect("the dial of the dropped request");
    let another = timeout(Duration::from_millis(200), listener.accept()).await;
    assert!(another.is_err(), "the dead address was dialed again");
}

#[tokio::test]
async fn a_request_past_its_deadline_is_not_sent() {
    let servers = Servers::start(1).await;
    let relay = Relay::to(servers.server(0), Duration::from_millis(500)).await;
    let client = servers
        .client_at(&relay.listening.url("https"), one_address())
        .await;
    for (millis, is_sent) in [(200, false), (10_000, true)] {
        let mut request = Request::get("/api/v1/services")
            .body(Body::empty())
            .expect("a request");
        let moment = tokio::time::Instant::now() + Duration::from_millis(millis);
        request.extensions_mut().insert(SendDeadline(moment));
        let response = timeout(PATIENCE, client.kube.send(request))
            .await
            .expect("a response or an error");
        let is_late = |error: &_| matches!(error, kube::Error::Service(error) if error.is::<TooLate>());
        assert_eq!(response.is_ok(), is_sent);
        assert_eq!(response.as_ref().is_err_and(is_late), !is_sent);
        assert_eq!(servers.asked(), if is_sent { "a" } else { "" });
    }
}

#[tokio::test]
async fn http_1_requests_use_separate_reusable_connections() {
    let servers = Servers::start(1).await;
    let plain = plain(servers.server(0).server().clone()).await;
    let client = servers.client_at(&plain.url("http"), one_address()).await;
    for _ in 0..5 {
        client.get().await.expect("a response");
    }
    assert_eq!(plain.accepted(), 1);
    let watch = Api::<Service>::default_namespaced(client.kube.clone());
    let watch = watch.watch(&WatchParams::default(), "0").await.expect("a watch");
    let mut watch = pin!(watch);
    for _ in 0..5 {
        client.get().await.expect("a response");
    }
    assert_eq!(plain.accepted(), 2);
    timeout(PATIENCE, watch.next())
        .await
        .expect("an event")
        .expect("an event")
        .expect("the Service");
    assert_eq!(send_twenty(&client).await, 20);
    // By the end of this pause, the burst is over.
    sleep(Duration::from_millis(50)).await;
    let (start, before) = (Instant::now(), plain.accepted());
    client.get().await.expect("a response");
    assert!(start.elapsed() < Duration::from_secs(1) && plain.accepted() <= before + 1);
}

/// A client whose first server accepts only this many requests on each connection, and whose second server is `b`.
async fn first_refusing(limit: usize) -> (Servers, Listening, TestClient) {
    let servers = Servers::start(2).await;
    let refusing = refusing(servers.store.server_tls(), limit).await;
    let another = ApiServerConfig {
        addresses: vec![servers.address(1)],
        ..one_address()
    };
    let client = servers.client_at(&refusing.url("https"), another).await;
    (servers, refusing, client)
}

#[tokio::test]
async fn a_refused_request_is_sent_again_on_another_connection() {
    let (servers, refusing, client) = first_refusing(1).await;
    for taken in 1..=10 {
        let request = Request::get("/livez").body(Body::empty()).expect("a request");
        assert_eq!(client.kube.send(request).await.expect("a response").status(), 200);
        assert_eq!(refusing.accepted(), taken);
    }
    assert_eq!(servers.asked(), "", "the client left the first server");
    assert_eq!(client.changes(), Some(0));
}

#[tokio::test]
async fn a_client_leaves_a_server_that_refuses_all_streams() {
    let (servers, refusing, client) = first_refusing(0).await;
    assert!(client.get().await.is_err());
    assert_eq!(
        refusing.accepted(),
        4,
        "the request was not tried on four connections"
    );
    assert!(client.get().await.is_ok());
    assert_eq!(servers.asked(), "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_because_of_goaway_on_api_server() {
    if testbed::real::assets().is_none() {
        println!("skipped: needs KUBEBUILDER_ASSETS");
        return;
    }
    let cluster = RealCluster::start_with(1, &["--goaway-chance=0.02"])
        .await
        .expect("etcd and kube-apiserver");
    let client = TestClient::of(&cluster.kubeconfig(0, "default"), one_address()).await;
    // The server creates the requested Service when it is ready.
    timeout(PATIENCE, async {
        while client.get().await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("a Service");
    for _ in 0..500 {
        assert_eq!(send_twenty(&client).await, 20);
    }
}
