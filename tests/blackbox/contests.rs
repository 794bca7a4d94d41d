//! Two installations that both write, because one of them runs without leader election.

use harness::objects::{slice, vip};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::events::events_on;
use crate::on_both;

on_both! {
    servers: 1;
    /// Rule: 3.other-installation
    async fn two_installations_that_disagree_are_reported(cluster: &mut Cluster) {
        cluster.create::<EndpointSlice>(slice("default", "source", "source-x", &["10.0.0.1"])).await;
        let one = Operator::start(cluster, "one", 0);
        let service = cluster.create::<Service>(vip()).await;
        let copies = cluster.until_slices("default", "kubernetes-vip", "a copy", |slices| slices.len() == 1).await;
        let listed = harness::objects::addresses(&copies);
        let listed: Vec<_> = listed.iter().map(String::as_str).collect();
        let flags = ["--leader-elect=false", "--default-endpoint-name=source"];
        let two = Operator::start_with(cluster, "two", 0, &flags);
        until("an Event reports the other installation", async || {
            let events = events_on(cluster, &service).await;
            events.iter().any(|(kind, reason, note)| {
                kind == "Warning" && reason == "OtherInstallation" && note.contains("kubectl get leases --all-namespaces")
            })
        })
        .await;
        drop(two);
        cluster.until_addresses("default", "kubernetes-vip", &listed).await;
        drop(one);
    }
}
