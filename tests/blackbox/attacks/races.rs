//! Objects that change between the check and the write. The path to the API server is slow, so that a change can arrive
//! while a write is in flight.

use std::time::Duration;

use harness::objects::source;
use harness::{Cluster, Listening, Operator, SHORT_LEASE};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use tokio::time::sleep;

use super::{VICTIM, front, is_hidden, victim};
use crate::on_both;
use crate::slow::delayed_replica;

const ONE_WAY: Duration = Duration::from_millis(100);

/// Milliseconds after a Service is created: before the operator sees the Service, while it writes, and later.
const MOMENTS: [u64; 4] = [50, 250, 400, 700];

/// Starts a replica with a slow path to the API server, and waits until it leads and is ready.
async fn slow_replica(cluster: &Cluster) -> (Operator, [Listening; 1]) {
    let (operator, delays) = delayed_replica(cluster, ONE_WAY, &SHORT_LEASE).await;
    operator.until_leads().await;
    operator.until_ready().await;
    (operator, delays)
}

on_both! {
    servers: 1;
    async fn a_source_recreated_during_a_write_gives_no_consent(cluster: &mut Cluster) {
        victim(cluster).await;
        let _replica = slow_replica(cluster).await;
        for moment in MOMENTS {
            cluster.put::<Service>(source("web", "app", "team-a")).await;
            cluster.create::<Service>(front()).await;
            sleep(Duration::from_millis(moment)).await;
            cluster.delete::<Service>("web", "app").await;
            cluster.create::<Service>(source("web", "app", "")).await;
            is_hidden(cluster, "team-a").await;
            cluster.delete::<Service>("team-a", "front").await;
        }
    }

    /// With a selector, the slices of `front` belong to the EndpointSlice controller, and a copy would add the victim
    /// to the Pods of `front`.
    async fn a_service_recreated_during_a_write_keeps_no_copy(cluster: &mut Cluster) {
        victim(cluster).await;
        if let Some((store, _)) = cluster.testbed() {
            // The real API servers of these tests run no garbage collector either.
            store.collect_after(None);
        }
        cluster.create::<Service>(source("web", "app", "team-a")).await;
        let _replica = slow_replica(cluster).await;
        for moment in MOMENTS {
            cluster.create::<Service>(front()).await;
            sleep(Duration::from_millis(moment)).await;
            cluster.delete::<Service>("team-a", "front").await;
            let mut plain = front();
            plain["metadata"]["annotations"] = json!({});
            plain["spec"]["selector"] = json!({"app": "front"});
            cluster.create::<Service>(plain).await;
            is_hidden(cluster, "team-a").await;
            cluster.delete::<Service>("team-a", "front").await;
        }
    }

    /// Only the last value of the owner's annotation applies, however often it changes.
    async fn consent_that_changes_often_ends_with_the_last_change(cluster: &mut Cluster) {
        victim(cluster).await;
        cluster.create::<Service>(source("web", "app", "team-a")).await;
        let _replica = slow_replica(cluster).await;
        cluster.create::<Service>(front()).await;
        cluster.until_addresses("team-a", "front", &[VICTIM]).await;
        for number in 0..20 {
            let allowed = if number % 2 == 0 { "" } else { "team-a" };
            cluster.put::<Service>(source("web", "app", allowed)).await;
            sleep(Duration::from_millis(number * 17 % 90)).await;
        }
        cluster.put::<Service>(source("web", "app", "")).await;
        cluster.until_addresses("team-a", "front", &[]).await;
        is_hidden(cluster, "team-a").await;
    }
}
