//! The cluster: in-memory API servers, and the operations on them that the story needs.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};
use serde_json::Value;
use testbed::{ApiServer, Serving, Store, builders};

use crate::replica::NAMESPACE;

/// The addresses of the control-plane nodes. All of 127.0.0.0/8 belongs to this machine, so an API server can listen
/// on each of them.
pub const NODES: [&str; 3] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];

/// The port of the API servers, which the Service of the README also uses.
const PORT: u16 = 6443;

/// The name of the Lease that replicas compete for.
const LEASE: &str = "f668ae63.endpoint-copier-operator";

const SERVICE_LABEL: &str = "/metadata/labels/kubernetes.io~1service-name";

/// A cluster with an API server on each control-plane node.
pub struct Cluster {
    pub store: Store,
    pub kubeconfig: PathBuf,
    port: u16,
    servers: Vec<Serving>,
}

impl Cluster {
    /// Starts the cluster with all control-plane nodes alive. Writes the kubeconfig into `folder`.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let store = Store::new();
        store.allow_loopback();
        let servers = match serve(&store, PORT).await {
            // Another program uses the port on this machine, so the servers use a free port.
            Err(error) if error.kind() == ErrorKind::AddrInUse => serve(&store, 0).await,
            servers => servers,
        };
        let servers = servers.context("the API servers cannot listen")?;
        let [first, ..] = servers.as_slice() else {
            bail!("there is no API server");
        };
        let port = first.address().port();
        let kubeconfig = folder.join("kubeconfig");
        first
            .write_kubeconfig(&kubeconfig, "admin", "default")
            .with_context(|| format!("{}", kubeconfig.display()))?;
        let cluster = Self {
            store,
            kubeconfig,
            port,
            servers,
        };
        cluster.store.put(builders::namespace(NAMESPACE))?;
        cluster.store.put(builders::kubernetes_service())?;
        cluster.list_nodes(&NODES)?;
        Ok(cluster)
    }

    /// The URLs of the API servers, in one line.
    pub fn urls(&self) -> String {
        let urls: Vec<_> = self.servers.iter().map(Serving::url).collect();
        urls.join("  ")
    }

    /// Freezes the API server on a node as SIGSTOP does, or resumes it.
    pub fn freeze(&self, node: &str, is_frozen: bool) {
        let on_node = |server: &&Serving| server.address().ip().to_string() == node;
        for server in self.servers.iter().filter(on_node) {
            if is_frozen {
                server.freeze();
            } else {
                server.thaw();
            }
        }
    }

    /// Lists the API servers of these nodes in `default/kubernetes`, as API servers do.
    pub fn list_nodes(&self, nodes: &[&str]) -> anyhow::Result<()> {
        let mut slice = builders::kubernetes_slice(nodes);
        slice["ports"][0]["port"] = self.port.into();
        self.store.put(slice)?;
        Ok(())
    }

    /// Applies a Service, which must have this name and be in `default`. Replaces its target port 6443 with the port of
    /// the API servers. Returns a time just before the write.
    pub fn apply(&self, mut service: Value, name: &str) -> anyhow::Result<Instant> {
        let identity = ["/metadata/namespace", "/metadata/name"].map(|part| text(&service, part));
        if identity != ["default", name] {
            bail!("the Service is {}, not default/{name}", identity.join("/"));
        }
        let ports = service["spec"]["ports"].as_array_mut();
        for port in ports
            .into_iter()
            .flatten()
            .filter(|port| port["targetPort"] == PORT)
        {
            port["targetPort"] = self.port.into();
        }
        let since = Instant::now();
        self.store.put(service)?;
        Ok(since)
    }
}

/// Starts an API server on each node. All servers use one port, because `default/kubernetes` has one port for all of
/// them.
async fn serve(store: &Store, mut port: u16) -> std::io::Result<Vec<Serving>> {
    let mut servers = Vec::new();
    for node in NODES {
        let ip: IpAddr = node.parse().map_err(std::io::Error::other)?;
        let serving = ApiServer::named(store, node).serve((ip, port).into()).await?;
        port = serving.address().port();
        servers.push(serving);
    }
    Ok(servers)
}

/// The addresses in all slices of a Service, except those of endpoints that are not ready. `None` if there is no slice.
pub fn endpoints(store: &Store, namespace: &str, service: &str) -> Option<BTreeSet<String>> {
    let slices = store.list("endpointslices", Some(namespace));
    let mut slices = slices
        .iter()
        .filter(|slice| text(slice, SERVICE_LABEL) == service)
        .peekable();
    slices.peek()?;
    let endpoints = slices.flat_map(|slice| list(slice, "/endpoints"));
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    let addresses = ready.flat_map(|endpoint| list(endpoint, "/addresses"));
    Some(addresses.filter_map(Value::as_str).map(str::to_owned).collect())
}

/// The name of the replica that holds the Lease, or an empty string.
pub fn holder(store: &Store) -> String {
    let lease = store.get("leases", NAMESPACE, LEASE);
    let identity = lease.map(|lease| text(&lease, "/spec/holderIdentity"));
    let identity = identity.unwrap_or_default();
    let name = identity.rsplit_once('_').map(|(name, _)| name.to_owned());
    name.unwrap_or(identity)
}

/// Addresses in a readable form.
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
