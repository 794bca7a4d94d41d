//! The Events that `kubectl describe service` shows.

use harness::objects::{managed, slice, vip};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use serde_json::json;

use crate::on_both;

/// Type, reason and note of the operator's Events about a Service, oldest first. API servers also write Events about a
/// Service when they repair the allocation of its ClusterIP.
pub async fn events_on(cluster: &Cluster, service: &Service) -> Vec<(String, String, String)> {
    let mut events: Vec<Event> = cluster
        .list(service.metadata.namespace.as_deref().unwrap_or_default())
        .await;
    events.retain(|event| {
        event.reporting_controller.as_deref() == Some("endpoint-copier-operator")
            && event.regarding.as_ref().and_then(|it| it.uid.as_ref()) == service.metadata.uid.as_ref()
    });
    events.sort_by_key(|event| event.event_time.clone());
    let fields = |event: Event| {
        (
            event.type_.unwrap_or_default(),
            event.reason.unwrap_or_default(),
            event.note.unwrap_or_default(),
        )
    };
    events.into_iter().map(fields).collect()
}

on_both! {
    /// Rule: 2.port-unresolved, 3.events-where, 3.events-when, 5.only-the-holder
    async fn a_finding_causes_a_new_event_when_its_detail_changes(cluster: &mut Cluster) {
        cluster.create::<EndpointSlice>(slice("default", "source", "source-1", &["10.0.0.1"])).await;
        let _operators = [Operator::start(cluster, "one", 0), Operator::start(cluster, "two", 1)];
        let mut service = managed("default", "web", "default", "source");
        service["spec"]["ports"] = json!([{"name": "a", "port": 80, "targetPort": "alpha"}, {"name": "http", "port": 81, "targetPort": "http"}]);
        let service = cluster.create::<Service>(service).await;
        until("the unknown port is reported", async || {
            events_on(cluster, &service).await.iter().any(|(kind, reason, note)| kind == "Warning" && reason == "PortUnresolved" && note.contains("alpha"))
        }).await;
        cluster.until_addresses("default", "web", &["10.0.0.1"]).await;
        // Many syncs with the same finding …
        for number in 2..6 {
            cluster.put::<EndpointSlice>(slice("default", "source", "source-1", &[&format!("10.0.0.{number}")])).await;
            cluster.until_addresses("default", "web", &[&format!("10.0.0.{number}")]).await;
        }
        // … and then one with different details.
        let ports = json!({"spec": {"ports": [{"name": "a", "port": 80, "targetPort": "beta"}, {"name": "http", "port": 81, "targetPort": "http"}]}});
        cluster.patch::<Service>("default", "web", ports).await;
        until("the other port is reported", async || {
            events_on(cluster, &service).await.iter().any(|(_, reason, note)| reason == "PortUnresolved" && note.contains("beta"))
        }).await;
        let events = events_on(cluster, &service).await;
        let warnings: Vec<_> = events.iter().filter(|(kind, ..)| kind == "Warning").collect();
        assert_eq!(warnings.len(), 2, "{events:#?}");
        assert!(events.iter().all(|(kind, ..)| kind == "Warning"), "a Normal Event among the warnings: {events:#?}");
        // The fix resolves the finding.
        let ports = json!({"spec": {"ports": [{"name": "http", "port": 81, "targetPort": 8081}]}});
        cluster.patch::<Service>("default", "web", ports).await;
        until("a Synced Event is sent", async || {
            events_on(cluster, &service).await.iter().any(|(kind, reason, note)| kind == "Normal" && reason == "Synced" && note.contains("default/source: 1 endpoint"))
        }).await;
    }

    /// Rule: 3.events-type
    async fn a_healthy_service_gets_no_warning(cluster: &mut Cluster) {
        let _operator = Operator::start(cluster, "one", 0);
        let service = cluster.create::<Service>(vip()).await;
        until("a Synced Event is sent", async || {
            events_on(cluster, &service).await.iter().any(|(_, reason, _)| reason == "Synced")
        }).await;
        let events = events_on(cluster, &service).await;
        assert!(events.iter().all(|(kind, ..)| kind == "Normal"), "{events:#?}");
    }
}
