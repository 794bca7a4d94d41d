//! A flood of requests by another ServiceAccount, without and with the `FlowSchemas` of the chart.

use std::time::{Duration, Instant};

use harness::{Cluster, LEASE, Platform, until};
use http::Request;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::PROGRAM;
use crate::helm::{NAMESPACE, chart, helm};
use crate::pod::list_api_servers;
use crate::released::Release;

/// Few requests in flight, so that few clients can flood the API server.
const SMALL: [&str; 2] = ["--max-requests-inflight=10", "--max-mutating-requests-inflight=5"];

/// The number of clients in the flood, more than the API server serves at the same time.
const CLIENTS: usize = 60;

/// The longest wait for a change to be copied during the flood.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends requests of a ServiceAccount that occupy the API server's seats without using the CPU, because the API server
/// waits 3 s for the resourceVersion that each request names.
async fn flood(release: &Release<'_>) -> Vec<AbortOnDropHandle<()>> {
    let cluster = release.cluster;
    let account = json!({"metadata": {"name": "flooder", "namespace": NAMESPACE}});
    cluster.create::<ServiceAccount>(account).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "flooder"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "flooder", "namespace": NAMESPACE}],
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(cluster.post(path, binding).await, 201);
    let client = cluster.client_with(0, &release.token("flooder").await).await;
    let send = |client: Client| async move {
        loop {
            let request = Request::get(
                "/api/v1/configmaps?resourceVersion=999999999&resourceVersionMatch=NotOlderThan",
            );
            _ = client
                .request_text(request.body(Vec::new()).expect("a request"))
                .await;
        }
    };
    let tasks = (0..CLIENTS).map(|_| AbortOnDropHandle::new(tokio::spawn(send(client.clone()))));
    let tasks = tasks.collect();
    until_flooded(cluster).await;
    tasks
}

async fn until_flooded(cluster: &Cluster) {
    let client = cluster.client();
    until("requests of the flood wait", async || {
        waiting(&client).await > 20.0
    })
    .await;
}

/// The number of requests that wait in the priority level of a ServiceAccount without its own `FlowSchema`.
async fn waiting(client: &Client) -> f64 {
    let request = Request::get("/metrics").body(Vec::new()).expect("a request");
    let page = client.request_text(request).await.expect("metrics");
    let of_level = |line: &&str| {
        line.starts_with("apiserver_flowcontrol_current_inqueue_requests{")
            && line.contains("\"workload-low\"")
    };
    let values = page
        .lines()
        .filter(of_level)
        .filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<f64>().ok()).sum()
}

/// Changes the source this many times, with a pause after each, and returns how long each copy took, in ascending
/// order.
async fn latencies(cluster: &Cluster, changes: u8, pause: Duration) -> Vec<Duration> {
    let history = cluster.watch_slices("default", "kubernetes-vip").await;
    let mut took = Vec::new();
    for number in 0..changes {
        // Two series of changes in a row have no address in common.
        let address = format!("198.51.{changes}.{number}");
        list_api_servers(cluster, &[&address]).await;
        let written = Instant::now();
        let copied = history.shows(&[&address], PATIENCE).await;
        took.push(copied.expect("a copy").saturating_duration_since(written));
        sleep(pause).await;
    }
    took.sort_unstable();
    took
}

fn p99(took: &[Duration]) -> Duration {
    took[(took.len() * 99).div_ceil(100) - 1]
}

async fn lease(cluster: &Cluster) -> LeaseSpec {
    let lease = cluster.try_get::<Lease>(NAMESPACE, LEASE).await;
    lease.and_then(|lease| lease.spec).expect("the Lease")
}

/// Waits until the leader renews the Lease.
async fn until_renewed(cluster: &Cluster) -> LeaseSpec {
    let before = lease(cluster).await;
    until("the leader renews the Lease", async || {
        lease(cluster).await.renew_time != before.renew_time
    })
    .await;
    lease(cluster).await
}

/// Waits until requests of the operator for this path belong to this `FlowSchema` of the chart.
async fn until_prioritized(release: &Release<'_>, operator: &Client, path: &str, schema: &str) {
    let schema =
        format!("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/endpoint-copier-operator-{schema}");
    let schema = release.cluster.get(&schema).await;
    let expected = schema["metadata"]["uid"].as_str().expect("a UID");
    until("the FlowSchema applies", async || {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = operator.send(request).await.expect("a response");
        let uid = response.headers().get("x-kubernetes-pf-flowschema-uid");
        uid.is_some_and(|uid| uid == expected)
    })
    .await;
}

/// Rule: chart.priority
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flow_schemas_protect_copies_and_term_in_flood_on_api_server() {
    let Some(helm) = helm() else { return };
    if !Platform::Real.is_here() {
        return println!("skipped: needs KUBEBUILDER_ASSETS");
    }
    let cluster = Cluster::start_real(PROGRAM, &SMALL).await;
    let release = Release {
        helm: &helm,
        kubeconfig: cluster.kubeconfig_with(0, None),
        cluster: &cluster,
    };
    list_api_servers(&cluster, &["192.0.2.1"]).await;
    let values = ["--set", "replicaCount=2,vip.create=true"];
    release.apply(
        "install",
        &chart(),
        &[&["--create-namespace"], &values[..]].concat(),
    );
    let _pods = release.start_pods("copier").await;
    cluster
        .until_addresses("default", "kubernetes-vip", &["192.0.2.1"])
        .await;
    let quiet = p99(&latencies(&cluster, 100, Duration::from_millis(50)).await);

    let _flood = flood(&release).await;
    let flooded = latencies(&cluster, 5, Duration::ZERO).await;

    release.apply(
        "upgrade",
        &chart(),
        &["--reuse-values", "--set", "apiPriority.enabled=true"],
    );
    let token = release.token("endpoint-copier-operator").await;
    let operator = cluster.client_with(0, &token).await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?limit=1";
    until_prioritized(&release, &operator, slices, "copies").await;
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{LEASE}");
    until_prioritized(&release, &operator, &leases, "leases").await;
    // The flood may have ended a term before the FlowSchemas applied.
    until_renewed(&cluster).await;
    let before = until_renewed(&cluster).await;
    // This takes longer than three Leases.
    let protected = p99(&latencies(&cluster, 101, Duration::from_millis(200)).await);
    let after = until_renewed(&cluster).await;
    let term = |lease: LeaseSpec| (lease.holder_identity, lease.lease_transitions);
    assert_eq!(term(after), term(before), "the leader has changed");
    until_flooded(&cluster).await;

    let median = flooded[flooded.len() / 2];
    println!(
        "p99 without a flood {quiet:?}, in a flood {protected:?}, median without FlowSchemas {median:?}"
    );
    // On a busy machine, even the API server needs more than a few milliseconds.
    let limit = (3 * quiet).max(Duration::from_millis(200));
    assert!(protected <= limit, "{protected:?} instead of {quiet:?}");
    assert!(
        median >= 3 * quiet,
        "the flood delays copies too little: {flooded:?}"
    );
}
