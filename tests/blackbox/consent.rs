//! A source in another namespace is copied only with the consent of its owner or of an admin, unless it is the default
//! source.

use std::time::{Duration, Instant};

use harness::objects::{managed, slice, source, vip};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::events::events_on;
use crate::inspect::{run, text};
use crate::on_both;

/// A withdrawal takes effect within this time, even on a busy machine, where deletes take longer.
const WITHDRAWN: Duration = Duration::from_secs(3);

/// Creates the namespaces `web`, with a source `app`, and `team-a`.
async fn namespaces(cluster: &Cluster) {
    for namespace in ["web", "team-a"] {
        cluster.namespace(namespace).await;
    }
    cluster
        .create::<EndpointSlice>(slice("web", "app", "app-x7k2p", &["10.0.0.1"]))
        .await;
}

fn front() -> serde_json::Value {
    managed("team-a", "front", "web", "app")
}

/// Waits for an Event with this reason, and returns its note.
pub async fn note(cluster: &Cluster, service: &Service, reason: &str) -> String {
    let mut note = String::new();
    until(&format!("an Event {reason}"), async || {
        let events = events_on(cluster, service).await.into_iter();
        let found = events.into_iter().find(|event| event.1 == reason);
        found.map(|event| note = event.2).is_some()
    })
    .await;
    note
}

on_both! {
    /// Rule: 9.allow-from, 9.withdrawal
    async fn an_annotation_on_the_source_gives_and_withdraws_consent(cluster: &mut Cluster) {
        namespaces(cluster).await;
        let _operator = Operator::start(cluster, "one", 0);
        let service = cluster.create::<Service>(front()).await;
        note(cluster, &service, "NotPermitted").await;
        cluster.create::<Service>(source("web", "app", "team-b,team-a")).await;
        cluster.until_addresses("team-a", "front", &["10.0.0.1"]).await;
        // A typo freezes the copy, but a withdrawal deletes the copy anyway.
        let typo = json!({"metadata": {"annotations": {"endpoint-copier/enabled": "ture"}}});
        let service = cluster.patch::<Service>("team-a", "front", typo).await;
        note(cluster, &service, "InvalidAnnotation").await;
        assert_eq!(cluster.addresses_of("team-a", "front").await, ["10.0.0.1"]);
        let before = Instant::now();
        cluster.put::<Service>(source("web", "app", "team-b")).await;
        cluster.until_addresses("team-a", "front", &[]).await;
        assert!(before.elapsed() < WITHDRAWN, "{:?}", before.elapsed());
        assert!(cluster.slices_of("team-a", "front").await.is_empty());
    }

    /// Rule: 9.withdrawal
    async fn withdrawal_empties_no_other_copy_and_ends_a_hold(cluster: &mut Cluster) {
        namespaces(cluster).await;
        cluster.create::<Service>(source("web", "app", "*")).await;
        cluster.create::<EndpointSlice>(slice("team-a", "own", "own-x7k2p", &["10.0.0.2"])).await;
        let operator = Operator::start(cluster, "one", 0);
        let mut held = front();
        held["metadata"]["annotations"]["endpoint-copier/when-source-empty"] = json!("hold");
        cluster.create::<Service>(held).await;
        cluster.create::<Service>(managed("team-a", "mine", "team-a", "own")).await;
        cluster.until_addresses("team-a", "front", &["10.0.0.1"]).await;
        cluster.until_addresses("team-a", "mine", &["10.0.0.2"]).await;
        cluster.delete::<EndpointSlice>("web", "app-x7k2p").await;
        let held = "endpoint_copier_findings{reason=\"SourceEmptyHeld\"}";
        until("the copy is held", async || operator.metric(held).await == Some(1)).await;
        cluster.delete::<Service>("web", "app").await;
        cluster.until_addresses("team-a", "front", &[]).await;
        assert!(cluster.slices_of("team-a", "front").await.is_empty());
        assert_eq!(cluster.addresses_of("team-a", "mine").await, ["10.0.0.2"]);
    }

    /// Rule: 9.refusal-is-blind
    async fn a_refusal_does_not_show_whether_the_source_exists(cluster: &mut Cluster) {
        namespaces(cluster).await;
        let operator = Operator::start(cluster, "one", 0);
        let service = cluster.create::<Service>(managed("team-a", "front", "web", "none")).await;
        let missing = note(cluster, &service, "NotPermitted").await;
        cluster.delete::<Service>("team-a", "front").await;
        cluster.create::<EndpointSlice>(slice("web", "none", "none-x7k2p", &["10.0.0.3"])).await;
        cluster.create::<Service>(source("web", "none", "team-b")).await;
        let service = cluster.create::<Service>(managed("team-a", "front", "web", "none")).await;
        assert_eq!(note(cluster, &service, "NotPermitted").await, missing);
        let (_, metrics) = operator.get("/metrics").await;
        let shown = metrics.lines().filter(|line| line.contains("front") && line.contains("source"));
        assert!(shown.clone().all(|line| line.ends_with(" 0")), "{:?}", shown.collect::<Vec<_>>());
    }

    /// Rule: 9.ports, 9.default-source
    async fn unpermitted_ports_of_the_control_plane_are_not_exposed(cluster: &mut Cluster) {
        cluster.namespace("team-a").await;
        let _operator = Operator::start(cluster, "one", 0);
        let mut service = vip();
        service["metadata"] = json!({
            "name": "api", "namespace": "team-a", "annotations": {"endpoint-copier/enabled": "true"},
        });
        service["spec"]["ports"] = json!([
            {"name": "https", "port": 443, "targetPort": 6443},
            {"name": "join", "port": 9345, "targetPort": 9345},
            // Kubernetes 1.30 does not let a LoadBalancer Service use the kubelet's port number.
            {"name": "kubelet", "port": 10255, "targetPort": 10250},
            {"name": "etcd", "port": 2379, "targetPort": 2379},
        ]);
        let service = cluster.create::<Service>(service).await;
        let note = note(cluster, &service, "PortNotPermitted").await;
        assert!(note.contains("10250/TCP, 2379/TCP"), "{note}");
        let mut ports = Vec::new();
        until("there is a copy", async || {
            let copies = cluster.slices_of("team-a", "api").await;
            ports = copies.iter().flat_map(|copy| copy.ports.iter().flatten()).filter_map(|port| port.port).collect();
            !ports.is_empty()
        }).await;
        ports.sort_unstable();
        assert_eq!(ports, [6443, 9345]);
    }

    /// Rule: 9.upgrade
    async fn plan_lists_the_services_that_need_consent(cluster: &mut Cluster) {
        namespaces(cluster).await;
        let none = run(cluster, &["plan", "--consent"]).await;
        assert_eq!((none.status.code(), text(&none).as_str()), (Some(0), "No Service needs consent.\n"));
        cluster.create::<Service>(front()).await;
        let output = run(cluster, &["plan", "--consent"]).await;
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(1), "{shown}");
        for part in ["team-a/front NotPermitted: web/app", "endpoint-copier/allow-from: \"team-a\"", "ReferenceGrant in namespace web"] {
            assert!(shown.contains(part), "{shown}");
        }
        let json = run(cluster, &["plan", "--consent", "-o", "json"]).await;
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
        assert_eq!(json["services"][0]["reason"], "NotPermitted");
        cluster.create::<Service>(source("web", "app", "team-a")).await;
        assert_eq!(run(cluster, &["plan", "--consent"]).await.status.code(), Some(0));
    }

    /// Rule: 9.modes, 9.allow-source
    async fn the_admin_can_allow_or_deny_all(cluster: &mut Cluster) {
        namespaces(cluster).await;
        cluster.create::<Service>(front()).await;
        {
            let _operator = Operator::start_with(cluster, "one", 0, &["--cross-namespace=allow"]);
            cluster.until_addresses("team-a", "front", &["10.0.0.1"]).await;
        }
        cluster.create::<Service>(source("web", "app", "*")).await;
        {
            let _operator = Operator::start_with(cluster, "one", 0, &["--cross-namespace=deny"]);
            cluster.until_addresses("team-a", "front", &[]).await;
        }
        let flags = ["--cross-namespace=deny", "--allow-source=web/app=team-b,team-a"];
        let _operator = Operator::start_with(cluster, "one", 0, &flags);
        cluster.until_addresses("team-a", "front", &["10.0.0.1"]).await;
    }
}
