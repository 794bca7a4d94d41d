//! What documents say of the values, held against the values: the README's tables, the schema, Chart.yaml.
//!
//! The comments in values.yaml are the one text; `BLESS=1` writes it into the tables and the schema.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::helm::{chart, file, helm};

/// One value or section of values.yaml.
#[derive(Debug)]
struct Entry {
    /// As in `--set`.
    path: String,
    /// The comment above it; empty: none.
    comment: String,
    /// The heading that it stands below.
    heading: String,
}

/// All keys of values.yaml that have a comment, or stand in a section that has none.
fn entries() -> Vec<Entry> {
    let (mut entries, mut comment, mut heading) = (Vec::new(), Vec::new(), String::new());
    let mut above: Vec<(usize, String)> = Vec::new();
    for line in file("values.yaml").lines() {
        let indent = line.len() - line.trim_start().len();
        let text = line.trim_start();
        if let Some(title) = text.strip_prefix("## ") {
            title.clone_into(&mut heading);
            comment.clear();
        } else if let Some(words) = text.strip_prefix('#') {
            comment.push(words.trim().to_owned());
        } else if let Some((key, _)) = text.split_once(':').filter(|(key, _)| is_key(key)) {
            above.retain(|(depth, _)| *depth < indent);
            above.push((indent, key.to_owned()));
            let path: Vec<_> = above.iter().map(|(_, key)| key.as_str()).collect();
            entries.push(Entry {
                path: path.join("."),
                comment: std::mem::take(&mut comment).join(" "),
                heading: heading.clone(),
            });
        } else {
            comment.clear();
        }
    }
    entries
}

fn is_key(word: &str) -> bool {
    word.starts_with(|sign: char| sign.is_ascii_lowercase())
        && word.chars().all(|sign| sign.is_ascii_alphanumeric())
}

fn values() -> Value {
    serde_saphyr::from_str(&file("values.yaml")).expect("values")
}

fn at<'a>(values: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(values, |value, key| &value[key])
}

/// Those that have a row: with a comment, and nothing below them has one.
fn documented() -> Vec<Entry> {
    let all = entries();
    let begins = |path: &str, section: &str| {
        path.strip_prefix(section)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    let has_below: Vec<_> = all
        .iter()
        .map(|entry| {
            all.iter()
                .any(|other| !other.comment.is_empty() && begins(&other.path, &entry.path))
        })
        .collect();
    let with_rows = all
        .into_iter()
        .zip(has_below)
        .filter(|(entry, below)| !below && !entry.comment.is_empty());
    with_rows.map(|(entry, _)| entry).collect()
}

fn tables() -> String {
    let values = values();
    let mut lines = Vec::new();
    let mut heading = String::new();
    for entry in documented() {
        if entry.heading != heading {
            heading.clone_from(&entry.heading);
            lines.push(format!("\n### {heading}\n\n| value | default | |\n|---|---|---|"));
        }
        let default = at(&values, &entry.path).to_string().replace('|', "\\|");
        let comment = entry.comment.replace('|', "\\|");
        lines.push(format!("| `{}` | `{default}` | {comment} |", entry.path));
    }
    lines.join("\n") + "\n"
}

/// The text between the two marks of the README.
fn split_readme() -> [String; 3] {
    const BEGIN: &str = "<!-- values: begin -->\n";
    const END: &str = "\n<!-- values: end -->";
    let readme = file("README.md");
    let (before, rest) = readme.split_once(BEGIN).expect("the mark of the beginning");
    let (tables, after) = rest.split_once(END).expect("the mark of the end");
    [
        format!("{before}{BEGIN}"),
        tables.to_owned(),
        format!("{END}{after}"),
    ]
}

fn blessed() -> bool {
    std::env::var("BLESS").as_deref() == Ok("1")
}

#[test]
fn the_tables_of_the_readme_are_those_of_the_values() {
    let [before, tables_there, after] = split_readme();
    let tables = tables();
    if blessed() {
        std::fs::write(chart().join("README.md"), format!("{before}{tables}{after}")).expect("written");
    } else {
        assert_eq!(tables_there, tables, "BLESS=1 make test-chart writes them");
    }
}

#[test]
fn every_value_is_documented() {
    let values = values();
    let documented: Vec<_> = documented().into_iter().map(|entry| entry.path).collect();
    let mut leaves = Vec::new();
    leaves_of("", &values, &mut leaves);
    assert!(leaves.len() > 90, "{}", leaves.len());
    for leaf in leaves {
        let is_covered = documented
            .iter()
            .any(|path| leaf == *path || leaf.starts_with(&format!("{path}.")));
        assert!(is_covered, "{leaf} has no comment");
    }
    for path in documented {
        assert!(
            path.split('.')
                .try_fold(&values, |value, key| value.get(key))
                .is_some(),
            "{path}"
        );
    }
}

fn leaves_of(path: &str, value: &Value, leaves: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                leaves_of(&path, value, leaves);
            }
        }
        _ => leaves.push(path.to_owned()),
    }
}

/// Each property of our own sections in the schema, with its description.
fn described() -> BTreeMap<String, String> {
    let schema: Value = serde_json::from_str(&file("values.schema.json")).expect("JSON");
    let mut found = BTreeMap::new();
    describe("", &schema, &mut found);
    found
}

fn describe(path: &str, schema: &Value, found: &mut BTreeMap<String, String>) {
    if !path.is_empty() {
        let text = schema["description"].as_str().unwrap_or_default();
        found.insert(path.to_owned(), text.to_owned());
    }
    for (key, below) in schema["properties"].as_object().unwrap_or(&Map::new()) {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        describe(&path, below, found);
    }
}

/// Known to the schema and to nobody else: a parent's condition, and what Kubernetes defines.
const OF_THE_SCHEMA: [&str; 10] = [
    "enabled",
    "affinity.nodeAffinity",
    "affinity.podAffinity",
    "affinity.podAntiAffinity",
    "resources.claims",
    "updateStrategy.type",
    "updateStrategy.rollingUpdate",
    "updateStrategy.rollingUpdate.maxSurge",
    "updateStrategy.rollingUpdate.maxUnavailable",
    "resources",
];

#[test]
fn the_schema_knows_every_value_and_says_of_it_what_its_comment_says() {
    let mut described = described();
    for entry in entries() {
        // What Kubernetes defines is the schema's of Kubernetes.
        let is_free = ["podSecurityContext.", "securityContext.", "resources."];
        if is_free.iter().any(|section| entry.path.starts_with(section)) {
            continue;
        }
        let text = described.remove(&entry.path);
        assert_eq!(
            text.as_ref(),
            Some(&entry.comment),
            "{} in values.schema.json",
            entry.path
        );
    }
    described.retain(|path, _| !OF_THE_SCHEMA.contains(&path.as_str()) && !path.starts_with("resources."));
    assert!(described.is_empty(), "not in values.yaml: {described:?}");
}

#[test]
fn the_schema_refuses_unknown_keys_in_every_section_of_ours() {
    fn check(path: &str, schema: &Value) {
        let Some(properties) = schema["properties"].as_object() else {
            return;
        };
        // Values of a parent chart are nobody's to judge.
        assert!(
            schema["additionalProperties"] == false || path == ".global",
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
fn the_chart_is_of_this_version_and_shows_what_is_there() {
    let Some(helm) = helm() else { return };
    let about: Value = serde_saphyr::from_str(&file("Chart.yaml")).expect("YAML");
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"));
    let image = crate::helm::container(&helm.render(&[]))["image"].clone();
    let images = about["annotations"]["artifacthub.io/images"]
        .as_str()
        .expect("images");
    assert!(images.contains(image.as_str().expect("a text")), "{images}");
    for list in ["images", "links", "changes"] {
        let text = about["annotations"][format!("artifacthub.io/{list}")]
            .as_str()
            .expect("a text");
        let items: Vec<Value> = serde_saphyr::from_str(text).expect("a list");
        assert!(!items.is_empty(), "{list}");
    }
    let icon = about["icon"].as_str().expect("an icon");
    let (_, icon) = icon
        .split_once("/charts/endpoint-copier-operator/")
        .expect("a file of the chart");
    assert!(file(icon).starts_with("<svg "));
}

/// The README is read far from its repository: by `helm show readme`, on Artifact Hub.
#[test]
fn links_of_the_charts_readme_are_whole_and_lead_to_files_of_the_repository() {
    let about: Value = serde_saphyr::from_str(&file("Chart.yaml")).expect("YAML");
    let home = about["home"].as_str().expect("a home");
    let readme = file("README.md");
    assert!(!readme.contains("]("), "links stand at the end, by name");
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
        let path = link.strip_prefix(home).expect("an address below home");
        let path = path.replace("/blob/main/", "").replace("/tree/main/", "");
        let path = path.split('#').next().unwrap_or_default();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(root.join(path).exists(), "{link}");
    }
}

#[test]
fn the_marks_and_comments_are_read() {
    let documented = documented();
    let find = |path: &str| documented.iter().find(|entry| entry.path == path);
    assert!(find("image").is_none() && find("podDisruptionBudget").is_none());
    assert_eq!(
        find("metrics.service.port").expect("a row").comment,
        "Port of the Service."
    );
    assert_eq!(find("resources").expect("a row").heading, "Pods");
    assert!(find("resources.limits").is_none());
}

/// Those of the manifest are those of the command: tests/documents holds them together.
#[test]
fn the_values_of_the_guide_keep_replicas_apart_and_open_no_node_port() {
    let Some(helm) = helm() else { return };
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/tutorials/api-vip-rke2-k3s-metallb.md"
    );
    let guide = std::fs::read_to_string(path).expect("the guide");
    let (_, rest) = guide
        .split_once("  chart: endpoint-copier-operator\n")
        .expect("the manifest");
    let (_, rest) = rest.split_once("valuesContent: |-\n").expect("its values");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, rest.split("\n```").next().expect("an end")).expect("written");
    let rendered = helm.render(&["--values", &file.display().to_string()]);
    let pods = &crate::helm::find(&rendered, "Deployment", "")["spec"]["template"]["spec"];
    let apart = &pods["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(apart[0]["topologyKey"], "kubernetes.io/hostname");
    let vip = &crate::helm::find(&rendered, "Service", "kubernetes-vip")["spec"];
    assert_eq!(vip["allocateLoadBalancerNodePorts"], false);
}

/// What follows `--set`, each value by its path, in a text.
fn set_in(text: &str) -> Vec<String> {
    let after = text.split("--set ").skip(1);
    let words = after.filter_map(|rest| rest.split([' ', '\n', '`', '\'', ')', ';']).next());
    let pairs = words.flat_map(|word| word.split(',').map(str::to_owned).collect::<Vec<_>>());
    let paths = pairs.filter_map(|pair| pair.split_once('=').map(|(path, _)| path.to_owned()));
    paths.collect()
}

#[test]
fn values_that_documents_tell_of_are_there() {
    let root = env!("CARGO_MANIFEST_DIR");
    let values = values();
    let mut count = 0;
    for document in [
        "README.md",
        "docs/how-to/air-gapped.md",
        "docs/how-to/install.md",
        "docs/how-to/monitor.md",
        "docs/how-to/upgrade-from-go.md",
        "charts/endpoint-copier-operator/README.md",
        "charts/endpoint-copier-operator/templates/NOTES.txt",
    ] {
        let text = std::fs::read_to_string(format!("{root}/{document}")).expect("a document");
        for path in set_in(&text) {
            count += 1;
            // Into an empty map goes what the user likes, such as labels.
            let is_free = |value: &Value| value.as_object().is_some_and(Map::is_empty);
            let is_there = path
                .split('.')
                .try_fold(&values, |value, key| {
                    value.get(key).or(is_free(value).then_some(value))
                })
                .is_some();
            assert!(is_there || path == "resources.limits.cpu", "{document}: {path}");
        }
    }
    assert!(count >= 8, "{count}");
}
