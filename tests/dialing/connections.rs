//! How many connections there are, who waits for one, and what leaves on it.

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

use crate::servers::{PATIENCE, Relay, Servers, Way, alone, plain, refusing, silent};

async fn twenty(way: &Way) -> usize {
    let answers = join_all((0..20).map(|_| way.get())).await;
    answers.iter().filter(|answer| answer.is_ok()).count()
}

#[tokio::test]
async fn twenty_requests_at_once_make_one_connection_also_after_it_was_lost() {
    let servers = Servers::start(1).await;
    let relay = Relay::to(servers.server(0), Duration::ZERO).await;
    let way = servers.access_at(&relay.listening.url("https"), alone()).await;
    assert_eq!(twenty(&way).await, 20);
    assert_eq!(relay.listening.accepted(), 1);
    for lost in 1..=3 {
        let watch = Api::<Service>::default_namespaced(way.client.clone());
        let watch = watch.watch(&WatchParams::default(), "0").await.expect("a watch");
        let mut watch = pin!(watch);
        relay.cut();
        while let Some(Ok(_)) = timeout(PATIENCE, watch.next()).await.expect("its end") {}
        assert_eq!(twenty(&way).await, 20);
        assert_eq!(relay.listening.accepted(), 1 + lost);
    }
    assert_eq!(way.changes(), Some(0));
}

#[tokio::test]
async fn a_dial_goes_on_when_the_one_who_began_it_gives_up() {
    let servers = Servers::start(1).await;
    let (listener, dead) = silent().await;
    let config = ApiServerConfig {
        mode: Some(ApiServerMode::Local(dead)),
        addresses: Vec::new(),
    };
    let way = servers.access_with(config).await;
    assert!(timeout(Duration::from_millis(100), way.get()).await.is_err());
    way.get().await.expect("an answer");
    listener.accept().await.expect("the dial that was begun");
    let another = timeout(Duration::from_millis(200), listener.accept()).await;
    assert!(another.is_err(), "the dead address was dialed again");
}

#[tokio::test]
async fn a_request_whose_moment_has_passed_when_the_connection_is_there_is_not_sent() {
    let servers = Servers::start(1).await;
    let relay = Relay::to(servers.server(0), Duration::from_millis(500)).await;
    let way = servers.access_at(&relay.listening.url("https"), alone()).await;
    for (left, is_sent) in [(200, false), (10_000, true)] {
        let mut request = Request::get("/api/v1/services")
            .body(Body::empty())
            .expect("a request");
        let moment = tokio::time::Instant::now() + Duration::from_millis(left);
        request.extensions_mut().insert(SendDeadline(moment));
        let answer = timeout(PATIENCE, way.client.send(request)).await.expect("an end");
        let is_late = |error: &_| matches!(error, kube::Error::Service(error) if error.is::<TooLate>());
        assert_eq!(answer.is_ok(), is_sent);
        assert_eq!(answer.as_ref().is_err_and(is_late), !is_sent);
        assert_eq!(servers.asked(), if is_sent { "a" } else { "" });
    }
}

#[tokio::test]
async fn with_http_1_each_request_has_a_connection_for_itself_and_one_is_used_again() {
    let servers = Servers::start(1).await;
    let plain = plain(servers.server(0).server().clone()).await;
    let way = servers.access_at(&plain.url("http"), alone()).await;
    for _ in 0..5 {
        way.get().await.expect("an answer");
    }
    assert_eq!(plain.accepted(), 1);
    let watch = Api::<Service>::default_namespaced(way.client.clone());
    let watch = watch.watch(&WatchParams::default(), "0").await.expect("a watch");
    let mut watch = pin!(watch);
    for _ in 0..5 {
        way.get().await.expect("an answer");
    }
    assert_eq!(plain.accepted(), 2);
    timeout(PATIENCE, watch.next())
        .await
        .expect("an event")
        .expect("an event")
        .expect("the Service");
    assert_eq!(twenty(&way).await, 20);
    // The burst does not last.
    sleep(Duration::from_millis(50)).await;
    let (start, before) = (Instant::now(), plain.accepted());
    way.get().await.expect("an answer");
    assert!(start.elapsed() < Duration::from_secs(1) && plain.accepted() <= before + 1);
}

/// A way to a server that takes so many requests on each connection, with `b` behind it.
async fn first_refusing(takes: usize) -> (Servers, Listening, Way) {
    let servers = Servers::start(2).await;
    let refusing = refusing(servers.store.server_tls(), takes).await;
    let another = ApiServerConfig {
        addresses: vec![servers.address(1)],
        ..alone()
    };
    let way = servers.access_at(&refusing.url("https"), another).await;
    (servers, refusing, way)
}

#[tokio::test]
async fn what_a_server_did_not_take_goes_to_it_on_another_connection() {
    let (servers, refusing, way) = first_refusing(1).await;
    for taken in 1..=10 {
        let request = Request::get("/livez").body(Body::empty()).expect("a request");
        assert_eq!(way.client.send(request).await.expect("an answer").status(), 200);
        assert_eq!(refusing.accepted(), taken);
    }
    assert_eq!(servers.asked(), "", "nothing speaks against the first one");
    assert_eq!(way.changes(), Some(0));
}

#[tokio::test]
async fn a_server_that_never_takes_anything_is_left_for_another() {
    let (servers, refusing, way) = first_refusing(0).await;
    assert!(way.get().await.is_err());
    assert_eq!(refusing.accepted(), 4, "it was asked again");
    assert!(way.get().await.is_ok());
    assert_eq!(servers.asked(), "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_sends_clients_away_now_and_then_answers_each_request_on_api_server() {
    if testbed::real::assets().is_none() {
        return;
    }
    let cluster = RealCluster::start_with(1, &["--goaway-chance=0.02"])
        .await
        .expect("etcd and kube-apiserver");
    let way = Way::of(&cluster.kubeconfig(0, "default"), alone()).await;
    // It makes the Service that is asked for when it is ready.
    timeout(PATIENCE, async {
        while way.get().await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("a Service");
    for _ in 0..500 {
        assert_eq!(twenty(&way).await, 20);
    }
}
