//! Distant or slow servers: time limits grow, and shrink again.

use std::time::{Duration, Instant};

use harness::{Listening, delay};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::WatchParams;
use tokio::time::{sleep, timeout};

use crate::servers::{PATIENCE, Servers, Way, alone};

/// An idle connection is pinged more than once in this time.
const SEVERAL_PINGS: Duration = Duration::from_millis(3_500);

/// A dial that begins within 100 ms after a failed one fails with it.
const NEXT_DIAL: Duration = Duration::from_millis(150);

/// A path to the first server with this delay in each direction.
async fn far(servers: &Servers, one_way: Duration) -> (Listening, Way) {
    let delay = delay(servers.server(0).address(), one_way).await;
    let url = format!("https://{}", delay.address());
    let way = servers.access_at(&url, alone()).await;
    (delay, way)
}

/// Repeats a request until it gets a response.
async fn answer(way: &Way) {
    timeout(PATIENCE, async { while way.get().await.is_err() {} })
        .await
        .expect("an answer");
}

/// TCP and TLS take 2.4 s, and each ping 1.2 s.
/// Rule: survive.api-servers-slow
#[tokio::test]
async fn a_server_with_a_round_trip_of_1200_ms_is_reached_and_kept() {
    let servers = Servers::start(1).await;
    let (delay, way) = far(&servers, Duration::from_millis(600)).await;
    answer(&way).await;
    let before = delay.accepted();
    sleep(SEVERAL_PINGS).await;
    way.get().await.expect("an answer");
    assert_eq!(delay.accepted(), before, "the connection was lost");
}

#[tokio::test]
async fn a_round_trip_of_600_ms_stretches_no_limit() {
    let servers = Servers::start(1).await;
    let (delay, way) = far(&servers, Duration::from_millis(300)).await;
    way.get().await.expect("the first dial is in time");
    let before = delay.accepted();
    sleep(SEVERAL_PINGS).await;
    way.get().await.expect("an answer");
    assert_eq!(delay.accepted(), before, "the connection was lost");
}

/// The limits doubled while no server answered. The connection that is dialed with these limits is not the last one.
/// Rule: survive.api-servers-slow
#[tokio::test]
async fn a_frozen_server_after_an_outage_is_noticed_as_early() {
    let servers = Servers::start(1).await;
    let way = servers.access().await;
    servers.server(0).freeze();
    for limit in ["1500 ms", "3000 ms", "6000 ms"] {
        let error = way.get().await.expect_err("no server answers");
        assert!(format!("{error:?}").contains(limit), "{limit}: {error:?}");
        sleep(NEXT_DIAL).await;
    }
    servers.server(0).thaw();
    answer(&way).await;
    let services: Api<Service> = Api::default_namespaced(way.client.clone());
    let watch = services.watch(&WatchParams::default(), "0").await;
    drop(watch.expect("a watch"));
    servers.server(0).freeze();
    let start = Instant::now();
    way.get().await.expect_err("no server answers");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let error = way.get().await.expect_err("no server answers");
    assert!(format!("{error:?}").contains("1500 ms"), "{error:?}");
}
