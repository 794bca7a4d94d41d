//! Copies are in sync with their sources.

use std::time::Duration;

use harness::objects::{addresses, api_servers, managed, slice, vip};
use harness::{Cluster, Operator, Platform, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::{PROGRAM, on_both};

/// The slices that are copies.
fn copies(slices: &[EndpointSlice]) -> Vec<&EndpointSlice> {
    let ours = |slice: &&EndpointSlice| {
        slice.metadata.labels.iter().flatten().any(|(key, value)| {
            key == "endpointslice.kubernetes.io/managed-by" && value == "endpoint-copier-operator"
        })
    };
    slices.iter().filter(ours).collect()
}

on_both! {
    /// The main use case: the VIP lists exactly the API servers that `default/kubernetes` lists.
    /// Rule: 1.flags-service, 2.name, 2.owner, 3.source-slice
    async fn the_vip_lists_exactly_the_servers_of_its_source(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        cluster.vip_in_sync().await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.1", "192.0.2.3"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.3"]).await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.1", "192.0.2.2", "192.0.2.3"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.2", "192.0.2.3"]).await;

        let slices = cluster.slices_of("default", "kubernetes-vip").await;
        assert_eq!(slices.len(), 1);
        let copy = &slices[0];
        assert_eq!(copy.metadata.name.as_deref(), Some("kubernetes-vip-mdxoxp2egu"));
        let conditions = copy.endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
        assert_eq!((conditions.ready, conditions.serving, conditions.terminating), (Some(true), Some(true), Some(false)));
        let owner = &copy.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.controller, owner.block_owner_deletion), ("Service", Some(true), Some(false)));
        operator.until_ready().await;
        until("the metrics report the Service as in sync", async || {
            operator.metric("endpoint_copier_managed_services").await == Some(1)
                && operator.metric("endpoint_copier_services_in_sync").await == Some(1)
        }).await;
    }

    /// Rule: 1.enabled-true, 1.source-named, 1.source-without-service
    async fn services_copy_sources_in_other_namespaces(cluster: &mut Cluster) {
        // `source-4` has no Service, so no annotation can give consent to copy it. A flag does.
        let _operator = Operator::start_with(cluster, "one", 0, &["--allow-source=blue/source-4=green"]);
        for namespace in ["blue", "green"] {
            cluster.namespace(namespace).await;
        }
        for number in 0..5 {
            let source = format!("source-{number}");
            if number != 4 {
                cluster.create::<Service>(harness::objects::source("blue", &source, "green")).await;
            }
            cluster.create::<EndpointSlice>(slice("blue", &source, &format!("{source}-x1"), &[&format!("10.1.0.{number}")])).await;
            cluster.create::<EndpointSlice>(slice("blue", &source, &format!("{source}-x2"), &[&format!("10.2.0.{number}")])).await;
            for copy in ["a", "b"] {
                cluster.create::<Service>(managed("green", &format!("copy-{copy}-{number}"), "blue", &source)).await;
            }
        }
        for number in 0..5 {
            for copy in ["a", "b"] {
                let wanted = [format!("10.1.0.{number}"), format!("10.2.0.{number}")];
                let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
                cluster.until_addresses("green", &format!("copy-{copy}-{number}"), &wanted).await;
            }
        }
        // One slice of a source changes, and both of its copies follow. A slice of another source is deleted, and so
        // are its copies.
        cluster.put::<EndpointSlice>(slice("blue", "source-0", "source-0-x1", &["10.9.0.1", "10.9.0.2"])).await;
        cluster.delete::<EndpointSlice>("blue", "source-1-x2").await;
        for copy in ["a", "b"] {
            cluster.until_addresses("green", &format!("copy-{copy}-0"), &["10.2.0.0", "10.9.0.1", "10.9.0.2"]).await;
            cluster.until_addresses("green", &format!("copy-{copy}-1"), &["10.1.0.1"]).await;
        }
    }

    /// Rule: 2.others-additions, 3.repair
    async fn a_copy_that_is_edited_or_deleted_by_hand_is_repaired(cluster: &mut Cluster) {
        let _operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(vip()).await;
        let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
        cluster.until_addresses("default", "kubernetes-vip", &all).await;
        let name = cluster.slices_of("default", "kubernetes-vip").await[0].metadata.name.clone().unwrap();

        cluster.patch::<EndpointSlice>("default", &name, json!({"endpoints": [{"addresses": ["203.0.113.9"]}]})).await;
        cluster.until_addresses("default", "kubernetes-vip", &all).await;

        cluster.patch::<EndpointSlice>("default", &name, json!({
            "metadata": {
                "labels": {"kubernetes.io/service-name": "another", "team": "blue"},
                "annotations": {"endpoint-copier/source-uid": "wrong"},
            },
        })).await;
        cluster.until_addresses("default", "kubernetes-vip", &all).await;
        let repaired: EndpointSlice = cluster.try_get("default", &name).await.unwrap();
        let labels = repaired.metadata.labels.unwrap();
        assert_eq!(labels["team"], "blue", "a label of another writer is lost");
        assert_ne!(repaired.metadata.annotations.unwrap()["endpoint-copier/source-uid"], "wrong");

        cluster.delete::<EndpointSlice>("default", &name).await;
        cluster.until_addresses("default", "kubernetes-vip", &all).await;
    }

    /// Rule: 2.touch-no-write
    async fn a_source_touched_without_a_change_causes_no_write(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(vip()).await;
        let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
        cluster.until_addresses("default", "kubernetes-vip", &all).await;
        let before = cluster.slices_of("default", "kubernetes-vip").await[0].metadata.resource_version.clone();
        for touch in 0..20 {
            cluster.patch::<EndpointSlice>("default", "kubernetes", json!({"metadata": {"annotations": {"touch": touch.to_string()}}})).await;
        }
        // This change must be copied, and arrives on the same watch. Once it is copied, the operator has seen the
        // earlier changes.
        cluster.create::<EndpointSlice>(slice("default", "kubernetes", "kubernetes-2", &["192.0.2.9"])).await;
        let slices = cluster.until_slices("default", "kubernetes-vip", "two copies", |slices| slices.len() == 2).await;
        let first = slices.iter().find(|slice| slice.metadata.name.as_deref() == Some("kubernetes-vip-mdxoxp2egu"));
        assert_eq!(first.unwrap().metadata.resource_version, before);
        assert_eq!(operator.metric("endpoint_copier_slice_changes_total{operation=\"update\"}").await, Some(0));
    }

    /// Rule: 3.re-annotated, 3.order
    async fn a_new_source_is_followed_without_a_gap(cluster: &mut Cluster) {
        cluster.create::<EndpointSlice>(slice("default", "old", "old-1", &["10.0.0.1"])).await;
        cluster.create::<EndpointSlice>(slice("default", "new", "new-1", &["10.0.0.2"])).await;
        let _operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(managed("default", "web", "default", "old")).await;
        cluster.until_addresses("default", "web", &["10.0.0.1"]).await;
        let watched = cluster.watch_slices("default", "web").await;
        let source = json!({"metadata": {"annotations": {"endpoint-copier/default-service-name": "new"}}});
        cluster.patch::<Service>("default", "web", source).await;
        let history = watched.up_to(&["10.0.0.2"]).await;
        assert_eq!(history.first(), Some(&vec!["10.0.0.1".to_owned()]), "{history:?}");
        assert!(history.iter().all(|addresses| !addresses.is_empty()), "{history:?}");
    }

    /// Rule: 1.enabled-false, 1.enabled-typo, 3.managed-service
    async fn unwanted_copies_are_deleted(cluster: &mut Cluster) {
        cluster.create::<EndpointSlice>(slice("default", "source", "source-1", &["10.0.0.1"])).await;
        let _operator = Operator::start(cluster, "one", 0);
        for name in ["disabled", "released", "deleted", "mistyped"] {
            cluster.create::<Service>(managed("default", name, "default", "source")).await;
            cluster.until_addresses("default", name, &["10.0.0.1"]).await;
        }
        let enabled = |value: serde_json::Value| json!({"metadata": {"annotations": {"endpoint-copier/enabled": value}}});
        cluster.patch::<Service>("default", "mistyped", enabled(json!("yes"))).await;
        cluster.patch::<Service>("default", "disabled", enabled(json!("false"))).await;
        cluster.patch::<Service>("default", "released", enabled(json!(null))).await;
        cluster.delete::<Service>("default", "deleted").await;
        for name in ["disabled", "released", "deleted"] {
            cluster.until_addresses("default", name, &[]).await;
        }
        assert_eq!(cluster.addresses_of("default", "mistyped").await, ["10.0.0.1"], "a typo has changed a copy");
    }

    /// Rule: 2.older-uid, 3.managed-service
    async fn a_recreated_service_gets_new_copies(cluster: &mut Cluster) {
        let _operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(vip()).await;
        cluster.until_slices("default", "kubernetes-vip", "a copy", |slices| slices.len() == 1).await;
        cluster.delete::<Service>("default", "kubernetes-vip").await;
        let recreated = cluster.create::<Service>(vip()).await;
        cluster.until_slices("default", "kubernetes-vip", "a copy of the new Service", |slices| {
            let owner = slices.first().and_then(|slice| slice.metadata.owner_references.as_ref()?.first().cloned());
            slices.len() == 1 && owner.is_some_and(|owner| Some(owner.uid) == recreated.metadata.uid)
        }).await;
    }

    /// Rule: 3.while-none-ran
    async fn changes_made_while_no_replica_runs_are_copied(cluster: &mut Cluster) {
        cluster.create::<EndpointSlice>(slice("default", "source", "source-1", &["10.0.0.1"])).await;
        let mut operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(vip()).await;
        for name in ["kept", "disabled", "deleted"] {
            cluster.create::<Service>(managed("default", name, "default", "source")).await;
            cluster.until_addresses("default", name, &["10.0.0.1"]).await;
        }
        operator.signal("TERM");
        operator.ended().await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.7"])).await;
        cluster.delete::<EndpointSlice>("default", "source-1").await;
        cluster.create::<EndpointSlice>(slice("default", "source", "source-2", &["10.0.0.2"])).await;
        let disabled = json!({"metadata": {"annotations": {"endpoint-copier/enabled": "false"}}});
        cluster.patch::<Service>("default", "disabled", disabled).await;
        cluster.delete::<Service>("default", "deleted").await;
        cluster.create::<Service>(managed("default", "added", "default", "source")).await;

        let operator = Operator::start(cluster, "two", 0);
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.7"]).await;
        for (name, wanted) in [("kept", &["10.0.0.2"][..]), ("added", &["10.0.0.2"]), ("disabled", &[]), ("deleted", &[])] {
            cluster.until_addresses("default", name, wanted).await;
        }
        operator.until_ready().await;
    }

    /// Rule: 2.written-when-different, 3.copies-stay
    async fn a_restart_with_nothing_to_do_writes_nothing(cluster: &mut Cluster) {
        let mut operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(vip()).await;
        cluster.until_slices("default", "kubernetes-vip", "a copy", |slices| slices.len() == 1).await;
        let before = cluster.slices_of("default", "kubernetes-vip").await[0].metadata.resource_version.clone();
        operator.signal("TERM");
        operator.ended().await;
        let operator = Operator::start(cluster, "two", 0);
        operator.until_leads().await;
        until("the Service is in sync", async || operator.metric("endpoint_copier_services_in_sync").await == Some(1)).await;
        let after = cluster.slices_of("default", "kubernetes-vip").await[0].metadata.resource_version.clone();
        assert_eq!(before, after);
        for operation in ["create", "update", "delete"] {
            assert_eq!(operator.metric(&format!("endpoint_copier_slice_changes_total{{operation=\"{operation}\"}}")).await, Some(0));
        }
    }

    /// Rule: 2.name-taken, survive.one-never-holds-up-another
    async fn bad_services_do_not_block_a_good_one(cluster: &mut Cluster) {
        cluster.create::<EndpointSlice>(slice("default", "source", "source-1", &["10.0.0.1"])).await;
        let operator = Operator::start(cluster, "one", 0);
        // The copy for `aaa` becomes a foreign slice, so the name of the copy is taken.
        cluster.create::<Service>(managed("default", "aaa", "default", "source")).await;
        let copy = cluster.until_slices("default", "aaa", "a copy", |slices| slices.len() == 1).await.remove(0);
        let name = copy.metadata.name.unwrap();
        let owners = json!({"metadata": {"ownerReferences": null, "labels": {"endpointslice.kubernetes.io/managed-by": "someone"}}});
        cluster.patch::<EndpointSlice>("default", &name, owners).await;
        cluster.create::<Service>(service_with_selector("bbb")).await;
        let mut broken = managed("default", "ccc", "default", "source");
        broken["metadata"]["annotations"]["endpoint-copier/default-service-name"] = json!("no such/name");
        cluster.create::<Service>(broken).await;
        cluster.create::<Service>(managed("default", "zzz", "default", "source")).await;
        cluster.until_addresses("default", "zzz", &["10.0.0.1"]).await;
        cluster.put::<EndpointSlice>(slice("default", "source", "source-1", &["10.0.0.2"])).await;
        cluster.until_addresses("default", "zzz", &["10.0.0.2"]).await;
        until("the findings are counted", async || {
            operator.metric("endpoint_copier_findings{reason=\"NameTaken\"}").await == Some(1)
                && operator.metric("endpoint_copier_findings{reason=\"HasSelector\"}").await == Some(1)
                && operator.metric("endpoint_copier_findings{reason=\"InvalidAnnotation\"}").await == Some(1)
        }).await;
        assert_eq!(cluster.addresses_of("default", "aaa").await, ["10.0.0.1"], "a foreign slice has changed");
        assert!(copies(&cluster.slices_of("default", "bbb").await).is_empty());
    }

    /// Rule: survive.pace
    async fn a_burst_of_changes_ends_in_the_last_state_with_few_writes(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(vip()).await;
        cluster.until_slices("default", "kubernetes-vip", "a copy", |slices| slices.len() == 1).await;
        let start = std::time::Instant::now();
        for number in 0..200 {
            cluster.patch::<EndpointSlice>("default", "kubernetes", json!({"endpoints": [{"addresses": [format!("10.0.1.{number}")]}]})).await;
        }
        let took = start.elapsed();
        cluster.until_addresses("default", "kubernetes-vip", &["10.0.1.199"]).await;
        let writes = operator.metric("endpoint_copier_slice_changes_total{operation=\"update\"}").await;
        let most = took.as_millis() / 20 + 2;
        assert!(writes.is_some_and(|writes| writes >= 1 && u128::from(writes) <= most.min(200)), "{writes:?} writes, {took:?}");
    }

    /// Rule: 3.foreign-untouched
    async fn a_foreign_slice_stays_unchanged(cluster: &mut Cluster) {
        let operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(vip()).await;
        let foreign = cluster.create::<EndpointSlice>(slice("default", "kubernetes-vip", "foreign", &["10.0.0.99"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["10.0.0.99", "192.0.2.1", "192.0.2.2", "192.0.2.3"]).await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.1"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["10.0.0.99", "192.0.2.1"]).await;
        cluster.delete::<Service>("default", "kubernetes-vip").await;
        cluster.until_slices("default", "kubernetes-vip", "the copy is deleted, and the foreign slice stays", |slices| addresses(slices) == ["10.0.0.99"]).await;
        let now: EndpointSlice = cluster.try_get("default", "foreign").await.unwrap();
        assert_eq!(now, foreign);
        drop(operator);
    }
}

fn service_with_selector(name: &str) -> serde_json::Value {
    let mut service = managed("default", name, "default", "source");
    service["spec"]["selector"] = json!({"app": "web"});
    service
}

/// Rule: survive.passing
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_updates_cause_no_hot_loop() {
    let cluster = Cluster::start(Platform::Testbed, PROGRAM, 2).await;
    let operator = Operator::start(&cluster, "one", 0);
    cluster.create::<Service>(vip()).await;
    cluster
        .until_slices("default", "kubernetes-vip", "a copy", |slices| slices.len() == 1)
        .await;
    let (store, server) = cluster.testbed().expect("on the testbed");
    for (number, code) in [403, 404, 409, 410, 422, 429, 500, 503, 504]
        .into_iter()
        .enumerate()
    {
        let fault = server.faults().add(testbed::Fault::status(
            testbed::Match::any().verb("update").resource("endpointslices"),
            code,
        ));
        store.requests().clear();
        let address = format!("10.0.2.{number}");
        cluster.put::<EndpointSlice>(api_servers(&[&address])).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let tries = store
            .requests()
            .matching(|request| {
                request.user_agent.starts_with("endpoint-copier") && request.is("update", "endpointslices")
            })
            .len();
        assert!((1..=20).contains(&tries), "{code}: {tries} tries in 1.5 s");
        server.faults().remove(fault);
        // A refused write is tried again after 5 s, other failed writes sooner.
        cluster
            .until_addresses("default", "kubernetes-vip", &[&address])
            .await;
    }
    assert!(!operator.log().contains("panicked"));
}
