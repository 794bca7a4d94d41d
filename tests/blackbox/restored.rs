//! A cluster that Velero restores: the copies of the backup exist before the operator runs.

use harness::objects::{addresses, managed, slice};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::events::events_on;
use crate::on_both;

/// A slice as Velero restores it in this namespace: without an owner, and without metadata except for name, namespace,
/// labels and annotations.
fn restored(slice: &EndpointSlice, namespace: &str) -> Value {
    let mut slice = serde_json::to_value(slice).expect("JSON");
    let mut labels = slice["metadata"]["labels"].clone();
    labels["velero.io/backup-name"] = json!("daily");
    labels["velero.io/restore-name"] = json!("daily-monday");
    slice["metadata"] = json!({
        "name": slice["metadata"]["name"], "namespace": namespace,
        "labels": labels, "annotations": slice["metadata"]["annotations"],
    });
    slice
}

on_both! {
    servers: 1;
    /// Rule: 2.restored
    async fn copies_of_a_backup_are_adopted_or_deleted(cluster: &mut Cluster) {
        cluster.namespace("mapped").await;
        for (name, address) in [("source-1", "10.0.0.1"), ("source-2", "10.0.0.2")] {
            cluster.create::<EndpointSlice>(slice("default", "source", name, &[address])).await;
        }
        let mut operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(managed("default", "web", "default", "source")).await;
        cluster.until_addresses("default", "web", &["10.0.0.1", "10.0.0.2"]).await;
        let backup = cluster.slices_of("default", "web").await;
        operator.signal("TERM");
        operator.ended().await;

        // The Service and its copies are lost, and the source has a different address and one fewer slice.
        cluster.delete::<Service>("default", "web").await;
        for name in backup.iter().filter_map(|copy| copy.metadata.name.clone()) {
            if cluster.try_get::<EndpointSlice>("default", &name).await.is_some() {
                cluster.delete::<EndpointSlice>("default", &name).await;
            }
        }
        cluster.delete::<EndpointSlice>("default", "source-2").await;
        cluster.put::<EndpointSlice>(slice("default", "source", "source-1", &["10.0.0.8"])).await;
        for copy in &backup {
            for namespace in ["default", "mapped"] {
                cluster.create::<EndpointSlice>(restored(copy, namespace)).await;
            }
        }
        let service = cluster.create::<Service>(managed("default", "web", "default", "source")).await;
        let operator = Operator::start(cluster, "two", 0);
        cluster.until_addresses("default", "web", &["10.0.0.8"]).await;
        let copies = cluster.until_slices("default", "web", "one copy", |slices| slices.len() == 1).await;
        let owners = copies[0].metadata.owner_references.as_ref().expect("an owner");
        assert_eq!(Some(&owners[0].uid), service.metadata.uid.as_ref());
        assert!(copies[0].metadata.labels.as_ref().expect("labels").contains_key("velero.io/restore-name"));
        until("the copies in the namespace without the Service are deleted", async || {
            addresses(&cluster.list::<EndpointSlice>("mapped").await).is_empty()
        }).await;
        until("the Service is in sync", async || operator.metric("endpoint_copier_services_in_sync").await == Some(1)).await;
        let events = events_on(cluster, &service).await;
        assert!(events.iter().all(|(kind, ..)| kind == "Normal"), "{events:#?}");
    }
}
