//! Events that make a client leave an API server, and events that do not.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use endpoint_copier_core::verdicts::Unhealthy;
use endpoint_copier_operator::apiserver::{Avoid, Hedging, Server};
use endpoint_copier_operator::config::{ApiServerConfig, ApiServerMode, ServerAddress};
use futures::{StreamExt as _, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, WatchParams};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::json;
use testbed::{Effect, Ending, Fault, Match};
use tokio::time::{sleep, timeout};
use tower::service_fn;

use crate::servers::{PATIENCE, Servers, TestClient, address, plain, silent};

/// What probes report if only this server is unhealthy.
fn only(servers: &Servers, server: usize, why: Unhealthy) -> BTreeMap<ServerAddress, Unhealthy> {
    [(servers.address(server), why)].into()
}

#[tokio::test]
async fn an_unanswered_request_makes_a_client_leave_the_server() {
    let servers = Servers::start(2).await;
    let client = servers.client().await;
    client.get().await.expect("an answer");
    let hang = Fault::new(Match::any().verb("get"), Effect::Hang).times(1);
    servers.server(0).server().faults().add(hang);
    let given_up = timeout(Duration::from_millis(700), client.get()).await;
    assert!(given_up.is_err());
    client.get().await.expect("the other server answers");
    assert_eq!(servers.asked(), "aab");
}

#[tokio::test]
async fn a_client_leaves_a_server_that_failed_for_another_client() {
    let servers = Servers::start(2).await;
    let client = servers.client().await;
    let other = client.access.client("other").expect("credentials");
    client.get().await.expect("an answer");
    let hang = Fault::new(Match::any().verb("get"), Effect::Hang).times(1);
    servers.server(0).server().faults().add(hang);
    let services: Api<Service> = Api::default_namespaced(other);
    let hangs = timeout(Duration::from_millis(700), services.get("kubernetes")).await;
    assert!(hangs.is_err());
    client.get().await.expect("the other server answers");
    assert_eq!(servers.asked(), "aab");
}

#[tokio::test]
async fn a_request_given_up_after_50_ms_does_not_blame_its_server() {
    let servers = Servers::start(2).await;
    let client = servers.client().await;
    client.get().await.expect("an answer");
    let hang = Fault::new(Match::any().verb("get"), Effect::Hang).times(1);
    servers.server(0).server().faults().add(hang);
    assert!(timeout(Duration::from_millis(50), client.get()).await.is_err());
    client.get().await.expect("an answer");
    assert_eq!(servers.asked(), "aaa");
}

#[tokio::test]
async fn a_parallel_request_uses_another_server_and_blames_none() {
    let servers = Servers::start(2).await;
    let client = servers.client().await;
    client.get().await.expect("an answer");
    let services = "/api/v1/services";
    for _ in 0..2 {
        let mut request = Request::get(services).body(Body::empty()).expect("a request");
        request.extensions_mut().insert(Hedging::default());
        let answer = timeout(PATIENCE, client.kube.send(request)).await;
        answer.expect("no timeout").expect("an answer");
        client.get().await.expect("an answer");
    }
    assert_eq!(servers.asked(), "ababa");
    // After such a silence, the client would leave the server if the request were not parallel to another one.
    let hang = Fault::new(Match::any().verb("list"), Effect::Hang);
    servers.server(1).server().faults().add(hang);
    let mut request = Request::get(services).body(Body::empty()).expect("a request");
    request.extensions_mut().insert(Hedging::default());
    let silent = timeout(Duration::from_millis(700), client.kube.send(request)).await;
    assert!(silent.is_err());
    servers
        .server(0)
        .server()
        .faults()
        .add(Fault::status(Match::any().verb("get"), 503).times(1));
    client.fail_over().await;
    assert_eq!(servers.asked(), "bab");
}

#[tokio::test]
async fn a_broken_parallel_answer_does_not_blame_its_server() {
    let servers = Servers::start(2).await;
    let client = servers.client().await;
    client.get().await.expect("an answer");
    let mut request = Request::get("/api/v1/services?watch=1")
        .body(Body::empty())
        .expect("a request");
    request.extensions_mut().insert(Hedging::default());
    let answer = client.kube.send(request).await.expect("an answer");
    let faults = |number: usize| servers.server(number).server().faults();
    faults(1).end_watches(Match::any(), Ending::Abrupt);
    let body = timeout(PATIENCE, answer.into_body().collect());
    body.await.expect("no timeout").expect_err("a broken body");
    faults(0).add(Fault::status(Match::any().verb("get"), 503).times(1));
    client.fail_over().await;
    assert_eq!(servers.asked(), "abab");
}

/// Rule: 5.slow
#[tokio::test]
async fn parallel_requests_go_to_each_server_once() {
    let servers = Servers::start(3).await;
    let client = servers.client().await;
    client.get().await.expect("an answer");
    let faults = |number: usize| servers.server(number).server().faults();
    faults(1).add(Fault::new(Match::any().verb("list"), Effect::Hang));
    faults(0).add(Fault::new(Match::any().verb("list"), Effect::Hang));
    let hedging = Hedging::default();
    let list = || {
        let mut request = Request::get("/api/v1/services")
            .body(Body::empty())
            .expect("a request");
        request.extensions_mut().insert(hedging.clone());
        let kube = client.kube.clone();
        async move { kube.send(request).await }
    };
    let hangs = tokio::spawn(list());
    let asked = || servers.store.requests().all().len();
    while asked() < 2 {
        sleep(Duration::from_millis(5)).await;
    }
    timeout(PATIENCE, list())
        .await
        .expect("no timeout")
        .expect("an answer");
    // `b` still has the first request, and `c` has already answered one, so the next request goes to `a`, and the one
    // after it to `c`. Then no server remains.
    let hangs_too = tokio::spawn(list());
    while asked() < 4 {
        sleep(Duration::from_millis(5)).await;
    }
    servers
        .server(2)
        .server()
        .faults()
        .add(Fault::new(Match::any().verb("list"), Effect::Hang));
    let third = tokio::spawn(list());
    while asked() < 5 {
        sleep(Duration::from_millis(5)).await;
    }
    let error = timeout(PATIENCE, list()).await.expect("no timeout").err();
    assert!(error.is_some_and(|error| error.to_string().contains("no other API server")));
    assert_eq!(servers.asked(), "abcac");
    for task in [hangs, hangs_too, third] {
        task.abort();
    }
}

#[tokio::test]
async fn a_request_parallel_to_a_dial_uses_another_server() {
    let servers = Servers::start(2).await;
    let (_listener, dead) = silent().await;
    let client = servers
        .client_with(ApiServerConfig {
            mode: None,
            addresses: vec![dead, servers.address(1)],
        })
        .await;
    client.get().await.expect("an answer");
    let hang = Fault::new(Match::any().verb("list"), Effect::Hang);
    servers.server(1).server().faults().add(hang);
    let hedging = Hedging::default();
    let list = || {
        let mut request = Request::get("/api/v1/services")
            .body(Body::empty())
            .expect("a request");
        request.extensions_mut().insert(hedging.clone());
        let kube = client.kube.clone();
        async move { kube.send(request).await }
    };
    // For 300 ms, this request dials only the silent address.
    let dials = tokio::spawn(list());
    sleep(Duration::from_millis(100)).await;
    let second = tokio::spawn(list());
    sleep(Duration::from_millis(150)).await;
    assert_eq!(servers.asked(), "ab");
    for task in [dials, second] {
        task.abort();
    }
}

#[tokio::test]
async fn a_parallel_request_to_one_address_has_its_own_connection() {
    let servers = Servers::start(1).await;
    let client = servers.client().await;
    client.get().await.expect("an answer");
    let mut request = Request::get("/api/v1/services")
        .body(Body::empty())
        .expect("a request");
    request.extensions_mut().insert(Hedging::default());
    client.kube.send(request).await.expect("an answer");
    assert_eq!(servers.asked(), "aa");
}

#[tokio::test]
async fn a_client_leaves_a_server_for_503_but_not_for_429_or_404() {
    let servers = Servers::start(2).await;
    let client = servers.client().await;
    let faults = |number: usize| servers.server(number).server().faults();
    for code in [429, 404, 503] {
        faults(0).add(Fault::status(Match::any().verb("get"), code).times(1));
        client.get().await.expect_err("an error");
    }
    client.get().await.expect("the other server answers");
    assert_eq!(servers.asked(), "aaab");
    // Without a better server, the client stays: new connections do not help a cluster without etcd.
    faults(1).add(Fault::status(Match::any().verb("get"), 503).times(3));
    for _ in 0..3 {
        client.get().await.expect_err("an error");
    }
    client.get().await.expect("an answer");
    assert_eq!(servers.asked(), "bbbb");
    assert_eq!(client.changes(), Some(1));
}

/// Sends a request for Services, as the watches of the operator do, if possible to a server other than `avoided`.
async fn ask(client: &TestClient, query: &str, avoided: Option<Server>) -> Response<Body> {
    let uri = format!("/api/v1/services?{query}");
    let mut request = Request::get(uri).body(Body::empty()).expect("a request");
    if let Some(server) = avoided {
        let why = "a test";
        request.extensions_mut().insert(Avoid { server, why });
    }
    let answer = timeout(PATIENCE, client.kube.send(request)).await;
    answer.expect("no timeout").expect("an answer")
}

/// The server that sent this response.
fn server_of(answer: &Response<Body>) -> Server {
    let server: Option<&Server> = answer.extensions().get();
    server.expect("the server").clone()
}

const WATCH: &str = "watch=true&resourceVersion=0";

#[tokio::test]
async fn a_client_leaves_a_server_whose_watch_is_behind() {
    let servers = Servers::start(2).await;
    let client = servers.client().await;
    let watch = ask(&client, WATCH, None).await;
    assert_eq!(server_of(&watch), Server(servers.address(0)));
    let again = ask(&client, WATCH, Some(server_of(&watch))).await;
    assert_eq!(server_of(&again), Server(servers.address(1)));
    client.get().await.expect("an answer");
    assert_eq!(servers.asked(), "abb");
}

#[tokio::test]
async fn a_watch_that_is_behind_blames_the_server_that_it_used() {
    let servers = Servers::start(3).await;
    let client = servers.client().await;
    let watch = ask(&client, WATCH, None).await;
    servers
        .server(0)
        .server()
        .faults()
        .add(Fault::status(Match::any().verb("get"), 503).times(1));
    client.fail_over().await;
    for _ in 0..2 {
        let again = ask(&client, WATCH, Some(server_of(&watch))).await;
        assert_eq!(server_of(&again), Server(servers.address(1)));
    }
    assert_eq!(servers.asked(), "aabbb");
    assert_eq!(client.changes(), Some(1));
}

#[tokio::test]
async fn a_broken_watch_does_not_blame_the_current_server() {
    let mut servers = Servers::start(3).await;
    let client = servers.client().await;
    let watch = ask(&client, WATCH, None).await;
    let from = server_of(&watch);
    ask(&client, WATCH, Some(from)).await;
    servers.kill(0);
    let mut body = watch.into_body().into_data_stream();
    while let Some(Ok(_)) = timeout(PATIENCE, body.next())
        .await
        .expect("the end of the watch")
    {}
    client.get().await.expect("an answer");
    assert_eq!(servers.asked(), "abb");
}

#[tokio::test]
async fn a_client_leaves_only_one_server_when_all_fail_a_write() {
    let servers = Servers::start(3).await;
    let client = servers.client().await;
    for number in 0..3 {
        let faults = servers.server(number).server().faults();
        faults.add(Fault::status(Match::any().verb("patch"), 500));
    }
    let services: Api<Service> = Api::default_namespaced(client.kube.clone());
    let (params, patch) = (
        PatchParams::default(),
        Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}})),
    );
    for _ in 0..4 {
        let write = services.patch("kubernetes", &params, &patch);
        timeout(PATIENCE, write)
            .await
            .expect("no timeout")
            .expect_err("an error");
    }
    assert_eq!(servers.asked(), "abbb");
    // The results of reads are still used.
    let failing = Fault::status(Match::any().verb("get"), 500).times(1);
    servers.server(1).server().faults().add(failing);
    client.fail_over().await;
    assert_eq!(servers.asked(), "bc");
    assert_eq!(client.changes(), Some(2));
}

#[tokio::test]
async fn a_list_has_a_longer_limit_than_a_get() {
    let servers = Servers::start(2).await;
    let client = servers.client().await;
    client.get().await.expect("an answer");
    let hang = Fault::new(Match::any().verb("list"), Effect::Hang);
    servers.server(0).server().faults().add(hang);
    let services: Api<Service> = Api::default_namespaced(client.kube.clone());
    let params = ListParams::default().limit(500);
    for (wait, wanted) in [(1_500, "aaa"), (4_200, "ab")] {
        let list = services.list(&params);
        assert!(timeout(Duration::from_millis(wait), list).await.is_err());
        client.get().await.expect("an answer");
        assert_eq!(servers.asked(), wanted);
    }
}

#[tokio::test]
async fn a_stalled_answer_makes_a_client_leave_the_server() {
    let servers = Servers::start(1).await;
    let stalls = service_fn(|_| async {
        let begun = stream::once(async { Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{"))) });
        Ok::<_, Infallible>(Response::new(StreamBody::new(begun.chain(stream::pending()))))
    });
    let stalls = plain(stalls).await;
    let whole = plain(servers.server(0).server().clone()).await;
    let config = ApiServerConfig {
        mode: None,
        addresses: vec![address(whole.address())],
    };
    let client = servers.client_at(&stalls.url("http"), config).await;
    assert!(timeout(Duration::from_millis(900), client.get()).await.is_err());
    client.get().await.expect("the other server answers");
    assert_eq!(servers.asked(), "a");
}

/// As in a Pod, the first dial happens before anything is listed.
#[tokio::test]
async fn a_failing_server_is_replaced_by_one_discovered_later() {
    let servers = Servers::start(2).await;
    let auto = ApiServerConfig {
        mode: Some(ApiServerMode::Auto),
        addresses: Vec::new(),
    };
    let client = servers.client_with(auto).await;
    let listed = Arc::new(Mutex::new([BTreeSet::<(String, u16)>::new(), BTreeSet::new()]));
    let known = listed.clone();
    client.access.learn_from(move || known.lock().clone());
    client.get().await.expect("an answer");
    let other = servers.address(1);
    listed.lock()[0].insert((other.host.clone(), other.port));
    let failing = Fault::status(Match::any().verb("get"), 503);
    servers.server(0).server().faults().add(failing);
    client.fail_over().await;
    assert_eq!(servers.asked(), "aab");
}

#[tokio::test]
async fn a_client_leaves_only_one_server_for_abandoned_writes() {
    let servers = Servers::start(3).await;
    let client = servers.client().await;
    client.get().await.expect("an answer");
    for number in 0..3 {
        let hang = Fault::new(Match::any().verb("patch"), Effect::Hang);
        servers.server(number).server().faults().add(hang);
    }
    for _ in 0..4 {
        let services: Api<Service> = Api::namespaced(client.kube.clone(), "default");
        let (params, patch) = (PatchParams::default(), Patch::Merge(json!({"metadata": {}})));
        let write = services.patch("kubernetes", &params, &patch);
        assert!(timeout(Duration::from_millis(700), write).await.is_err());
    }
    assert_eq!(servers.asked(), "aabbb");
    assert_eq!(client.changes(), Some(1));
}

/// Rule: 7.own-connections
#[tokio::test]
async fn a_client_leaves_a_down_server_and_ends_its_watches() {
    let servers = Servers::start(2).await;
    let client = servers.client().await;
    let services: Api<Service> = Api::default_namespaced(client.kube.clone());
    let watch = async || services.watch(&WatchParams::default(), "0").await;
    let mut first = Box::pin(watch().await.expect("a watch"));
    first.next().await.expect("an event").expect("the Service");
    let hang = Fault::new(Match::any().verb("get"), Effect::Hang).times(1);
    servers.server(0).server().faults().add(hang);
    let kube = client.kube.clone();
    let silent =
        tokio::spawn(async move { Api::<Service>::default_namespaced(kube).get("kubernetes").await });
    while servers.store.requests().all().len() < 2 {
        sleep(Duration::from_millis(5)).await;
    }

    let start = Instant::now();
    client.access.set_unhealthy(only(&servers, 0, Unhealthy::Down));
    while let Some(Ok(_)) = timeout(PATIENCE, first.next())
        .await
        .expect("the end of the watch")
    {}
    let ended = timeout(PATIENCE, silent)
        .await
        .expect("no timeout")
        .expect("no panic");
    ended.expect_err("no response");
    client.get().await.expect("the other server answers");
    assert!(
        start.elapsed() < Duration::from_millis(300),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(servers.asked(), "aab");

    client.access.set_unhealthy(BTreeMap::new());
    client.get().await.expect("an answer");
    assert_eq!(
        servers.asked(),
        "b",
        "the client returned to the first server too early"
    );
}

/// Rule: 7.own-connections
#[tokio::test]
async fn a_suspected_server_gets_no_new_request_but_keeps_its_watches() {
    let servers = Servers::start(2).await;
    let client = servers.client().await;
    let services: Api<Service> = Api::default_namespaced(client.kube.clone());
    let watch = services.watch(&WatchParams::default(), "0").await;
    let mut watch = Box::pin(watch.expect("a watch"));
    watch.next().await.expect("an event").expect("the Service");
    client
        .access
        .set_unhealthy(only(&servers, 0, Unhealthy::Suspected));
    client.get().await.expect("the other server answers");
    assert_eq!(servers.asked(), "ab");
    while let Ok(event) = timeout(Duration::from_millis(300), watch.next()).await {
        event.expect("the watch should stay open").expect("an event");
    }
}

/// Rule: 7.own-connections
#[tokio::test]
async fn a_down_server_is_used_if_no_other_can_be_reached() {
    let mut servers = Servers::start(2).await;
    let client = servers.client().await;
    servers.kill(1);
    client.access.set_unhealthy(only(&servers, 0, Unhealthy::Down));
    for _ in 0..3 {
        client.get().await.expect("an answer");
    }
    assert_eq!(servers.asked(), "aaa");
}
