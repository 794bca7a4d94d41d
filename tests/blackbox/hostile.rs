//! Extreme and malformed input. The operator does a bounded amount of work, says what is wrong, and continues with the
//! next Service.

use std::time::{Duration, Instant};

use harness::objects::{managed, slice};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::events::events_on;
use crate::on_both;

/// The maximum size of all annotations of an object, in bytes, which API servers enforce.
const ANNOTATIONS: usize = 256 * 1024;

/// Checks that the operator becomes ready and syncs a new Service, and that its peak memory stays below 60 MiB.
async fn serves_within_60_mib(cluster: &Cluster, operator: &Operator) {
    operator.until_ready().await;
    until_next_service_is_synced(cluster, operator).await;
    let peak = operator.peak_memory();
    assert!(peak < 60 * 1024 * 1024, "{} MiB", peak / 1024 / 1024);
}

/// Checks that a new Service with a new source is synced, now and after a change, and that nothing panicked.
async fn until_next_service_is_synced(cluster: &Cluster, operator: &Operator) {
    for address in ["10.255.0.1", "10.255.0.2"] {
        cluster
            .put::<EndpointSlice>(slice("default", "next-source", "next-source", &[address]))
            .await;
        if cluster.try_get::<Service>("default", "next").await.is_none() {
            cluster
                .create::<Service>(managed("default", "next", "default", "next-source"))
                .await;
        }
        cluster.until_addresses("default", "next", &[address]).await;
    }
    assert!(!operator.log().contains("panicked"), "{}", operator.log());
}

async fn until_event(cluster: &Cluster, service: &Service, reason: &str) -> String {
    let mut said = String::new();
    until(&format!("an Event {reason}"), async || {
        let events = events_on(cluster, service).await;
        let found = events.into_iter().find(|(_, what, _)| what == reason);
        found.map(|(.., note)| said = note).is_some()
    })
    .await;
    assert!(said.len() <= 1000, "{} bytes", said.len());
    said
}

/// Writes an object with a `managedFields` entry whose time exceeds jiff's maximum. The entry co-owns an unchanged
/// field, so the API server stores the entry.
async fn poison(cluster: &Cluster, path: &str, mut object: Value) {
    let owned = json!({"f:metadata": {"f:labels": {"f:poison": {}}}});
    let entry = |manager: &str, time: &str| {
        let version = object["apiVersion"].clone();
        json!({
            "manager": manager, "operation": "Update", "apiVersion": version, "time": time,
            "fieldsType": "FieldsV1", "fieldsV1": owned,
        })
    };
    let entries = json!([
        entry("a", "2026-01-01T00:00:00Z"),
        entry("b", "9999-12-31T23:59:59Z")
    ]);
    object["metadata"]["labels"]["poison"] = json!("yes");
    object["metadata"]["managedFields"] = entries;
    let code = cluster.send(http::Method::PUT, path, object).await;
    assert_eq!(code, 200, "{path}");
    let stored = cluster.get(path).await.to_string();
    assert!(stored.contains("9999-12-31T23:59:59Z"), "{stored}");
}

/// Creates a Service `tenant/web` with a typo in its `enabled` annotation, so that its copies stay as they are. Returns
/// its UID.
async fn frozen_web(cluster: &Cluster) -> String {
    let mut service = managed("tenant", "web", "tenant", "source");
    service["metadata"]["annotations"]["endpoint-copier/enabled"] = json!("ture");
    let service = cluster.create::<Service>(service).await;
    service.metadata.uid.expect("a UID")
}

/// Turns a slice into one that looks like a copy for the Service `tenant/web` with this UID.
fn claimed_by_web(mut slice: Value, uid: &str) -> Value {
    slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = json!("endpoint-copier-operator");
    slice["metadata"]["annotations"] = json!({
        "endpoint-copier/source-namespace": "tenant", "endpoint-copier/source-slice": "source-x",
        "endpoint-copier/source-uid": "x",
    });
    slice["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "Service", "name": "web", "uid": uid, "controller": true,
    }]);
    slice
}

/// Adds the label `poison` to the object at a path. Returns the stored object.
async fn shown(cluster: &Cluster, path: &str) -> Value {
    let mut object = cluster.get(path).await;
    object["metadata"]["labels"]["poison"] = json!("yes");
    assert_eq!(cluster.send(http::Method::PUT, path, object).await, 200, "{path}");
    cluster.get(path).await
}

on_both! {
    async fn an_undecodable_time_blinds_no_replica(cluster: &mut Cluster) {
        const SERVICES: &str = "/api/v1/namespaces/default/services";
        const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        let running = Operator::start(cluster, "one", 0);
        cluster.create::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.1"])).await;
        cluster.create::<Service>(managed("default", "web", "default", "source")).await;
        cluster.until_addresses("default", "web", &["10.0.0.1"]).await;
        let copy = cluster.slices_of("default", "web").await.remove(0).metadata.name.expect("a name");
        for path in [format!("{SERVICES}/web"), format!("{SLICES}/source-x"), format!("{SLICES}/{copy}")] {
            let object = shown(cluster, &path).await;
            poison(cluster, &path, object).await;
        }
        // The entry arrives in a watch, in the response to a write of the copy, and then in lists.
        until_next_service_is_synced(cluster, &running).await;
        let operator = Operator::start(cluster, "two", 1);
        operator.until_ready().await;
        drop(running);
        for address in ["10.0.0.2", "10.0.0.3"] {
            let path = format!("{SLICES}/source-x");
            let mut source = cluster.get(&path).await;
            source["endpoints"] = json!([{"addresses": [address]}]);
            assert_eq!(cluster.send(http::Method::PUT, &path, source).await, 200);
            until("the copy follows", async || {
                let copy = cluster.get(&format!("{SLICES}/{copy}")).await;
                copy["endpoints"][0]["addresses"][0] == *address
            })
            .await;
        }
        let copy = cluster.get(&format!("{SLICES}/{copy}")).await;
        assert_eq!(copy["metadata"]["labels"]["poison"], "yes", "a label of another writer is lost");
        assert!(!operator.log().contains("managedFields"), "{}", operator.log());
    }

    async fn a_hundred_large_services_are_listed_within_60_mib(cluster: &mut Cluster) {
        let annotation = "x".repeat(ANNOTATIONS - 1000);
        for number in 0..100 {
            let mut service = managed("default", &format!("large-{number}"), "default", "nothing");
            service["metadata"]["annotations"] = json!({"note": annotation});
            cluster.create::<Service>(service).await;
        }
        let operator = Operator::start(cluster, "one", 0);
        serves_within_60_mib(cluster, &operator).await;
    }

    async fn large_slices_of_a_tenant_take_little_memory(cluster: &mut Cluster) {
        cluster.namespace("tenant").await;
        let annotation = "x".repeat(ANNOTATIONS - 1000);
        for number in 0..200 {
            // The watch of sources shows half of the slices. The other half claim to be copies, so the watch of copies
            // shows them.
            let mut large = slice("tenant", "kubernetes", &format!("large-{number}"), &["10.0.0.9"]);
            large["metadata"]["annotations"] = json!({"note": annotation});
            if number % 2 == 0 {
                large["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = json!("endpoint-copier-operator");
            }
            cluster.create::<EndpointSlice>(large).await;
        }
        let operator = Operator::start(cluster, "one", 0);
        serves_within_60_mib(cluster, &operator).await;
    }

    /// Rule: survive.memory
    async fn slices_with_many_addresses_take_little_memory(cluster: &mut Cluster) {
        cluster.namespace("tenant").await;
        let web = frozen_web(cluster).await;
        let endpoints: Value = (0..1000).map(|_| json!({"addresses": vec!["10.0.0.9"; 100]})).collect();
        for number in 0..26 {
            // One slice in three looks like a copy, so the watch of copies shows it. The watch of sources shows the
            // others.
            let mut large = slice("tenant", "kubernetes", &format!("large-{number}"), &[]);
            large["endpoints"] = endpoints.clone();
            if number % 3 == 1 {
                large["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = json!("endpoint-copier-operator");
            } else if number % 3 == 2 {
                large = claimed_by_web(large, &web);
            }
            cluster.create::<EndpointSlice>(large).await;
        }
        let operator = Operator::start(cluster, "one", 0);
        serves_within_60_mib(cluster, &operator).await;
        // The operator reads a slice in full once a managed Service copies it.
        for number in 0..26 {
            if number % 3 != 0 {
                cluster.delete::<EndpointSlice>("tenant", &format!("large-{number}")).await;
            } else if number > 0 {
                cluster.put::<EndpointSlice>(slice("tenant", "kubernetes", &format!("large-{number}"), &[])).await;
            }
        }
        cluster.create::<Service>(managed("tenant", "vip", "tenant", "kubernetes")).await;
        let copies = cluster.until_slices("tenant", "vip", "a copy", |slices| slices.len() == 1).await;
        assert_eq!(copies[0].endpoints.as_ref().map(Vec::len), Some(1000));
    }

    /// Rule: survive.memory
    async fn large_copies_of_a_frozen_service_take_little_memory(cluster: &mut Cluster) {
        cluster.namespace("tenant").await;
        let web = frozen_web(cluster).await;
        let annotation = "x".repeat(ANNOTATIONS - 1000);
        for number in 0..400 {
            let mut large = claimed_by_web(slice("tenant", "web", &format!("large-{number}"), &["10.0.0.9"]), &web);
            large["metadata"]["annotations"]["note"] = json!(annotation);
            cluster.create::<EndpointSlice>(large).await;
        }
        let operator = Operator::start(cluster, "one", 0);
        serves_within_60_mib(cluster, &operator).await;
        assert_eq!(cluster.list::<EndpointSlice>("tenant").await.len(), 400, "a typo has deleted copies");
    }

    /// Rule: survive.memory
    async fn services_with_a_thousand_ports_take_little_memory(cluster: &mut Cluster) {
        cluster.namespace("tenant").await;
        let mut service = managed("tenant", "vip", "tenant", "source");
        service["spec"]["ports"] = (0..1000).map(|n| json!({"name": format!("p-{n}"), "port": 1 + n, "targetPort": 1 + n})).collect();
        let vip = cluster.create::<Service>(service.clone()).await;
        service["metadata"]["annotations"]["endpoint-copier/default-service-name"] = json!("nothing");
        for number in 0..400 {
            service["metadata"]["name"] = json!(format!("large-{number}"));
            cluster.create::<Service>(service.clone()).await;
        }
        let operator = Operator::start(cluster, "one", 0);
        operator.until_ready().await;
        until_next_service_is_synced(cluster, &operator).await;
        for number in 0..20 {
            cluster.create::<EndpointSlice>(slice("tenant", "source", &format!("source-{number}"), &["10.0.0.1"])).await;
        }
        let copies = cluster.until_slices("tenant", "vip", "20 copies", |slices| slices.len() == 20).await;
        assert_eq!(copies[0].ports.as_ref().map(Vec::len), Some(100));
        let note = until_event(cluster, &vip, "LimitReached").await;
        assert!(note.contains("1000 ports"), "{note}");
        let peak = operator.peak_memory();
        assert!(peak < 60 * 1024 * 1024, "{} MiB", peak / 1024 / 1024);
    }

    /// Rule: 2.one-to-one, 2.ports, survive.large
    async fn a_thousand_endpoints_and_a_hundred_ports_are_copied(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        let addresses: Vec<_> = (0..1000).map(|number| format!("10.1.{}.{}", number / 250, number % 250 + 1)).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let mut source = slice("default", "source", "source-x", &addresses);
        source["ports"] = (0..100).map(|n| json!({"name": format!("port-{n}"), "port": 1000 + n, "protocol": "TCP"})).collect();
        cluster.create::<EndpointSlice>(source).await;
        let mut service = managed("default", "web", "default", "source");
        service["spec"]["ports"] = (0..100).map(|n| json!({"name": format!("p-{n}"), "port": 2000 + n, "targetPort": format!("port-{n}")})).collect();
        cluster.create::<Service>(service).await;
        let copies = cluster.until_slices("default", "web", "a copy", |slices| slices.len() == 1).await;
        assert_eq!(copies[0].endpoints.as_ref().map(Vec::len), Some(1000));
        let ports = copies[0].ports.as_ref().expect("ports");
        assert_eq!(ports.len(), 100);
        assert!(ports.iter().all(|port| port.port.is_some_and(|number| (1000..1100).contains(&number))));
        until_next_service_is_synced(cluster, &operator).await;
        let updates = "endpoint_copier_slice_changes_total{operation=\"update\"}";
        until("one update is counted, that of the Service next", async || operator.metric(updates).await == Some(1)).await;
    }

    /// Rule: 2.name-whole, 2.label-source-fits, survive.large
    async fn long_names_are_copied_whole(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        let (service, source, long) = ("s".repeat(63), "o".repeat(63), "x".repeat(253));
        cluster.create::<EndpointSlice>(slice("default", &source, &"y".repeat(120), &["10.0.0.1"])).await;
        cluster.create::<EndpointSlice>(slice("default", &source, &long, &["10.0.0.2"])).await;
        cluster.create::<Service>(managed("default", &service, "default", &source)).await;
        cluster.until_addresses("default", &service, &["10.0.0.1", "10.0.0.2"]).await;
        for copy in cluster.slices_of("default", &service).await {
            assert!(!copy.metadata.labels.unwrap().contains_key("endpoint-copier/source"), "a label that is too long");
            assert_eq!(copy.metadata.name.unwrap().len(), 63 + 1 + 10);
        }
        cluster.delete::<EndpointSlice>("default", &long).await;
        cluster.until_addresses("default", &service, &["10.0.0.1"]).await;
        until_next_service_is_synced(cluster, &operator).await;
    }

    /// Rule: survive.selector-length
    async fn a_thousand_long_names_of_sources_are_listed(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        operator.until_ready().await;
        // The Service `next`, which is created last, is the thousandth. By default, it is the last one in its namespace
        // that gets copies.
        for number in 0..999 {
            let source = format!("{number:a>63}");
            let mut service = managed("default", &format!("web-{number}"), "default", &source);
            service["spec"]["clusterIP"] = json!("None");
            cluster.create::<Service>(service).await;
        }
        for number in (0..999).step_by(111) {
            let source = format!("{number:a>63}");
            cluster.create::<EndpointSlice>(slice("default", &source, &format!("source-{number}"), &["10.0.0.1"])).await;
            cluster.until_addresses("default", &format!("web-{number}"), &["10.0.0.1"]).await;
        }
        until_next_service_is_synced(cluster, &operator).await;
        // A replica that starts now lists the slices of all names together.
        let restarted = Operator::start(cluster, "two", 1);
        restarted.until_ready().await;
    }

    /// Rule: 1.illegal-name
    async fn invalid_names_reach_no_request(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        let bad = [
            "Web", "web.app", "web,app", "../../secrets", "web/status", "web?x=1", "web%2Fapp", "-web", "web-", " web",
            "web ", "w\u{e4}b", "web\nX: y", "in (web)", "!web", "\u{0}", &"w".repeat(64), &"w".repeat(200_000),
        ];
        let mut count = 0;
        for (annotation, other) in [("default-service-name", "default-service-namespace"), ("default-service-namespace", "default-service-name")] {
            for value in bad {
                let mut service = managed("default", &format!("bad-{count}"), "default", "web");
                service["metadata"]["annotations"][format!("endpoint-copier/{annotation}")] = json!(value);
                service["metadata"]["annotations"][format!("endpoint-copier/{other}")] = json!("web");
                let service = cluster.create::<Service>(service).await;
                let note = until_event(cluster, &service, "InvalidAnnotation").await;
                assert!(note.contains(annotation), "{note}");
                count += 1;
            }
        }
        until_next_service_is_synced(cluster, &operator).await;
        let invalid = "endpoint_copier_findings{reason=\"InvalidAnnotation\"}";
        until("all of them are counted", async || operator.metric(invalid).await == Some(count)).await;
        assert!(cluster.list::<EndpointSlice>("default").await.iter().all(|slice| {
            !slice.metadata.name.as_deref().unwrap_or_default().starts_with("bad-")
        }));
        if let Some((store, _)) = cluster.testbed() {
            let asked = store.requests().matching(|request| request.user_agent.starts_with("endpoint-copier"));
            for request in asked.iter().filter(|request| request.resource != "events") {
                assert!(!["secrets", "status", "app", "X:", "www"].iter().any(|part| request.uri.contains(part)), "{}", request.uri);
            }
        }
    }

    async fn invalid_names_in_a_copy_reach_no_request(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        cluster.create::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.1"])).await;
        cluster.create::<Service>(managed("default", "web", "default", "source")).await;
        let copy = cluster.until_slices("default", "web", "a copy", |slices| slices.len() == 1).await.remove(0);
        let name = copy.metadata.name.expect("a name");
        let bad = ["?watch=true&x=", "..", "a b", "../../../api/v1/secrets", "a%2fb", "A"];
        for value in bad {
            for annotation in ["source-slice", "source-namespace"] {
                let annotation = format!("endpoint-copier/{annotation}");
                // Because of the newer resourceVersion, the operator reads the source before it overwrites the copy.
                let patch = json!({
                    "metadata": {"annotations": {
                        &annotation: value, "endpoint-copier/source-resource-version": "9999999999",
                    }},
                    "endpoints": [{"addresses": ["10.0.0.9"]}],
                });
                cluster.patch::<EndpointSlice>("default", &name, patch).await;
                until("the copy is repaired", async || {
                    let copy = cluster.try_get::<EndpointSlice>("default", &name).await.expect("a copy");
                    copy.metadata.annotations.is_some_and(|annotations| annotations[&annotation] != value)
                })
                .await;
            }
        }
        // A slice that looks like a copy for a Service with an invalid name.
        for (number, value) in bad.iter().enumerate() {
            let mut stray = slice("default", "nobody", &format!("stray-{number}"), &["10.0.0.9"]);
            stray["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = json!("endpoint-copier-operator");
            stray["metadata"]["annotations"] = json!({
                "endpoint-copier/source-namespace": "default", "endpoint-copier/source-slice": "source-x",
                "endpoint-copier/source-uid": "x",
            });
            stray["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "v1", "kind": "Service", "name": value, "uid": "x", "controller": true,
            }]);
            cluster.create::<EndpointSlice>(stray).await;
        }
        until_next_service_is_synced(cluster, &operator).await;
        if let Some((store, _)) = cluster.testbed() {
            let asked = store.requests().matching(|request| request.user_agent.starts_with("endpoint-copier"));
            let strange = |uri: &str| ["x=", "..", "secrets", "%2f", "%20", "/A", "a b"].iter().any(|part| uri.contains(part));
            for request in asked.iter().filter(|request| request.resource != "events") {
                let path = request.uri.split('?').next().unwrap_or_default();
                assert!(!strange(path) && !request.uri.contains("x="), "{}", request.uri);
            }
        }
    }

    /// Rule: 2.write-refused, 3.events-note, survive.large
    async fn the_largest_annotations_are_named_but_not_repeated(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        cluster.create::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.1"])).await;
        let huge = "ä".repeat((ANNOTATIONS - 1000) / 2);
        for (name, annotation, wanted) in [
            ("enabled", "endpoint-copier/enabled", &[][..]),
            ("when", "endpoint-copier/when-source-empty", &["10.0.0.1"][..]),
        ] {
            let mut service = managed("default", name, "default", "source");
            service["metadata"]["annotations"][annotation] = json!(huge);
            let service = cluster.create::<Service>(service).await;
            let note = until_event(cluster, &service, "InvalidAnnotation").await;
            assert!(note.contains(annotation) && note.contains("use \""), "{note}");
            cluster.until_addresses("default", name, wanted).await;
        }
        // A trigger time is copied only if it is a plausible time.
        let mut source = slice("default", "timing", "timing-x", &["10.0.0.1"]);
        let trigger = "x".repeat(ANNOTATIONS - 80);
        source["metadata"]["annotations"] = json!({"endpoints.kubernetes.io/last-change-trigger-time": trigger});
        cluster.create::<EndpointSlice>(source).await;
        cluster.create::<Service>(managed("default", "timed", "default", "timing")).await;
        cluster.until_addresses("default", "timed", &["10.0.0.1"]).await;
        // Other clients may fill the annotations of a copy.
        cluster.create::<Service>(managed("default", "web", "default", "source")).await;
        let copy = cluster.until_slices("default", "web", "a copy", |slices| slices.len() == 1).await.remove(0);
        let name = copy.metadata.name.unwrap();
        cluster.patch::<EndpointSlice>("default", &name, json!({"metadata": {"annotations": {"team": huge}}})).await;
        cluster.put::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.2"])).await;
        cluster.until_addresses("default", "web", &["10.0.0.2"]).await;
        let copy = cluster.try_get::<EndpointSlice>("default", &name).await.expect("a copy");
        assert!(copy.metadata.annotations.is_some_and(|annotations| annotations["team"] == huge), "an annotation of another writer is lost");
        until_next_service_is_synced(cluster, &operator).await;
        assert!(operator.log().len() < 100_000, "{} bytes of log", operator.log().len());
    }

    /// Rule: 2.conditions, survive.odd-objects
    async fn missing_null_and_unknown_fields_are_accepted(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        let source = |name: &str, rest: Value| {
            let mut slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "color": "red",
                "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "source"}, "mood": ["odd"]},
            });
            slice.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            slice
        };
        for (name, rest) in [
            ("nothing", json!({"endpoints": []})),
            ("nulls", json!({"endpoints": null, "ports": null})),
            ("bare", json!({"endpoints": [{"addresses": ["10.0.0.1"]}]})),
            ("null-conditions", json!({"endpoints": [{"addresses": ["10.0.0.2"], "conditions": null, "hints": null, "targetRef": null, "zone": null}]})),
            ("null-ready", json!({"endpoints": [{"addresses": ["10.0.0.3"], "conditions": {"ready": null, "serving": false, "terminating": null}}]})),
            ("unknown", json!({
                "endpoints": [{"addresses": ["10.0.0.4"], "conditions": {"ready": false, "sparkling": true}, "flavour": {"sweet": 1}}],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP", "speed": "high"}, {"name": "portless"}],
            })),
            ("many-addresses", json!({"endpoints": [{"addresses": ["10.0.0.5", "10.0.0.6"], "deprecatedTopology": {"x": "y"}}]})),
        ] {
            let code = cluster.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", source(name, rest)).await;
            assert_eq!(code, 201, "{name}");
        }
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "color": "red",
            "metadata": {"name": "web", "namespace": "default", "labels": null, "annotations": {
                "endpoint-copier/enabled": "true", "endpoint-copier/default-service-name": "source", "endpoint-copier/no-such": "x",
            }},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080, "speed": "high"}], "selector": null, "mood": "odd"},
        });
        assert_eq!(cluster.post("/api/v1/namespaces/default/services", service).await, 201);
        // Two of the slices have no endpoint, and an empty slice has no copy.
        let copies = cluster.until_slices("default", "web", "five copies", |slices| slices.len() == 5).await;
        let mut seen: Vec<_> = copies.iter().flat_map(|copy| copy.endpoints.iter().flatten()).map(|endpoint| {
            let conditions = endpoint.conditions.clone().expect("conditions are always set");
            (endpoint.addresses[0].clone(), conditions.ready, conditions.serving, conditions.terminating)
        }).collect();
        seen.sort();
        let said = |address: &str, ready, serving| (address.to_owned(), Some(ready), Some(serving), Some(false));
        assert_eq!(seen, [
            said("10.0.0.1", true, true), said("10.0.0.2", true, true), said("10.0.0.3", true, false),
            said("10.0.0.4", false, false), said("10.0.0.5", true, true),
        ]);
        // A port without a name, whose target port has a name. The port of the source with that name has no number.
        let nameless = json!({"spec": {"ports": [{"name": null, "port": 80, "targetPort": "portless"}]}});
        let service = cluster.patch::<Service>("default", "web", nameless).await;
        until_event(cluster, &service, "PortUnresolved").await;
        until_next_service_is_synced(cluster, &operator).await;
    }

    /// Rule: survive.restless
    async fn a_constantly_changing_service_costs_bounded_requests(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        cluster.create::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.1"])).await;
        cluster.create::<EndpointSlice>(slice("default", "other", "other-x", &["10.0.0.2"])).await;
        cluster.create::<Service>(managed("default", "busy", "default", "source")).await;
        cluster.until_addresses("default", "busy", &["10.0.0.1"]).await;
        if let Some((store, _)) = cluster.testbed() {
            store.requests().clear();
        }
        let start = Instant::now();
        let mut changes = 0_u32;
        let change = async {
            while start.elapsed() < Duration::from_secs(2) {
                let (enabled, source, port) = [("true", "source", 1), ("true", "other", 2), ("false", "other", 3), ("ture", "source", 4)][changes as usize % 4];
                cluster.patch::<Service>("default", "busy", json!({
                    "metadata": {"annotations": {"endpoint-copier/enabled": enabled, "endpoint-copier/default-service-name": source}},
                    "spec": {"ports": [{"name": "http", "port": 80, "targetPort": port}]},
                })).await;
                changes += 1;
            }
        };
        tokio::join!(change, until_next_service_is_synced(cluster, &operator));
        let last = json!({
            "metadata": {"annotations": {"endpoint-copier/enabled": "true", "endpoint-copier/default-service-name": "other"}},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 9}]},
        });
        cluster.patch::<Service>("default", "busy", last).await;
        cluster.until_addresses("default", "busy", &["10.0.0.2"]).await;
        cluster.until_slices("default", "busy", "the last port", |slices| {
            slices.iter().flat_map(|slice| slice.ports.iter().flatten()).all(|port| port.port == Some(9))
        }).await;
        if let Some((store, _)) = cluster.testbed() {
            let is_ours = |request: &testbed::Request| {
                request.user_agent.starts_with("endpoint-copier") && matches!(request.resource.as_str(), "endpointslices" | "services")
            };
            let requests = store.requests().matching(is_ours);
            let writes = requests.iter().filter(|request| request.is_write()).count();
            let reads = requests.len() - writes;
            // At most one sync every 20 ms. Each has at most two writes (a create and a delete, or one update) and
            // three reads (one GET of a source slice and two GETs of the Service).
            let syncs = start.elapsed().as_millis() / 20 + 10;
            assert!(writes as u128 <= 2 * syncs, "{writes} writes in {syncs} syncs for {changes} changes");
            assert!(reads as u128 <= 3 * syncs, "{reads} reads in {syncs} syncs for {changes} changes");
        }
        let events = cluster.list::<k8s_openapi::api::events::v1::Event>("default").await.len();
        assert!(events <= 60, "{events} Events");
        assert!(!operator.log().contains("panicked"), "{}", operator.log());
    }
}
