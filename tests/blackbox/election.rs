//! Replicas compete for the Lease. One leads, and the others stand by.

use std::time::{Duration, Instant};

use harness::objects::{api_servers, vip};
use harness::{Cluster, LEASE, Operator, Platform, leader, until};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use testbed::{Effect, Fault, Match, Request};

use crate::{PROGRAM, on_both};

/// Starts three replicas on two API servers, and returns them with the index of the leader.
async fn three_replicas(cluster: &Cluster) -> (Vec<Operator>, usize) {
    let replicas = vec![
        Operator::start(cluster, "one", 0),
        Operator::start(cluster, "two", 1),
        Operator::start(cluster, "three", 0),
    ];
    cluster.vip_in_sync().await;
    for replica in &replicas {
        replica.until_ready().await;
    }
    let first = leader(&replicas).await;
    (replicas, first)
}

on_both! {
    /// Rule: 5.identity, 5.only-the-holder, 5.every-replica, 5.readyz-not-leading
    async fn one_of_three_replicas_leads_and_all_are_ready(cluster: &mut Cluster) {
        let (replicas, first) = three_replicas(cluster).await;
        let holder = cluster.holder().await;
        let (pod, uuid) = holder.split_once('_').expect("POD_NAME_uuid");
        assert_eq!((pod, uuid.len()), (["one", "two", "three"][first], 36), "{holder}");
        let writes = "endpoint_copier_slice_changes_total{operation=\"create\"}";
        for (number, replica) in replicas.iter().enumerate() {
            let count = Some(u64::from(number == first));
            until("only the leader has written", async || replica.metric(writes).await == count).await;
        }
    }

    /// Rule: survive.blocked-log
    async fn unread_standard_error_does_not_end_the_term(cluster: &mut Cluster) {
        // A pipe takes the place of the log file. It is open at both ends, never read, and full before the first line
        // is logged.
        let pipe = cluster.directory().join("one.log");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo").success());
        let held = std::fs::File::options().read(true).write(true).open(&pipe).expect("a pipe");
        let into = format!("of={}", pipe.display());
        let filled = std::process::Command::new("dd")
            .args(["if=/dev/zero", &into, "oflag=nonblock", "bs=1", "count=10000000"])
            .output();
        let filled = filled.expect("dd");
        assert!(!filled.status.success(), "the pipe is not full");
        let flags = [&harness::SHORT_LEASE[..], &["--log-level=trace"]].concat();
        let operator = Operator::start_with(cluster, "one", 0, &flags);
        // A failed test prints the log file. It would wait forever for the end of the pipe.
        std::fs::remove_file(&pipe).expect("a pipe");
        cluster.vip_in_sync().await;
        // During this time, which is three times the lease duration, the operator logs more lines than it keeps in
        // memory.
        tokio::time::sleep(Duration::from_secs(9)).await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.1", "192.0.2.3"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.3"]).await;
        let lease = cluster.try_get::<Lease>("default", LEASE).await.and_then(|lease| lease.spec);
        let terms = lease.expect("a Lease").lease_transitions.unwrap_or(0);
        assert!(terms <= 1, "{terms} terms");
        drop((operator, held));
    }

    async fn a_killed_leader_is_replaced_and_a_change_is_copied(cluster: &mut Cluster) {
        let (mut replicas, first) = three_replicas(cluster).await;
        replicas[first].signal("KILL");
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.1", "192.0.2.3"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.3"]).await;
        replicas.remove(first);
        leader(&replicas).await;
    }

    /// Rule: 5.release, 6.asked-to-stop
    async fn a_stopped_leader_releases_the_lease_and_exits_with_0(cluster: &mut Cluster) {
        let (mut replicas, first) = three_replicas(cluster).await;
        for signal in ["TERM", "INT"] {
            let number = leader(&replicas).await;
            replicas[number].signal(signal);
            let (status, took) = replicas[number].ended().await;
            assert_eq!(status.code(), Some(0), "{signal}");
            assert!(took < Duration::from_secs(2), "{signal}: {took:?}");
            assert!(replicas[number].log().contains("released the Lease"), "{}", replicas[number].log());
            replicas.remove(number);
            leader(&replicas).await;
        }
        let _ = first;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.5"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.5"]).await;
    }

    /// Rule: 5.only-the-holder
    async fn a_frozen_leader_is_replaced_and_writes_nothing_later(cluster: &mut Cluster) {
        let (mut replicas, first) = three_replicas(cluster).await;
        let frozen = replicas.remove(first);
        frozen.signal("STOP");
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.1", "192.0.2.3"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.3"]).await;
        let before = cluster.slice_writes();
        frozen.signal("CONT");
        frozen.until_logged("lost the lead").await;
        leader(&replicas).await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.4"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.4"]).await;
        let after = cluster.slice_writes();
        assert_eq!(after[frozen.name()], before[frozen.name()], "{after:?}: {}", frozen.log());
        replicas.push(frozen);
        leader(&replicas).await;
    }

    /// Rule: 5.written-again
    async fn a_lease_that_is_deleted_or_emptied_keeps_its_leader(cluster: &mut Cluster) {
        let (replicas, first) = three_replicas(cluster).await;
        let holder = cluster.holder().await;
        for how in ["deleted", "emptied", "garbled"] {
            match how {
                "deleted" => cluster.delete::<Lease>("default", LEASE).await,
                "emptied" => _ = cluster.patch::<Lease>("default", LEASE, json!({"spec": {"holderIdentity": ""}})).await,
                _ => _ = cluster.patch::<Lease>("default", LEASE, json!({"spec": {
                    "holderIdentity": null, "leaseDurationSeconds": null, "renewTime": null, "leaseTransitions": null,
                }})).await,
            }
            let address = format!("10.0.3.{}", how.len());
            cluster.put::<EndpointSlice>(api_servers(&[&address])).await;
            until("the leader has written the Lease again", async || cluster.holder().await == holder).await;
            cluster.until_addresses("default", "kubernetes-vip", &[&address]).await;
        }
        assert_eq!(leader(&replicas).await, first);
        let writers: Vec<_> = cluster.slice_writes().into_keys().collect();
        assert_eq!(writers, [replicas[first].name()], "replicas other than the leader have written");
        for replica in &replicas {
            assert!(!replica.log().contains("lost the lead"), "{}", replica.log());
        }
    }

    /// Rule: survive.replica-lost
    async fn a_single_killed_replica_resumes_after_a_restart(cluster: &mut Cluster) {
        let mut operator = Operator::start(cluster, "one", 0);
        cluster.vip_in_sync().await;
        operator.signal("KILL");
        operator.ended().await;
        let held = cluster.holder().await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.2"])).await;
        let _operator = Operator::start(cluster, "one", 0);
        let start = Instant::now();
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.2"]).await;
        let took = start.elapsed();
        assert_ne!(cluster.holder().await, held, "the new process has the old identity");
        assert!(took < Duration::from_secs(6), "{took:?} with a Lease of 3 s");
    }

    /// Rule: survive.replica-lost
    async fn a_single_replica_frozen_past_its_lease_resumes(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        cluster.vip_in_sync().await;
        operator.signal("STOP");
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.2"])).await;
        // The Lease must expire, and there is no condition to poll.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(cluster.addresses_of("default", "kubernetes-vip").await.len(), 3);
        operator.signal("CONT");
        let start = Instant::now();
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.2"]).await;
        let took = start.elapsed();
        assert!(took < Duration::from_secs(4), "{took:?} after SIGCONT");
    }

    /// Rule: 3.copies-stay, 4.leader-elect, 6.asked-to-stop
    async fn a_single_replica_without_election_writes_and_exits_0(cluster: &mut Cluster) {
        let mut operator = Operator::start_with(cluster, "one", 0, &["--leader-elect=false"]);
        cluster.vip_in_sync().await;
        assert!(operator.leads().await);
        assert_eq!(cluster.holder().await, "");
        operator.signal("TERM");
        assert_eq!(operator.ended().await.0.code(), Some(0));
        let left = cluster.addresses_of("default", "kubernetes-vip").await;
        assert_eq!(left, ["192.0.2.1", "192.0.2.2", "192.0.2.3"], "the copies have changed");
    }

    /// The default duration of the Lease is 6 s.
    /// Rule: 5.lease-name, 5.lease-namespace, 5.durations
    async fn a_killed_leader_is_replaced_with_default_durations(cluster: &mut Cluster) {
        let replicas = [
            Operator::start_with(cluster, "one", 0, &[]),
            Operator::start_with(cluster, "two", 1, &[]),
        ];
        cluster.vip_in_sync().await;
        let lease: Lease = cluster.try_get("default", LEASE).await.unwrap();
        assert_eq!(lease.spec.unwrap().lease_duration_seconds, Some(6));
        let first = leader(&replicas).await;
        replicas[1 - first].until_ready().await;
        let start = Instant::now();
        replicas[first].signal("KILL");
        replicas[1 - first].until_leads().await;
        let took = start.elapsed();
        assert!(took > Duration::from_secs(3), "{took:?}: before the Lease could expire");
    }
}

/// Rule: 5.release
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_stopped_during_a_write_lets_the_lease_expire() {
    let cluster = Cluster::start(Platform::Testbed, PROGRAM, 2).await;
    let mut operator = Operator::start(&cluster, "one", 0);
    let (store, server) = cluster.testbed().expect("on the testbed");
    let creates = Match::any().verb("create").resource("endpointslices");
    server.faults().add(Fault::new(creates, Effect::Hang));
    cluster.create::<Service>(vip()).await;
    until("a POST hangs", async || {
        let is_post = |request: &Request| {
            request.user_agent.starts_with("endpoint-copier") && request.is("create", "endpointslices")
        };
        !store.requests().matching(is_post).is_empty()
    })
    .await;
    let holder = cluster.holder().await;
    operator.signal("TERM");
    let (status, took) = operator.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(cluster.holder().await, holder, "{}", operator.log());
    assert!(operator.log().contains("not released"), "{}", operator.log());
}
