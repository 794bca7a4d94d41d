//! Calls that write Nodes. Nodes are cluster-scoped, so the calls for namespaced objects cannot write them.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const NODES: &str = "/api/v1/nodes";

impl Cluster {
    /// Creates or replaces a Node, including its status.
    pub async fn put_node(&self, node: Value) {
        let path = format!("{NODES}/{}", node["metadata"]["name"].as_str().expect("a name"));
        if self.post(NODES, node.clone()).await == 409 {
            for path in [format!("{path}/status"), path] {
                assert_eq!(self.send(Method::PUT, &path, node.clone()).await, 200, "{path}");
            }
        }
    }

    /// Updates a Node as the kubelet does when nothing has changed.
    pub async fn heartbeat(&self, node: &str, time: &str) {
        let path = format!("{NODES}/{node}/status");
        let mut object = self.get(&format!("{NODES}/{node}")).await;
        object["status"]["conditions"] =
            json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": time}]);
        assert_eq!(self.send(Method::PUT, &path, object).await, 200, "{path}");
    }

    /// Deletes a Node.
    pub async fn delete_node(&self, node: &str) {
        let path = format!("{NODES}/{node}");
        assert_eq!(self.send(Method::DELETE, &path, json!({})).await, 200, "{path}");
    }
}
