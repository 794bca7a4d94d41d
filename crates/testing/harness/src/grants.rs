//! ReferenceGrants of the Gateway API. A cluster serves them only if the CRDs of that API are installed.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::wait::until;

const GROUP: &str = "gateway.networking.k8s.io";

impl Cluster {
    /// Serves ReferenceGrants from now on. The operator checks once a minute whether they are served, so call this
    /// before the operator starts, on a cluster with one API server.
    pub async fn serve_reference_grants(&self) {
        if let Some((store, _)) = self.testbed() {
            store.serve_reference_grants();
            return;
        }
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        assert_eq!(self.post(path, definition()).await, 201);
        let grants = format!("/apis/{GROUP}/v1/referencegrants");
        until("ReferenceGrants are served", async || {
            self.send(Method::GET, &grants, Value::Null).await == 200
        })
        .await;
    }

    /// Creates a ReferenceGrant.
    pub async fn grant(&self, namespace: &str, name: &str, spec: Value) {
        let grant = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "ReferenceGrant",
            "metadata": {"namespace": namespace, "name": name}, "spec": spec,
        });
        assert_eq!(self.post(&grants_of(namespace), grant).await, 201, "{name}");
    }

    /// Deletes a ReferenceGrant.
    pub async fn revoke(&self, namespace: &str, name: &str) {
        let path = format!("{}/{name}", grants_of(namespace));
        assert_eq!(self.send(Method::DELETE, &path, json!({})).await, 200, "{name}");
    }
}

fn grants_of(namespace: &str) -> String {
    format!("/apis/{GROUP}/v1/namespaces/{namespace}/referencegrants")
}

/// The custom resource definition, with a schema that accepts anything, so that invalid grants can be stored too.
fn definition() -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("referencegrants.{GROUP}"),
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": GROUP, "scope": "Namespaced",
            "names": {"plural": "referencegrants", "singular": "referencegrant", "kind": "ReferenceGrant"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}
