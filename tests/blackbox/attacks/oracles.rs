//! Attempts to learn something about a Service that the attacker is not permitted to read.

use harness::objects::{managed, slice, source};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::{VICTIM, forged, front, seen, victim};
use crate::consent::note;
use crate::inspect::{run, text};
use crate::on_both;

/// Starts the operator, and returns everything that it reports about `team-a/front`: an Event, metrics, the log, and
/// the output of the commands.
async fn reported(cluster: &Cluster) -> Vec<String> {
    let operator = Operator::start(cluster, "one", 0);
    let service = cluster
        .create::<Service>(managed("team-a", "front", "web", "none"))
        .await;
    let mut reported = vec![note(cluster, &service, "NotPermitted").await];
    seen(cluster).await;
    let refused = "endpoint_copier_findings{reason=\"NotPermitted\"}";
    until("the metric counts the finding", async || {
        operator.metric(refused).await == Some(1)
    })
    .await;
    let (_, metrics) = operator.get("/metrics").await;
    let is_about_front = |line: &&str| {
        (line.contains("front") || line.starts_with("endpoint_copier_findings"))
            && !line.contains("_seconds{")
    };
    reported.extend(metrics.lines().filter(is_about_front).map(str::to_owned));
    // Without the first word of each line, which is the time.
    let log = operator.log();
    let lines = log.lines().filter(|line| line.contains("front"));
    reported.extend(lines.map(|line| line.split_once(' ').expect("a time and a message").1.to_owned()));
    drop(operator);
    for words in [&["status"][..], &["plan"], &["plan", "--consent"]] {
        let shown = text(&run(cluster, words).await);
        let about_front = shown
            .lines()
            .filter(|line| line.contains("front"))
            .map(without_age);
        reported.extend(about_front);
    }
    for words in [["status", "-o", "json"], ["plan", "-o", "json"]] {
        let shown: Value = serde_json::from_str(&text(&run(cluster, &words).await)).expect("JSON");
        let services = shown["services"].as_array().expect("Services");
        let mut about_front: Vec<_> = services
            .iter()
            .filter(|row| row["name"] == "front")
            .cloned()
            .collect();
        // `front` is created once per call, so the time in its row differs between calls.
        for row in &mut about_front {
            row["since"] = Value::Null;
        }
        reported.push(json!(about_front).to_string());
    }
    cluster.delete::<Service>("team-a", "front").await;
    reported
}

/// A line of a table without the time since the last change.
fn without_age(line: &str) -> String {
    let is_age = |word: &&str| {
        word.len() > 1 && word.starts_with(|c: char| c.is_ascii_digit()) && word.ends_with(['s', 'm', 'h'])
    };
    line.split_whitespace()
        .filter(|word| !is_age(word))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The lines in `/metrics` that count syncs, one line per result.
async fn syncs(operator: &Operator) -> Vec<String> {
    let (_, metrics) = operator.get("/metrics").await;
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with("endpoint_copier_syncs_total"));
    lines.map(str::to_owned).collect()
}

/// The lines in `/metrics` that count reads that returned 404.
async fn not_found(operator: &Operator) -> Vec<String> {
    // The `/metrics` page is rendered at most once a second.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let (_, metrics) = operator.get("/metrics").await;
    let is_read = |line: &&str| {
        line.starts_with("rest_client_requests_total{code=\"404\"") && line.contains("method=\"GET\"")
    };
    metrics.lines().filter(is_read).map(str::to_owned).collect()
}

on_both! {
    servers: 1;
    /// The operator reads the source Service before it deletes copies that lack consent, or copies that have no
    /// replacement because the new source is refused.
    /// Rule: 9.refusal-is-blind, 9.old-view
    async fn requests_do_not_show_whether_a_refused_source_exists(cluster: &mut Cluster) {
        victim(cluster).await;
        cluster.serve_reference_grants().await;
        cluster.create::<Service>(source("web", "app", "team-b")).await;
        cluster.create::<EndpointSlice>(slice("team-a", "own", "own-x7k2p", &["10.0.0.7"])).await;
        let operator = Operator::start(cluster, "one", 0);
        for refused in ["app", "none"] {
            cluster.put::<Service>(managed("team-a", "front", "team-a", "own")).await;
            cluster.until_addresses("team-a", "front", &["10.0.0.7"]).await;
            let before = not_found(&operator).await;
            let service = cluster.put::<Service>(managed("team-a", "front", "web", refused)).await;
            cluster.until_addresses("team-a", "front", &[]).await;
            let mut forged = forged(&service, "front-forged", &[VICTIM]);
            forged["metadata"]["annotations"]["endpoint-copier/source-slice"] = json!(format!("{refused}-x7k2p"));
            cluster.create::<EndpointSlice>(forged).await;
            cluster.gone::<EndpointSlice>("team-a", "front-forged").await;
            assert_eq!(not_found(&operator).await, before, "{refused}");
        }
    }

    /// Rule: 9.refusal-is-blind
    async fn refusals_are_byte_equal_whether_the_source_exists_or_not(cluster: &mut Cluster) {
        victim(cluster).await;
        let missing = reported(cluster).await;
        cluster.create::<EndpointSlice>(slice("web", "none", "none-x7k2p", &["10.0.0.3"])).await;
        cluster.create::<Service>(source("web", "none", "team-b")).await;
        let existing = reported(cluster).await;
        assert_eq!(existing, missing);
        assert!(missing.len() > 5, "{missing:#?}");
    }

    /// The test compares the sync counts in the metrics.
    /// Rule: 9.refusal-is-blind
    async fn changes_of_a_refused_source_cause_no_sync(cluster: &mut Cluster) {
        victim(cluster).await;
        cluster.serve_reference_grants().await;
        cluster.create::<Service>(source("web", "app", "team-b")).await;
        let operator = Operator::start(cluster, "one", 0);
        let service = cluster.create::<Service>(front()).await;
        note(cluster, &service, "NotPermitted").await;
        seen(cluster).await;
        let mut before = syncs(&operator).await;
        until("the operator is idle", async || {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            std::mem::replace(&mut before, syncs(&operator).await) == syncs(&operator).await
        })
        .await;
        for (number, allowed) in ["team-c", "", "team-b,team-c"].into_iter().enumerate() {
            cluster.put::<Service>(source("web", "app", allowed)).await;
            cluster.put::<EndpointSlice>(slice("web", "app", "app-x7k2p", &[&format!("10.0.1.{number}")])).await;
            let from = json!([{"group": "", "kind": "Service", "namespace": "team-c"}]);
            let name = format!("grant-{number}");
            cluster.grant("web", &name, json!({"from": from, "to": [{"group": "", "kind": "Service"}]})).await;
            cluster.revoke("web", &name).await;
        }
        cluster.delete::<Service>("web", "app").await;
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        assert_eq!(syncs(&operator).await, before);
    }
}
