//! The documents about the chart: its schema, Chart.yaml, README and other pages. The tables of values are in
//! tests/reference.

use serde_json::{Map, Value};

use crate::helm::{file, helm};

fn values() -> Value {
    serde_saphyr::from_str(&file("values.yaml")).expect("values")
}

/// Rule: chart.refused
#[test]
fn the_schema_refuses_unknown_keys_in_all_sections_but_global() {
    fn check(path: &str, schema: &Value) {
        let Some(properties) = schema["properties"].as_object() else {
            return;
        };
        // `global` also has values of a parent chart, which this schema does not know.
        assert!(
            schema["additionalProperties"] == false || path.starts_with(".global"),
            "{path}"
        );
        for (key, below) in properties {
            check(&format!("{path}.{key}"), below);
        }
    }
    check(
        "",
        &serde_json::from_str(&file("values.schema.json")).expect("JSON"),
    );
}

#[test]
fn chart_yaml_has_this_version_and_lists_the_image() {
    let Some(helm) = helm() else { return };
    let about: Value = serde_saphyr::from_str(&file("Chart.yaml")).expect("YAML");
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"));
    let image = crate::helm::container(&helm.render(&[]))["image"].clone();
    let images = about["annotations"]["artifacthub.io/images"]
        .as_str()
        .expect("images");
    assert!(images.contains(image.as_str().expect("a string")), "{images}");
    for list in ["images", "links", "changes", "screenshots", "recommendations"] {
        let text = about["annotations"][format!("artifacthub.io/{list}")]
            .as_str()
            .expect("a string");
        let items: Vec<Value> = serde_saphyr::from_str(text).expect("a list");
        assert!(!items.is_empty(), "{list}");
    }
    let icon = about["icon"].as_str().expect("an icon");
    let (_, icon) = icon
        .split_once("/charts/endpoint-copier-operator/")
        .expect("a file of the chart");
    assert!(file(icon).starts_with("<svg "));
}

/// Users read this README outside the repository: in `helm show readme` and on Artifact Hub.
#[test]
fn chart_readme_links_lead_to_repository_files() {
    let about: Value = serde_saphyr::from_str(&file("Chart.yaml")).expect("YAML");
    let home = about["home"].as_str().expect("a home URL");
    let readme = file("README.md");
    assert!(
        !readme.contains("]("),
        "an inline link: use a reference whose target is at the end of the README"
    );
    let links: Vec<_> = readme
        .lines()
        .filter(|line| line.starts_with('['))
        .filter_map(|line| line.split_once("]: "))
        .collect();
    assert!(links.len() > 3, "{links:?}");
    for (name, link) in links {
        assert!(
            readme.matches(&format!("]{name}]")).count() > 0,
            "{name}] is not used"
        );
        let path = link.strip_prefix(home).expect("a URL below the home URL");
        let path = path.replace("/blob/main/", "").replace("/tree/main/", "");
        let path = path.split('#').next().unwrap_or_default();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(root.join(path).exists(), "{link}");
    }
}

/// A test in tests/documents checks that the guide's command sets the same values as its manifest.
#[test]
fn values_of_the_guide_spread_replicas_and_need_no_node_port() {
    let Some(helm) = helm() else { return };
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/tutorials/api-vip-rke2-k3s-metallb.md"
    );
    let guide = std::fs::read_to_string(path).expect("the guide");
    let (_, rest) = guide
        .split_once("  chart: endpoint-copier-operator\n")
        .expect("the manifest");
    let (_, rest) = rest
        .split_once("valuesContent: |-\n")
        .expect("the values of the manifest");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("values.yaml");
    std::fs::write(
        &file,
        rest.split("\n```")
            .next()
            .expect("text before the end of the block"),
    )
    .expect("written");
    let rendered = helm.render(&["--values", &file.display().to_string()]);
    let pods = &crate::helm::find(&rendered, "Deployment", "")["spec"]["template"]["spec"];
    let apart = &pods["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(apart[0]["topologyKey"], "kubernetes.io/hostname");
    let vip = &crate::helm::find(&rendered, "Service", "kubernetes-vip")["spec"];
    assert_eq!(vip["allocateLoadBalancerNodePorts"], false);
}

/// The paths of the values after `--set` in a text.
fn set_in(text: &str) -> Vec<String> {
    let after = text.split("--set ").skip(1);
    let words = after.filter_map(|rest| rest.split([' ', '\n', '`', '\'', ')', ';']).next());
    let pairs = words.flat_map(|word| word.split(',').map(str::to_owned).collect::<Vec<_>>());
    let paths = pairs.filter_map(|pair| pair.split_once('=').map(|(path, _)| path.to_owned()));
    paths.collect()
}

/// Rule: chart.documented
#[test]
fn values_named_in_documents_exist() {
    let root = env!("CARGO_MANIFEST_DIR");
    let values = values();
    let mut count = 0;
    for document in [
        "README.md",
        "docs/how-to/air-gapped.md",
        "docs/how-to/install.md",
        "docs/how-to/kube-vip.md",
        "docs/how-to/kubeadm.md",
        "docs/how-to/suse-edge.md",
        "docs/how-to/monitor.md",
        "docs/how-to/upgrade-from-go.md",
        "charts/endpoint-copier-operator/README.md",
        "charts/endpoint-copier-operator/templates/NOTES.txt",
    ] {
        let text = std::fs::read_to_string(format!("{root}/{document}")).expect("a document");
        for path in set_in(&text) {
            count += 1;
            // An empty map accepts any key, such as labels.
            let accepts_any_key = |value: &Value| value.as_object().is_some_and(Map::is_empty);
            let is_known = path
                .split('.')
                .try_fold(&values, |value, key| {
                    value.get(key).or(accepts_any_key(value).then_some(value))
                })
                .is_some();
            assert!(is_known || path == "resources.limits.cpu", "{document}: {path}");
        }
    }
    assert!(count >= 8, "{count}");
}
