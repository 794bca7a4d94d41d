//! The memory that a replica uses for many managed Services, and for many Nodes.

use harness::objects::{managed, node, slice, vip};
use harness::{Cluster, Operator, SHORT_LEASE, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::on_both;

on_both! {
    /// Rule: survive.memory
    async fn a_thousand_services_take_nine_mib_at_most(cluster: &mut Cluster) {
        cluster.namespace("load").await;
        cluster.namespace("managed").await;
        let pod = |service: &str, number: usize| json!({
            "addresses": [format!("10.1.{}.{}", number / 250, number % 250 + 1)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("worker-node-{}", number % 20),
            "zone": format!("zone-{}", number % 3),
            "targetRef": {
                "kind": "Pod", "namespace": "load", "name": format!("{service}-7d4b9c6f5-{number}"),
                "uid": format!("75de9a6d-6b1c-4f0e-8e0d-{number:012}"),
            },
        });
        for number in 0..500 {
            let source = format!("app-{number}");
            cluster.create::<Service>(harness::objects::source("load", &source, "managed")).await;
            cluster.create::<Service>(managed("managed", &format!("vip-{number}"), "load", &source)).await;
            let mut slice = slice("load", &source, &format!("{source}-x"), &[]);
            slice["endpoints"] = (0..3).map(|n| pod(&source, 3 * number + n)).collect();
            cluster.create::<EndpointSlice>(slice).await;
        }
        let leader = Operator::start(cluster, "one", 0);
        until("all Services have copies", async || cluster.list::<EndpointSlice>("managed").await.len() == 500).await;
        let standby = Operator::start(cluster, "two", 1);
        standby.until_ready().await;
        cluster.put::<EndpointSlice>(slice("load", "app-7", "app-7-x", &["10.2.0.1"])).await;
        cluster.until_addresses("managed", "vip-7", &["10.2.0.1"]).await;
        for replica in [&leader, &standby] {
            let memory = replica.anonymous_memory();
            assert!(memory < 9 * 1024 * 1024, "{}: {} KiB", replica.name(), memory / 1024);
        }
    }

    /// Rule: 8.memory
    async fn a_thousand_nodes_take_two_mib_at_most(cluster: &mut Cluster) {
        for number in 0..1000 {
            cluster.put_node(large_node(number)).await;
        }
        let mut service = vip();
        service["spec"]["externalTrafficPolicy"] = json!("Local");
        cluster.create::<Service>(service).await;
        let mut memory = Vec::new();
        for (selector, known) in [("none=none", false), ("", true)] {
            let selector = format!("--nodes-selector={selector}");
            let flags = [&SHORT_LEASE[..], &["--probe=off", &selector]].concat();
            let operator = Operator::start_with(cluster, "one", 0, &flags);
            operator.until_leads().await;
            cluster
                .until_slices("default", "kubernetes-vip", "endpoints have a nodeName if and only if Nodes are selected", |slices| {
                    let mut endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).peekable();
                    endpoints.peek().is_some() && endpoints.all(|endpoint| endpoint.node_name.is_some() == known)
                })
                .await;
            until("Nodes are listed", async || {
                let (_, page) = operator.get("/metrics").await;
                page.contains("endpoint_copier_watch_last_event_timestamp_seconds{resource=\"nodes\"}")
            })
            .await;
            memory.push(operator.memory());
        }
        let more = memory[1].saturating_sub(memory[0]);
        assert!(more <= 2 * 1024 * 1024, "{} KiB more than {} KiB", more / 1024, memory[0] / 1024);
    }
}

/// A Node of 12 KB, most of which is a list of 50 images. The first three Nodes have the API servers' addresses.
fn large_node(number: usize) -> Value {
    let mut node = node(
        &format!("node-{number:04}"),
        &[&format!("192.0.{}.{}", 2 + number / 250, 1 + number % 250)],
    );
    let image = |image: usize| {
        json!({
            "names": [
                format!("registry.example.com/team-{image:02}/application-{image:02}@sha256:{image:064}"),
                format!("registry.example.com/team-{image:02}/application-{image:02}:v1.{image}.0-rc.1"),
            ],
            "sizeBytes": 100_000_000 + image,
        })
    };
    node["status"]["images"] = (0..50).map(image).collect();
    node
}
