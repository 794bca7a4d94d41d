//! The API server goes away and comes back.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::cluster::{Cluster, until};
use crate::objects::{api_servers, vip};
use crate::on_both;
use crate::operator::{Operator, leader};

on_both! {
    async fn a_restart_of_the_api_server_ends_no_replica_and_loses_no_change(cluster: &mut Cluster) {
        let mut operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(vip()).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.2", "192.0.2.3"]).await;
        cluster.kill_server(0).await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.2"])).await;
        until("it has lost the lead", async || operator.log().contains("lost the lead")).await;
        assert!(operator.runs());
        cluster.start_server(0).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.2"]).await;
        assert!(operator.runs());
        assert!(operator.leads().await);
    }

    async fn another_replica_takes_over_when_the_leaders_api_server_dies(cluster: &mut Cluster) {
        let first = Operator::start(cluster, "one", 0);
        first.until_leads().await;
        let second = Operator::start(cluster, "two", 1);
        second.until_ready().await;
        cluster.create::<Service>(vip()).await;
        cluster.kill_server(0).await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.2"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.2"]).await;
        let mut replicas = [first, second];
        assert_eq!(leader(&replicas).await, 1);
        assert!(replicas[0].runs());
    }

    async fn an_operator_that_starts_before_its_api_server_waits_for_it(cluster: &mut Cluster) {
        cluster.create::<Service>(vip()).await;
        cluster.kill_server(0).await;
        let mut operator = Operator::start(cluster, "one", 0);
        until("it listens", async || operator.get("/healthz").await.0 == 200).await;
        assert_eq!(operator.get("/readyz").await.0, 503);
        assert!(operator.runs());
        cluster.start_server(0).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.2", "192.0.2.3"]).await;
        operator.until_ready().await;
    }
}
