//! The Grafana dashboard: a valid model, with queries that use only metrics and labels of a real scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use harness::Platform;
use serde_json::{Value, json};

use crate::promtool::{promtool, run};
use crate::scrape::{eventful, families, labels, page};

const FILE: &str = "dashboards/endpoint-copier-operator.json";

/// The copy in the chart. Charts cannot read files outside their folder, and packages do not contain symbolic links.
const CHART_COPY: &str = "charts/endpoint-copier-operator/files/dashboard.json";

/// Labels that Prometheus adds to scraped metrics.
const TARGET_LABELS: [&str; 4] = ["cluster", "namespace", "job", "pod"];

/// Variables that Grafana defines.
const BUILT_IN: [&str; 2] = ["__rate_interval", "__range"];

/// PromQL keywords and functions that the queries use.
const WORDS: &str = "and or unless by on offset end sum max min count topk abs rate increase max_over_time timestamp \
                     histogram_quantile le m";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn dashboard() -> Value {
    serde_json::from_str(&text(FILE)).expect("JSON")
}

pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.unwrap_or_else(|| panic!("no list {pointer}"))
}

pub fn word<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let word = value.pointer(pointer).and_then(Value::as_str);
    word.unwrap_or_else(|| panic!("no text {pointer} in {value:#}"))
}

pub fn number(value: &Value, pointer: &str) -> u64 {
    let number = value.pointer(pointer).and_then(Value::as_u64);
    number.unwrap_or_else(|| panic!("no number {pointer} in {value:#}"))
}

/// All panels except rows.
pub fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(dashboard, "/panels")
        .iter()
        .filter(|panel| panel["type"] != "row")
}

/// All queries, each with its panel and its legend.
pub fn queries(dashboard: &Value) -> Vec<(String, String, String)> {
    let of_panels = panels(dashboard).flat_map(|panel| {
        let title = word(panel, "/title");
        list(panel, "/targets").iter().map(move |target| {
            let place = format!("{title} {}", word(target, "/refId"));
            (
                place,
                word(target, "/expr").to_owned(),
                word(target, "/legendFormat").to_owned(),
            )
        })
    });
    let annotations = list(dashboard, "/annotations/list").iter().map(|annotation| {
        let names = word(annotation, "/titleFormat").to_owned();
        (
            word(annotation, "/name").to_owned(),
            word(annotation, "/expr").to_owned(),
            names,
        )
    });
    of_panels.chain(annotations).collect()
}

/// A query as Prometheus gets it when every variable is set to `All`.
pub fn replaced(query: &str, rate_interval: &str) -> String {
    let query = query.replace("$__rate_interval", rate_interval);
    let query = query.replace("$__range", "1h");
    TARGET_LABELS
        .iter()
        .fold(query, |query, name| query.replace(&format!("${name}"), ".*"))
}

/// The name and the matchers of `metric{label="value", …}`. A matcher is a label, an operator and a value.
type Selector = (String, Vec<(String, String, String)>);

/// The selectors of a query, and the query without them.
fn selectors(query: &str) -> (Vec<Selector>, String) {
    let (mut found, mut rest, mut left) = (Vec::new(), String::new(), query);
    while let Some((before, after)) = left.split_once('{') {
        let is_part = |sign: char| sign.is_ascii_alphanumeric() || sign == '_' || sign == ':';
        let kept = before.trim_end_matches(is_part);
        let (inner, after) = after.split_once('}').expect("a closing brace");
        let matchers = inner.split(", ").map(|matcher| {
            let (name, value) = matcher.split_once(['=', '!']).expect("a matcher");
            let (sign, value) = value.split_once('"').expect("a value");
            let sign = matcher[name.len()..].split('"').next().unwrap_or(sign);
            (
                name.to_owned(),
                sign.to_owned(),
                value.trim_end_matches('"').to_owned(),
            )
        });
        found.push((before[kept.len()..].to_owned(), matchers.collect()));
        rest.push_str(kept);
        left = after;
    }
    rest.push_str(left);
    (found, rest)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |sign: char| sign.is_ascii_alphanumeric() || sign == '_';
    text.split(move |sign| !is_part(sign))
        .filter(|word| word.starts_with(|sign: char| sign.is_ascii_alphabetic()))
}

/// The labels in `by (…)`.
fn grouped(rest: &str) -> BTreeSet<&str> {
    let lists = rest.split(" by (").skip(1);
    lists
        .flat_map(|after| words(after.split(')').next().unwrap_or_default()))
        .collect()
}

/// The labels in `{{…}}`.
fn named(legend: &str) -> Vec<&str> {
    let names = legend.split("{{").skip(1);
    names.filter_map(|rest| rest.split("}}").next()).collect()
}

/// After an edit, a run with `BLESS=1` formats the file, and `make docs` updates the copy in the chart.
#[test]
fn the_file_is_formatted_and_the_charts_copy_is_the_same() {
    let formatted = serde_json::to_string_pretty(&dashboard()).expect("JSON") + "\n";
    if std::env::var("BLESS").as_deref() == Ok("1") {
        std::fs::write(path(FILE), &formatted).expect("written");
    }
    assert!(
        text(FILE) == formatted,
        "{FILE} is not formatted: run BLESS=1 cargo nextest run --test metrics dashboard"
    );
    assert!(
        text(CHART_COPY) == formatted,
        "{CHART_COPY} is out of date: run make docs"
    );
}

#[test]
fn the_dashboard_is_a_classic_model_with_a_stable_uid() {
    let dashboard = dashboard();
    assert!(number(&dashboard, "/schemaVersion") >= 39);
    assert_eq!(word(&dashboard, "/uid"), "endpoint-copier-operator");
    assert_eq!(dashboard["id"], Value::Null);
    assert!(!list(&dashboard, "/tags").is_empty());
    let names: Vec<_> = list(&dashboard, "/templating/list")
        .iter()
        .map(|variable| word(variable, "/name"))
        .collect();
    assert_eq!(names, ["datasource", "cluster", "namespace", "job", "pod"]);
    for variable in &list(&dashboard, "/templating/list")[1..] {
        assert_eq!(
            (&variable["multi"], &variable["includeAll"]),
            (&json!(true), &json!(true))
        );
        // This also matches series that lack the label of the variable, such as `cluster`.
        assert_eq!(variable["allValue"], ".*");
        let query = word(variable, "/query/query");
        assert!(
            query.starts_with("label_values(endpoint_copier_build_info"),
            "{query}"
        );
    }
    let rows: Vec<_> = list(&dashboard, "/panels")
        .iter()
        .filter(|panel| panel["type"] == "row")
        .map(|row| word(row, "/title"))
        .collect();
    let expected = [
        "At a glance",
        "Timelines",
        "Copying",
        "Probes",
        "Lease",
        "API and watches",
        "Queue",
        "Process",
    ];
    assert_eq!(rows, expected);
}

#[test]
fn every_panel_has_a_unit_description_and_data_source() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    for panel in list(&dashboard, "/panels") {
        assert!(
            ids.insert(number(panel, "/id")),
            "two panels have one id: {panel:#}"
        );
    }
    let mut titles = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = word(panel, "/title");
        assert!(titles.insert(title), "two panels have the title {title}");
        assert!(!word(panel, "/fieldConfig/defaults/unit").is_empty(), "{title}");
        let description = word(panel, "/description");
        assert!(
            description.len() > 40 && description.ends_with('.'),
            "{title}: {description}"
        );
        let chosen = |at: &Value| at["datasource"] == json!({"type": "prometheus", "uid": "${datasource}"});
        assert!(
            chosen(panel) && list(panel, "/targets").iter().all(chosen),
            "{title}"
        );
    }
}

#[test]
fn panels_do_not_overlap_and_fill_their_rows() {
    let dashboard = dashboard();
    let mut taken = BTreeMap::new();
    for panel in list(&dashboard, "/panels") {
        let title = word(panel, "/title");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| number(panel, &format!("/gridPos/{key}")));
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (y, x))) {
            assert_eq!(taken.insert(cell, title), None, "{title} at {cell:?}");
        }
    }
    let height = taken.keys().map(|(y, _)| y + 1).max().unwrap_or_default();
    assert_eq!(
        u64::try_from(taken.len()).ok(),
        Some(24 * height),
        "a gap in the grid"
    );
}

#[test]
fn every_variable_exists_and_every_query_uses_the_filters() {
    let dashboard = dashboard();
    let defined: Vec<_> = list(&dashboard, "/templating/list")
        .iter()
        .map(|variable| word(variable, "/name"))
        .chain(BUILT_IN)
        .collect();
    let everything = dashboard.to_string();
    for used in everything.split('$').skip(1) {
        let used = used.trim_start_matches('{');
        let end = |sign: char| !sign.is_ascii_alphanumeric() && sign != '_';
        let used = used.split(end).next().unwrap_or_default();
        // `$__all` is the value of the `All` option, not a variable.
        assert!(defined.contains(&used) || used == "__all", "${used}");
    }
    for (place, query, _) in queries(&dashboard) {
        assert!(!query.contains("vector("), "{place}: vector() hides missing data");
        let ranges = query.split('[').skip(1);
        let of_the_panel = ["$__rate_interval]", "$__range] @ end()"];
        for range in ranges {
            assert!(of_the_panel.iter().any(|it| range.starts_with(it)), "{place}");
        }
        for (metric, matchers) in selectors(&query).0 {
            for name in TARGET_LABELS {
                let chosen = (name.to_owned(), "=~".to_owned(), format!("${name}"));
                assert!(matchers.contains(&chosen), "{place}: {metric} without {name}");
            }
        }
    }
}

/// The label `host` names the configured API URL, whichever API server responds. In a Pod, all requests have one host.
#[test]
fn no_query_groups_by_host_as_if_it_named_an_api_server() {
    for (place, query, _) in queries(&dashboard()) {
        assert!(!grouped(&selectors(&query).1).contains("host"), "{place}");
    }
}

/// The queries are passed as recording rules, because promtool does not accept plain queries.
#[test]
fn promtool_reads_every_query() {
    let Some(promtool) = promtool() else { return };
    let queries = queries(&dashboard());
    let expressions = queries.iter().map(|(_, query, _)| replaced(query, "1m"));
    let rules: Vec<_> = expressions
        .enumerate()
        .map(|(number, query)| json!({"record": format!("panel:{number}"), "expr": query}))
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.yaml");
    let groups = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    std::fs::write(&file, groups.to_string()).expect("written");
    let output = run(&promtool, &["check", "rules", &file.display().to_string()], "");
    assert!(
        output.contains(&format!("{} rules found", queries.len())),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_use_only_metrics_and_labels_of_a_real_scrape() {
    let (_cluster, leader, standby) = eventful(Platform::Testbed).await;
    let pages = page(&leader).await + &page(&standby).await;
    let families = families(&page(&leader).await);
    let series: Vec<_> = pages.lines().filter(|line| !line.starts_with('#')).collect();
    for (place, query, legend) in queries(&dashboard()) {
        let (selectors, rest) = selectors(&query);
        assert!(!selectors.is_empty(), "{place}");
        let mut known: BTreeSet<&str> = TARGET_LABELS.into();
        for (metric, matchers) in &selectors {
            // This is a metric of Prometheus itself.
            if metric == "up" {
                continue;
            }
            let family = metric.strip_suffix("_bucket").unwrap_or(metric);
            let there = families
                .get(family)
                .unwrap_or_else(|| panic!("{place}: there is no {metric}"));
            assert!(
                !metric.ends_with("_bucket") || there.kind == "histogram",
                "{place}: {metric}"
            );
            let is_counter = there.kind == "counter" || there.kind == "histogram";
            let has_rate = query.contains(&format!("rate({metric}{{"))
                || query.contains(&format!("increase({metric}{{"));
            assert_eq!(
                is_counter, has_rate,
                "{place}: a counter without a rate, or a rate of another metric"
            );
            known.extend(there.labels.iter().map(String::as_str));
            known.extend((there.kind == "histogram").then_some("le"));
            for (label, sign, value) in matchers
                .iter()
                .filter(|(label, ..)| !TARGET_LABELS.contains(&label.as_str()))
            {
                assert!(there.labels.contains(label), "{place}: {metric} has no {label}");
                let pair = (label.clone(), value.clone());
                let is_there = series
                    .iter()
                    .any(|line| line.starts_with(metric.as_str()) && labels(line).contains(&pair));
                assert!(
                    sign != "=" || is_there,
                    "{place}: {metric} never has {label}={value}"
                );
            }
        }
        for label in grouped(&rest).into_iter().chain(named(&legend)) {
            assert!(
                known.contains(label),
                "{place}: no metric of the query has {label}"
            );
        }
        let unknown: Vec<_> = words(&rest)
            .filter(|word| !WORDS.split(' ').any(|one| one == *word) && !known.contains(word))
            .collect();
        assert!(unknown.is_empty(), "{place}: {unknown:?}");
    }
}

#[test]
fn selectors_and_labels_are_read_from_queries() {
    let (found, rest) = selectors("sum by (code) (rate(requests{pod=~\"$pod\", code!~\"2..\"}[5m])) > 0");
    let one = |name: &str, sign: &str, value: &str| (name.to_owned(), sign.to_owned(), value.to_owned());
    let matchers = vec![one("pod", "=~", "$pod"), one("code", "!~", "2..")];
    assert_eq!(found, [("requests".to_owned(), matchers)]);
    assert_eq!(rest, "sum by (code) (rate([5m])) > 0");
    assert_eq!(grouped(&rest), BTreeSet::from(["code"]));
    assert_eq!(named("{{code}} {{pod}}"), ["code", "pod"]);
}
