//! Writes docs/reference/values.md, and the tables in the chart's README, from the comments in values.yaml and from the
//! schema.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::generated::{check, read};
use crate::table::{code, generated_from, table};

const CHART: &str = "charts/endpoint-copier-operator";
const BEGIN: &str = "<!-- values: begin -->\n";
const END: &str = "\n<!-- values: end -->";

/// One value or section of values.yaml.
#[derive(Debug)]
struct Entry {
    /// The path, as in `--set`.
    path: String,
    /// The comment above the key; empty if there is none.
    comment: String,
    /// The last heading above the key.
    heading: String,
}

/// Every key of values.yaml, with the comment and the heading above it.
fn entries() -> Vec<Entry> {
    let (mut entries, mut comment, mut heading) = (Vec::new(), Vec::new(), String::new());
    let mut above: Vec<(usize, String)> = Vec::new();
    for line in read(&format!("{CHART}/values.yaml")).lines() {
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

/// The comment at the top of values.yaml, without its first paragraph, which describes the file.
fn introduction() -> String {
    let text = read(&format!("{CHART}/values.yaml"));
    let comment = text.lines().map_while(|line| line.strip_prefix('#'));
    let comment: Vec<_> = comment
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let paragraphs = comment.split(|line| line.is_empty()).skip(1);
    paragraphs
        .map(|lines| lines.join("\n") + "\n")
        .collect::<Vec<_>>()
        .join("\n")
}

fn values() -> Value {
    serde_saphyr::from_str(&read(&format!("{CHART}/values.yaml"))).expect("values")
}

fn schema() -> Value {
    serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).expect("JSON")
}

/// The entries that have a row. An entry has a row if it has a comment and no entry nested in it has a comment.
fn documented() -> Vec<Entry> {
    let all = entries();
    let begins = |path: &str, section: &str| {
        path.strip_prefix(section)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    let has_commented_child: Vec<_> = all
        .iter()
        .map(|entry| {
            all.iter()
                .any(|other| !other.comment.is_empty() && begins(&other.path, &entry.path))
        })
        .collect();
    let with_rows = all
        .into_iter()
        .zip(has_commented_child)
        .filter(|(entry, below)| !below && !entry.comment.is_empty());
    with_rows.map(|(entry, _)| entry).collect()
}

/// The values that a schema allows, except null, which the schema of the chart allows for every value.
fn allowed(schema: &Value) -> String {
    let texts = |list: &Value| {
        let items = list.as_array().cloned().unwrap_or_default();
        let items = items.into_iter().filter(|item| !item.is_null() && item != "null");
        items
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let named = texts(&schema["enum"]);
    if !named.is_empty() {
        let words = named.iter().map(|name| match name.as_str() {
            "" => "empty".to_owned(),
            name => code(name),
        });
        return words.collect::<Vec<_>>().join(", ");
    }
    let mut types = texts(&schema["type"]);
    types.extend(
        schema["type"]
            .as_str()
            .filter(|name| *name != "null")
            .map(str::to_owned),
    );
    let several = schema["anyOf"].as_array().into_iter().flatten().map(allowed);
    types.extend(several.filter(|types| !types.is_empty()));
    types.dedup();
    let limits = [("minimum", "at least"), ("maximum", "at most")];
    let limits = limits
        .into_iter()
        .filter_map(|(key, words)| schema[key].as_i64().map(|limit| format!("{words} {limit}")));
    let limits: Vec<_> = limits.collect();
    [types.join(" or "), limits.join(", ")]
        .join(" ")
        .trim_end()
        .to_owned()
}

/// A table below each heading. `level` is the Markdown prefix of the headings.
fn tables(level: &str) -> String {
    let (values, schema) = (values(), schema());
    let mut text = String::new();
    let documented = documented();
    for chunk in documented.chunk_by(|one, other| one.heading == other.heading) {
        let rows = chunk.iter().map(|entry| {
            let keys = || entry.path.split('.');
            let default = keys().fold(&values, |value, key| &value[key]);
            let allowed = allowed(keys().fold(&schema, |schema, key| &schema["properties"][key]));
            [
                code(&entry.path),
                allowed,
                code(&default.to_string()),
                entry.comment.clone(),
            ]
        });
        text.extend(["\n", level, " ", &chunk[0].heading, "\n\n"]);
        text.push_str(&table(["value", "type", "default", "meaning"], rows));
    }
    text
}

#[test]
fn the_values_page_is_up_to_date() {
    let source = format!("`{CHART}/values.yaml` and its schema");
    let text = format!(
        "{}# Values of the Helm chart\n\n{}{}",
        generated_from(&source),
        introduction(),
        tables("##")
    );
    check("docs/reference/values.md", &text);
}

/// Rule: chart.documented
#[test]
fn chart_readme_tables_are_up_to_date() {
    let name = format!("{CHART}/README.md");
    let readme = read(&name);
    let (before, rest) = readme.split_once(BEGIN).expect("the begin marker");
    let (_, after) = rest.split_once(END).expect("the end marker");
    check(&name, &format!("{before}{BEGIN}{}{END}{after}", tables("###")));
}

/// Rule: chart.documented
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

/// Each property in the schema, by its path, with its description.
fn described() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    describe("", &schema(), &mut found);
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

/// Properties that only the schema has: the condition of a parent chart, and objects that Kubernetes defines.
const ONLY_IN_SCHEMA: [&str; 10] = [
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

/// Rule: chart.documented
#[test]
fn schema_descriptions_match_the_comments() {
    let mut described = described();
    for entry in entries() {
        // Kubernetes has its own schema for objects that it defines.
        let kubernetes_sections = ["podSecurityContext.", "securityContext.", "resources."];
        if kubernetes_sections
            .iter()
            .any(|section| entry.path.starts_with(section))
        {
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
    described.retain(|path, _| !ONLY_IN_SCHEMA.contains(&path.as_str()) && !path.starts_with("resources."));
    assert!(described.is_empty(), "not in values.yaml: {described:?}");
}

#[test]
fn headings_and_comments_are_read() {
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
