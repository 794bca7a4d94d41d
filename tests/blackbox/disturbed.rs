//! Disturbances of probes or of the leader while all API servers work. No disturbance may change a copy.

use std::time::{Duration, Instant};

use harness::{Cluster, Operator, Platform, SHORT_LEASE, leader};
use serde_json::json;
use testbed::{Effect, Fault, Match};
use tokio::time::sleep;

use crate::probes::{VIP, copy, create, removals, replica, until_well};

/// Requests that are probes.
fn probes() -> Match {
    Match::any().path("/readyz")
}

/// Loses about one in 20 responses to probes: six responses arrive each second, and one is lost every 3.3 s.
async fn lose_answers(cluster: &Cluster, time: Duration) {
    let end = Instant::now() + time;
    let mut servers = cluster.testbed_servers().collect::<Vec<_>>().into_iter().cycle();
    while Instant::now() < end {
        let server = servers.next().expect("a server");
        server
            .faults()
            .add(Fault::new(probes(), Effect::Unanswered).times(1));
        sleep(Duration::from_millis(3_300)).await;
    }
}

/// Pauses the leader alternately for 2 s and for 5 s. During a pause of 5 s, the leader's term ends.
async fn pause_leaders(replicas: &[Operator], time: Duration) {
    let end = Instant::now() + time;
    let mut seconds = [2, 5].into_iter().cycle();
    while Instant::now() < end {
        let leader = &replicas[leader(replicas).await];
        leader.signal("STOP");
        sleep(Duration::from_secs(seconds.next().unwrap_or_default())).await;
        leader.signal("CONT");
        sleep(Duration::from_secs(3)).await;
    }
}

/// Delays each response to a probe by up to 200 ms.
async fn jitter(cluster: &Cluster, time: Duration) {
    let end = Instant::now() + time;
    let mut delay = 0;
    while Instant::now() < end {
        for server in cluster.testbed_servers() {
            delay = (delay * 73 + 41) % 201;
            server.faults().clear();
            let late = Effect::Latency(Duration::from_millis(delay));
            server.faults().add(Fault::new(probes(), late));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The second server responds to each probe after 900 ms.
async fn slow_server(cluster: &Cluster, time: Duration) {
    let server = cluster.testbed_servers().nth(1).expect("three servers");
    let slow = Effect::Latency(Duration::from_millis(900));
    server.faults().add(Fault::new(probes(), slow));
    sleep(time).await;
}

/// All servers respond to each probe with this status.
async fn all_answer(cluster: &Cluster, code: u16, time: Duration) {
    for server in cluster.testbed_servers() {
        server.faults().add(Fault::status(probes(), code));
    }
    sleep(time).await;
}

/// Disturbs probes or replicas for this time, and checks that the copy does not change.
async fn servers_stay(disturbance: &str, time: Duration) {
    let cluster = Cluster::start_listed(Platform::Testbed, crate::PROGRAM, None).await;
    let replicas = [
        replica(&cluster, "one", 0, &SHORT_LEASE),
        replica(&cluster, "two", 2, &SHORT_LEASE),
    ];
    create(&cluster, VIP, json!({})).await;
    until_well(&cluster, VIP, &replicas).await;
    leader(&replicas).await;
    let before = copy(&cluster, VIP).await;
    match disturbance {
        "lost_answers" => lose_answers(&cluster, time).await,
        "jitter" => jitter(&cluster, time).await,
        "slow_server" => slow_server(&cluster, time).await,
        "paused_leader" => pause_leaders(&replicas, time).await,
        status => all_answer(&cluster, status[7..].parse().expect("a status"), time).await,
    }
    for server in cluster.testbed_servers() {
        server.faults().clear();
    }
    until_well(&cluster, VIP, &replicas).await;
    assert_eq!(copy(&cluster, VIP).await, before);
    for replica in &replicas {
        assert_eq!(removals(replica).await, Some(0), "{}", replica.log());
    }
}

macro_rules! disturbances {
    ($($name:ident)*) => {
        mod servers_stay_for_ten_seconds {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::servers_stay(stringify!($name), std::time::Duration::from_secs(10)).await;
            })*
        }

        mod servers_stay_for_ten_minutes {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "takes ten minutes"]
            async fn $name() {
                super::servers_stay(stringify!($name), std::time::Duration::from_secs(600)).await;
            })*
        }
    };
}

disturbances! {
    lost_answers
    jitter
    slow_server
    paused_leader
    status_429
    status_401
    status_503
}
