//! Runs the watches, index, queue, worker and reconciler of the operator as tasks of a test, against an in-memory API
//! server: without a process or a connection, and under paused time.

use std::time::Duration;

use endpoint_copier_core::model::{ConsentPolicy, CrossNamespace, Defaults, ServiceKey, ServiceLimits};
use endpoint_copier_operator::admin::Health;
use endpoint_copier_operator::apiserver;
use endpoint_copier_operator::config::ElectionConfig;
use endpoint_copier_operator::replica::{Parts, Replica, SOURCE_CHECK, TaskEnded, WORKER};
use endpoint_copier_operator::telemetry::metrics::Metrics;
use endpoint_copier_operator::telemetry::watchdog::Watchdog;
use futures::FutureExt as _;
use serde_json::{Value, json};
use testbed::{ApiServer, Request, Store, builders};
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt as _;

/// How long a test waits for a state: longer than any delay that the rules allow.
const PATIENCE: Duration = Duration::from_secs(300);

/// The label of the Nodes that are watched.
pub const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// A replica whose term, once it has begun, never ends. Its watches of Services, of copies and of sources, and its
/// writer, each use their own API server on the same store, so a fault or a stale cache can affect only one of them.
pub struct Operator {
    pub store: Store,
    pub services: ApiServer,
    pub copies: ApiServer,
    pub sources: ApiServer,
    /// Serves Nodes and ReferenceGrants.
    pub nodes: ApiServer,
    /// Serves the writes, GETs and Events.
    pub writer: ApiServer,
    /// The watchdog of the worker.
    pub watchdog: Watchdog,
    metrics: Metrics,
    stop: CancellationToken,
    leads: channel::Sender<bool>,
    checks: channel::Sender<bool>,
    running: AbortOnDropHandle<Result<(), TaskEnded>>,
}

impl Operator {
    pub fn start(store: &Store) -> Self {
        Self::limited(store, ServiceLimits::default())
    }

    /// Starts a leader with these limits on the number of managed Services.
    pub fn limited(store: &Store, limits: ServiceLimits) -> Self {
        let operator = Self::standby_with(store, limits, false);
        operator.lead();
        operator
    }

    /// Starts a leader that also writes conditions of Services.
    pub fn with_conditions(store: &Store) -> Self {
        let operator = Self::standby_with_conditions(store);
        operator.lead();
        operator
    }

    /// Starts a replica that waits for its term, and then also writes conditions of Services.
    pub fn standby_with_conditions(store: &Store) -> Self {
        Self::standby_with(store, ServiceLimits::default(), true)
    }

    /// Starts a replica that watches and waits for its term.
    pub fn standby(store: &Store) -> Self {
        Self::standby_with(store, ServiceLimits::default(), false)
    }

    /// Starts a replica that waits for its term, and copies sources of other namespaces only with consent.
    pub fn standby_with_consent(store: &Store) -> Self {
        Self::standby_in_mode(store, CrossNamespace::Consent, ServiceLimits::default(), false)
    }

    fn standby_with(store: &Store, limits: ServiceLimits, service_conditions: bool) -> Self {
        Self::standby_in_mode(store, CrossNamespace::Allow, limits, service_conditions)
    }

    fn standby_in_mode(
        store: &Store,
        cross_namespace: CrossNamespace,
        limits: ServiceLimits,
        service_conditions: bool,
    ) -> Self {
        let services = ApiServer::named(store, "services");
        let copies = ApiServer::named(store, "copies");
        let sources = ApiServer::named(store, "sources");
        let nodes = ApiServer::named(store, "nodes");
        let writer = ApiServer::named(store, "writer");
        let metrics = Metrics::new("lease").expect("metrics");
        let servers = [&services, &copies, &sources, &nodes, &writer].map(Clone::clone);
        let server = move |request: http::Request<kube::client::Body>| {
            let [services, copies, sources, nodes, writer] = &servers;
            let query = request.uri().query().unwrap_or_default();
            let server = match request.uri().path() {
                "/api/v1/services" => services,
                path if path.starts_with("/api/v1/nodes") || path.contains("/gateway.") => nodes,
                _ if query.contains("labelSelector=endpointslice.kubernetes.io%2Fmanaged-by") => copies,
                _ if query.contains("labelSelector=") => sources,
                _ => writer,
            };
            server.clone().oneshot(request)
        };
        let replica = Replica::new(Parts {
            client: apiserver::over(tower::service_fn(server), "default", &metrics),
            defaults: Defaults {
                source: ServiceKey::new("default", "kubernetes"),
                managed: Some(ServiceKey::new("default", "kubernetes-vip")),
                consent: ConsentPolicy {
                    cross_namespace,
                    ..ConsentPolicy::default()
                },
            },
            metrics: metrics.clone(),
            health: Health::default(),
            reporter: "replica".to_owned(),
            election: ElectionConfig::default(),
            candidacy: None,
            nodes_selector: CONTROL_PLANE.to_owned(),
            probing: None,
            service_conditions,
        });
        replica.index.lock().set_limits(limits);
        let watchdog = replica.watchdog.clone();
        let (leads, may_lead) = channel::channel(false);
        let (checks, may_check) = channel::channel(false);
        let spawn = move |name, task| {
            let mut may_begin = match name {
                WORKER => may_lead.clone(),
                SOURCE_CHECK => may_check.clone(),
                _ => channel::channel(true).1,
            };
            let gated = async move {
                _ = may_begin.wait_for(|may| *may).await;
                task.await;
            };
            AbortOnDropHandle::new(tokio::spawn(gated)).map(|ended| ended.expect("no panic"))
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(replica.run(stop.clone().cancelled_owned(), spawn));
        Self {
            store: store.clone(),
            services,
            copies,
            sources,
            nodes,
            writer,
            watchdog,
            metrics,
            stop,
            leads,
            checks,
            running: AbortOnDropHandle::new(running),
        }
    }

    /// Begins the term of the replica.
    pub fn lead(&self) {
        self.leads.send_replace(true);
    }

    /// Enables the comparison of the sources with consistent lists, which the API server of the sources serves.
    pub fn check_sources(&self) {
        self.checks.send_replace(true);
    }

    /// Stops the replica as SIGTERM does: work in progress is finished, and no new work begins.
    pub async fn stop(self) {
        self.stop.cancel();
        let ended = self.running.await.expect("no panic");
        ended.expect("all tasks ran until the stop");
    }

    /// The requests with this verb that the reconciler sends for slices. No other task requests slices from the
    /// writer's server.
    pub fn slice_requests(&self, verb: &str) -> Vec<Request> {
        let wanted = |request: &Request| request.server == "writer" && request.is(verb, "endpointslices");
        self.store.requests().matching(wanted)
    }

    /// The verb and the name of each request of the reconciler for slices, in order.
    pub fn asked(&self) -> Vec<String> {
        let slices = |request: &Request| request.server == "writer" && request.resource == "endpointslices";
        let requests = self.store.requests().matching(slices);
        requests
            .iter()
            .map(|request| format!("{} {}", request.verb, request.name))
            .collect()
    }

    /// The page of `/metrics`.
    pub fn page(&self) -> String {
        self.metrics.render()
    }

    /// The value of a metric, named with its labels as in `/metrics`.
    pub fn metric(&self, series: &str) -> Option<u64> {
        let text = self.page();
        let mut values = text
            .lines()
            .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        values.next()?.parse().ok()
    }

    /// Waits until the slices of a Service in namespace `default` show these addresses. Returns how long that took.
    pub async fn until_addresses(&self, service: &str, wanted: &[&str]) -> Duration {
        let what = format!("{service} shows {wanted:?}");
        until(&self.store, &what, |store| addresses(store, service) == wanted).await
    }
}

/// Waits until a store is in the wanted state, which `what` describes. Returns how long that took.
pub async fn until(store: &Store, what: &str, wanted: impl Fn(&Store) -> bool) -> Duration {
    let start = Instant::now();
    let met = timeout(PATIENCE, store.until(wanted)).await;
    assert!(
        met.is_ok(),
        "timed out: {what}\n{:#?}",
        store.list("endpointslices", None)
    );
    start.elapsed()
}

/// Lets this time pass, and runs everything that is due in that time.
pub async fn pass(time: Duration) {
    sleep(time).await;
}

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A store with `default/kubernetes` as these API servers write it.
pub fn cluster(api_servers: &[&str]) -> Store {
    let store = Store::new();
    put(&store, builders::kubernetes_service());
    put(&store, builders::kubernetes_slice(api_servers));
    store
}

/// Writes an object as an administrator.
pub fn put(store: &Store, object: Value) -> Value {
    store.put(object).expect("a valid object")
}

/// A managed Service `default/<name>` that copies the default source.
pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "annotations": {"endpoint-copier/enabled": "true"}},
        "spec": {"ports": [{"name": "https", "port": 6443, "targetPort": 6443}]},
    })
}

/// An operator that has copied two slices of `default/kubernetes` for `vip`.
pub async fn two_copies() -> Operator {
    let operator = Operator::start(&cluster(&["192.0.2.1"]));
    put(&operator.store, service("vip"));
    put(
        &operator.store,
        slice("kubernetes", "kubernetes-2", &["192.0.2.2"]),
    );
    operator.until_addresses("vip", &["192.0.2.1", "192.0.2.2"]).await;
    operator
}

/// A managed Service `default/<name>` that copies the source `default/<source>`.
pub fn service_of(name: &str, source: &str) -> Value {
    let mut service = service(name);
    service["metadata"]["annotations"]["endpoint-copier/default-service-name"] = json!(source);
    service
}

/// This Service, no longer managed.
pub fn disabled(mut service: Value) -> Value {
    service["metadata"]["annotations"]["endpoint-copier/enabled"] = json!("false");
    service
}

pub fn namespace_named(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A managed Service in `namespace` that copies a source in the same namespace.
pub fn service_in(namespace: &str, name: &str, source: &str) -> Value {
    let mut service = service_of(name, source);
    service["metadata"]["namespace"] = json!(namespace);
    service
}

/// A slice `default/<name>` of the Service `default/<service>`.
pub fn slice(service: &str, name: &str, addresses: &[&str]) -> Value {
    let mut slice = builders::kubernetes_slice(addresses);
    slice["metadata"]["name"] = json!(name);
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": service});
    slice
}

/// The slices that belong to a Service in namespace `default`.
pub fn slices_of(store: &Store, service: &str) -> Vec<Value> {
    let mut slices = store.list("endpointslices", Some("default"));
    slices.retain(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    slices
}

/// The first address of each endpoint in the slices of a Service in namespace `default`, sorted.
pub fn addresses(store: &Store, service: &str) -> Vec<String> {
    let slices = slices_of(store, service);
    let endpoints = slices
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let mut addresses: Vec<_> = endpoints
        .filter_map(|endpoint| Some(endpoint["addresses"][0].as_str()?.to_owned()))
        .collect();
    addresses.sort();
    addresses
}

/// The reason and the note of each Event about a Service in namespace `default`, oldest first. Events about an earlier
/// Service of the same name are left out.
pub fn events(store: &Store, service: &str) -> Vec<(String, String)> {
    let service = store.get("services", "default", service).expect("the Service");
    let mut events = store.list("events.events.k8s.io", Some("default"));
    events.retain(|event| event["regarding"]["uid"] == service["metadata"]["uid"]);
    events.sort_by_key(|event| event["eventTime"].as_str().map(str::to_owned));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .map(|event| (text(&event["reason"]), text(&event["note"])))
        .collect()
}

/// The reasons of all Events about a Service in namespace `default`, except `Synced`.
pub fn warnings(store: &Store, service: &str) -> Vec<String> {
    let reasons = events(store, service).into_iter().map(|(reason, _)| reason);
    reasons.filter(|reason| reason != "Synced").collect()
}
