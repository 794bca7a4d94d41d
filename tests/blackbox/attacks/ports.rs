//! Attacks that try to expose ports of the victim's hosts that the source does not list.

use harness::objects::{slice, source};
use harness::{Cluster, Operator, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::{VICTIM, front, held_copy, seen, victim};
use crate::consent::note;
use crate::events::events_on;
use crate::on_both;

/// The ports, such as `8080/TCP`, of the copies whose only address is this one.
async fn shown(cluster: &Cluster, address: &str) -> Vec<String> {
    let copies = cluster.slices_of("team-a", "front").await;
    let of_address = copies
        .iter()
        .filter(|copy| harness::objects::addresses([*copy]) == [address]);
    let ports = of_address.flat_map(|copy| copy.ports.iter().flatten());
    let mut shown: Vec<_> = ports
        .map(|port| {
            format!(
                "{}/{}",
                port.port.unwrap_or(0),
                port.protocol.as_deref().unwrap_or("TCP")
            )
        })
        .collect();
    shown.sort();
    shown
}

fn port(number: i32, target: Value, protocol: &str) -> Value {
    json!({"name": format!("p{number}"), "port": number, "targetPort": target, "protocol": protocol})
}

on_both! {
    servers: 1;
    /// Rule: 9.ports
    async fn a_copy_has_no_port_that_its_slice_does_not_list(cluster: &mut Cluster) {
        victim(cluster).await;
        let mut other = slice("web", "app", "app-q9d4m", &["10.0.0.2"]);
        other["ports"] = json!([{"name": "admin", "port": 9090, "protocol": "UDP"}]);
        cluster.create::<EndpointSlice>(other).await;
        cluster.create::<Service>(source("web", "app", "team-a")).await;
        let _operator = Operator::start(cluster, "one", 0);
        let mut front = front();
        front["spec"]["ports"] = json!([
            port(1, json!("http"), "TCP"),
            // No slice has these two numbers.
            port(2, json!(10250), "TCP"),
            port(3, json!(2379), "TCP"),
            // The slice has this number with another protocol.
            port(4, json!(8080), "UDP"),
            port(5, json!(9090), "TCP"),
            // The other slice has this number.
            port(6, json!(9090), "UDP"),
            // The default of `--allow-port`, which applies only to the default source.
            port(7, json!(9345), "TCP"),
        ]);
        let service = cluster.create::<Service>(front).await;
        let note = note(cluster, &service, "PortNotPermitted").await;
        assert!(note.contains("10250/TCP"), "{note}");
        until("both slices are copied", async || cluster.slices_of("team-a", "front").await.len() == 2).await;
        seen(cluster).await;
        assert_eq!(shown(cluster, VICTIM).await, ["8080/TCP"]);
        assert_eq!(shown(cluster, "10.0.0.2").await, ["9090/UDP"]);
    }

    /// Rule: 9.ports
    async fn a_held_copy_gets_no_new_port(cluster: &mut Cluster) {
        let _operator = held_copy(cluster).await;
        let ports = [port(1, json!(8080), "TCP"), port(2, json!(10250), "TCP")];
        let service = cluster.patch::<Service>("team-a", "front", json!({"spec": {"ports": ports}})).await;
        note(cluster, &service, "PortNotPermitted").await;
        seen(cluster).await;
        assert_eq!(shown(cluster, VICTIM).await, ["8080/TCP"]);
    }

    /// The slice of the Go operator for a Service that is no longer managed lists the address of the victim. As a
    /// source in the same namespace, it would allow any port.
    /// Rule: 1.copy-is-no-source, 1.source-is-copy
    async fn leftover_of_the_go_operator_gets_no_port(cluster: &mut Cluster) {
        victim(cluster).await;
        let mut left = slice("team-a", "old", "old", &[VICTIM]);
        left["metadata"]["labels"]["endpoint-copier/source"] = json!("app-x7k2p");
        cluster.create::<EndpointSlice>(left).await;
        let _operator = Operator::start(cluster, "one", 0);
        let mut relay = harness::objects::managed("team-a", "relay", "team-a", "old");
        relay["spec"]["ports"] = json!([port(1, json!(10250), "TCP")]);
        let relay = cluster.create::<Service>(relay).await;
        until("the operator has decided", async || {
            let copies = cluster.slices_of("team-a", "relay").await;
            !copies.is_empty() || events_on(cluster, &relay).await.iter().any(|event| event.1 == "SourceIsCopy")
        })
        .await;
        seen(cluster).await;
        assert!(cluster.slices_of("team-a", "relay").await.is_empty());
    }

    /// A Service may have any port if its source is in its own namespace. So if a copy could be a source, a second
    /// Service that names the first as its source would get any port.
    async fn a_copy_of_a_copy_gets_no_port(cluster: &mut Cluster) {
        victim(cluster).await;
        cluster.create::<Service>(source("web", "app", "team-a")).await;
        let _operator = Operator::start(cluster, "one", 0);
        cluster.create::<Service>(front()).await;
        cluster.until_addresses("team-a", "front", &[VICTIM]).await;
        let mut relay = harness::objects::managed("team-a", "relay", "team-a", "front");
        relay["spec"]["ports"] = json!([port(1, json!(10250), "TCP")]);
        let relay = cluster.create::<Service>(relay).await;
        note(cluster, &relay, "SourceIsCopy").await;
        seen(cluster).await;
        assert!(cluster.slices_of("team-a", "relay").await.is_empty());
    }
}
