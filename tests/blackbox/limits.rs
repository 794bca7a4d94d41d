//! More managed Services than the limits allow.

use harness::objects::{managed, slice};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::events::events_on;
use crate::inspect::{run, text};
use crate::on_both;

/// With the first flag, the limit is one managed Service per namespace.
const ONE: &[&str] = &["--max-services-per-namespace=1", "--leader-elect=false"];

on_both! {
    /// Rule: 10.limits
    async fn a_service_beyond_the_limit_is_reported_and_waits_for_a_place(cluster: &mut Cluster) {
        cluster.namespace("web").await;
        cluster.create::<EndpointSlice>(slice("web", "app", "app-x7k2p", &["10.0.0.1"])).await;
        let operator = Operator::start_with(cluster, "one", 0, ONE);
        cluster.create::<Service>(managed("web", "first", "web", "app")).await;
        cluster.until_addresses("web", "first", &["10.0.0.1"]).await;
        let second = cluster.create::<Service>(managed("web", "second", "web", "app")).await;
        until("an Event LimitReached", async || {
            let events = events_on(cluster, &second).await;
            events.iter().any(|event| event.1 == "LimitReached" && event.2.contains("--max-services-per-namespace"))
        })
        .await;
        let metric = "endpoint_copier_findings{reason=\"LimitReached\"}";
        until("the metric counts the finding", async || operator.metric(metric).await == Some(1)).await;
        assert!(cluster.slices_of("web", "second").await.is_empty());
        let status = text(&run(cluster, &["status", ONE[0]]).await);
        assert!(status.contains("LimitReached") && status.contains("second"), "{status}");
        // A Service that was added later does not take the place of a Service with copies.
        drop(operator);
        let operator = Operator::start_with(cluster, "two", 0, ONE);
        let more = json!({"endpoints": [{"addresses": ["10.0.0.2"], "conditions": {"ready": true}}]});
        cluster.patch::<EndpointSlice>("web", "app-x7k2p", more).await;
        cluster.until_addresses("web", "first", &["10.0.0.2"]).await;
        cluster.delete::<Service>("web", "first").await;
        cluster.until_addresses("web", "second", &["10.0.0.2"]).await;
        until("the metric is 0 again", async || operator.metric(metric).await == Some(0)).await;
    }
}
