//! The operator, started exactly as the rendered Deployment says.

use std::net::IpAddr;

use harness::{Cluster, Operator, Platform, leader, objects};
use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use crate::PROGRAM;
use crate::helm::{NAMESPACE, cases, container, find, helm};
use crate::pod::{Node, Pod, list_api_servers, start_command};

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A cluster with this many API servers, and with the namespace of the release. Its `default/kubernetes` lists two
/// addresses.
async fn cluster(servers: usize) -> Cluster {
    let cluster = Cluster::start(Platform::Testbed, PROGRAM, servers).await;
    list_api_servers(&cluster, &["192.0.2.1", "192.0.2.2"]).await;
    cluster.namespace(NAMESPACE).await;
    cluster
}

/// Rule: chart.started
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_works_as_the_deployment_starts_it() {
    let Some(helm) = helm() else { return };
    let rendered = helm.render(&["--set", "replicaCount=3"]);
    let deployment = find(&rendered, "Deployment", "");
    let cluster = cluster(1).await;
    cluster.create::<Service>(objects::vip()).await;
    let kubeconfig = cluster.kubeconfig_with(0, None);
    let node = Node {
        kubeconfig: &kubeconfig,
        address: LOOPBACK,
    };
    let replicas = deployment["spec"]["replicas"].as_u64().expect("a number");
    let mut pods: Vec<Operator> = Vec::new();
    for number in 0..replicas {
        let pod = Pod::start(&cluster, deployment, &format!("copier-{number}"), &node);
        pod.until_ready().await;
        pods.push(pod.operator);
    }
    cluster
        .until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.2"])
        .await;
    // The Lease is in the namespace of the Pods.
    let lease = cluster
        .try_get::<k8s_openapi::api::coordination::v1::Lease>(NAMESPACE, harness::LEASE)
        .await;
    assert!(lease.is_some());

    let leading = leader(&pods).await;
    let mut stopped = pods.remove(leading);
    stopped.signal("TERM");
    let (status, took) = stopped.ended().await;
    assert!(status.success(), "{status}");
    let grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        .as_u64()
        .expect("seconds");
    assert!(took.as_secs() < grace, "{took:?}");
    list_api_servers(&cluster, &["192.0.2.2", "192.0.2.3"]).await;
    cluster
        .until_addresses("default", "kubernetes-vip", &["192.0.2.2", "192.0.2.3"])
        .await;
    leader(&pods).await;
}

/// Rule: chart.started
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_mode_needs_only_the_nodes_api_server() {
    let Some(helm) = helm() else { return };
    let mut cluster = cluster(2).await;
    cluster.create::<Service>(objects::vip()).await;
    let own = cluster.address(1);
    let values = format!("apiServer.mode=local,apiServer.port={}", own.port());
    let rendered = helm.render(&["--set", &values]);
    let kubeconfig = cluster.kubeconfig_with(0, None);
    cluster.kill_server(0).await;
    let node = Node {
        kubeconfig: &kubeconfig,
        address: own.ip(),
    };
    let pod = Pod::start(&cluster, find(&rendered, "Deployment", ""), "copier-0", &node);
    cluster
        .until_addresses("default", "kubernetes-vip", &["192.0.2.1", "192.0.2.2"])
        .await;
    pod.until_ready().await;
}

/// Rule: chart.started
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vip_service_of_the_chart_is_managed() {
    let Some(helm) = helm() else { return };
    let rendered = helm.render(&["--set", "vip.create=true,vip.name=api,managedEndpoint.name="]);
    let cluster = cluster(1).await;
    let vip: Value = find(&rendered, "Service", "api").clone();
    cluster.create::<Service>(vip).await;
    let kubeconfig = cluster.kubeconfig_with(0, None);
    let node = Node {
        kubeconfig: &kubeconfig,
        address: LOOPBACK,
    };
    let _pod = Pod::start(&cluster, find(&rendered, "Deployment", ""), "copier-0", &node);
    cluster
        .until_addresses("default", "api", &["192.0.2.1", "192.0.2.2"])
        .await;
    let slices = cluster.slices_of("default", "api").await;
    let ports: Vec<_> = slices[0]
        .ports
        .iter()
        .flatten()
        .filter_map(|port| port.port)
        .collect();
    assert_eq!(ports, [6443, 9345]);
}

/// The names of the Lease, of the source and of the managed Service differ from the defaults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_in_the_pod_uses_the_settings_of_its_operator() {
    let Some(helm) = helm() else { return };
    let values = "leaderElection.id=my.lease,leaderElection.namespace=leases,leaderElection.leaseDuration=9s,\
                  defaultEndpoint.name=source,defaultEndpoint.namespace=sources,\
                  managedEndpoint.name=target,managedEndpoint.namespace=targets";
    let rendered = helm.render(&["--set", values]);
    let cluster = cluster(1).await;
    for namespace in ["leases", "sources", "targets"] {
        cluster.namespace(namespace).await;
    }
    let mut service = objects::vip();
    service["metadata"] = serde_json::json!({"name": "target", "namespace": "targets"});
    cluster.create::<Service>(service).await;
    let mut source = objects::api_servers(&["192.0.2.7"]);
    source["metadata"] = serde_json::json!({
        "name": "source", "namespace": "sources", "labels": {"kubernetes.io/service-name": "source"},
    });
    cluster
        .create::<k8s_openapi::api::discovery::v1::EndpointSlice>(source)
        .await;
    let kubeconfig = cluster.kubeconfig_with(0, None);
    let node = Node {
        kubeconfig: &kubeconfig,
        address: LOOPBACK,
    };
    let pod = Pod::start(&cluster, find(&rendered, "Deployment", ""), "copier-0", &node);
    cluster.until_addresses("targets", "target", &["192.0.2.7"]).await;

    let pod = std::sync::Arc::new(pod);
    let inside = pod.clone();
    let output = tokio::task::spawn_blocking(move || inside.exec(&["status", "-o", "json"]));
    let output = output.await.expect("no panic");
    let error = String::from_utf8_lossy(&output.stderr);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}"));
    assert_eq!(output.status.code(), Some(0), "{status}");
    let services = status["services"].as_array().expect("services");
    assert_eq!(services.len(), 1, "{status}");
    assert_eq!(services[0]["name"], "target", "{status}");
    assert_eq!(services[0]["source"], "sources/source", "{status}");
    let leaders = status["leaders"].as_array().expect("leaders");
    assert_eq!(leaders.len(), 1, "{status}");
    assert_eq!(leaders[0]["namespace"], "leases", "{status}");
    let holder = leaders[0]["holder"].as_str().expect("a holder");
    assert!(holder.starts_with("copier-0_"), "{status}");
}

/// Rule: chart.started
#[test]
fn the_operator_accepts_the_flags_of_every_case() {
    let Some(helm) = helm() else { return };
    for (name, case) in cases() {
        let rendered = helm.render(&[&format!("--values={}", case.display())]);
        let deployment = find(&rendered, "Deployment", "");
        let mut command = start_command(deployment, container(&rendered), "copier-0", LOOPBACK);
        // Flags are parsed before the kubeconfig is read.
        let output = command
            .env("ENDPOINT_COPIER_KUBECONFIG", "/there/is/none")
            .env("ENDPOINT_COPIER_METRICS_BIND_ADDRESS", "0")
            .env("ENDPOINT_COPIER_HEALTH_PROBE_BIND_ADDRESS", "0")
            .stderr(std::process::Stdio::piped())
            .output()
            .expect("the program starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {error}");
        assert!(error.contains("/there/is/none"), "{name}: {error}");
    }
}
