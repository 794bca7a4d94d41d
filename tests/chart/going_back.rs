//! The commands in two how-to guides that delete copies after a return to the Go operator. The tests run them as the
//! guides show them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{Cluster, Platform, skipped};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::PROGRAM;
use crate::helm::tools;

/// The managed-by label of a copy.
const OURS: Option<&str> = Some("endpoint-copier-operator");
/// The managed-by label of a slice that Kubernetes mirrors from `Endpoints`.
const MIRRORED: Option<&str> = Some("endpointslicemirroring-controller.k8s.io");

/// A document's commands that wait for the Go operator and then delete copies, each with all of its lines.
fn commands(document: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(path).expect("a document");
    let blocks = text.split("\n\n").filter(|block| block.starts_with("    "));
    let waits = |block: &str| block.contains("kubectl wait ") || block.contains("until ");
    let found = blocks.filter(|block| block.contains("kubectl delete endpointslices") && waits(block));
    found.map(str::to_owned).collect()
}

async fn create_slice(cluster: &Cluster, name: &str, service: &str, managed_by: Option<&str>) {
    let mut labels = json!({"kubernetes.io/service-name": service});
    if let Some(manager) = managed_by {
        labels["endpointslice.kubernetes.io/managed-by"] = json!(manager);
    }
    cluster
        .create::<EndpointSlice>(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
            "metadata": {"name": name, "namespace": "default", "labels": labels},
        }))
        .await;
}

async fn names(cluster: &Cluster) -> Vec<String> {
    let slices = cluster.list::<EndpointSlice>("default").await;
    let mut names: Vec<_> = slices
        .into_iter()
        .filter_map(|slice| slice.metadata.name)
        .filter(|name| name != "kubernetes")
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_deleted_once_the_go_operator_has_written() {
    let tools = tools();
    if !tools.join("kubectl").is_file() {
        skipped("kubectl");
        return;
    }
    let [newer, older] = commands("docs/how-to/upgrade-from-go.md")
        .try_into()
        .expect("two commands");
    let [uninstall_command] = commands("docs/how-to/uninstall.md")
        .try_into()
        .expect("one command");
    for (command, written, by) in [
        (newer, "kubernetes-vip", None),
        (uninstall_command, "kubernetes-vip", None),
        (older, "kubernetes-vip-x7k2p", MIRRORED),
    ] {
        let cluster = Cluster::start(Platform::Testbed, PROGRAM, 1).await;
        create_slice(&cluster, "kubernetes-vip-a", "kubernetes-vip", OURS).await;
        create_slice(&cluster, "web-a", "web", OURS).await;
        create_slice(&cluster, "web-b", "web", MIRRORED).await;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut running = Command::new("sh")
            .args(["-c", &command])
            .env("PATH", format!("{}:{path}", tools.display()))
            .env("KUBECONFIG", cluster.kubeconfig_with(0, None))
            .stdin(Stdio::null())
            .spawn()
            .expect("a shell");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(running.try_wait().expect("a process").is_none(), "{command}");
        assert_eq!(names(&cluster).await, ["kubernetes-vip-a", "web-a", "web-b"]);
        create_slice(&cluster, written, "kubernetes-vip", by).await;
        let ended = tokio::task::spawn_blocking(move || running.wait());
        let status = ended.await.expect("no panic").expect("a process");
        assert!(status.success(), "{command}");
        assert_eq!(names(&cluster).await, [written, "web-a", "web-b"], "{command}");
    }
}
