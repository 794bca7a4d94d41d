//! If a source lacks an IP family that the managed Service needs, the note of the `FamilyMissing` Event contains a
//! command that the API server accepts.

use std::os::unix::fs::symlink;
use std::process::Command;

use harness::objects::{managed, slice};
use harness::{Cluster, Operator, Platform, tool, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};

use crate::PROGRAM;

const IPV4: &str = "10.0.0.1";
const IPV6: &str = "2001:db8::1";

/// Waits for a `FamilyMissing` Event about a Service, and returns the command in its note.
async fn command(cluster: &Cluster, service: &str) -> String {
    let mut note = String::new();
    until(&format!("an Event about {service}"), async || {
        let events = cluster.list::<Event>("default").await;
        let found = events.into_iter().find(|event| {
            let regarding = event.regarding.as_ref().and_then(|object| object.name.as_deref());
            regarding == Some(service) && event.reason.as_deref() == Some("FamilyMissing")
        });
        note = found.and_then(|event| event.note).unwrap_or_default();
        !note.is_empty()
    })
    .await;
    let begin = note.find("kubectl").expect("a command");
    note.split_off(begin)
}

/// Rule: 2.family-missing-command
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_family_missing_work_on_a_real_api_server() {
    if !Platform::Real.is_here() {
        return println!("skipped: needs KUBEBUILDER_ASSETS");
    }
    let Some(kubectl) = tool("kubectl", env!("CARGO_TARGET_TMPDIR")) else {
        return;
    };
    let programs = tempfile::tempdir().expect("a folder");
    symlink(kubectl, programs.path().join("kubectl")).expect("a link");
    let cluster = Cluster::start(Platform::Real, PROGRAM, 1).await;
    cluster
        .create::<EndpointSlice>(slice("default", "four", "four-x", &[IPV4]))
        .await;
    let mut six = slice("default", "six", "six-x", &[IPV6]);
    six["addressType"] = json!("IPv6");
    cluster.create::<EndpointSlice>(six).await;
    let operator = Operator::start(&cluster, "one", 0);
    let balanced = |families: Value, policy: &str| json!({"type": "LoadBalancer", "ipFamilies": families, "ipFamilyPolicy": policy});
    for (name, source, spec, family, address) in [
        (
            "second-missing",
            "four",
            balanced(json!(["IPv4", "IPv6"]), "RequireDualStack"),
            "IPv4",
            IPV4,
        ),
        (
            "first-missing",
            "four",
            balanced(json!(["IPv6", "IPv4"]), "RequireDualStack"),
            "IPv4",
            IPV4,
        ),
        (
            "only-missing",
            "six",
            balanced(json!(["IPv4"]), "SingleStack"),
            "IPv6",
            IPV6,
        ),
        (
            "headless",
            "six",
            json!({"clusterIP": "None", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}),
            "IPv6",
            IPV6,
        ),
    ] {
        let mut service = managed("default", name, "default", source);
        for (field, value) in spec.as_object().expect("a spec") {
            service["spec"][field] = value.clone();
        }
        cluster.create::<Service>(service).await;
        let command = command(&cluster, name).await;
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", &command])
            .env_clear()
            .current_dir(programs.path());
        shell
            .env("PATH", programs.path())
            .env("KUBECONFIG", cluster.kubeconfig_with(0, None))
            .env("HOME", programs.path());
        let output = tokio::task::spawn_blocking(move || shell.output());
        let output = output.await.expect("no panic").expect("a shell");
        let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{command}\n{printed}");

        cluster.until_addresses("default", name, &[address]).await;
        let service = cluster
            .try_get::<Service>("default", name)
            .await
            .expect("a Service");
        let families = service.spec.and_then(|spec| spec.ip_families);
        assert_eq!(families, Some(vec![family.to_owned()]), "{command}");
        until("the finding ends", async || {
            operator
                .metric("endpoint_copier_findings{reason=\"FamilyMissing\"}")
                .await
                == Some(0)
        })
        .await;
    }
}
