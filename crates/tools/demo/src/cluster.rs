//! The cluster: an API server in memory, and the few things that the story does to it and looks at.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;
use testbed::{ApiServer, Serving, Store, builders};

use crate::replica::NAMESPACE;

/// Addresses of the control-plane nodes, of the range that is reserved for documentation.
pub const NODES: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

/// Name of the Lease that replicas race for.
const LEASE: &str = "f668ae63.endpoint-copier-operator";

const SERVICE_LABEL: &str = "/metadata/labels/kubernetes.io~1service-name";

/// A cluster with one API server on loopback.
pub struct Cluster {
    pub store: Store,
    pub url: String,
    pub kubeconfig: PathBuf,
    _serving: Serving,
}

impl Cluster {
    /// Starts it, with all control-plane nodes alive. The kubeconfig goes into `folder`.
    pub async fn start(folder: &Path) -> Result<Self, String> {
        let store = Store::new();
        let put = |object| store.put(object).map_err(|error| error.to_string());
        put(builders::namespace(NAMESPACE))?;
        put(builders::kubernetes_service())?;
        put(builders::kubernetes_slice(&NODES))?;
        let serving = ApiServer::new(&store)
            .serve(([127, 0, 0, 1], 0).into())
            .await
            .map_err(|error| format!("the API server cannot listen: {error}"))?;
        let kubeconfig = folder.join("kubeconfig");
        serving
            .write_kubeconfig(&kubeconfig, "admin", "default")
            .map_err(|error| format!("{}: {error}", kubeconfig.display()))?;
        Ok(Self {
            store,
            url: serving.url(),
            kubeconfig,
            _serving: serving,
        })
    }

    /// What API servers do together: the living ones are in `default/kubernetes`.
    pub fn list_nodes(&self, nodes: &[&str]) -> Result<(), String> {
        let slice = builders::kubernetes_slice(nodes);
        self.store.put(slice).map(drop).map_err(|error| error.to_string())
    }

    /// Applies a Service, which has to be this one of `default`. When that was.
    pub fn apply(&self, service: Value, name: &str) -> Result<Instant, String> {
        let identity = ["/metadata/namespace", "/metadata/name"].map(|part| text(&service, part));
        if identity != ["default", name] {
            return Err(format!(
                "the Service is {}, not default/{name}",
                identity.join("/")
            ));
        }
        let since = Instant::now();
        let made = self.store.put(service);
        made.map(|_| since).map_err(|error| error.to_string())
    }
}

/// Addresses of a Service in all its slices; `None` without a slice.
pub fn endpoints(store: &Store, namespace: &str, service: &str) -> Option<BTreeSet<String>> {
    let slices = store.list("endpointslices", Some(namespace));
    let mut slices = slices
        .iter()
        .filter(|slice| text(slice, SERVICE_LABEL) == service)
        .peekable();
    slices.peek()?;
    let endpoints = slices.flat_map(|slice| list(slice, "/endpoints"));
    let addresses = endpoints.flat_map(|endpoint| list(endpoint, "/addresses"));
    Some(addresses.filter_map(Value::as_str).map(str::to_owned).collect())
}

/// Name of the replica that holds the Lease; empty: nobody.
pub fn holder(store: &Store) -> String {
    let lease = store.get("leases", NAMESPACE, LEASE);
    let identity = lease.map(|lease| text(&lease, "/spec/holderIdentity"));
    let identity = identity.unwrap_or_default();
    let name = identity.rsplit_once('_').map(|(name, _)| name.to_owned());
    name.unwrap_or(identity)
}

/// Addresses as people read them.
pub fn words(addresses: Option<&BTreeSet<String>>) -> String {
    match addresses {
        None => "nothing".to_owned(),
        Some(addresses) if addresses.is_empty() => "no endpoint".to_owned(),
        Some(addresses) => addresses.iter().cloned().collect::<Vec<_>>().join(" "),
    }
}

fn text(object: &Value, pointer: &str) -> String {
    let value = object.pointer(pointer).and_then(Value::as_str);
    value.unwrap_or_default().to_owned()
}

fn list<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}
