//! Nodes: cluster-scoped objects whose status other clients write.

use crate::target::Target;
use serde_json::{Value, json};

const NODES: &str = "/api/v1/nodes";

/// A name for a Node that no other test uses. Tests share a real server, and Nodes have no namespace.
fn name(t: &Target, name: &str) -> String {
    format!("{}-{name}", t.namespace)
}

fn node(t: &Target, name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": self::name(t, name), "labels": {"owner": t.namespace}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

pub async fn a_node_is_in_no_namespace(t: Target) {
    let made = t.post(NODES, &node(&t, "a", "192.0.2.1")).await.expect(201);
    assert_eq!(made["metadata"]["namespace"], Value::Null);
    // A kubelet registers its Node with addresses.
    assert_eq!(made["status"]["addresses"][0]["address"], "192.0.2.1");
    let path = format!("{NODES}/{}", name(&t, "a"));
    assert_eq!(t.get(&path).await.expect(200)["kind"], "Node");
    t.get(&t.all("nodes")).await.fails(404, "NotFound");
    t.delete(&path).await.expect(200);
    t.get(&path).await.fails(404, "NotFound");
}

pub async fn the_status_of_a_node_has_its_own_path(t: Target) {
    let made = t.post(NODES, &node(&t, "a", "192.0.2.1")).await.expect(201);
    let path = format!("{NODES}/{}", name(&t, "a"));
    let moved = node(&t, "a", "192.0.2.2")["status"].clone();
    let patch = json!({"metadata": {"labels": {"more": "yes"}}, "status": moved});
    let main = t.merge(&path, &patch).await.expect(200);
    assert_eq!(main["metadata"]["labels"]["more"], "yes");
    assert_eq!(main["status"]["addresses"], made["status"]["addresses"]);
    let status = t.merge(&format!("{path}/status"), &patch).await.expect(200);
    assert_eq!(status["status"]["addresses"][0]["address"], "192.0.2.2");
}

pub async fn labels_select_nodes(t: Target) {
    for (name, role) in [("a", true), ("b", false)] {
        let mut node = node(&t, name, "192.0.2.1");
        if role {
            node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = "".into();
        }
        t.post(NODES, &node).await.expect(201);
    }
    let selector = format!("owner%3D{},node-role.kubernetes.io/control-plane", t.namespace);
    let list = t
        .get(&format!("{NODES}?labelSelector={selector}"))
        .await
        .expect(200);
    let names: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["metadata"]["name"].clone())
        .collect();
    assert_eq!(json!(names), json!([name(&t, "a")]));
}
