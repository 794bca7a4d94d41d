//! Slices that Kubernetes writes next to the copies. The command in the Event removes these slices permanently.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::process::Command;

use harness::objects::{addresses, slice, vip};
use harness::{Cluster, Operator, tool, until};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::events::events_on;
use crate::on_both;

const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";
const SELECTOR: &str = "endpointslice-controller.k8s.io";

/// An address that only foreign slices contain.
const THEIRS: &str = "10.0.0.7";

/// A slice of the VIP, as a Kubernetes controller writes it.
fn written_by(controller: &str, name: &str) -> Value {
    let mut slice = slice("default", "kubernetes-vip", name, &[THEIRS]);
    slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = json!(controller);
    slice
}

/// Creates a ready Pod with the label `app: web` and the address [`THEIRS`], and its Node.
async fn run_pod(cluster: &Cluster) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}});
    assert_eq!(cluster.post("/api/v1/nodes", node).await, 201);
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"nodeName": "node-a", "containers": [{"name": "web", "image": "none"}]},
    });
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(cluster.post(pods, pod.clone()).await, 201);
    pod["status"] = json!({
        "phase": "Running", "podIP": THEIRS, "podIPs": [{"ip": THEIRS}],
        "conditions": [{"type": "Ready", "status": "True"}],
    });
    let status = format!("{pods}/web/status");
    assert_eq!(cluster.send(http::Method::PUT, &status, pod).await, 200);
}

/// The commands in the Events about foreign slices.
async fn commands(cluster: &Cluster, service: &Service) -> Vec<String> {
    let events = events_on(cluster, service).await;
    let notes = events.into_iter().filter(|event| event.1 == "ForeignSlices");
    let command = |note: String| {
        let command = &note[note.find("kubectl ")?..];
        Some(command.split(';').next()?.to_owned())
    };
    notes.filter_map(|event| command(event.2)).collect()
}

/// Runs a command from a note with `--ignore-not-found`. Returns whether it succeeded, and the command with its output.
async fn run(cluster: &Cluster, kubectl: &std::path::Path, command: &str) -> (bool, String) {
    let programs = tempfile::tempdir().expect("a folder");
    symlink(kubectl, programs.path().join("kubectl")).expect("a link");
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", &format!("{command} --ignore-not-found")])
        .env_clear();
    shell
        .env("PATH", programs.path())
        .env("HOME", programs.path())
        .env("KUBECONFIG", cluster.kubeconfig_with(0, None));
    let output = tokio::task::spawn_blocking(move || shell.output());
    let output = output.await.expect("no panic").expect("a shell");
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), format!("{command}\n{printed}"))
}

async fn until_reported(operator: &Operator, times: u64) {
    until(&format!("{times} findings"), async || {
        operator
            .metric("endpoint_copier_findings{reason=\"ForeignSlices\"}")
            .await
            == Some(times)
    })
    .await;
}

on_both! {
    servers: 1;
    /// Rule: 3.foreign-remedy
    async fn command_in_the_event_deletes_mirrored_endpoints(cluster: &mut Cluster) {
        let Some(kubectl) = tool("kubectl", env!("CARGO_TARGET_TMPDIR")) else { return };
        let is_mirrored = cluster.run_controllers(&["endpointslice-mirroring-controller"]);
        let operator = Operator::start(cluster, "one", 0);
        let service = cluster.create::<Service>(vip()).await;
        let listed = cluster.until_slices("default", "kubernetes-vip", "a copy", |slices| slices.len() == 1).await;
        let listed = addresses(&listed);
        let listed: Vec<_> = listed.iter().map(String::as_str).collect();
        cluster.create::<Endpoints>(json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "kubernetes-vip", "namespace": "default"},
            "subsets": [{"addresses": [{"ip": THEIRS}], "ports": [{"name": "https", "port": 6443}]}],
        }))
        .await;
        if !is_mirrored {
            cluster.create::<EndpointSlice>(written_by(MIRRORING, "kubernetes-vip-x7k2p")).await;
        }
        let both: Vec<_> = [THEIRS].into_iter().chain(listed.iter().copied()).collect();
        cluster.until_addresses("default", "kubernetes-vip", &both).await;
        until_reported(&operator, 1).await;
        let mut given = Vec::new();
        until("an Event has a command", async || {
            given = commands(cluster, &service).await;
            !given.is_empty()
        }).await;
        let commands = given;
        assert_eq!(commands, ["kubectl delete endpoints kubernetes-vip --namespace default"]);
        let (is_done, printed) = run(cluster, &kubectl, &commands[0]).await;
        assert!(is_done, "{printed}");
        if !is_mirrored {
            cluster.delete::<EndpointSlice>("default", "kubernetes-vip-x7k2p").await;
        }
        cluster.until_addresses("default", "kubernetes-vip", &listed).await;
        until_reported(&operator, 0).await;
    }

    /// Rule: 3.foreign-remedy
    async fn command_in_the_event_deletes_slices_of_a_removed_selector(cluster: &mut Cluster) {
        let Some(kubectl) = tool("kubectl", env!("CARGO_TARGET_TMPDIR")) else { return };
        let controllers = ["endpointslice-controller", "endpoints-controller", "endpointslice-mirroring-controller"];
        let has_controllers = cluster.run_controllers(&controllers);
        if has_controllers {
            run_pod(cluster).await;
        }
        let operator = Operator::start(cluster, "one", 0);
        let service = cluster.create::<Service>(vip()).await;
        let listed = cluster.until_slices("default", "kubernetes-vip", "a copy", |slices| slices.len() == 1).await;
        let listed = addresses(&listed);
        let listed: Vec<_> = listed.iter().map(String::as_str).collect();
        cluster.patch::<Service>("default", "kubernetes-vip", json!({"spec": {"selector": {"app": "web"}}})).await;
        if !has_controllers {
            cluster.create::<EndpointSlice>(written_by(SELECTOR, "kubernetes-vip-x7k2p")).await;
        }
        cluster.until_addresses("default", "kubernetes-vip", &[THEIRS]).await;
        cluster.patch::<Service>("default", "kubernetes-vip", json!({"spec": {"selector": null}})).await;
        // Kubernetes also mirrors the Endpoints that were left behind, so there may be two slices.
        cluster.until_slices("default", "kubernetes-vip", "the endpoints of the copy and of foreign slices", |slices| {
            let shown = addresses(slices);
            [THEIRS].iter().chain(&listed).all(|address| shown.iter().any(|it| it == address))
        }).await;
        let mut ran = BTreeSet::new();
        until("no finding is left after the commands", async || {
            for command in commands(cluster, &service).await {
                let (is_done, printed) = run(cluster, &kubectl, &command).await;
                // Only the first run of a command must succeed. Later there may be nothing left to delete.
                assert!(!ran.insert(command) || is_done, "{printed}");
            }
            // The metric is also 0 before the operator sees the slices, so at least one command must have run.
            !ran.is_empty() && operator.metric("endpoint_copier_findings{reason=\"ForeignSlices\"}").await == Some(0)
        }).await;
        cluster.until_addresses("default", "kubernetes-vip", &listed).await;
    }
}
