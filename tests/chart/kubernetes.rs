//! The rendered objects, validated with the Kubernetes schemas.

use std::io::Write as _;
use std::process::{Command, Stdio};

use harness::skipped;
use serde_json::json;

use crate::helm::{cases, helm, tools};

/// The oldest version of Kubernetes that the chart supports, and the newest one with a schema.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

/// Validates objects, each with the name of its case. Returns whether all are valid, and the report, or `None` if the
/// schemas are not installed.
fn validate(objects: &serde_json::Value) -> Option<(bool, String)> {
    let python = tools().join("python");
    if !python.is_dir() {
        skipped("Kubernetes' schemas");
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hack/tools/validate.py");
    let mut child = Command::new("python3")
        .arg(script)
        .args(VERSIONS)
        .env("PYTHONPATH", python)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let text = objects.to_string();
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(text.as_bytes())
        .expect("python3 reads");
    let output = child.wait_with_output().expect("python3 ends");
    Some((
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    ))
}

/// Returns whether an object is a custom resource of another operator.
pub fn is_custom(object: &serde_json::Value) -> bool {
    let groups = ["monitoring.coreos.com/v1", "grafana.integreatly.org/v1beta1"];
    groups.into_iter().any(|group| object["apiVersion"] == group)
}

/// Rule: chart.valid
#[test]
fn every_object_is_valid_in_the_oldest_and_the_newest_version() {
    let Some(helm) = helm() else { return };
    let mut objects = Vec::new();
    for (name, case) in cases() {
        let mut rendered = helm.render(&[&format!("--values={}", case.display())]);
        // Kubernetes has no schemas for custom resources.
        rendered.retain(|object| !is_custom(object));
        objects.extend(rendered.into_iter().map(|object| json!([name, object])));
    }
    if let Some((is_valid, report)) = validate(&json!(objects)) {
        assert!(is_valid && report.contains(", 0 invalid"), "{report}");
    }
}

#[test]
fn an_invalid_object_is_reported() {
    let service = |spec| json!([["case", {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec}]]);
    for bad in [json!({"ports": [{"port": "http"}]}), json!({"portz": []})] {
        if let Some((is_valid, report)) = validate(&service(bad)) {
            assert!(!is_valid && report.contains("2 invalid"), "{report}");
        }
    }
}
