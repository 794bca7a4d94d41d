//! Slow API servers, or a slow network between the operator and all of them: the servers are not treated as dead, the
//! leader keeps its term, and changes are still copied.

use std::time::{Duration, Instant};

use futures::future::join_all;
use harness::objects::{api_servers, managed, slice, vip};
use harness::{Cluster, Listening, Operator, PATIENCE, Platform, command, delay, own_address};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use testbed::{Effect, Fault, Match};
use tokio::time::sleep;

use crate::on_both;

/// The minimum duration of a term.
const TERM: Duration = Duration::from_secs(60);

/// A change is copied within this time. The watch event and the write together take one round trip; the rest is margin.
const COPIED: Duration = Duration::from_secs(3);

/// Starts a replica that knows the first `SERVERS` API servers of the cluster. The path to each of them has the delay
/// `one_way` in each direction.
pub async fn delayed_replica<const SERVERS: usize>(
    cluster: &Cluster,
    one_way: Duration,
    flags: &[&str],
) -> (Operator, [Listening; SERVERS]) {
    let delays: [_; SERVERS] = std::array::from_fn(|server| delay(cluster.address(server), one_way));
    let delays: [Listening; SERVERS] = join_all(delays)
        .await
        .try_into()
        .ok()
        .expect("one delay per server");
    let file = cluster.kubeconfig_with(0, None);
    let near = std::fs::read_to_string(&file).expect("a kubeconfig");
    let far = near.replace(&cluster.address(0).to_string(), &delays[0].address().to_string());
    std::fs::write(&file, far).expect("a file");
    let (metrics, health) = (own_address(), own_address());
    let mut command = command(crate::PROGRAM.as_ref());
    command
        .env("POD_NAME", "one")
        .arg(format!("--kubeconfig={}", file.display()))
        .args(
            delays[1..]
                .iter()
                .map(|it| format!("--api-server-address={}", it.address())),
        )
        .arg(format!("--metrics-bind-address={metrics}"))
        .arg(format!("--health-probe-bind-address={health}"))
        .args(flags);
    let operator = Operator::spawn(cluster, "one", command, metrics, health);
    (operator, delays)
}

/// Checks that a replica leads for a minute without interruption, and copies each change in time.
async fn check_term(cluster: &Cluster, one_way: Duration) {
    let (operator, _delays) = delayed_replica::<2>(cluster, one_way, &[]).await;
    cluster.create::<Service>(vip()).await;
    let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    cluster.until_addresses("default", "kubernetes-vip", &all).await;
    let watched = cluster.watch_slices("default", "kubernetes-vip").await;
    let start = Instant::now();
    for wanted in [&["192.0.2.2"][..], &all].into_iter().cycle() {
        let changed = Instant::now();
        cluster.put::<EndpointSlice>(api_servers(wanted)).await;
        let shown = watched.shows(wanted, PATIENCE).await.expect("a copy");
        let took = shown - changed;
        assert!(took < COPIED, "{took:?}: {}", operator.log());
        if start.elapsed() > TERM {
            break;
        }
        sleep(Duration::from_secs(5)).await;
    }
    let log = operator.log();
    assert_eq!(log.matches("took the lead").count(), 1, "{log}");
}

on_both! {
    servers: 3;
    /// Rule: survive.api-servers-slow
    async fn one_term_lasts_with_600_ms_of_delay_each_way(cluster: &mut Cluster) {
        check_term(cluster, Duration::from_millis(600)).await;
    }

    async fn one_term_lasts_with_300_ms_of_delay_each_way(cluster: &mut Cluster) {
        check_term(cluster, Duration::from_millis(300)).await;
    }
}

/// Each request takes 1.5 s, but pings and dials are fast.
/// Rule: 5.slow
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_term_lasts_when_every_request_takes_1500_ms() {
    let cluster = Cluster::start(Platform::Testbed, crate::PROGRAM, 3).await;
    let source = |address| slice("default", "app", "app-1", &[address]);
    cluster.put::<EndpointSlice>(source("10.255.0.1")).await;
    for number in 0..100 {
        let service = managed("default", &format!("z-{number:02}"), "default", "app");
        cluster.create::<Service>(service).await;
    }
    // The test itself uses the third server.
    for server in cluster.testbed_servers().take(2) {
        let slow = Effect::Latency(Duration::from_millis(1500));
        server.faults().add(Fault::new(Match::any(), slow));
    }
    let second = format!("--api-server-address={}", cluster.address(1));
    let operator = Operator::start_with(&cluster, "one", 0, &[&second]);
    let start = Instant::now();
    operator.until_leads().await;
    let watched = cluster.watch_slices("default", "z-99").await;
    let first = watched.shows(&["10.255.0.1"], TERM).await;
    assert!(first.is_some(), "{}", operator.log());
    for address in ["10.255.0.2", "10.255.0.3"] {
        // All 100 copies change.
        cluster.put::<EndpointSlice>(source(address)).await;
        let shown = watched.shows(&[address], Duration::from_secs(30)).await;
        assert!(shown.is_some(), "{address}: {}", operator.log());
    }
    sleep(TERM.saturating_sub(start.elapsed())).await;
    let log = operator.log();
    assert_eq!(log.matches("took the lead").count(), 1, "{log}");
    assert!(!log.contains("lost the lead") && operator.leads().await, "{log}");
}
