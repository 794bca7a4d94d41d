//! Disturbances between replicas and healthy API servers. No disturbance may change a copy.

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

/// Loses one of 20 responses to probes: six responses arrive each second, and one is lost every 3.3 s.
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

/// Pauses the leader alternately for 2 s and for 5 s. During a pause of 5 s, its term ends.
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

/// Disturbs probes and replicas for this time, and checks that the copy does not change.
async fn living_servers_stay(time: Duration) {
    let cluster = Cluster::start_listed(Platform::Testbed, crate::PROGRAM, None).await;
    let replicas = [
        replica(&cluster, "one", 0, &SHORT_LEASE),
        replica(&cluster, "two", 2, &SHORT_LEASE),
    ];
    create(&cluster, VIP, json!({})).await;
    until_well(&cluster, VIP, &replicas).await;
    leader(&replicas).await;
    let before = copy(&cluster, VIP).await;
    for what in ["a slow server", "lost answers", "a paused leader"] {
        match what {
            "a slow server" => {
                let server = cluster.testbed_servers().nth(1).expect("three servers");
                let slow = Effect::Latency(Duration::from_millis(900));
                server.faults().add(Fault::new(probes(), slow));
                sleep(time).await;
                server.faults().clear();
            }
            "lost answers" => lose_answers(&cluster, time).await,
            _ => pause_leaders(&replicas, time).await,
        }
        assert_eq!(copy(&cluster, VIP).await, before, "{what}");
        for replica in &replicas {
            let removals = removals(replica).await;
            assert_eq!(removals, Some(0), "{what}: {}", replica.log());
        }
    }
}

/// Rule: 7.conditions, 7.clearly-well, 7.late
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn living_servers_stay_whatever_disturbs_the_probes() {
    living_servers_stay(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half an hour"]
async fn living_servers_stay_for_ten_minutes_of_each_disturbance() {
    living_servers_stay(Duration::from_secs(600)).await;
}
