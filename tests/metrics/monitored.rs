//! The `ServiceMonitor` of the chart, as the Prometheus Operator applies it: first the labels of the target, and then
//! the relabelings.

use std::process::Command;

use harness::objects::vip;
use harness::{Cluster, Operator, Platform, tool};
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use crate::prometheus::{NAMESPACE, Prometheus, pod, targets};
const TMP: &str = env!("CARGO_TARGET_TMPDIR");

/// The rendered `ServiceMonitor`, or `None` without Helm.
fn service_monitor() -> Option<Value> {
    let output = Command::new(tool("helm-4", TMP).or_else(|| tool("helm", TMP))?)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["template", "copier", "charts/endpoint-copier-operator"])
        .args(["--show-only", "templates/servicemonitor.yaml"])
        .args(["--set", "metrics.serviceMonitor.enabled=true"])
        .output()
        .expect("helm starts");
    let text = String::from_utf8(output.stdout).expect("a string");
    Some(serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// Converts the fields of the custom resource to the spelling of Prometheus.
fn in_prometheus_spelling(relabelings: &Value) -> Value {
    let text = relabelings.to_string();
    let text = text.replace("targetLabel", "target_label");
    serde_json::from_str(&text.replace("sourceLabels", "source_labels")).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_monitor_labels_match_alerts_and_dashboard() {
    let (Some(prometheus), Some(monitor)) = (tool("prometheus", TMP), service_monitor()) else {
        return;
    };
    let endpoint = &monitor["spec"]["endpoints"][0];
    let cluster = Cluster::start(Platform::Testbed, crate::PROGRAM, 1).await;
    let replicas = [Operator::start(&cluster, "a", 0)];
    cluster.create::<Service>(vip()).await;
    let labels = |replica: &Operator| {
        json!({
            "namespace": NAMESPACE, "pod": pod(replica), "container": "manager", "endpoint": endpoint["port"],
            "service": "endpoint-copier-operator-metrics", "job": "endpoint-copier-operator-metrics",
        })
    };
    let scrape = json!({
        "job_name": "serviceMonitor/monitoring/copier/0",
        "static_configs": targets(&replicas, labels),
        "relabel_configs": in_prometheus_spelling(&endpoint["relabelings"]),
    });
    let prometheus = Prometheus::scraping(&prometheus, scrape, 1).await;
    let wanted = "job=\"endpoint-copier-operator\",namespace=\"endpoint-copier-operator\",pod=\"replica-a\"";
    let managed = "service_namespace=\"default\",service=\"kubernetes-vip\"";
    prometheus
        .until(&format!("leader_election_master_status{{{wanted}}} == 1"))
        .await;
    prometheus
        .until(&format!(
            "endpoint_copier_out_of_sync_seconds{{{wanted},{managed}}}"
        ))
        .await;
    prometheus.until("absent({exported_service=~\".+\"})").await;
}
