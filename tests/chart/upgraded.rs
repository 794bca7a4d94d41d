//! Values of charts before 0.4.0, which an upgrade reuses.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::helm::{chart, container, file, find, helm, helms};

/// Copies the chart and replaces its defaults, because `helm upgrade --reuse-values` renders a chart with the values of
/// the old release.
fn with_values(folder: &Path, name: &str, values: &str) -> PathBuf {
    let copy = folder.join(name);
    copy_folder(&chart(), &copy);
    std::fs::write(copy.join("values.yaml"), values).expect("a file");
    copy
}

/// The stand-in for the Go operator's chart of this version.
pub fn old_chart(folder: &Path, version: &str) -> PathBuf {
    let copy = folder.join("old-chart");
    copy_folder(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/old-release"),
        &copy,
    );
    let about = std::fs::read_to_string(copy.join("Chart.yaml")).expect("Chart.yaml");
    std::fs::write(copy.join("Chart.yaml"), about.replace("0.3.0", version)).expect("written");
    std::fs::write(copy.join("values.yaml"), old_values(version)).expect("written");
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from)
        .expect("a folder")
        .map(|entry| entry.expect("an entry"))
    {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// The defaults of the Go operator's chart of this version. Version 0.2 had another repository and other resources, and
/// neither seccomp nor a priority class.
fn old_values(version: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chart/old-release/values.yaml");
    let text = std::fs::read_to_string(path).expect("the old values");
    if version == "0.3.0" {
        return text;
    }
    let mut values: Value = serde_saphyr::from_str(&text).expect("values");
    values["image"]["repository"] =
        json!("registry.opensuse.org/isv/suse/edge/metallb/images/endpoint-copier-operator");
    values["podSecurityContext"] = json!({"runAsNonRoot": true});
    values["resources"] =
        json!({"limits": {"cpu": "500m", "memory": "128Mi"}, "requests": {"cpu": "10m", "memory": "64Mi"}});
    values.as_object_mut().expect("a map").remove("priorityClassName");
    values.to_string()
}

/// With another name, the new Deployment would not replace the old one.
#[test]
fn names_of_the_old_chart_stay_however_long_they_are() {
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/old-release");
    let names = |objects: &[Value]| -> BTreeSet<(String, String)> {
        let name = |value: &Value| value.as_str().expect("a string").to_owned();
        objects
            .iter()
            .map(|object| (name(&object["kind"]), name(&object["metadata"]["name"])))
            .collect()
    };
    for helm in helms() {
        for length in 51..=63 {
            // Names whose last character before the truncation is a hyphen or a letter.
            for sign in ["a", "a-"] {
                let name = format!("a{}b", &sign.repeat(length)[..length - 2]);
                let set = format!("fullnameOverride={name},serviceAccount.name={name}");
                let (before, after) = (
                    names(&helm.render_chart(&old, &["--set", &set])),
                    names(&helm.render(&["--set", &set])),
                );
                let gone: Vec<_> = before.difference(&after).collect();
                assert!(before.len() > 5 && gone.is_empty(), "{length}: {gone:?}");
                let services = after.iter().filter(|(kind, _)| kind == "Service");
                let is_label =
                    |name: &str| name.len() <= 63 && name.ends_with("-metrics") && !name.contains("--");
                assert!(services.into_iter().all(|(_, name)| is_label(name)), "{after:?}");
            }
        }
    }
}

/// Rule: chart.kept
#[test]
fn values_of_the_old_chart_change_only_what_they_set() {
    for helm in helms() {
        let ours = helm.render(&[]);
        for version in ["0.3.0", "0.2.0"] {
            let folder = tempfile::tempdir().expect("a folder");
            let mut reused =
                helm.render_chart(&with_values(folder.path(), "chart", &old_values(version)), &[]);
            for objects in [&mut reused, &mut ours.clone()] {
                assert_eq!(
                    container(objects)["image"],
                    "ghcr.io/endpoint-copier-operator/endpoint-copier-operator:0.4.0"
                );
            }
            // These parts are as in the old chart.
            let deployment = find(&reused, "Deployment", "").clone();
            let spec = &deployment["spec"]["template"]["spec"];
            assert_eq!(
                spec["containers"][0]["resources"]["limits"]["cpu"],
                if version == "0.3.0" { "100m" } else { "500m" }
            );
            assert_eq!(spec.get("priorityClassName").is_some(), version == "0.3.0");
            // Everything else comes from our chart.
            let strip = |objects: &[Value]| {
                let mut objects = objects.to_vec();
                for object in &mut objects {
                    let spec = match object["kind"].as_str() {
                        Some("Deployment") => &mut object["spec"]["template"]["spec"],
                        Some("Pod") => &mut object["spec"],
                        _ => continue,
                    };
                    spec["securityContext"].take();
                    spec["priorityClassName"].take();
                    spec["containers"][0]["securityContext"].take();
                    spec["containers"][0]["resources"].take();
                }
                objects
            };
            assert_eq!(strip(&reused), strip(&ours), "{version}");
        }
    }
}

/// If the user set only a tag of the Go operator, an upgrade would combine it with our repository, with or without
/// `--reuse-values`. No such image exists, so the chart replaces the tag.
/// Rule: chart.upgrade
#[test]
fn a_go_operator_tag_is_replaced_for_each_default_repository() {
    let ours = "ghcr.io/endpoint-copier-operator/endpoint-copier-operator";
    for helm in helms() {
        let folder = tempfile::tempdir().expect("a folder");
        let charts =
            ["0.3.0", "0.2.0"].map(|version| with_values(folder.path(), version, &old_values(version)));
        for chart in charts.iter().chain([&chart()]) {
            for (set, image) in [
                ("image.tag=v0.3.0", format!("{ours}:0.4.0")),
                ("image.tag=0.3.0", format!("{ours}:0.4.0")),
                ("image.tag=v0.2.0", format!("{ours}:0.4.0")),
                ("image.tag=0.2", format!("{ours}:0.4.0")),
                ("image.tag=v0.3.0-1.2", format!("{ours}:0.4.0")),
                ("image.tag=v0.3.0,image.repository=", format!("{ours}:0.4.0")),
                (
                    "image.tag=v0.3.0,image.registry=registry.example.com",
                    "registry.example.com/endpoint-copier-operator/endpoint-copier-operator:0.4.0".to_owned(),
                ),
                // Other tags, and all tags of other repositories, are used as given.
                ("image.tag=0.4.1", format!("{ours}:0.4.1")),
                ("image.tag=0.30.0", format!("{ours}:0.30.0")),
                ("image.tag=v1.0.3", format!("{ours}:v1.0.3")),
                (
                    "image.tag=v0.3.0,image.repository=registry.example.com/copier",
                    "registry.example.com/copier:v0.3.0".to_owned(),
                ),
            ] {
                let rendered = helm.render_chart(chart, &["--set", set]);
                assert_eq!(container(&rendered)["image"], image, "{set}: {}", chart.display());
            }
        }
    }
}

/// Rule: chart.null
#[test]
fn without_values_only_defaults_of_the_old_chart_are_missing() {
    for helm in helms() {
        let folder = tempfile::tempdir().expect("a folder");
        let rendered = helm.render_chart(&with_values(folder.path(), "chart", "{}"), &[]);
        let deployment = &find(&rendered, "Deployment", "")["spec"];
        assert!(deployment.get("replicas").is_none());
        assert_eq!(rendered.len(), helm.render(&[]).len());
        assert_eq!(
            deployment["template"]["spec"]["tolerations"]
                .as_array()
                .map(Vec::len),
            Some(6)
        );
    }
}

/// The defaults of templates/_defaults.tpl.
fn defaults() -> Value {
    let template = file("templates/_defaults.tpl");
    let (_, rest) = template
        .split_once("\"endpoint-copier-operator.defaults\" -}}\n")
        .expect("the defaults");
    serde_saphyr::from_str(rest.split("{{- end }}").next().expect("text before the end")).expect("YAML")
}

/// Each value inside a section, with its path. Values outside of sections are left out.
fn in_sections(path: &str, value: &Value) -> Vec<(String, Value)> {
    let Some(section) = value.as_object().filter(|section| !section.is_empty()) else {
        return vec![(path.to_owned(), value.clone())];
    };
    let below = section.iter().flat_map(|(key, value)| {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        in_sections(&path, value)
    });
    below.filter(|(path, _)| path.contains('.')).collect()
}

#[test]
fn one_value_of_a_section_leaves_the_others_unchanged() {
    let Some(helm) = helm() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let reused = with_values(folder.path(), "chart", &old_values("0.3.0"));
    let (ours, old) = (helm.render(&[]), helm.render_chart(&reused, &[]));
    let values = in_sections("", &defaults());
    assert!(values.len() > 60, "{values:?}");
    for (path, value) in values {
        let null = format!("{path}=null");
        assert_eq!(helm.render(&["--set", &null]), ours, "{null}");
        if path.starts_with("image.") {
            continue;
        }
        let same = format!("{path}={value}");
        let rendered = helm.render_chart(&reused, &["--set-json", &same]);
        assert_eq!(rendered, old, "{same} with values of the old chart");
    }
}

#[test]
fn fallback_defaults_equal_those_in_values() {
    let values: Value = serde_saphyr::from_str(&file("values.yaml")).expect("values");
    let defaults = defaults();
    for (section, default) in defaults.as_object().expect("a map") {
        assert_eq!(values[section], *default, "{section} of templates/_defaults.tpl");
    }
    // A value without a fallback must be empty or known to the old chart. Templates accept a missing `global`, and
    // "fill" sets `nodeFailureTolerationSeconds`.
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let of_the_old_chart: Value = serde_saphyr::from_str(&old_values("0.3.0")).expect("values");
    for (section, value) in values.as_object().expect("a map") {
        let fine = defaults.get(section).is_some()
            || is_empty(value)
            || of_the_old_chart.get(section).is_some()
            || ["global", "nodeFailureTolerationSeconds"].contains(&section.as_str());
        assert!(fine, "{section} is not in templates/_defaults.tpl");
    }
}
