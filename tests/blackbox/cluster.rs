//! A cluster to run the operator against: two API servers on one store, of the testbed or real ones.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Resource;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use testbed::real::{self, RealCluster};
use testbed::{ApiServer, Serving, Store};
use tokio::task::JoinHandle;

use crate::objects::{self, typed};

/// The longest that anything may take. Conditions are met far earlier; a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Name of the Lease.
pub const LEASE: &str = "f668ae63.endpoint-copier-operator";

pub struct Cluster {
    servers: Servers,
    directory: tempfile::TempDir,
    client: Client,
}

enum Servers {
    Testbed {
        store: Store,
        servers: Vec<TestbedServer>,
    },
    Real(Box<RealCluster>),
}

struct TestbedServer {
    server: ApiServer,
    serving: Option<Serving>,
    address: SocketAddr,
}

impl Cluster {
    /// A cluster in memory, with `default/kubernetes` as three API servers write it.
    pub async fn on_testbed() -> Self {
        let store = Store::new();
        let mut servers = Vec::new();
        // Not the address that everybody dials from: a port that was left may be another's by then.
        for (name, last) in [("a", 2), ("b", 3)] {
            let server = ApiServer::named(&store, name);
            let serving = server
                .serve(([127, 0, 0, last], 0).into())
                .await
                .expect("a free port");
            let address = serving.address();
            servers.push(TestbedServer {
                server,
                serving: Some(serving),
                address,
            });
        }
        Self::with(Servers::Testbed { store, servers }).await
    }

    /// Real binaries, if there are some.
    pub async fn on_api_server() -> Option<Self> {
        real::assets()?;
        let servers = RealCluster::start_with(2, &["--endpoint-reconciler-type=none"]).await;
        // The tests themselves say which API servers live.
        let servers = servers.expect("etcd and two API servers");
        Some(Self::with(Servers::Real(Box::new(servers))).await)
    }

    async fn with(servers: Servers) -> Self {
        let directory = tempfile::tempdir().expect("a directory for files");
        for number in 0..2 {
            let text = match &servers {
                Servers::Testbed { servers, .. } => servers[number]
                    .serving
                    .as_ref()
                    .expect("running")
                    .kubeconfig("admin", "default"),
                Servers::Real(cluster) => cluster.kubeconfig(number, "default"),
            };
            std::fs::write(directory.path().join(number.to_string()), text).expect("a file");
        }
        let client = client(&directory.path().join("1")).await;
        let cluster = Self {
            servers,
            directory,
            client,
        };
        if cluster
            .try_get::<Service>("default", "kubernetes")
            .await
            .is_none()
        {
            cluster
                .create::<Service>(testbed::builders::kubernetes_service())
                .await;
        }
        cluster
            .put::<EndpointSlice>(objects::api_servers(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]))
            .await;
        cluster
    }

    /// A kubeconfig file for one of the two servers, as an administrator.
    pub fn kubeconfig(&self, server: usize) -> PathBuf {
        self.directory.path().join(server.to_string())
    }

    /// A place for other files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The testbed's first server, for faults; `None` on real ones.
    pub fn testbed(&self) -> Option<(&Store, &ApiServer)> {
        match &self.servers {
            Servers::Testbed { store, servers } => Some((store, &servers[0].server)),
            Servers::Real(_) => None,
        }
    }

    /// Kills one server.
    pub async fn kill_server(&mut self, number: usize) {
        match &mut self.servers {
            Servers::Testbed { servers, .. } => {
                if let Some(serving) = servers[number].serving.take() {
                    serving.shutdown().await;
                }
            }
            Servers::Real(cluster) => cluster.server(number).kill(),
        }
    }

    /// Starts it again at the same address.
    pub async fn start_server(&mut self, number: usize) {
        match &mut self.servers {
            Servers::Testbed { servers, .. } => {
                let TestbedServer {
                    server,
                    serving,
                    address,
                } = &mut servers[number];
                *serving = Some(server.serve(*address).await.expect("its old port"));
            }
            Servers::Real(cluster) => cluster
                .server(number)
                .restart()
                .await
                .expect("the same server again"),
        }
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A client of an administrator.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Sends an object as it is, whatever fields it has; the code of the answer.
    pub async fn post(&self, path: &str, object: Value) -> u16 {
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(object.to_string().into_bytes().into())
            .expect("a request");
        let answer = self.client.send(request).await.expect("an API server");
        answer.status().as_u16()
    }

    pub async fn namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = typed(testbed::builders::namespace(name));
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .expect("a namespace");
    }

    pub async fn create<K: Object>(&self, object: Value) -> K {
        let object: K = typed(object);
        let namespace = object.meta().namespace.clone().unwrap_or_default();
        self.api(&namespace)
            .create(&PostParams::default(), &object)
            .await
            .expect("a valid object")
    }

    /// Creates the object, or changes what is there into it.
    pub async fn put<K: Object>(&self, object: Value) -> K {
        let mut object: K = typed(object);
        let meta = object.meta().clone();
        let (namespace, name) = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
        let api = self.api::<K>(&namespace);
        loop {
            let result = match api.get_opt(&name).await.expect("an API server") {
                None => api.create(&PostParams::default(), &object).await,
                Some(known) => {
                    object
                        .meta_mut()
                        .resource_version
                        .clone_from(&known.meta().resource_version);
                    api.replace(&name, &PostParams::default(), &object).await
                }
            };
            match result {
                Ok(object) => return object,
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => panic!("cannot write {namespace}/{name}: {error}"),
            }
        }
    }

    pub async fn patch<K: Object>(&self, namespace: &str, name: &str, patch: Value) -> K {
        let patch = Patch::Merge(patch);
        self.api(namespace)
            .patch(name, &PatchParams::default(), &patch)
            .await
            .expect("a valid patch")
    }

    pub async fn gone<K: Object>(&self, namespace: &str, name: &str) {
        let what = format!("{namespace}/{name} is gone");
        until(&what, async || self.try_get::<K>(namespace, name).await.is_none()).await;
    }

    pub async fn delete<K: Object>(&self, namespace: &str, name: &str) {
        self.api::<K>(namespace)
            .delete(name, &DeleteParams::default())
            .await
            .expect("something to delete");
    }

    pub async fn try_get<K: Object>(&self, namespace: &str, name: &str) -> Option<K> {
        self.api(namespace).get_opt(name).await.expect("an API server")
    }

    /// All objects of a kind.
    pub async fn list<K: Object>(&self, namespace: &str) -> Vec<K> {
        self.api(namespace)
            .list(&ListParams::default())
            .await
            .expect("a list")
            .items
    }

    /// The slices of a Service.
    pub async fn slices_of(&self, namespace: &str, service: &str) -> Vec<EndpointSlice> {
        let of = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        self.api(namespace).list(&of).await.expect("a list").items
    }

    /// The addresses that a Service's slices show.
    pub async fn addresses_of(&self, namespace: &str, service: &str) -> Vec<String> {
        objects::addresses(&self.slices_of(namespace, service).await)
    }

    /// Waits until a Service's slices show these addresses.
    pub async fn until_addresses(&self, namespace: &str, service: &str, wanted: &[&str]) {
        let mut shown = Vec::new();
        let met = within(PATIENCE, async || {
            shown = self.addresses_of(namespace, service).await;
            shown == wanted
        });
        assert!(met.await, "{namespace}/{service} shows {shown:?}, not {wanted:?}");
    }

    /// Waits until a condition on the slices of a Service is met.
    pub async fn until_slices(
        &self,
        namespace: &str,
        service: &str,
        what: &str,
        condition: impl Fn(&[EndpointSlice]) -> bool,
    ) -> Vec<EndpointSlice> {
        let mut slices = Vec::new();
        let met = within(PATIENCE, async || {
            slices = self.slices_of(namespace, service).await;
            condition(&slices)
        });
        assert!(met.await, "{what}: {slices:#?}");
        slices
    }

    /// Records what a Service's slices show from now on.
    pub async fn watch_slices(&self, namespace: &str, service: &str) -> History {
        let seen: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}"));
        let stream = watcher(self.api::<EndpointSlice>(namespace), config);
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                let mut slices = BTreeMap::new();
                let mut stream = pin!(stream);
                while let Some(event) = stream.next().await {
                    match event.expect("a watch that holds") {
                        Event::Init | Event::InitDone => {}
                        Event::Apply(slice) | Event::InitApply(slice) => {
                            slices.insert(slice.metadata.name.clone(), slice);
                        }
                        Event::Delete(slice) => _ = slices.remove(&slice.metadata.name),
                    }
                    let addresses = objects::addresses(&slices.values().cloned().collect::<Vec<_>>());
                    let mut seen = seen.lock().expect("no panic before");
                    if seen.last() != Some(&addresses) && (!seen.is_empty() || !addresses.is_empty()) {
                        seen.push(addresses);
                    }
                }
            }
        });
        let history = History { seen, task };
        let now = self.addresses_of(namespace, service).await;
        history.until(&now).await;
        history
    }

    /// Who holds the Lease; empty: nobody.
    pub async fn holder(&self) -> String {
        let lease: Option<Lease> = self.try_get("default", LEASE).await;
        lease
            .and_then(|lease| lease.spec?.holder_identity)
            .unwrap_or_default()
    }
}

/// What the slices of a Service showed, one entry a change.
pub struct History {
    seen: Arc<Mutex<Vec<Vec<String>>>>,
    task: JoinHandle<()>,
}

impl History {
    /// Waits until these addresses are the last entry.
    async fn until(&self, addresses: &[String]) {
        until("the watch shows what the list shows", async || {
            self.seen
                .lock()
                .expect("no panic before")
                .last()
                .map(Vec::as_slice)
                == Some(addresses)
        })
        .await;
    }

    /// The entries up to the one that shows `last`.
    pub async fn up_to(&self, last: &[&str]) -> Vec<Vec<String>> {
        self.until(&last.iter().map(ToString::to_string).collect::<Vec<_>>())
            .await;
        self.seen.lock().expect("no panic before").clone()
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the tests write.
pub trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + Serialize
    + DeserializeOwned
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned
{
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .expect("a configuration");
    Client::try_from(config).expect("a client")
}

/// Asks again and again until the answer is yes; whether it ever was.
pub async fn within(limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition().await {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks until the answer is yes, and fails the test if it never is.
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    assert!(within(PATIENCE, condition).await, "never: {what}");
}
