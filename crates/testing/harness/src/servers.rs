//! The API servers of a cluster, either those of the testbed or real ones, and the faults of each.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
pub use testbed::real::USERS;
use testbed::real::{self, RealCluster};
use testbed::{ApiServer, Serving, Store};

use crate::nodes::Nodes;

/// The kind of API servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// In-memory API servers of the testbed, reached over TCP.
    Testbed,
    /// Real `etcd` and `kube-apiserver` processes.
    Real,
}

impl Platform {
    /// Whether the platform is available. Real servers need `KUBEBUILDER_ASSETS`.
    pub fn is_here(self) -> bool {
        self == Self::Testbed || real::assets().is_some()
    }
}

pub(crate) enum Servers {
    Testbed {
        store: Store,
        ca: String,
        servers: Vec<TestbedServer>,
    },
    Real(Box<RealCluster>),
}

pub(crate) struct TestbedServer {
    pub server: ApiServer,
    serving: Option<Serving>,
    address: SocketAddr,
}

impl Servers {
    pub async fn start(platform: Platform, addresses: &[Ipv4Addr]) -> Self {
        if platform == Platform::Real {
            return Self::start_real(addresses, &[]).await;
        }
        let store = Store::new();
        store.allow_loopback();
        let servers = loop {
            match serve(&store, addresses).await {
                Ok(servers) => break servers,
                // Another test uses the port on one of the other addresses.
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(error) => panic!("API servers cannot listen on {addresses:?}: {error}"),
            }
        };
        let serving = servers[0].serving.as_ref().expect("just started");
        let ca = serving.ca_pem().to_owned();
        Self::Testbed { store, ca, servers }
    }

    /// Real API servers with additional flags.
    pub async fn start_real(addresses: &[Ipv4Addr], flags: &[&str]) -> Self {
        // The tests themselves write the list of API servers.
        let flags = [&["--endpoint-reconciler-type=none"], flags].concat();
        let cluster = RealCluster::start_at(addresses, &flags).await;
        Self::Real(Box::new(cluster.expect("etcd and API servers")))
    }

    /// Real API servers, one on each node, which maintain `default/kubernetes` themselves.
    pub async fn start_on(nodes: &Nodes) -> Self {
        let cluster = RealCluster::start_on(&nodes.hosts(), &["--endpoint-reconciler-type=lease"]).await;
        Self::Real(Box::new(cluster.expect("etcd and API servers")))
    }

    pub fn count(&self) -> usize {
        match self {
            Self::Testbed { servers, .. } => servers.len(),
            Self::Real(cluster) => cluster.servers().len(),
        }
    }

    pub fn address(&self, number: usize) -> SocketAddr {
        match self {
            Self::Testbed { servers, .. } => servers[number].address,
            Self::Real(cluster) => cluster.servers()[number].address(),
        }
    }

    pub fn kubeconfig(&self, number: usize, user: &str) -> String {
        let address = self.address(number);
        let text = match self {
            Self::Testbed { store, ca, .. } => {
                let url = format!("https://{address}");
                testbed::kubeconfig(&url, ca, &store.token_of(user), "default")
            }
            Self::Real(cluster) => cluster.kubeconfig_of(user, number, "default"),
        };
        if address.ip().is_loopback() {
            return text;
        }
        // Certificates name only loopback addresses and the Service of the API.
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["clusters"][0]["cluster"]["tls-server-name"] = json!("kubernetes.default.svc");
        config.to_string()
    }

    pub fn run_controllers(&mut self, controllers: &[&str]) -> bool {
        match self {
            Self::Testbed { .. } => false,
            Self::Real(cluster) => cluster
                .run_controllers(controllers)
                .expect("a controller manager"),
        }
    }

    pub async fn kill(&mut self, number: usize) {
        match self {
            Self::Testbed { servers, .. } => {
                if let Some(serving) = servers[number].serving.take() {
                    serving.shutdown().await;
                }
            }
            Self::Real(cluster) => cluster.server(number).kill(),
        }
    }

    pub async fn restart(&mut self, number: usize) {
        match self {
            Self::Testbed { servers, .. } => {
                let TestbedServer {
                    server,
                    serving,
                    address,
                } = &mut servers[number];
                *serving = Some(server.serve(*address).await.expect("the old port is free"));
            }
            Self::Real(cluster) => {
                let restarted = cluster.server(number).restart().await;
                restarted.expect("a server that starts again");
            }
        }
    }

    pub fn freeze(&self, number: usize) {
        match self {
            Self::Testbed { servers, .. } => servers[number].server.faults().freeze(),
            Self::Real(cluster) => cluster.servers()[number].stop().expect("a running server"),
        }
    }

    pub fn thaw(&self, number: usize) {
        match self {
            Self::Testbed { servers, .. } => servers[number].server.faults().thaw(),
            Self::Real(cluster) => cluster.servers()[number].cont().expect("a running server"),
        }
    }

    /// The server whose etcd is the leader. `None` on the testbed.
    pub async fn etcd_leader(&self) -> Option<usize> {
        match self {
            Self::Testbed { .. } => None,
            Self::Real(cluster) => cluster.etcd_leader().await.expect("etcd"),
        }
    }

    /// Waits until a server has renewed its place in `default/kubernetes`.
    pub async fn renewed(&self, number: usize) {
        if let Self::Real(cluster) = self {
            cluster.renewed(number).await.expect("etcd");
        }
    }

    /// The number of accepted writes of EndpointSlices by each user except the test's own.
    pub fn slice_writes(&self) -> BTreeMap<String, usize> {
        let users: Vec<String> = match self {
            Self::Testbed { store, .. } => {
                let accepted = store.requests().matching(|request| {
                    let good = request.status.is_some_and(|code| code < 300);
                    good && request.is_write() && request.resource == "endpointslices"
                });
                accepted.into_iter().map(|request| request.user).collect()
            }
            Self::Real(cluster) => cluster.writers(),
        };
        let mut counts = BTreeMap::new();
        for user in users.into_iter().filter(|user| user != USERS[0]) {
            *counts.entry(user).or_default() += 1;
        }
        counts
    }
}

/// Starts API servers at these addresses, all on one port that is free on the first address, because
/// `default/kubernetes` has a single port for all of its addresses.
async fn serve(store: &Store, addresses: &[Ipv4Addr]) -> std::io::Result<Vec<TestbedServer>> {
    let (mut servers, mut port) = (Vec::<TestbedServer>::new(), 0);
    for (name, ip) in ["a", "b", "c"].into_iter().zip(addresses) {
        let server = ApiServer::named(store, name);
        let serving = server.serve((*ip, port).into()).await?;
        let address = serving.address();
        port = address.port();
        servers.push(TestbedServer {
            server,
            serving: Some(serving),
            address,
        });
    }
    Ok(servers)
}
