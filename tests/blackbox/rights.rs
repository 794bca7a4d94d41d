//! An operator that is permitted to write in only one namespace. As in most tests of this suite, its permissions are
//! those that the chart grants, here with `rbac.namespaces=[default]`.

use std::time::Duration;

use endpoint_copier_core::model::MANAGED_BY_US;
use harness::objects::managed;
use harness::{Cluster, Operator, Rights, within};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use serde_json::json;

use crate::on_both;

/// The addresses that `default/kubernetes` lists.
const LISTED: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

on_both! {
    /// Rule: chart.namespaces
    async fn service_in_unlisted_namespace_is_logged_and_harms_no_other(cluster: &mut Cluster) {
        cluster.give_rights(Rights::OneNamespace, "default").await;
        cluster.namespace("blue").await;
        for number in 0..20 {
            let mut service = managed("blue", &format!("web-{number}"), "default", "kubernetes");
            service["spec"]["ports"] = json!([{"name": "https", "port": 6443}]);
            cluster.create::<Service>(service).await;
        }
        let operator = Operator::start(cluster, "one", 0);
        let refused = "endpoint_copier_findings{reason=\"WriteRefused\"}";
        let found = within(Duration::from_secs(20), async || operator.metric(refused).await == Some(20));
        assert!(found.await, "{}", operator.log());
        cluster.vip_in_sync().await;
        let line = operator.until_logged("service=blue/web-0 reason=WriteRefused").await;
        assert!(line.contains("in the namespace") && line.contains("list this namespace in rbac.namespaces of the chart"), "{line}");
        assert!(cluster.list::<EndpointSlice>("blue").await.is_empty());
        operator.until_logged("writing Events").await;
        // When an API server starts, it may write Events about the addresses of Services, in this namespace too.
        let events = cluster.list::<Event>("blue").await;
        let ours = |event: &&Event| event.reporting_controller.as_deref() == Some(MANAGED_BY_US);
        assert_eq!(events.iter().find(ours), None);
        assert_eq!(operator.log().matches("writing Events").count(), 1, "{}", operator.log());

        cluster.give_rights(Rights::Default, "default").await;
        let follows = within(Duration::from_secs(40), async || operator.metric(refused).await == Some(0));
        assert!(follows.await, "{}", operator.log());
        cluster.until_addresses("blue", "web-19", &LISTED).await;
    }
}
