//! The memory of a replica, which depends on the managed Services.

use harness::objects::{managed, slice};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

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
            let mut service = managed("load", &source, "", "");
            service["metadata"]["annotations"] = json!({});
            cluster.create::<Service>(service).await;
            cluster.create::<Service>(managed("managed", &format!("vip-{number}"), "load", &source)).await;
            let mut slice = slice("load", &source, &format!("{source}-x"), &[]);
            slice["endpoints"] = (0..3).map(|n| pod(&source, 3 * number + n)).collect();
            cluster.create::<EndpointSlice>(slice).await;
        }
        let leader = Operator::start(cluster, "one", 0);
        until("all are copied", async || cluster.list::<EndpointSlice>("managed").await.len() == 500).await;
        let standby = Operator::start(cluster, "two", 1);
        standby.until_ready().await;
        cluster.put::<EndpointSlice>(slice("load", "app-7", "app-7-x", &["10.2.0.1"])).await;
        cluster.until_addresses("managed", "vip-7", &["10.2.0.1"]).await;
        for replica in [&leader, &standby] {
            let memory = replica.anonymous_memory();
            assert!(memory < 9 * 1024 * 1024, "{}: {} KiB", replica.name(), memory / 1024);
        }
    }
}
