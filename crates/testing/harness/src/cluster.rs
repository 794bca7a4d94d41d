//! A cluster to run the operator against: API servers on one store, either those of the testbed or real ones.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use testbed::{ApiServer, Rule, Store};

use crate::history::History;
use crate::network::Network;
use crate::nodes::Nodes;
use crate::objects;
use crate::rights::{Rights, bind_to_replicas, path, review, rules};
use crate::servers::{Platform, Servers, USERS};
use crate::wait::until;

/// The name of the operator's Lease.
pub const LEASE: &str = "f668ae63.endpoint-copier-operator";

/// Addresses on which API servers listen, all on one port. The kernel uses none of them as the source address of an
/// outgoing connection, so no connection can take a port that a killed server has freed.
const LOOPBACK: [Ipv4Addr; 3] = [
    Ipv4Addr::new(127, 0, 0, 2),
    Ipv4Addr::new(127, 0, 0, 3),
    Ipv4Addr::new(127, 0, 0, 4),
];

/// Addresses that `default/kubernetes` lists at the start. No server of a test has them.
const NOWHERE: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

/// API servers on one store, and the test's own client, which initially uses the last server.
pub struct Cluster {
    pub(crate) program: PathBuf,
    servers: Servers,
    directory: tempfile::TempDir,
    pub(crate) client: Client,
}

impl Cluster {
    /// Starts a cluster with `servers` API servers, at most three. `default/kubernetes` looks as if three other API
    /// servers had written it. `program` is the operator binary that runs on the cluster.
    pub async fn start(platform: Platform, program: impl Into<PathBuf>, servers: usize) -> Self {
        let cluster = Self::start_at(platform, program, &LOOPBACK[..servers]).await;
        cluster.put::<EndpointSlice>(objects::api_servers(&NOWHERE)).await;
        cluster
    }

    /// Starts a cluster with one real API server, which gets these additional flags.
    pub async fn start_real(program: impl Into<PathBuf>, flags: &[&str]) -> Self {
        Self::with(Servers::start_real(&LOOPBACK[..1], flags).await, program).await
    }

    /// Starts a cluster of three API servers. Each of the first two is reached over its own path in this network. The
    /// third is outside the network.
    pub async fn start_behind(platform: Platform, program: impl Into<PathBuf>, network: &Network) -> Self {
        let [first, second, _] = network.servers();
        let cluster = Self::start_at(platform, program, &[first, second, LOOPBACK[2]]).await;
        cluster.put::<EndpointSlice>(objects::api_servers(&NOWHERE)).await;
        cluster
    }

    /// Starts a cluster of three API servers and makes `default/kubernetes` list their addresses, so that probes reach
    /// them. Real API servers reject loopback addresses in this list, so a cluster of real servers needs a network.
    pub async fn start_listed(
        platform: Platform,
        program: impl Into<PathBuf>,
        network: Option<&Network>,
    ) -> Self {
        let addresses = network.map_or(LOOPBACK, Network::servers);
        let cluster = Self::start_at(platform, program, &addresses).await;
        cluster.list_servers(&[0, 1, 2]).await;
        cluster
    }

    /// Starts a cluster on three nodes, each with a real etcd and a real API server that lists itself in
    /// `default/kubernetes`.
    pub async fn start_on(program: impl Into<PathBuf>, nodes: &Nodes) -> Self {
        Self::with(Servers::start_on(nodes).await, program).await
    }

    async fn start_at(platform: Platform, program: impl Into<PathBuf>, addresses: &[Ipv4Addr]) -> Self {
        Self::with(Servers::start(platform, addresses).await, program).await
    }

    async fn with(servers: Servers, program: impl Into<PathBuf>) -> Self {
        let directory = tempfile::tempdir().expect("a directory for files");
        let client = client(&servers.kubeconfig(servers.count() - 1, USERS[0])).await;
        let cluster = Self {
            program: program.into(),
            servers,
            directory,
            client,
        };
        if cluster.testbed().is_some() {
            let service = testbed::builders::kubernetes_service();
            cluster.put::<Service>(service).await;
        } else {
            // A real API server creates this Service itself, soon after the server is ready.
            until("default/kubernetes exists", async || {
                let service = cluster.try_get::<Service>("default", "kubernetes");
                service.await.is_some()
            })
            .await;
        }
        cluster.give_rights(Rights::Default, "default").await;
        cluster
    }

    /// Replaces the permissions of the replicas with those of a release in this namespace. Initially, the replicas have
    /// the permissions of a release in `default` with the default values.
    pub async fn give_rights(&self, rights: Rights, namespace: &str) {
        let objects = rights.objects(namespace);
        let rules = rules(&objects);
        if let Some((store, _)) = self.testbed() {
            for user in &USERS[1..] {
                store.restrict(user, rules.clone());
            }
            return;
        }
        for mut object in objects {
            bind_to_replicas(&mut object);
            let path = path(&object);
            let one = format!("{path}/{}", object["metadata"]["name"].as_str().expect("a name"));
            if self.send(http::Method::PUT, &one, object.clone()).await > 201 {
                assert_eq!(self.post(&path, object).await, 201, "{one}");
            }
        }
        let all: Vec<_> = Rights::ALL
            .iter()
            .flat_map(|rights| self::rules(&rights.objects(namespace)))
            .collect();
        for server in 0..self.servers.count() {
            let client = client(&self.servers.kubeconfig(server, USERS[0])).await;
            for rule in &all {
                let is_granted = rules.contains(rule) || rules.contains(&everywhere(rule));
                until(
                    &format!("server {server}: {rule:?} is {is_granted}"),
                    async || is_allowed(&client, rule).await == is_granted,
                )
                .await;
            }
        }
    }

    /// Makes `default/kubernetes` list exactly these servers.
    pub async fn list_servers(&self, servers: &[usize]) {
        let addresses: Vec<_> = servers.iter().map(|server| self.ip(*server)).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let mut slice = objects::api_servers(&addresses);
        slice["ports"][0]["port"] = json!(self.address(0).port());
        self.put::<EndpointSlice>(slice).await;
    }

    /// Writes a kubeconfig file for one of the servers and a user. Each replica has its own user.
    pub(crate) fn kubeconfig(&self, server: usize, user: &str) -> PathBuf {
        let file = self.directory.path().join(format!("{user}-{server}.kubeconfig"));
        std::fs::write(&file, self.servers.kubeconfig(server, user)).expect("a file");
        file
    }

    /// Writes a kubeconfig file for one of the servers, with `token` or, if there is none, the token of an
    /// administrator.
    pub fn kubeconfig_with(&self, server: usize, token: Option<&str>) -> PathBuf {
        let mut config: Value =
            serde_json::from_str(&self.servers.kubeconfig(server, USERS[0])).expect("JSON");
        if let Some(token) = token {
            config["users"][0]["user"]["token"] = json!(token);
        }
        let file = tempfile::NamedTempFile::new_in(self.directory.path()).expect("a file");
        std::fs::write(file.path(), config.to_string()).expect("a file");
        file.into_temp_path()
            .keep()
            .expect("a file that stays until its directory is removed")
    }

    /// A client for one of the servers with this token.
    pub async fn client_with(&self, server: usize, token: &str) -> Client {
        let kubeconfig = self.kubeconfig_with(server, Some(token));
        client(&std::fs::read_to_string(kubeconfig).expect("a kubeconfig")).await
    }

    /// The token of a user.
    pub fn token(&self, user: &str) -> String {
        let config: Value = serde_json::from_str(&self.servers.kubeconfig(0, user)).expect("JSON");
        let token = config["users"][0]["user"]["token"].as_str();
        token.expect("a token").to_owned()
    }

    /// The address and port of a server.
    pub fn address(&self, server: usize) -> SocketAddr {
        self.servers.address(server)
    }

    /// The address of a server. All servers have the same port.
    pub fn ip(&self, server: usize) -> String {
        self.address(server).ip().to_string()
    }

    /// The directory for files of the test, which is removed with the cluster.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The store and the first server of the testbed, for fault injection. `None` on real servers.
    pub fn testbed(&self) -> Option<(&Store, &ApiServer)> {
        match &self.servers {
            Servers::Testbed { store, servers, .. } => Some((store, &servers[0].server)),
            Servers::Real(_) => None,
        }
    }

    /// The servers of the testbed, for fault injection. Empty on real servers.
    pub fn testbed_servers(&self) -> impl Iterator<Item = &ApiServer> {
        let servers = match &self.servers {
            Servers::Testbed { servers, .. } => servers.as_slice(),
            Servers::Real(_) => &[],
        };
        servers.iter().map(|testbed| &testbed.server)
    }

    /// Starts these controllers of Kubernetes if the servers are real and the controller manager is available.
    /// Otherwise, the test itself must do the work of the controllers. Returns whether they were started.
    pub fn run_controllers(&mut self, controllers: &[&str]) -> bool {
        self.servers.run_controllers(controllers)
    }

    /// Kills one server.
    pub async fn kill_server(&mut self, number: usize) {
        self.servers.kill(number).await;
    }

    /// Starts a server again at the same address, and returns when it is ready.
    pub async fn start_server(&mut self, number: usize) {
        self.servers.restart(number).await;
    }

    /// Freezes a server as SIGSTOP does: the kernel accepts connections for it, but the server answers no request.
    pub fn freeze_server(&self, number: usize) {
        self.servers.freeze(number);
    }

    /// Resumes a frozen server.
    pub fn thaw_server(&self, number: usize) {
        self.servers.thaw(number);
    }

    /// Makes the test's own client use this server from now on.
    pub async fn use_server(&mut self, number: usize) {
        self.client = client(&self.servers.kubeconfig(number, USERS[0])).await;
    }

    /// The server whose etcd is the leader. All etcd members must answer. `None` on the testbed.
    pub async fn etcd_leader(&self) -> Option<usize> {
        self.servers.etcd_leader().await
    }

    /// Waits until a server on a node renews its place in `default/kubernetes`. A server does so every 10 s. If the
    /// server dies, the other servers do not remove it until at least 15 s after its last renewal.
    pub async fn renewed(&self, number: usize) {
        self.servers.renewed(number).await;
    }

    /// The number of accepted writes of EndpointSlices so far, for each replica by its name.
    pub fn slice_writes(&self) -> BTreeMap<String, usize> {
        self.servers.slice_writes()
    }

    /// Creates the Service `kubernetes-vip` and waits until its copy shows the initial API servers.
    pub async fn vip_in_sync(&self) {
        self.create::<Service>(objects::vip()).await;
        self.until_addresses("default", "kubernetes-vip", &NOWHERE).await;
    }

    /// Records the slices of a Service from now on.
    pub async fn watch_slices(&self, namespace: &str, service: &str) -> History {
        let history = History::start(self.api(namespace), service);
        let now = self.addresses_of(namespace, service).await;
        let now: Vec<_> = now.iter().map(String::as_str).collect();
        history.up_to(&now).await;
        history
    }

    /// The holder of the Lease, or an empty string if there is none.
    pub async fn holder(&self) -> String {
        let lease: Option<Lease> = self.try_get("default", LEASE).await;
        lease
            .and_then(|lease| lease.spec?.holder_identity)
            .unwrap_or_default()
    }
}

/// Like `rule`, but for all namespaces.
fn everywhere(rule: &Rule) -> Rule {
    Rule {
        namespaces: Vec::new(),
        ..rule.clone()
    }
}

/// Whether an API server grants the last replica a permission now.
async fn is_allowed(client: &Client, rule: &Rule) -> bool {
    let review = review(USERS[USERS.len() - 1], rule).to_string().into_bytes();
    let request = http::Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(review)
        .expect("a request");
    let answer: Value = client.request(request).await.expect("an API server");
    answer["status"]["allowed"] == true
}

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .expect("a configuration");
    Client::try_from(config).expect("a client")
}
