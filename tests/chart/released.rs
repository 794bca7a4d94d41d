//! Releases on a real API server: install, upgrade from the old chart, rollback, uninstall. There is no kubelet, so the
//! tests start Pods from the Deployment in the API server, with a token of the operator's ServiceAccount.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Output;

use harness::{Cluster, LEASE, Operator, Platform, leader, objects};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, RoleBinding};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::PROGRAM;
use crate::helm::{Helm, NAMESPACE, chart, helms, succeeded};
use crate::pod::{Node, Pod, list_api_servers};
use crate::rights::{cause_requests, leave_endpoints};
use crate::upgraded::old_chart;

/// The name of the Deployment.
pub const NAME: &str = "endpoint-copier-operator";
/// The image of this chart.
pub const IMAGE: &str = "ghcr.io/endpoint-copier-operator/endpoint-copier-operator:0.4.0";
const ADDRESSES: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// A release on a cluster.
pub struct Release<'a> {
    pub helm: &'a Helm,
    pub cluster: &'a Cluster,
    pub kubeconfig: PathBuf,
}

impl Release<'_> {
    /// Runs Helm, which may fail.
    pub fn try_run(&self, args: &[&str]) -> Output {
        let command = &mut self.helm.command(&self.kubeconfig);
        command.args(args).args(["--namespace", NAMESPACE]);
        command.output().expect("helm starts")
    }

    /// Runs Helm, and returns its output. Panics if Helm fails.
    pub fn run(&self, args: &[&str]) -> String {
        succeeded(&self.try_run(args))
    }

    /// Runs `helm install` or `helm upgrade` with a chart.
    pub fn apply(&self, verb: &str, chart: &Path, args: &[&str]) -> String {
        let chart = chart.display().to_string();
        self.run(&[&[verb, "copier", &chart], args].concat())
    }

    /// The Deployment in the API server.
    pub async fn deployment(&self) -> Value {
        let found: Deployment = self
            .cluster
            .try_get(NAMESPACE, NAME)
            .await
            .expect("the Deployment");
        serde_json::to_value(found).expect("JSON")
    }

    /// The image of the only container.
    pub async fn image(&self) -> String {
        let deployment = self.deployment().await;
        let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
        image.as_str().expect("a string").to_owned()
    }

    /// A token of a ServiceAccount in the namespace of the release.
    pub async fn token(&self, account: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.cluster.client(), NAMESPACE);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec::default()),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .expect("a token");
        answer.status.and_then(|status| status.token).expect("a token")
    }

    /// Starts as many Pods as the Deployment has replicas, with a token of the ServiceAccount. Waits until they are
    /// ready.
    pub async fn start_pods(&self, prefix: &str) -> Vec<Pod> {
        let deployment = self.deployment().await;
        let account = deployment["spec"]["template"]["spec"]["serviceAccountName"].as_str();
        let token = self.token(account.expect("a name")).await;
        let kubeconfig = self.cluster.kubeconfig_with(0, Some(&token));
        let node = Node {
            kubeconfig: &kubeconfig,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let wanted = deployment["spec"]["replicas"].as_u64().expect("a number");
        let pods: Vec<_> = (0..wanted)
            .map(|number| Pod::start(self.cluster, &deployment, &format!("{prefix}-{number}"), &node))
            .collect();
        for pod in &pods {
            pod.until_ready().await;
        }
        pods
    }

    async fn is_gone(&self) -> bool {
        let client = self.cluster.client();
        let roles: Api<ClusterRole> = Api::all(client.clone());
        let bindings: Api<ClusterRoleBinding> = Api::all(client);
        self.cluster.list::<Deployment>(NAMESPACE).await.is_empty()
            && self.cluster.list::<ServiceAccount>(NAMESPACE).await.is_empty()
            && self
                .cluster
                .list::<PodDisruptionBudget>(NAMESPACE)
                .await
                .is_empty()
            && self.cluster.list::<RoleBinding>(NAMESPACE).await.is_empty()
            && self.cluster.list::<Service>(NAMESPACE).await.is_empty()
            && roles.get_opt(NAME).await.expect("an answer").is_none()
            && bindings.get_opt(NAME).await.expect("an answer").is_none()
    }
}

/// One cluster for each Helm version. There is none without Helm or without `KUBEBUILDER_ASSETS`.
pub async fn clusters() -> Vec<(Helm, Cluster)> {
    let mut clusters = Vec::new();
    if !Platform::Real.is_here() {
        println!("skipped: needs KUBEBUILDER_ASSETS");
        return clusters;
    }
    for helm in helms() {
        let cluster = Cluster::start(Platform::Real, PROGRAM, 1).await;
        list_api_servers(&cluster, &ADDRESSES).await;
        clusters.push((helm, cluster));
    }
    clusters
}

/// A release with this Helm on this cluster.
pub fn release((helm, cluster): &(Helm, Cluster)) -> Release<'_> {
    let kubeconfig = cluster.kubeconfig_with(0, None);
    Release {
        helm,
        cluster,
        kubeconfig,
    }
}

async fn refusals(pods: &[Pod]) -> Vec<String> {
    let mut all = Vec::new();
    for pod in pods {
        all.extend(pod.refusals().await);
    }
    all
}

/// Rule: chart.rights
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_are_installed_and_uninstalled_on_api_server() {
    for pair in &clusters().await {
        let release = release(pair);
        let cluster = release.cluster;
        let notes = release.apply(
            "install",
            &chart(),
            &["--create-namespace", "--set", "replicaCount=3,vip.create=true,networkPolicy.enabled=true,resourceQuota.enabled=true,admission.users.enabled=true,admission.operator.enabled=true"],
        );
        assert!(
            notes.contains("kubectl get service kubernetes-vip --namespace default"),
            "{notes}"
        );
        let pods = release.start_pods("copier").await;
        assert_eq!(pods.len(), 3);
        cluster
            .until_addresses("default", "kubernetes-vip", &ADDRESSES)
            .await;
        let lease = cluster.try_get::<Lease>(NAMESPACE, LEASE).await;
        let holder = lease
            .and_then(|lease| lease.spec?.holder_identity)
            .expect("a holder");
        assert!(holder.starts_with("copier-"), "{holder}");
        cause_requests(cluster).await;
        let enabled = json!({"metadata": {"annotations": {"endpoint-copier/enabled": "true"}}});
        cluster
            .patch::<Service>("default", "kubernetes-vip", enabled)
            .await;
        cluster
            .until_addresses("default", "kubernetes-vip", &ADDRESSES[..1])
            .await;
        assert_eq!(refusals(&pods).await, Vec::<String>::new());
        drop(pods);

        release.run(&["uninstall", "copier"]);
        assert!(release.is_gone().await);
        // The VIP keeps working with the last endpoints.
        assert!(
            cluster
                .try_get::<Service>("default", "kubernetes-vip")
                .await
                .is_some()
        );
        assert_eq!(
            cluster.addresses_of("default", "kubernetes-vip").await,
            ADDRESSES[..1]
        );
    }
}

/// The slice that kube-proxy uses for the VIP while Pods of the Go operator lead. Version 0.3.0 writes this slice
/// itself. With 0.2, Kubernetes creates the slice from the `Endpoints`, with a name that is not known in advance.
fn slice_of_the_go_operator(version: &str) -> (&'static str, Value) {
    let mut slice = objects::api_servers(&ADDRESSES);
    let mut labels = json!({"kubernetes.io/service-name": "kubernetes-vip"});
    let name = if version == "0.3.0" {
        labels["endpoint-copier/source"] = json!("kubernetes");
        "kubernetes-vip"
    } else {
        labels["endpointslice.kubernetes.io/managed-by"] = json!("endpointslicemirroring-controller.k8s.io");
        "kubernetes-vip-x7k2p"
    };
    slice["metadata"] = json!({"name": name, "namespace": "default", "labels": labels});
    (name, slice)
}

/// Creates the VIP Service, and the objects that Pods of the Go operator leave behind: their slice or `Endpoints`, and
/// a Lease that they do not release.
async fn create_leftovers(cluster: &Cluster, version: &str) {
    cluster.create::<Service>(objects::vip()).await;
    if version != "0.3.0" {
        leave_endpoints(cluster).await;
    }
    let (_, slice) = slice_of_the_go_operator(version);
    cluster.create::<EndpointSlice>(slice).await;
    cluster
        .create::<Lease>(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": LEASE, "namespace": NAMESPACE},
            "spec": {
                "holderIdentity": "copier-go_1", "leaseDurationSeconds": 5, "leaseTransitions": 1,
                "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": "2026-01-01T00:00:00.000000Z",
            },
        }))
        .await;
}

/// Rule: chart.upgrade
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_and_rollback_of_0_3_0_keep_the_vip_on_api_server() {
    upgrade_and_roll_back("0.3.0").await;
}

/// Rule: chart.upgrade
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_and_rollback_of_0_2_keep_the_vip_on_api_server() {
    upgrade_and_roll_back("0.2.0").await;
}

async fn upgrade_and_roll_back(version: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let old = old_chart(folder.path(), version);
    for pair in &clusters().await {
        let release = release(pair);
        let cluster = release.cluster;
        release.apply("install", &old, &["--create-namespace"]);
        let old_image = release.image().await;
        assert!(old_image.ends_with(&format!(":v{version}")), "{old_image}");
        create_leftovers(cluster, version).await;
        let watched = cluster.watch_slices("default", "kubernetes-vip").await;

        let notes = release.apply(
            "upgrade",
            &chart(),
            &["--reuse-values", "--set", "replicaCount=3,rbac.goOperator=true"],
        );
        assert!(notes.contains("It was replaced. The image is"), "{notes}");
        assert!(
            notes.contains("rbac.goOperator grants permissions that only an upgrade"),
            "{notes}"
        );
        assert_eq!(release.image().await, IMAGE);
        let pods = release.start_pods("copier").await;
        let (slice, _) = slice_of_the_go_operator(version);
        if version != "0.3.0" {
            cluster.gone::<Endpoints>("default", "kubernetes-vip").await;
            // Kubernetes would delete the mirrored slice, but only the API server runs here.
            cluster.delete::<EndpointSlice>("default", slice).await;
        }
        cluster.gone::<EndpointSlice>("default", slice).await;
        assert_eq!(refusals(&pods).await, Vec::<String>::new());
        list_api_servers(cluster, &ADDRESSES[..1]).await;
        let history = watched.up_to(&ADDRESSES[..1]).await;
        // There are never fewer addresses than before, and each address occurs twice while both slices exist.
        assert!(
            history[..history.len() - 1].iter().all(|seen| seen.len() >= 2),
            "{history:?}"
        );
        let operators: Vec<Operator> = pods.into_iter().map(|pod| pod.operator).collect();
        leader(&operators).await;
        drop(operators);

        // The upgrade reuses the values of the old release, and sets two others.
        release.apply(
            "upgrade",
            &chart(),
            &[
                "--reuse-values",
                "--set",
                "rbac.goOperator=false,resources.limits.cpu=null",
            ],
        );
        let role: Value = serde_json::to_value(
            Api::<ClusterRole>::all(cluster.client())
                .get(NAME)
                .await
                .expect("the ClusterRole stays"),
        )
        .expect("JSON");
        let verbs = role["rules"].to_string();
        assert!(
            verbs.contains("delete") && !verbs.contains("patch\",\"update"),
            "{verbs}"
        );

        // The upgrade reuses only the values of the user, on top of our defaults: there is no CPU limit anymore.
        release.apply("upgrade", &chart(), &["--reset-then-reuse-values"]);
        let deployment = release.deployment().await;
        assert_eq!(deployment["spec"]["replicas"], 3);
        let resources = &deployment["spec"]["template"]["spec"]["containers"][0]["resources"];
        assert!(resources["limits"].get("cpu").is_none(), "{resources}");

        release.run(&["rollback", "copier", "1"]);
        assert_eq!(release.image().await, old_image);
        assert!(
            cluster
                .try_get::<Service>(NAMESPACE, "endpoint-copier-operator-metrics")
                .await
                .is_none()
        );
        assert_eq!(
            cluster.addresses_of("default", "kubernetes-vip").await,
            ADDRESSES[..1]
        );
        release.apply("upgrade", &chart(), &["--reset-then-reuse-values"]);
        assert_eq!(release.image().await, IMAGE);
        release.run(&["uninstall", "copier"]);
        assert!(release.is_gone().await);
    }
}

/// Rule: chart.upgrade
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn externally_scaled_replicas_conflict_in_helm_4_on_api_server() {
    for pair in &clusters().await {
        let release = release(pair);
        release.apply("install", &chart(), &["--create-namespace"]);
        let deployments: Api<Deployment> = Api::namespaced(release.cluster.client(), NAMESPACE);
        let params = PatchParams {
            field_manager: Some("somebody".to_owned()),
            ..PatchParams::default()
        };
        let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
        deployments.patch(NAME, &params, &scale).await.expect("scaled");
        let chart_path = chart().display().to_string();
        let upgrade = ["upgrade", "copier", &chart_path, "--set", "replicaCount=3"];
        let output = release.try_run(&upgrade);
        let error = String::from_utf8_lossy(&output.stderr);
        if release.helm.major >= 4 {
            assert!(!output.status.success() && error.contains("conflict"), "{error}");
            assert!(error.contains("spec.replicas"), "{error}");
            // If the chart omits the field, the number that the other owner set stays.
            release.apply("upgrade", &chart(), &["--set", "replicaCount=null"]);
            assert_eq!(release.deployment().await["spec"]["replicas"], 5);
            release.run(&[&upgrade[..], &["--force-conflicts"]].concat());
        } else {
            assert!(output.status.success(), "{error}");
        }
        assert_eq!(release.deployment().await["spec"]["replicas"], 3);
    }
}
