//! The `endpoint-copier/InSync` condition in the status of managed Services.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use harness::objects::{api_servers, managed, vip};
use harness::{Cluster, Operator, Rights, SHORT_LEASE, leader, tool, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::inspect::{ended, run};
use crate::on_both;

const GUIDE: &str = include_str!("../../docs/how-to/wait.md");

/// The conditions of a Service in namespace `default`, and its resourceVersion.
async fn conditions(cluster: &Cluster, name: &str) -> (Vec<Value>, Option<String>) {
    let service = cluster
        .try_get::<Service>("default", name)
        .await
        .expect("the Service");
    let conditions = service.status.and_then(|status| status.conditions);
    let conditions = conditions.into_iter().flatten();
    let conditions = conditions.map(|condition| serde_json::to_value(condition).expect("JSON"));
    (conditions.collect(), service.metadata.resource_version)
}

/// Waits until the Service in namespace `default` has the condition `endpoint-copier/InSync` with this status and
/// reason.
async fn until_condition(cluster: &Cluster, name: &str, status: &str, reason: &str) {
    until(
        &format!("{name} has the condition {status} {reason}"),
        async || {
            let (conditions, _) = conditions(cluster, name).await;
            conditions.iter().any(|condition| {
                condition["type"] == "endpoint-copier/InSync"
                    && condition["status"] == status
                    && condition["reason"] == reason
            })
        },
    )
    .await;
}

fn flags() -> Vec<&'static str> {
    [&SHORT_LEASE[..], &["--service-conditions"]].concat()
}

on_both! {
    /// Rule: 3.condition, 3.condition-writes, 3.condition-removed
    async fn condition_agrees_with_wait_and_survives_a_takeover(cluster: &mut Cluster) {
        cluster.give_rights(Rights::ServiceConditions, "default").await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.1", "192.0.2.2"])).await;
        cluster.create::<Service>(vip()).await;
        let theirs = json!({
            "type": "Ready", "status": "True", "reason": "A", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let services: Api<Service> = Api::namespaced(cluster.client(), "default");
        let status = Patch::Merge(json!({"status": {"conditions": [theirs]}}));
        services.patch_status("kubernetes-vip", &PatchParams::default(), &status).await.expect("a status");
        let mut refused = managed("default", "web", "default", "source");
        refused["spec"]["selector"] = json!({"app": "web"});
        cluster.create::<Service>(refused).await;

        let start = |name| Operator::start_with(cluster, name, 0, &flags());
        let mut operators = vec![start("one"), start("two")];
        until_condition(cluster, "kubernetes-vip", "True", "InSync").await;
        until_condition(cluster, "web", "False", "HasSelector").await;
        for (service, code) in [("default/kubernetes-vip", 0), ("default/web", 1)] {
            let waited = run(cluster, &["wait", service, "--timeout=0"]).await;
            assert_eq!(waited.status.code(), Some(code), "{service}");
        }
        let (found, before) = conditions(cluster, "kubernetes-vip").await;
        assert!(found.contains(&theirs), "{found:?}");
        assert_eq!(found.len(), 2);

        let leading = leader(&operators).await;
        operators.remove(leading).signal("KILL");
        let next = &operators[0];
        next.until_leads().await;
        cluster.put::<EndpointSlice>(api_servers(&["192.0.2.2"])).await;
        cluster.until_addresses("default", "kubernetes-vip", &["192.0.2.2"]).await;
        assert_eq!(conditions(cluster, "kubernetes-vip").await.1, before, "something was written");

        let off = json!({"metadata": {"annotations": {"endpoint-copier/enabled": "false"}}});
        cluster.patch::<Service>("default", "kubernetes-vip", off).await;
        until("the condition is gone", async || conditions(cluster, "kubernetes-vip").await.0 == [theirs.clone()]).await;
    }

    /// Rule: 3.condition, 3.condition-removed
    async fn commands_of_the_guide_wait_for_and_delete_conditions(cluster: &mut Cluster) {
        let Some(kubectl) = tool("kubectl", env!("CARGO_TARGET_TMPDIR")) else { return };
        let (_, wait) = GUIDE.split_once("\n    kubectl wait ").expect("the command");
        let wait = format!("kubectl wait {}", wait.lines().next().expect("a line"));
        let (_, delete) = GUIDE.split_once("```sh\n").expect("the command");
        let (delete, _) = delete.split_once("```").expect("the end of the code block");
        let programs = tempfile::tempdir().expect("a folder");
        symlink(kubectl, programs.path().join("kubectl")).expect("a link");
        let kubeconfig = cluster.kubeconfig_with(0, None);
        let shell = async |command: &str| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", command]).env_clear();
            shell.env("PATH", programs.path()).env("KUBECONFIG", &kubeconfig).env("HOME", programs.path());
            let output = ended(shell).await;
            assert!(output.status.success(), "{command}\n{output:?}");
        };
        cluster.give_rights(Rights::ServiceConditions, "default").await;
        for name in ["kubernetes-vip", "other", "plain"] {
            let mut service = vip();
            service["metadata"] = json!({"name": name, "namespace": "default"});
            if name == "other" {
                service["metadata"]["annotations"] = json!({"endpoint-copier/enabled": "true"});
            }
            cluster.create::<Service>(service).await;
        }
        let operator = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Operator::start_with(cluster, "one", 0, &flags())
        };
        let ((), operator) = tokio::join!(shell(&wait), operator);
        until_condition(cluster, "other", "True", "InSync").await;
        operator.signal("KILL");
        shell(delete).await;
        for name in ["kubernetes-vip", "other"] {
            assert!(conditions(cluster, name).await.0.is_empty(), "{name}");
        }
    }

    /// Rule: 3.condition-copies-first
    async fn copies_work_without_permission_to_write_conditions(cluster: &mut Cluster) {
        cluster.create::<Service>(vip()).await;
        let operator = Operator::start_with(cluster, "one", 0, &flags());
        for addresses in [["192.0.2.1"], ["192.0.2.2"]] {
            cluster.put::<EndpointSlice>(api_servers(&addresses)).await;
            cluster.until_addresses("default", "kubernetes-vip", &addresses).await;
        }
        operator.until_logged("cannot patch resource").await;
        let lines = operator.log().lines().filter(|line| line.contains("conditions of Services")).count();
        assert_eq!(lines, 1, "{}", operator.log());
        cluster.give_rights(Rights::ServiceConditions, "default").await;
        until_condition(cluster, "kubernetes-vip", "True", "InSync").await;
    }
}
