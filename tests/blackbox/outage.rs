//! API servers fail and return.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use harness::objects::{api_servers, managed, slice, vip};
use harness::{Cluster, Operator, PATIENCE, Platform, leader, until, within};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;
use testbed::{Ending, Match, Rule};

use crate::on_both;

on_both! {
    /// Rule: survive.api-away
    async fn an_api_server_restart_loses_no_replica_and_no_change(cluster: &mut Cluster) {
        let mut operator = Operator::start(cluster, "one", 0);
        cluster.vip_in_sync().await;
        cluster.kill_server(0).await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.2"])).await;
        operator.until_logged("lost the lead").await;
        assert!(operator.runs());
        cluster.start_server(0).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.2"]).await;
        assert!(operator.runs());
        assert!(operator.leads().await);
    }

    async fn another_replica_takes_over_when_the_leaders_api_server_dies(cluster: &mut Cluster) {
        let first = Operator::start(cluster, "one", 0);
        first.until_leads().await;
        let second = Operator::start(cluster, "two", 1);
        second.until_ready().await;
        cluster.create::<Service>(vip()).await;
        cluster.kill_server(0).await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.2"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.2"]).await;
        let mut replicas = [first, second];
        assert_eq!(leader(&replicas).await, 1);
        assert!(replicas[0].runs());
    }

    /// Rule: 5.readyz
    async fn an_operator_that_starts_first_waits_for_its_api_server(cluster: &mut Cluster) {
        cluster.create::<Service>(vip()).await;
        cluster.kill_server(0).await;
        let mut operator = Operator::start(cluster, "one", 0);
        until("the operator listens", async || operator.get("/healthz").await.0 == 200).await;
        assert_eq!(operator.get("/readyz").await.0, 503);
        assert!(operator.runs());
        cluster.start_server(0).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.2", "192.0.2.3"]).await;
        operator.until_ready().await;
    }
}

on_both! {
    servers: 3;
    /// Rule: survive.api-away
    async fn a_change_during_an_outage_is_copied_after_it(cluster: &mut Cluster) {
        let mut replicas = three_replicas(cluster).await;
        cluster.vip_in_sync().await;
        check_outage(cluster, &mut replicas, api_servers(&["192.0.2.2"]), "kubernetes-vip", "192.0.2.2").await;
    }

    /// Rule: survive.api-away
    async fn one_changed_source_of_500_is_copied_after_an_outage(cluster: &mut Cluster) {
        stream::iter(0..500).for_each_concurrent(16, async |number| {
            let (service, source) = (format!("copy-{number}"), format!("source-{number}"));
            cluster.create::<EndpointSlice>(slice("default", &source, &format!("{source}-1"), &["10.0.0.1"])).await;
            cluster.create::<Service>(managed("default", &service, "default", &source)).await;
        }).await;
        let mut replicas = three_replicas(cluster).await;
        // The test polls a metric, because repeated lists would cost more than the copies.
        let leader = &replicas[leader(&replicas).await];
        let copied = within(Duration::from_secs(120), async || {
            leader.metric("endpoint_copier_services_in_sync").await == Some(500)
        });
        assert!(copied.await, "{}", leader.log());
        let change = slice("default", "source-77", "source-77-1", &["10.0.0.2"]);
        check_outage(cluster, &mut replicas, change, "copy-77", "10.0.0.2").await;
    }
}

/// Starts three replicas, each of which knows one of the first two API servers, and waits until all are ready.
async fn three_replicas(cluster: &Cluster) -> Vec<Operator> {
    let replicas = vec![
        Operator::start(cluster, "one", 0),
        Operator::start(cluster, "two", 1),
        Operator::start(cluster, "three", 0),
    ];
    for replica in &replicas {
        replica.until_ready().await;
    }
    replicas
}

/// Stops the first two API servers until no replica leads, and changes a source during the outage. Checks that the
/// change is copied after the outage.
async fn check_outage(
    cluster: &mut Cluster,
    replicas: &mut [Operator],
    change: Value,
    service: &str,
    address: &str,
) {
    leader(replicas).await;
    for server in [0, 1] {
        cluster.kill_server(server).await;
    }
    let watched = cluster.watch_slices("default", service).await;
    cluster.put::<EndpointSlice>(change).await;
    for replica in &*replicas {
        until("no replica leads", async || !replica.leads().await).await;
    }
    for server in [0, 1] {
        cluster.start_server(server).await;
    }
    let returned = Instant::now();
    let shown = watched.shows(&[address], PATIENCE).await.expect("a copy");
    let took = shown.saturating_duration_since(returned);
    assert!(
        took < Duration::from_secs(3),
        "{took:?} after the API servers returned"
    );
    for replica in replicas {
        assert!(replica.runs(), "{}", replica.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_rights_are_logged_once_per_watch_until_restored() {
    let cluster = Cluster::start(Platform::Testbed, crate::PROGRAM, 1).await;
    let operator = Operator::start(&cluster, "one", 0);
    cluster.vip_in_sync().await;
    let (store, server) = cluster.testbed().expect("on the testbed");
    let leases = Rule::new(
        &["coordination.k8s.io"],
        &["leases"],
        &["get", "list", "watch", "patch"],
    );
    let events = Rule::new(&["events.k8s.io"], &["events"], &["create", "patch"]);
    store.restrict("one", vec![leases, events]);
    server
        .faults()
        .end_watches(Match::any().resource("services"), Ending::Clean);
    server
        .faults()
        .end_watches(Match::any().resource("endpointslices"), Ending::Clean);
    let refused = || {
        let requests = store.requests();
        requests
            .matching(|request| request.user == "one" && request.status == Some(403))
            .len()
    };
    until("the operator has tried often", async || refused() > 30).await;
    let log = operator.log();
    // The check of the sources has its own log line, every 10 s.
    let is_of_watch = |line: &&str| line.contains("403 Forbidden") && !line.contains("the check of");
    let lines: Vec<_> = log.lines().filter(is_of_watch).collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    store.allow_all("one");
    cluster.put::<EndpointSlice>(api_servers(&["192.0.2.2"])).await;
    cluster
        .until_addresses("default", "kubernetes-vip", &["192.0.2.2"])
        .await;
}
