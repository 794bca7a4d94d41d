//! The commands of docs/how-to/runbook.md, as an engineer on call runs them.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::process::Command;

use harness::objects::vip;
use harness::{Cluster, Operator, Rights, tool};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use crate::{PROGRAM, on_both};

const RUNBOOK: &str = include_str!("../../docs/how-to/runbook.md");

/// The namespace of the operator in the runbook.
const NAMESPACE: &str = "endpoint-copier-operator";

/// The lines of all shell blocks of the runbook.
fn commands() -> BTreeSet<&'static str> {
    let blocks = RUNBOOK.split("```sh\n").skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).collect()
}

/// Whether a command needs Pods or a Deployment, which the testbed does not have.
fn is_about_pods(command: &str) -> bool {
    ["get pods", "logs ", "deployment "]
        .iter()
        .any(|words| command.contains(words))
}

on_both! {
    async fn every_command_of_the_runbook_works(cluster: &mut Cluster) {
        let Some(kubectl) = tool("kubectl", env!("CARGO_TARGET_TMPDIR")) else { return };
        let is_real = cluster.testbed().is_none();
        cluster.namespace(NAMESPACE).await;
        if is_real {
            // The Deployment as the chart creates it, without fields that do not matter here.
            let labels = json!({"app.kubernetes.io/name": "endpoint-copier-operator"});
            cluster.create::<Deployment>(json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "endpoint-copier-operator", "namespace": NAMESPACE},
                "spec": {
                    "replicas": 0, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "manager", "image": "none"}]}},
                },
            })).await;
        }
        cluster.give_rights(Rights::Default, NAMESPACE).await;
        let namespace = format!("--leader-election-namespace={NAMESPACE}");
        let operator = Operator::start_with(cluster, "one", 0, &[&namespace]);
        operator.until_leads().await;
        cluster.create::<Service>(vip()).await;
        let listed = cluster.addresses_of("default", "kubernetes").await;
        let listed: Vec<_> = listed.iter().map(String::as_str).collect();
        cluster.until_addresses("default", "kubernetes-vip", &listed).await;

        let programs = tempfile::tempdir().expect("a folder");
        symlink(kubectl, programs.path().join("kubectl")).expect("a link");
        symlink(PROGRAM, programs.path().join("endpoint-copier-operator")).expect("a link");
        let kubeconfig = cluster.kubeconfig_with(0, None);
        let mut ran = 0;
        for command in commands().into_iter().filter(|command| is_real || !is_about_pods(command)) {
            ran += 1;
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", command]).env_clear();
            shell.env("PATH", programs.path()).env("KUBECONFIG", &kubeconfig).env("HOME", programs.path());
            let output = tokio::task::spawn_blocking(move || shell.output());
            let output = output.await.expect("no panic").expect("a shell");
            let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success() && !printed.is_empty(), "{command}\n{printed}");
        }
        assert!(ran >= 7, "only {ran} commands");
    }
}
