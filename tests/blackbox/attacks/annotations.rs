//! Attacks through annotations on the attacker's own Services.

use std::time::Duration;

use harness::objects::{managed, source};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{VICTIM, front, held_copy, is_hidden, is_refused, victim};
use crate::events::events_on;
use crate::on_both;

on_both! {
    servers: 1;
    async fn a_tenant_exposes_no_service_of_another_namespace(cluster: &mut Cluster) {
        victim(cluster).await;
        let _operator = Operator::start(cluster, "one", 0);
        let service = cluster.create::<Service>(front()).await;
        is_refused(cluster, &service, "NotPermitted").await;
    }

    async fn an_allow_from_that_the_tenant_sets_gives_no_consent(cluster: &mut Cluster) {
        victim(cluster).await;
        let _operator = Operator::start(cluster, "one", 0);
        // The annotation is on a Service with the same name as the source, and on the managed Service itself.
        cluster.create::<Service>(source("team-a", "app", "*")).await;
        let mut front = front();
        front["metadata"]["annotations"]["endpoint-copier/allow-from"] = json!("*");
        let service = cluster.create::<Service>(front).await;
        is_refused(cluster, &service, "NotPermitted").await;
    }

    async fn a_held_copy_does_not_outlive_consent(cluster: &mut Cluster) {
        let _operator = held_copy(cluster).await;
        cluster.put::<Service>(source("web", "app", "")).await;
        cluster.until_addresses("team-a", "front", &[]).await;
        is_hidden(cluster, "team-a").await;
    }

    /// The operator pauses before it lists the slices of new source names, and the pause grows while names change.
    /// Rule: 9.withdrawal
    async fn new_names_of_sources_delay_no_withdrawal(cluster: &mut Cluster) {
        victim(cluster).await;
        cluster.create::<Service>(source("web", "app", "team-a")).await;
        let _operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(front()).await;
        cluster.until_addresses("team-a", "front", &[VICTIM]).await;
        let ask = async |service: &str, source: &str| {
            cluster.put::<Service>(managed("team-a", service, "team-a", source)).await
        };
        for number in 0..20 {
            ask("decoy", &format!("invented-{number}")).await;
            sleep(Duration::from_millis(100)).await;
        }
        let decoy = ask("decoy", "invented-last").await;
        until("a pause has just begun", async || {
            let events = events_on(cluster, &decoy).await;
            events.iter().any(|(_, _, note)| note.contains("invented-last"))
        })
        .await;
        ask("front", "unlisted").await;
        cluster.put::<Service>(source("web", "app", "")).await;
        let withdrawn = Instant::now();
        cluster.until_addresses("team-a", "front", &[]).await;
        assert!(withdrawn.elapsed() < Duration::from_secs(2), "{:?}", withdrawn.elapsed());
    }

    /// The owner of `web/app` allows only `team-a`, which then offers its own copy as a source.
    async fn consent_is_not_passed_on_through_a_copy(cluster: &mut Cluster) {
        victim(cluster).await;
        cluster.namespace("team-b").await;
        cluster.create::<Service>(source("web", "app", "team-a")).await;
        let _operator = Operator::start(cluster, "one", 0);
        let mut front = front();
        front["metadata"]["annotations"]["endpoint-copier/allow-from"] = json!("*");
        cluster.create::<Service>(front).await;
        cluster.until_addresses("team-a", "front", &[VICTIM]).await;
        let thief = cluster.create::<Service>(managed("team-b", "thief", "team-a", "front")).await;
        is_refused(cluster, &thief, "SourceIsCopy").await;
    }
}
