//! The Helm commands of docs/how-to/upgrade-from-go.md on a real API server: which values apply, which revision a
//! rollback restores, and who owns the VIP Service.

use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::helm::{chart, succeeded};
use crate::released::{IMAGE, NAME, Release, clusters, release};

/// The stand-in for the Go operator's chart 0.3.0.
pub fn old_release() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/old-release")
}

/// The CPU limit and the replicas.
async fn limit_and_replicas(release: &Release<'_>) -> (Value, Value) {
    let spec = &release.deployment().await["spec"];
    let limit = &spec["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"];
    (limit.clone(), spec["replicas"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reuse_flags_decide_which_values_apply_on_api_server() {
    for pair in &clusters().await {
        let release = release(pair);
        let given = "replicaCount=3,resources.limits.cpu=200m,image.tag=v0.3.0";
        release.apply("install", &old_release(), &["--create-namespace", "--set", given]);
        let no_limit = "resources.limits.cpu=null";
        for (flags, limit, replicas) in [
            (&["--reuse-values"][..], json!("200m"), 3),
            // With reused values, the value that the user set stays.
            (&["--reuse-values", "--set", no_limit], json!("200m"), 3),
            // The limit is removed permanently, and the other values stay.
            (&["--reset-then-reuse-values", "--set", no_limit], json!(null), 3),
            (&["--reset-then-reuse-values"], json!(null), 3),
            (&[], json!(null), 3),
            (&["--set", "logLevel=debug"], json!(null), 2),
            (&["--set", given], json!("200m"), 3),
            (&["--reset-values"], json!(null), 2),
        ] {
            release.apply("upgrade", &chart(), flags);
            let expected = (limit, json!(replicas));
            assert_eq!(limit_and_replicas(&release).await, expected, "{flags:?}");
            // If there is an image tag in the values, it is a tag of the Go operator, so the chart replaces it.
            assert_eq!(release.image().await, IMAGE, "{flags:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_to_the_old_chart_needs_its_revision_on_api_server() {
    for pair in &clusters().await {
        let release = release(pair);
        release.apply("install", &old_release(), &["--create-namespace"]);
        let old_image = release.image().await;
        assert_ne!(old_image, IMAGE);
        let first = ["--reset-then-reuse-values", "--set", "rbac.goOperator=true"];
        release.apply("upgrade", &chart(), &first);
        let second = ["--reset-then-reuse-values", "--set", "rbac.goOperator=false"];
        release.apply("upgrade", &chart(), &second);
        // Without a revision, Helm rolls back to the previous one, which has our chart too.
        release.run(&["rollback", "copier"]);
        assert_eq!(release.image().await, IMAGE);

        let history = release.run(&["history", "copier", "--output", "json"]);
        let history: Value = serde_json::from_str(&history).expect("JSON");
        let revisions = history.as_array().expect("revisions").iter();
        let old: Vec<_> = revisions
            .filter(|revision| revision["chart"] == "endpoint-copier-operator-0.3.0")
            .map(|revision| &revision["revision"])
            .collect();
        assert_eq!(old, [1]);

        let deployments: Api<Deployment> = Api::namespaced(release.cluster.client(), crate::helm::NAMESPACE);
        let params = PatchParams {
            field_manager: Some("somebody".to_owned()),
            ..PatchParams::default()
        };
        let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
        deployments.patch(NAME, &params, &scale).await.expect("scaled");
        let back = ["rollback", "copier", "1"];
        let output = release.try_run(&back);
        if release.helm.major >= 4 {
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && error.contains("spec.replicas"),
                "{error}"
            );
            release.run(&[&back[..], &["--force-conflicts"]].concat());
        } else {
            succeeded(&output);
        }
        assert_eq!(release.image().await, old_image);
        assert_eq!(release.deployment().await["spec"]["replicas"], 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_existing_vip_is_adopted_only_by_flag_on_api_server() {
    for pair in &clusters().await {
        let release = release(pair);
        let vip = ["--set", "vip.create=true"];
        release.apply("install", &chart(), &[&["--create-namespace"], &vip[..]].concat());
        release.run(&["uninstall", "copier"]);
        let chart = chart().display().to_string();
        let install = |more: &[&str]| {
            let mut command = release.helm.command(&release.kubeconfig);
            let into = ["--namespace", "elsewhere", "--create-namespace"];
            let command = command.args(["install", "copier", &chart]).args(into);
            command.args(vip).args(more).output().expect("helm starts")
        };
        let refused = install(&[]);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(
            !refused.status.success() && error.contains("kubernetes-vip"),
            "{error}"
        );
        succeeded(&install(&["--take-ownership"]));
        let service = release
            .cluster
            .try_get::<Service>("default", "kubernetes-vip")
            .await;
        let annotations = service.and_then(|service| service.metadata.annotations);
        let annotations = annotations.expect("annotations");
        assert_eq!(annotations["meta.helm.sh/release-namespace"], "elsewhere");
    }
}
