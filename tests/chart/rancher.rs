//! The chart as Rancher and RKE2 install it: the registry that they pass, the form in the Rancher UI, and the name and
//! namespace of the release.

use serde_json::{Value, json};

use crate::helm::{cases, container, file, helm, helms};

const PATH: &str = "endpoint-copier-operator/endpoint-copier-operator";

/// The values that RKE2 adds to each `HelmChart` in its folder of manifests.
const GLOBALS_OF_RKE2: &str = "global.clusterCIDR=10.42.0.0/16,global.clusterCIDRv4=10.42.0.0/16,global.clusterCIDRv6=,\
                       global.clusterDNS=10.43.0.10,global.clusterDomain=cluster.local,\
                       global.rke2DataDir=/var/lib/rancher/rke2,global.serviceCIDR=10.43.0.0/16,\
                       global.systemDefaultIngressClass=ingress-nginx,\
                       global.systemDefaultRegistry=registry.example.com:5000,\
                       global.cattle.systemDefaultRegistry=registry.example.com:5000";

/// Appends all images in a value and its children to `found`.
fn images(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("image").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|below| images(below, found));
        }
        Value::Array(items) => items.iter().for_each(|below| images(below, found)),
        _ => (),
    }
}

/// Rule: chart.registry
#[test]
fn every_image_is_from_the_registry_that_rke2_passes() {
    for helm in helms() {
        let expected = format!("registry.example.com:5000/{PATH}:0.4.0");
        let without_image = cases().into_iter().filter(|(_, case)| {
            let values = std::fs::read_to_string(case).expect("values");
            !values.contains("image:") && !values.contains("global:")
        });
        let without_image: Vec<_> = without_image
            .map(|(_, case)| format!("--values={}", case.display()))
            .collect();
        assert!(without_image.len() > 5, "{without_image:?}");
        for case in without_image {
            let rendered = helm.render(&[&case, "--set-string", GLOBALS_OF_RKE2]);
            let mut found = Vec::new();
            images(&json!(rendered), &mut found);
            assert!(found.len() >= 2, "{found:?}");
            assert!(found.iter().all(|image| *image == expected), "{case}: {found:?}");
        }
        // Without a registry, RKE2 passes empty values.
        let empty = GLOBALS_OF_RKE2.replace("registry.example.com:5000", "");
        let rendered = helm.render(&["--set-string", &empty]);
        assert_eq!(rendered, helm.render(&[]));
    }
}

/// Rule: chart.registry
#[test]
fn the_registry_of_the_cluster_has_the_lowest_priority() {
    let Some(helm) = helm() else { return };
    let system = "global.systemDefaultRegistry=system.local";
    let cattle = "global.cattle.systemDefaultRegistry=cattle.local";
    for (set, image) in [
        (cattle.to_owned(), format!("cattle.local/{PATH}:0.4.0")),
        (format!("{system},{cattle}"), format!("system.local/{PATH}:0.4.0")),
        (
            format!("{system},image.registry=own.local"),
            format!("own.local/{PATH}:0.4.0"),
        ),
        (
            format!("{system},global.imageRegistry=own.local"),
            format!("own.local/{PATH}:0.4.0"),
        ),
        (
            format!("{cattle},image.repository=own.local/team/copier"),
            "own.local/team/copier:0.4.0".to_owned(),
        ),
        (
            format!("{cattle},image.repository=team/copier"),
            "cattle.local/team/copier:0.4.0".to_owned(),
        ),
        // The user did not choose this repository: it is the default of the Go operator's chart.
        (
            format!(
                "{cattle},image.repository=registry.opensuse.org/isv/suse/edge/metallb/images/endpoint-copier-operator"
            ),
            format!("cattle.local/{PATH}:0.4.0"),
        ),
    ] {
        assert_eq!(container(&helm.render(&["--set", &set]))["image"], image, "{set}");
    }
    let refusal = helm.refusal(&[
        "--set",
        "global.cattle.systemDefaultRegistry=https://cattle.local",
    ]);
    assert!(refusal.contains("write it without https://"), "{refusal}");
}

/// The questions and their subquestions.
fn questions() -> Vec<Value> {
    let form: Value = serde_saphyr::from_str(&file("questions.yaml")).expect("YAML");
    let all = form["questions"].as_array().expect("questions").clone();
    let below = all
        .iter()
        .filter_map(|question| question["subquestions"].as_array());
    let below: Vec<_> = below.flatten().cloned().collect();
    [all, below].concat()
}

#[test]
fn every_question_is_a_value_with_the_same_default() {
    let values: Value = serde_saphyr::from_str(&file("values.yaml")).expect("values");
    let schema: Value = serde_json::from_str(&file("values.schema.json")).expect("JSON");
    let questions = questions();
    assert!(questions.len() > 10, "{}", questions.len());
    for question in questions {
        let variable = question["variable"].as_str().expect("a variable");
        let keys = || variable.split('.');
        let value = keys().try_fold(&values, |value, key| value.get(key));
        assert_eq!(value, Some(&question["default"]), "{variable}");
        let schema = keys().fold(&schema, |schema, key| &schema["properties"][key]);
        let offered = question["options"].as_array().into_iter().flatten();
        let (allowed, empty) = (&schema["enum"], Vec::new());
        let allowed = allowed.as_array().unwrap_or(&empty);
        for option in offered {
            assert!(allowed.contains(option), "{variable}: {option}");
        }
        let types = schema["type"].to_string();
        let kind = match question["type"].as_str() {
            Some("boolean") => "boolean",
            Some("int") => "integer",
            _ => "string",
        };
        assert!(types.contains(kind), "{variable}: {types}");
    }
}

#[test]
fn rancher_installs_under_the_name_and_namespace_of_the_guide() {
    let about: Value = serde_saphyr::from_str(&file("Chart.yaml")).expect("YAML");
    let notes = &about["annotations"];
    for key in ["namespace", "release-name"] {
        assert_eq!(notes[format!("catalog.cattle.io/{key}")], about["name"], "{key}");
    }
    assert_eq!(notes["catalog.cattle.io/kube-version"], about["kubeVersion"]);
    assert!(file("app-readme.md").starts_with("# Endpoint Copier Operator\n"));
}
