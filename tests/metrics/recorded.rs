//! Data that a real Prometheus records from three replicas, in stories about a killed leader, a frozen API server, an
//! API outage and a refused Service.

use std::path::Path;
use std::time::Duration;

use harness::objects::{managed, slice, vip};
use harness::{Cluster, Operator, Place, Platform, leader, tool, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use crate::dashboard::{dashboard, list, number, panels, replaced, word};
use crate::prometheus::{Prometheus, now};

/// The time scale of the stories, in seconds.
#[derive(Clone, Copy)]
struct Pace {
    /// The scrape interval.
    scrape: u64,
    /// The duration of the API outage.
    outage: u64,
    /// The quiet time between two events.
    calm: u64,
}

/// Gives just enough data to check that no panel is empty.
const QUICK: Pace = Pace {
    scrape: 1,
    outage: 4,
    calm: 5,
};

/// The usual configuration of Prometheus.
const ORDINARY: Pace = Pace {
    scrape: 15,
    outage: 120,
    calm: 75,
};

impl Pace {
    /// The distance between two points in a panel: one scrape interval, or four if the panel has a point each minute
    /// with scrapes 15 s apart.
    fn step(self, panel: &Value) -> u64 {
        if panel["interval"] == "1m" {
            4 * self.scrape
        } else {
            self.scrape
        }
    }

    /// Grafana's `$__rate_interval`.
    fn rate_interval(self, step: u64) -> String {
        format!("{}s", (step + self.scrape).max(4 * self.scrape))
    }

    async fn calm(self) {
        sleep(Duration::from_secs(self.calm)).await;
    }
}

/// A story, with its start and end and the moment that its description refers to.
fn story(name: &str, from: Duration, at: Duration) -> Value {
    json!({"name": name, "from": from.as_secs(), "at": at.as_secs(), "to": now().as_secs()})
}

/// A source slice with the trigger time of its last change, which is now.
fn source(address: &str) -> Value {
    let mut source = slice("default", "source", "source-x", &[address]);
    source["metadata"]["annotations"] =
        json!({"endpoints.kubernetes.io/last-change-trigger-time": jiff::Timestamp::now().to_string()});
    source
}

/// Changes the source, waits until its copies list the new address, and then waits for the calm time.
async fn change_source(cluster: &Cluster, address: &str, pace: Pace) {
    cluster.put::<EndpointSlice>(source(address)).await;
    cluster.until_addresses("default", "web", &[address]).await;
    pace.calm().await;
}

/// A query that returns a result when the leader reports this many API servers in a state.
fn servers_in(state: &str, count: u8) -> String {
    format!(
        "count(endpoint_copier_probe_state{{state=\"{state}\"}} == 1 \
         and on (instance) leader_election_master_status == 1) == {count}"
    )
}

/// Plays the stories that the dashboard must show, and returns them.
async fn record(
    cluster: &mut Cluster,
    prometheus: &Prometheus,
    replicas: &mut Vec<Operator>,
    pace: Pace,
) -> Vec<Value> {
    let leads = |count: u8| format!("sum(leader_election_master_status) == {count}");
    let mut stories = Vec::new();
    cluster.create::<EndpointSlice>(source("10.0.0.1")).await;
    let mut service = vip();
    service["spec"]["ports"][0]["targetPort"] = json!(cluster.address(0).port());
    cluster.create::<Service>(service).await;
    cluster
        .create::<Service>(managed("default", "web", "default", "source"))
        .await;
    cluster.until_addresses("default", "web", &["10.0.0.1"]).await;
    prometheus.until(&leads(1)).await;
    prometheus
        .until("max(endpoint_copier_services_in_sync) == 2")
        .await;
    change_source(cluster, "10.0.0.2", pace).await;

    // The leader is killed, and a control-plane node is lost while no replica leads.
    let from = now();
    let killed = replicas.swap_remove(leader(replicas).await);
    killed.signal("KILL");
    cluster.kill_server(1).await;
    cluster.list_servers(&[0, 2]).await;
    prometheus.until("count(up == 0) == 1").await;
    prometheus.until(&leads(1)).await;
    cluster
        .until_addresses("default", "kubernetes-vip", &[&cluster.ip(0), &cluster.ip(2)])
        .await;
    // For two scrape intervals, queries can still return the last scrape of the killed replica.
    sleep(Duration::from_secs(2 * pace.scrape)).await;
    let at = now();
    pace.calm().await;
    stories.push(story("leader", from, at));

    // The node returns, and its API server freezes. `default/kubernetes` lists the server for some time longer.
    cluster.start_server(1).await;
    cluster.list_servers(&[0, 1, 2]).await;
    prometheus.until(&servers_in("well", 3)).await;
    pace.calm().await;
    let from = now();
    cluster.freeze_server(1);
    prometheus.until(&servers_in("down", 1)).await;
    sleep(Duration::from_secs(2 * pace.scrape)).await;
    let at = now();
    cluster.list_servers(&[0, 2]).await;
    pace.calm().await;
    cluster.thaw_server(1);
    cluster.list_servers(&[0, 1, 2]).await;
    prometheus.until(&servers_in("well", 3)).await;
    pace.calm().await;
    stories.push(story("server", from, at));

    // The API servers are down, and the source changes during the outage.
    let (from, end) = (now(), Instant::now() + Duration::from_secs(pace.outage));
    for server in [0, 1, 2] {
        cluster.kill_server(server).await;
    }
    let changed = source("10.0.0.3");
    prometheus.until(&leads(0)).await;
    sleep_until(end).await;
    let at = now();
    for server in [0, 1, 2] {
        cluster.start_server(server).await;
    }
    cluster.put::<EndpointSlice>(changed).await;
    prometheus.until(&leads(1)).await;
    cluster.until_addresses("default", "web", &["10.0.0.3"]).await;
    change_source(cluster, "10.0.0.4", pace).await;
    stories.push(story("outage", from, at));

    // A Service that cannot be managed is created.
    let from = now();
    let mut refused = managed("default", "refused", "default", "source");
    refused["spec"]["selector"] = json!({"app": "web"});
    cluster.create::<Service>(refused).await;
    prometheus
        .until("max(endpoint_copier_findings{reason=\"HasSelector\"}) == 1")
        .await;
    change_source(cluster, "10.0.0.5", pace).await;
    stories.push(story("refused", from, now()));
    stories
}

fn has_number(series: &Value) -> bool {
    let samples = series["values"].as_array().into_iter().flatten();
    let mut values = samples.filter_map(|sample| sample[1].as_str());
    values.any(|value| value != "NaN")
}

/// The data of every panel and annotation over all stories.
async fn recorded(pace: Pace) -> Option<Value> {
    let program = tool("prometheus", env!("CARGO_TARGET_TMPDIR"))?;
    let mut cluster = Cluster::start_listed(Platform::Testbed, crate::PROGRAM, None).await;
    // Each replica begins at another server and knows all of them, as in a cluster.
    let mut replicas: Vec<_> = [("a", [0, 1, 2]), ("b", [1, 2, 0]), ("c", [2, 0, 1])]
        .into_iter()
        .map(|(name, servers)| {
            let beginning_there = Place {
                servers: &servers,
                network: None,
            };
            Operator::start_at(&cluster, name, beginning_there, &[])
        })
        .collect();
    let prometheus = Prometheus::start(&program, &replicas, pace.scrape).await;
    let since = now();
    let stories = record(&mut cluster, &prometheus, &mut replicas, pace).await;

    let dashboard = dashboard();
    let (mut shown, mut silent) = (Vec::new(), Vec::new());
    until("every panel has data", async || {
        shown.clear();
        silent.clear();
        for panel in panels(&dashboard) {
            let step = pace.step(panel);
            for target in list(panel, "/targets") {
                let query = replaced(word(target, "/expr"), &pace.rate_interval(step));
                let series = prometheus.range(&query, since, step).await;
                if !series.iter().any(has_number) {
                    silent.push(format!("{}: {query}", word(panel, "/title")));
                }
                shown.push(json!({
                    "panel": number(panel, "/id"), "target": target["refId"], "step": step, "series": series,
                }));
            }
        }
        println!("without data: {silent:#?}");
        silent.is_empty()
    })
    .await;
    let mut annotations = Vec::new();
    for annotation in list(&dashboard, "/annotations/list") {
        let query = replaced(word(annotation, "/expr"), &pace.rate_interval(pace.scrape));
        let series = prometheus.range(&query, since, pace.scrape).await;
        assert!(!series.is_empty(), "{query}");
        annotations.push(json!({"name": annotation["name"], "series": series}));
    }
    Some(json!({
        "from": since.as_secs(), "to": now().as_secs(), "scrape": pace.scrape, "stories": stories,
        "shown": shown, "annotations": annotations,
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_shows_data_of_the_recorded_stories() {
    recorded(QUICK).await;
}

/// Records the same stories at the pace of a real cluster, and writes the data to a file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 14 minutes: make dashboard-preview runs it"]
async fn record_the_stories_with_scrapes_15_s_apart() {
    let Some(recorded) = recorded(ORDINARY).await else {
        return;
    };
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard.json");
    std::fs::write(file, recorded.to_string()).expect("written");
}
