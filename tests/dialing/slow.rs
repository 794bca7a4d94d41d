//! Distant or slow servers: time limits grow and shrink.

use std::time::{Duration, Instant};

use harness::{Listening, delay};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::WatchParams;
use tokio::time::{sleep, timeout};

use crate::servers::{PATIENCE, Servers, TestClient, one_address};

/// An idle connection is pinged more than once in this time.
const SEVERAL_PINGS: Duration = Duration::from_millis(3_500);

/// Within 100 ms of a failed dial, a request gets the same error instead of a new dial.
const NEXT_DIAL: Duration = Duration::from_millis(150);

/// A client of the first server, over a path with this delay in each direction.
async fn far(servers: &Servers, one_way: Duration) -> (Listening, TestClient) {
    let delay = delay(servers.server(0).address(), one_way).await;
    let url = format!("https://{}", delay.address());
    let client = servers.client_at(&url, one_address()).await;
    (delay, client)
}

/// Repeats a request until it gets a response.
async fn answer(client: &TestClient) {
    timeout(PATIENCE, async { while client.get().await.is_err() {} })
        .await
        .expect("an answer");
}

/// The handshakes of TCP and TLS take 2.4 s, and each ping takes 1.2 s.
/// Rule: survive.api-servers-slow
#[tokio::test]
async fn a_server_with_a_round_trip_of_1200_ms_is_reached_and_kept() {
    let servers = Servers::start(1).await;
    let (delay, client) = far(&servers, Duration::from_millis(600)).await;
    answer(&client).await;
    let before = delay.accepted();
    sleep(SEVERAL_PINGS).await;
    client.get().await.expect("an answer");
    assert_eq!(delay.accepted(), before, "the connection was lost");
}

#[tokio::test]
async fn a_round_trip_of_600_ms_stretches_no_limit() {
    let servers = Servers::start(1).await;
    let (delay, client) = far(&servers, Duration::from_millis(300)).await;
    client.get().await.expect("the first dial is in time");
    let before = delay.accepted();
    sleep(SEVERAL_PINGS).await;
    client.get().await.expect("an answer");
    assert_eq!(delay.accepted(), before, "the connection was lost");
}

/// The limits double while no server responds. When a server responds, the limits shrink again, even for the connection
/// that was dialed with the longer limits.
/// Rule: survive.api-servers-slow
#[tokio::test]
async fn time_limits_shrink_when_a_server_answers_again() {
    let servers = Servers::start(1).await;
    let client = servers.client().await;
    servers.server(0).freeze();
    for limit in ["1500 ms", "3000 ms", "6000 ms"] {
        let error = client.get().await.expect_err("no server answers");
        assert!(format!("{error:?}").contains(limit), "{limit}: {error:?}");
        sleep(NEXT_DIAL).await;
    }
    servers.server(0).thaw();
    answer(&client).await;
    let services: Api<Service> = Api::default_namespaced(client.kube.clone());
    let watch = services.watch(&WatchParams::default(), "0").await;
    drop(watch.expect("a watch"));
    servers.server(0).freeze();
    let start = Instant::now();
    client.get().await.expect_err("no server answers");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let error = client.get().await.expect_err("no server answers");
    assert!(format!("{error:?}").contains("1500 ms"), "{error:?}");
}
