//! Managed Services and refused ones, and how the operator reports them.

use harness::objects::{managed, slice, source, vip};
use harness::{Cluster, LEASE, Operator, until};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::events::events_on;
use crate::on_both;

/// A Service in namespace `default` that copies `default/source`, after this change.
fn with(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut service = managed("default", name, "default", "source");
    change(&mut service);
    service
}

fn annotate(service: &mut Value, key: &str, value: Value) {
    service["metadata"]["annotations"][format!("endpoint-copier/{key}")] = value;
}

on_both! {
    /// Rule: 1.enabled-false, 1.flags-service, 1.source-default, 1.annotation-beats-flag, 4.go-syntax
    /// Rule: 4.source-flags, 4.zap-mapped, 4.accepted-with-warning, 4.election-flags
    async fn flags_in_go_syntax_name_source_and_managed_service(cluster: &mut Cluster) {
        for namespace in ["blue", "green"] {
            cluster.namespace(namespace).await;
        }
        cluster.create::<EndpointSlice>(slice("green", "app", "app-x", &["10.0.0.1"])).await;
        let operator = Operator::start_with(cluster, "one", 0, &[
            "-default-endpoint-name", "app", "-default-endpoint-namespace=green",
            "-managed-endpoint-name=front", "--managed-endpoint-namespace", "blue",
            "-leader-elect=true", "-leader-election-lease-duration=3000ms", "-leader-election-renew-deadline", "0h0m2s",
            "-zap-log-level=debug", "-zap-devel", "--zap-encoder=json", "-apiserver-port=9345", "--apiserver-protocol", "TCP",
        ]);
        let unmarked = |namespace: &str, name: &str| json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        cluster.create::<Service>(vip()).await;
        cluster.create::<Service>(unmarked("green", "front")).await;
        cluster.create::<Service>(unmarked("blue", "front")).await;
        cluster.until_addresses("blue", "front", &["10.0.0.1"]).await;
        let mut default_source = unmarked("blue", "other");
        default_source["metadata"]["annotations"] = json!({"endpoint-copier/enabled": "true"});
        cluster.create::<Service>(default_source).await;
        cluster.until_addresses("blue", "other", &["10.0.0.1"]).await;
        for (namespace, name) in [("default", "kubernetes-vip"), ("green", "front")] {
            assert!(cluster.slices_of(namespace, name).await.is_empty(), "{namespace}/{name}");
        }
        let lease: Lease = cluster.try_get("default", LEASE).await.unwrap();
        assert_eq!(lease.spec.unwrap().lease_duration_seconds, Some(3));
        let log = operator.log();
        for flag in ["zap-devel", "apiserver-port", "apiserver-protocol"] {
            let warned = log.lines().filter(|line| line.contains(flag) && line.contains("WARN")).count();
            assert_eq!(warned, 1, "{flag}: {log}");
        }
        assert!(log.lines().all(|line| line.starts_with('{')), "not JSON: {log}");

        // The annotation takes precedence over the flag.
        let off = json!({"metadata": {"annotations": {"endpoint-copier/enabled": "false"}}});
        cluster.patch::<Service>("blue", "front", off).await;
        cluster.until_addresses("blue", "front", &[]).await;
    }

    /// Rule: 1.enabled-typo, 1.refused-says-so, 1.has-selector, 1.external-name, 1.source-is-self
    /// Rule: 1.source-is-copy, 1.source-not-found, 2.fqdn, 2.family-missing, 2.no-port-no-copy
    /// Rule: 2.endpoint-is-vip, 2.port-not-in-source, 3.foreign-reported, 3.node-name-missing, 3.events-type
    async fn each_finding_is_an_event_and_a_metric(cluster: &mut Cluster) {
        cluster.create::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.1"])).await;
        let mut names = slice("default", "names", "names-x", &["example.org"]);
        names["addressType"] = json!("FQDN");
        cluster.create::<EndpointSlice>(names).await;
        let mut six = slice("default", "six", "six-x", &["2001:db8::1"]);
        six["addressType"] = json!("IPv6");
        cluster.create::<EndpointSlice>(six).await;
        cluster.create::<EndpointSlice>(slice("default", "loop", "loop-x", &["10.0.0.8", "192.0.2.100"])).await;
        let operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(with("good", |_| ())).await;
        cluster.until_addresses("default", "good", &["10.0.0.1"]).await;
        let services = [
            ("InvalidAnnotation", with("empty-enabled", |it| annotate(it, "enabled", json!("")))),
            ("HasSelector", with("selecting", |it| it["spec"]["selector"] = json!({"app": "web"}))),
            ("ExternalName", with("external", |it| it["spec"] = json!({"type": "ExternalName", "externalName": "example.org"}))),
            ("SourceIsSelf", with("itself", |it| annotate(it, "default-service-name", json!("itself")))),
            ("SourceIsCopy", with("copy-of-copy", |it| annotate(it, "default-service-name", json!("good")))),
            ("SourceNotFound", with("lost", |it| annotate(it, "default-service-name", json!("nowhere")))),
            ("UnsupportedAddressType", with("named", |it| annotate(it, "default-service-name", json!("names")))),
            ("FamilyMissing", with("four", |it| annotate(it, "default-service-name", json!("six")))),
            ("PortUnresolved", with("portless", |it| it["spec"]["ports"][0]["targetPort"] = json!("metrics"))),
            ("NodeNameMissing", with("local", |it| {
                it["spec"]["type"] = json!("LoadBalancer");
                it["spec"]["externalTrafficPolicy"] = json!("Local");
            })),
            ("ForeignSlices", with("shared", |_| ())),
            ("EndpointIsVip", with("looping", |it| {
                annotate(it, "default-service-name", json!("loop"));
                it["spec"]["externalIPs"] = json!(["192.0.2.100"]);
            })),
            ("PortNotInSource", with("of-api", |it| {
                annotate(it, "default-service-name", json!("kubernetes"));
                it["spec"]["ports"] = json!([
                    {"name": "https", "port": 443, "targetPort": 6443}, {"name": "http", "port": 80, "targetPort": 8080},
                ]);
            })),
        ];
        cluster.create::<EndpointSlice>(slice("default", "shared", "theirs", &["10.0.0.7"])).await;
        for (reason, service) in services {
            let service = cluster.create::<Service>(service).await;
            until(&format!("an Event {reason}"), async || {
                let events = events_on(cluster, &service).await;
                events.iter().any(|(kind, what, note)| kind == "Warning" && what == reason && note.len() > 20)
            }).await;
            until(&format!("a metric for {reason}"), async || {
                operator.metric(&format!("endpoint_copier_findings{{reason=\"{reason}\"}}")).await >= Some(1)
            }).await;
        }
        assert_eq!(cluster.addresses_of("default", "local").await, ["10.0.0.1"]);
        assert_eq!(cluster.addresses_of("default", "shared").await, ["10.0.0.1", "10.0.0.7"]);
        cluster.until_addresses("default", "looping", &["10.0.0.8"]).await;
        assert!(!cluster.addresses_of("default", "of-api").await.is_empty());
        for name in ["empty-enabled", "selecting", "external", "itself", "copy-of-copy", "lost", "named", "four", "portless"] {
            assert!(cluster.slices_of("default", name).await.is_empty(), "{name}");
        }
        // A finding ends when its cause is fixed.
        cluster.patch::<Service>("default", "lost", json!({"metadata": {"annotations": {"endpoint-copier/default-service-name": "source"}}})).await;
        cluster.until_addresses("default", "lost", &["10.0.0.1"]).await;
        until("the finding SourceNotFound ends", async || {
            operator.metric("endpoint_copier_findings{reason=\"SourceNotFound\"}").await == Some(0)
        }).await;
    }

    /// Rule: 1.refused-says-so
    async fn copies_of_a_service_that_is_refused_later_are_deleted(cluster: &mut Cluster) {
        cluster.create::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.1"])).await;
        let _operator = Operator::start(cluster, "one", 0);
        let changes = [
            ("selecting", json!({"spec": {"selector": {"app": "web"}}})),
            ("external", json!({"spec": {"type": "ExternalName", "externalName": "example.org", "clusterIP": null, "clusterIPs": null}})),
            ("itself", json!({"metadata": {"annotations": {"endpoint-copier/default-service-name": "itself"}}})),
        ];
        for (name, _) in &changes {
            cluster.create::<Service>(with(name, |_| ())).await;
            cluster.until_addresses("default", name, &["10.0.0.1"]).await;
        }
        for (name, change) in changes {
            cluster.patch::<Service>("default", name, change).await;
            cluster.until_addresses("default", name, &[]).await;
        }
    }

    /// Rule: 3.deletion-timestamp
    async fn a_terminating_service_gets_no_new_copies(cluster: &mut Cluster) {
        cluster.create::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.1"])).await;
        cluster.create::<EndpointSlice>(slice("default", "source", "source-y", &["10.0.0.2"])).await;
        let operator = Operator::start(cluster, "one", 0);
        let finalizers = json!(["service.kubernetes.io/load-balancer-cleanup"]);
        cluster.create::<Service>(with("web", |it| it["metadata"]["finalizers"] = finalizers)).await;
        cluster.until_addresses("default", "web", &["10.0.0.1", "10.0.0.2"]).await;
        cluster.delete::<Service>("default", "web").await;
        cluster.put::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.3"])).await;
        cluster.until_addresses("default", "web", &["10.0.0.2", "10.0.0.3"]).await;
        cluster.create::<EndpointSlice>(slice("default", "source", "source-z", &["10.0.0.4"])).await;
        cluster.delete::<EndpointSlice>("default", "source-y").await;
        cluster.until_addresses("default", "web", &["10.0.0.3"]).await;
        let creates = "endpoint_copier_slice_changes_total{operation=\"create\"}";
        until("two creates are counted", async || operator.metric(creates).await == Some(2)).await;
        cluster.patch::<Service>("default", "web", json!({"metadata": {"finalizers": null}})).await;
        cluster.gone::<Service>("default", "web").await;
        cluster.until_addresses("default", "web", &[]).await;
    }

    /// Rule: 2.namespace-terminating
    async fn terminating_namespace_causes_no_retries_and_no_reports(cluster: &mut Cluster) {
        cluster.namespace("blue").await;
        cluster.create::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.1"])).await;
        let operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(source("default", "source", "blue")).await;
        cluster.create::<Service>(managed("blue", "web", "default", "source")).await;
        cluster.until_addresses("blue", "web", &["10.0.0.1"]).await;
        let is_synced = |event: &Event| event.reason.as_deref() == Some("Synced");
        until("a Synced Event is sent", async || cluster.list("blue").await.iter().any(is_synced)).await;
        let namespaces: Api<Namespace> = Api::all(cluster.client());
        namespaces.delete("blue", &DeleteParams::default()).await.expect("a namespace");
        // On real API servers, no controller manager runs, so the Service stays. A copy of this slice cannot be created
        // for the Service.
        cluster.create::<EndpointSlice>(slice("default", "source", "source-y", &["10.0.0.2"])).await;
        cluster.create::<Service>(with("next", |_| ())).await;
        cluster.until_addresses("default", "next", &["10.0.0.1", "10.0.0.2"]).await;
        // The create is not retried when the source changes.
        for number in 3..8 {
            let address = format!("10.0.0.{number}");
            cluster.put::<EndpointSlice>(slice("default", "source", "source-y", &[&address])).await;
            cluster.until_addresses("default", "next", &["10.0.0.1", &address]).await;
        }
        let (_, metrics) = operator.get("/metrics").await;
        let refused = metrics.lines().filter(|line| line.starts_with("rest_client_requests_total{code=\"403\"") && line.contains("POST"));
        let tries: u32 = refused.filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).sum();
        assert!(tries <= 1, "{tries} tries");
        assert_eq!(operator.metric("endpoint_copier_findings{reason=\"WriteRefused\"}").await.unwrap_or(0), 0);
        // An Event cannot be written in that namespace either, and no log line reports that. The testbed has already
        // deleted the Service.
        if cluster.testbed().is_none() {
            cluster.patch::<Service>("blue", "web", json!({"metadata": {"annotations": {"endpoint-copier/enabled": "yes"}}})).await;
            let invalid = "endpoint_copier_findings{reason=\"InvalidAnnotation\"}";
            until("the finding is counted", async || operator.metric(invalid).await == Some(1)).await;
        }
        cluster.put::<EndpointSlice>(slice("default", "source", "source-y", &["10.0.0.8"])).await;
        cluster.until_addresses("default", "next", &["10.0.0.1", "10.0.0.8"]).await;
        for line in ["WriteRefused", "writing Events failed"] {
            assert!(!operator.log().contains(line), "{}", operator.log());
        }
    }
}
