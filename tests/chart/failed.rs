//! Failed installs and upgrades on a real API server, and the recoveries that the documents describe. The Job of a
//! `HelmChart` object acts on the status of the release, which these tests check.

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use crate::commands::old_release;
use crate::helm::{chart, succeeded};
use crate::released::{IMAGE, Release, clusters, release};

/// A toleration that the schema accepts and the API server rejects, because `Exists` excludes a value.
const BAD_TOLERATION: &str = "tolerations[0].key=a,tolerations[0].operator=Exists,tolerations[0].value=b";

/// The status and the number of the last revision, or `None` if there is no release.
fn last(release: &Release<'_>) -> Option<(String, i64)> {
    let output = release.try_run(&["status", "copier", "--output", "json"]);
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    let name = status["info"]["status"].as_str().expect("a status");
    Some((name.to_owned(), status["version"].as_i64().expect("a number")))
}

fn assert_last(release: &Release<'_>, status: &str, revision: i64) {
    assert_eq!(last(release), Some((status.to_owned(), revision)));
}

/// Runs Helm and asserts that it fails. Returns its error.
fn fails(release: &Release<'_>, args: &[&str]) -> String {
    let output = release.try_run(args);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Rule: chart.upgrade
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_upgrade_resumes_after_a_rollback_on_api_server() {
    for pair in &clusters().await {
        let release = release(pair);
        release.apply("install", &old_release(), &["--create-namespace"]);
        let old_image = release.image().await;
        let chart = chart().display().to_string();
        let upgrade = ["upgrade", "copier", &chart, "--set"];
        // If the schema or a template refuses a value, there is no new revision, and the release stays as it was.
        for set in ["replicas=3", "extraArgs[0]=--leader-elect=false"] {
            fails(&release, &[&upgrade[..], &[set]].concat());
            assert_last(&release, "deployed", 1);
        }
        let error = fails(&release, &[&upgrade[..], &[BAD_TOLERATION]].concat());
        assert!(error.contains("tolerations"), "{error}");
        assert_last(&release, "failed", 2);
        assert_eq!(release.image().await, old_image);
        release.run(&["rollback", "copier", "1"]);
        assert_last(&release, "deployed", 3);
        release.run(&upgrade[..3]);
        assert_last(&release, "deployed", 4);
        assert_eq!(release.image().await, IMAGE);
    }
}

/// Rule: chart.upgrade
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_install_has_to_be_uninstalled_on_api_server() {
    for pair in &clusters().await {
        let release = release(pair);
        let chart = chart().display().to_string();
        let install = ["install", "copier", &chart, "--create-namespace", "--set"];
        let error = fails(
            &release,
            &[&install[..], &[&format!("vip.create=true,{BAD_TOLERATION}")]].concat(),
        );
        assert!(error.contains("tolerations"), "{error}");
        assert_last(&release, "failed", 1);
        let again = fails(&release, &[&install[..], &["vip.create=true"]].concat());
        assert!(again.contains("cannot re"), "{again}");
        release.run(&["uninstall", "copier"]);
        assert_eq!(last(&release), None);
        release.run(&[&install[..], &["vip.create=true"]].concat());
        assert_last(&release, "deployed", 1);
    }
}

/// A VIP Service that the user created, with the address of the guide.
fn vip_by_hand() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes-vip", "namespace": "default",
            "annotations": {"endpoint-copier/enabled": "true", "metallb.io/loadBalancerIPs": "192.0.2.100"},
        },
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "ports": [{"name": "kube-apiserver", "port": 6443, "targetPort": 6443, "protocol": "TCP"}],
        },
    })
}

/// Rule: chart.upgrade
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_of_the_user_is_adopted_with_force_on_api_server() {
    for pair in &clusters().await {
        let release = release(pair);
        release.cluster.create::<Service>(vip_by_hand()).await;
        let chart = chart().display().to_string();
        let vip = ["--set", "vip.create=true"];
        let install = [&["install", "copier", &chart, "--create-namespace"], &vip[..]].concat();
        // Without `--take-ownership`, no release is created, so there is nothing to fix.
        fails(&release, &install);
        assert_eq!(last(&release), None);
        let output = release.try_run(&[&install[..], &["--take-ownership"]].concat());
        if release.helm.major >= 4 {
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && error.contains("conflict"), "{error}");
            assert_last(&release, "failed", 1);
            // The recovery that the guide describes.
            let again = [
                "upgrade",
                "--install",
                "copier",
                &chart,
                "--take-ownership",
                "--force-conflicts",
            ];
            release.run(&[&again[..], &vip].concat());
        } else {
            succeeded(&output);
        }
        let service: Service = release
            .cluster
            .try_get("default", "kubernetes-vip")
            .await
            .expect("the Service");
        let spec = service.spec.expect("a spec");
        assert_eq!(spec.external_traffic_policy.as_deref(), Some("Cluster"));
        // Fields that the chart does not set stay, and so does the address. MetalLB rejects a Service that has an
        // address in both the field and the annotation.
        assert_eq!(spec.load_balancer_ip, None);
        let annotations = service.metadata.annotations.expect("annotations");
        assert_eq!(annotations["metallb.io/loadBalancerIPs"], "192.0.2.100");
    }
}
