//! The `/metrics` pages of real replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use harness::objects::{managed, slice, vip};
use harness::{Cluster, Operator, Platform, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::promtool::{promtool, run};

/// A metric on a page.
#[derive(Debug, Default)]
pub struct Family {
    pub help: String,
    pub kind: String,
    /// The names of its labels.
    pub labels: BTreeSet<String>,
}

/// The metrics of a page by name.
pub fn families(page: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<_, Family>::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            name.clone_into(&mut current);
            help.clone_into(&mut families.entry(current.clone()).or_default().help);
        } else if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kind.clone_into(&mut families.entry(current.clone()).or_default().kind);
        } else {
            assert!(line.starts_with(&current), "{line} below {current}");
            let family = families
                .get_mut(&current)
                .expect("HELP or TYPE line before the samples");
            family
                .labels
                .extend(labels(line).into_iter().map(|(name, _)| name));
        }
    }
    families
}

/// Names and values of the labels of a series, without the bounds of histograms.
pub fn labels(line: &str) -> Vec<(String, String)> {
    let inner = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
    let pairs = inner.map(|(inner, _)| inner.split("\",")).into_iter().flatten();
    let pairs = pairs.filter_map(|pair| pair.split_once("=\""));
    pairs
        .map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()))
        .filter(|(name, _)| name != "le")
        .collect()
}

/// Starts a cluster with two replicas. The first replica leads, and its metrics report changes, findings and probes.
pub async fn eventful(platform: Platform) -> (Cluster, Operator, Operator) {
    let cluster = Cluster::start(platform, crate::PROGRAM, 1).await;
    let mut source = slice("default", "source", "source-x", &["10.0.0.1"]);
    let now =
        || json!({"endpoints.kubernetes.io/last-change-trigger-time": jiff::Timestamp::now().to_string()});
    source["metadata"]["annotations"] = now();
    cluster.create::<EndpointSlice>(source.clone()).await;
    let leader = Operator::start(&cluster, "one", 0);
    leader.until_leads().await;
    let standby = Operator::start(&cluster, "two", 0);
    standby.until_ready().await;
    let mut vip = vip();
    let mut probed = "endpoint_copier_probe_attempts_total{";
    // On the testbed, one endpoint responds to probes. On a real API server, none does, because it does not list its
    // loopback address in `default/kubernetes`.
    if cluster.testbed().is_some() {
        cluster.list_servers(&[0]).await;
        vip["spec"]["ports"][0]["targetPort"] = json!(cluster.address(0).port());
        probed = "endpoint_copier_probe_duration_seconds_bucket{";
    }
    cluster.create::<Service>(vip).await;
    cluster
        .create::<Service>(managed("default", "web", "default", "source"))
        .await;
    let mut refused = managed("default", "refused", "default", "source");
    refused["spec"]["selector"] = json!({"app": "web"});
    cluster.create::<Service>(refused).await;
    cluster.until_addresses("default", "web", &["10.0.0.1"]).await;
    source["endpoints"][0]["addresses"] = json!(["10.0.0.2"]);
    source["metadata"]["annotations"] = now();
    cluster.put::<EndpointSlice>(source).await;
    cluster.until_addresses("default", "web", &["10.0.0.2"]).await;
    until("the refused Service is counted", async || {
        leader
            .metric("endpoint_copier_findings{reason=\"HasSelector\"}")
            .await
            == Some(1)
            && leader
                .metric("endpoint_copier_events_total{reason=\"HasSelector\",type=\"Warning\"}")
                .await
                == Some(1)
            && leader.metric("endpoint_copier_services_in_sync").await == Some(2)
            && page(&leader).await.contains(probed)
    })
    .await;
    (cluster, leader, standby)
}

/// The metrics page of a replica.
pub async fn page(operator: &Operator) -> String {
    let (code, page) = operator.get("/metrics").await;
    assert_eq!(code, 200);
    page
}

/// tests/reference builds its page from metrics in memory, so it would miss a metric that only real replicas have.
async fn every_metric_is_documented(platform: Platform) {
    let (_cluster, leader, _standby) = eventful(platform).await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/metrics.md");
    let documented = std::fs::read_to_string(&file).expect("docs/reference/metrics.md");
    for (name, family) in families(&page(&leader).await) {
        assert!(
            family.help.ends_with('.') && !family.help.contains('|'),
            "{name}: {}",
            family.help
        );
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let row = format!("| `{name}` | {} | {} | ", family.kind, labels.join(" "));
        assert!(documented.contains(&row), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_documented_on_testbed() {
    every_metric_is_documented(Platform::Testbed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_documented_on_api_server() {
    if Platform::Real.is_here() {
        every_metric_is_documented(Platform::Real).await;
    } else {
        println!("skipped: needs KUBEBUILDER_ASSETS");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_accepts_a_page() {
    let Some(promtool) = promtool() else { return };
    let (_cluster, leader, standby) = eventful(Platform::Testbed).await;
    for operator in [&leader, &standby] {
        let output = run(&promtool, &["check", "metrics"], &page(operator).await);
        assert_eq!(output.trim(), "", "{}", operator.name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_reports_services_and_labels_are_bounded() {
    let (cluster, leader, standby) = eventful(Platform::Testbed).await;
    let (leading, standing_by) = (page(&leader).await, page(&standby).await);
    assert_eq!(leading.matches(",service=\"web\"").count(), 8);
    assert_eq!(standing_by.matches("service=").count(), 0);
    let slices: Vec<EndpointSlice> = cluster.list("default").await;
    let names = slices.into_iter().filter_map(|slice| slice.metadata.name);
    // The EndpointSlice of `default/kubernetes` has the same name as its Service, and that name must not appear in any
    // label either.
    let names: BTreeSet<_> = names.collect();
    for line in [leading, standing_by]
        .concat()
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        for (name, value) in labels(line) {
            assert!(!names.contains(&value), "{line}");
            let is_address = value.parse::<std::net::IpAddr>().is_ok();
            // Labels may contain the targets of requests and probes, but no other address of an endpoint.
            let is_allowed =
                name == "host" || (name == "address" && line.starts_with("endpoint_copier_probe_"));
            assert!(!is_address || is_allowed, "{line}");
            assert!(!value.contains(' '), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_without_a_leader_is_not_measured_as_propagation() {
    let (cluster, leader, standby) = eventful(Platform::Testbed).await;
    leader.signal("KILL");
    let mut source = slice("default", "source", "source-x", &["10.0.0.3"]);
    cluster.put::<EndpointSlice>(source.clone()).await;
    cluster.until_addresses("default", "web", &["10.0.0.3"]).await;
    let (writes, count) = (
        "endpoint_copier_slice_changes_total{operation=\"update\"}",
        "endpoint_copier_propagation_seconds_count",
    );
    assert_eq!(standby.metric(writes).await, Some(1));
    assert_eq!(standby.metric(count).await, Some(0));
    source["endpoints"][0]["addresses"] = json!(["10.0.0.4"]);
    cluster.put::<EndpointSlice>(source).await;
    until("the next change is measured", async || {
        standby.metric(count).await == Some(1)
    })
    .await;
}
