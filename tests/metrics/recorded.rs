//! What a real Prometheus recorded of three replicas: a leader that is killed, an API that is away, a refused Service.

use std::path::Path;

use harness::objects::{api_servers, managed, slice, vip};
use harness::{Cluster, Operator, Platform, leader, tool, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::dashboard::{dashboard, list, number, panels, replaced, word};
use crate::prometheus::{Prometheus, now};

/// Four scrapes, as Grafana's `$__rate_interval` is at least.
const RATE_INTERVAL: &str = "4s";

/// A source that says when and why it was changed.
fn source(address: &str) -> Value {
    let mut source = slice("default", "source", "source-x", &[address]);
    source["metadata"]["annotations"] =
        json!({"endpoints.kubernetes.io/last-change-trigger-time": jiff::Timestamp::now().to_string()});
    source
}

/// Changes the source, and waits until Prometheus knows that the copies have followed, and all has been well for seconds.
async fn changed(cluster: &Cluster, prometheus: &Prometheus, address: &str) {
    cluster.put::<EndpointSlice>(source(address)).await;
    cluster.until_addresses("default", "web", &[address]).await;
    prometheus
        .until("sum(increase(endpoint_copier_propagation_seconds_count[2s])) > 0")
        .await;
    prometheus
        .until("max(sum_over_time(leader_election_master_status[5s])) == 5")
        .await;
}

/// The story that the dashboard has to tell.
async fn record(cluster: &mut Cluster, prometheus: &Prometheus, replicas: &mut Vec<Operator>) {
    let leads = |count: u8| format!("sum(leader_election_master_status) == {count}");
    cluster.create::<EndpointSlice>(source("10.0.0.1")).await;
    cluster.create::<Service>(vip()).await;
    cluster
        .create::<Service>(managed("default", "web", "default", "source"))
        .await;
    cluster.until_addresses("default", "web", &["10.0.0.1"]).await;
    prometheus.until(&leads(1)).await;
    prometheus
        .until("max(endpoint_copier_services_in_sync) == 2")
        .await;
    changed(cluster, prometheus, "10.0.0.2").await;

    // The leader is killed, and a control-plane node is lost while nobody leads.
    let killed = replicas.swap_remove(leader(replicas).await);
    killed.signal("KILL");
    cluster
        .put::<EndpointSlice>(api_servers(&["192.0.2.1", "192.0.2.2"]))
        .await;
    prometheus.until("count(up == 0) == 1").await;
    prometheus.until(&leads(1)).await;
    cluster
        .until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.2"])
        .await;

    // Somebody gives a Service a selector.
    let mut refused = managed("default", "refused", "default", "source");
    refused["spec"]["selector"] = json!({"app": "web"});
    cluster.create::<Service>(refused).await;
    prometheus
        .until("max(endpoint_copier_findings{reason=\"HasSelector\"}) == 1")
        .await;
    changed(cluster, prometheus, "10.0.0.3").await;

    // The API is away, and the source changes meanwhile.
    for server in [0, 1] {
        cluster.kill_server(server).await;
    }
    cluster.put::<EndpointSlice>(source("10.0.0.4")).await;
    prometheus
        .until("sum(sum_over_time(leader_election_master_status[3s])) == 0")
        .await;
    prometheus
        .until("sum(increase(rest_client_requests_total{code=\"<error>\"}[4s])) > 0")
        .await;
    for server in [0, 1] {
        cluster.start_server(server).await;
    }
    prometheus.until(&leads(1)).await;
    cluster.until_addresses("default", "web", &["10.0.0.4"]).await;
    prometheus
        .until("max(endpoint_copier_services_in_sync) == 2")
        .await;
    changed(cluster, prometheus, "10.0.0.5").await;
}

fn has_number(series: &Value) -> bool {
    let samples = series["values"].as_array().into_iter().flatten();
    let mut values = samples.filter_map(|sample| sample[1].as_str());
    values.any(|value| value != "NaN")
}

/// It also writes what the panels show to a file, for `make dashboard-preview`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_shows_something_of_a_failover_a_refused_service_and_an_outage() {
    let Some(program) = tool("prometheus", env!("CARGO_TARGET_TMPDIR")) else {
        return;
    };
    let mut cluster = Cluster::start(Platform::Testbed, crate::PROGRAM, 3).await;
    let mut replicas: Vec<_> = [("a", 0), ("b", 1), ("c", 0)]
        .into_iter()
        .map(|(name, server)| Operator::start(&cluster, name, server))
        .collect();
    let prometheus = Prometheus::start(&program, &replicas).await;
    let since = now();
    record(&mut cluster, &prometheus, &mut replicas).await;

    let dashboard = dashboard();
    let (mut shown, mut silent) = (Vec::new(), Vec::new());
    until("every panel has data", async || {
        shown.clear();
        silent.clear();
        for panel in panels(&dashboard) {
            for target in list(panel, "/targets") {
                let query = replaced(word(target, "/expr"), RATE_INTERVAL);
                let series = prometheus.range(&query, since).await;
                if !series.iter().any(has_number) {
                    silent.push(format!("{}: {query}", word(panel, "/title")));
                }
                shown.push(
                    json!({"panel": number(panel, "/id"), "target": target["refId"], "series": series}),
                );
            }
        }
        println!("without data: {silent:#?}");
        silent.is_empty()
    })
    .await;
    let mut annotations = Vec::new();
    for annotation in list(&dashboard, "/annotations/list") {
        let query = replaced(word(annotation, "/expr"), RATE_INTERVAL);
        let series = prometheus.range(&query, since).await;
        assert!(!series.is_empty(), "{query}");
        annotations.push(json!({"name": annotation["name"], "series": series}));
    }
    let recorded =
        json!({"from": since.as_secs(), "to": now().as_secs(), "shown": shown, "annotations": annotations});
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard.json");
    std::fs::write(file, recorded.to_string()).expect("written");
}
