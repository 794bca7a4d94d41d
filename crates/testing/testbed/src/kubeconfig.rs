//! Renders a kubeconfig with one cluster, one user with a token, and one context, which is the current one.

use base64::{Engine, prelude::BASE64_STANDARD};

/// The text of a kubeconfig. It is JSON, which every YAML parser accepts.
#[must_use]
pub fn render(server: &str, ca_pem: &str, token: &str, namespace: &str) -> String {
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "testbed",
        "clusters": [{"name": "testbed", "cluster": {
            "server": server, "certificate-authority-data": BASE64_STANDARD.encode(ca_pem),
        }}],
        "users": [{"name": "testbed", "user": {"token": token}}],
        "contexts": [{"name": "testbed", "context": {
            "cluster": "testbed", "user": "testbed", "namespace": namespace,
        }}],
    });
    format!("{config:#}\n")
}
