//! Attacks through names and lists that a careless parser would treat as patterns.

use harness::objects::{managed, slice, source};
use harness::{Cluster, Operator};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{VICTIM, front, is_hidden, is_refused, until_refused, victim};
use crate::on_both;

/// Values of `endpoint-copier/allow-from`. None of them names `team-a`.
const LISTS: [&str; 12] = [
    "",
    "team-*",
    "team-",
    "team",
    "team-ab",
    "my-team-a",
    "other,*",
    "*,",
    ".*",
    "TEAM-A",
    "team-a/front",
    "other; team-a",
];

on_both! {
    servers: 1;
    /// Rule: 9.allow-from
    async fn a_list_allows_only_the_namespaces_that_it_names(cluster: &mut Cluster) {
        for namespace in ["web", "team-a"] {
            cluster.namespace(namespace).await;
        }
        for (number, list) in LISTS.iter().enumerate() {
            let name = format!("app-{number}");
            cluster.create::<EndpointSlice>(slice("web", &name, &format!("{name}-x7k2p"), &[VICTIM])).await;
            cluster.create::<Service>(source("web", &name, list)).await;
        }
        let _operator = Operator::start(cluster, "one", 0);
        let mut services = Vec::new();
        for number in 0..LISTS.len() {
            let front = managed("team-a", &format!("front-{number}"), "web", &format!("app-{number}"));
            services.push(cluster.create::<Service>(front).await);
        }
        for service in &services {
            until_refused(cluster, service, "NotPermitted").await;
        }
        is_hidden(cluster, "team-a").await;
    }

    /// The name of one permitted source is a prefix of `app`, and `app` is a prefix of the names of the two others.
    async fn consent_for_a_source_does_not_cover_similar_names(cluster: &mut Cluster) {
        victim(cluster).await;
        cluster.create::<Service>(source("web", "app", "")).await;
        for name in ["ap", "app-blue", "app-x7k2p"] {
            cluster.create::<Service>(source("web", name, "*")).await;
        }
        let flags = [&harness::SHORT_LEASE[..], &["--allow-source=web/ap=team-a"]].concat();
        let _operator = Operator::start_with(cluster, "one", 0, &flags);
        let service = cluster.create::<Service>(front()).await;
        is_refused(cluster, &service, "NotPermitted").await;
    }
}
