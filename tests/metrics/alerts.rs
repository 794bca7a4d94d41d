//! The alerts. Prometheus accepts their rules, and each alert has unit tests and a section in the runbook.

use std::path::Path;

use harness::Platform;
use serde_json::Value;

use crate::promtool;
use crate::scrape::{eventful, families, page};

const RULES: &str = "charts/endpoint-copier-operator/files/alerts.yaml";

/// Files with unit tests for promtool, one for each topic.
const TOPICS: [&str; 4] = ["lead", "api", "services", "probes"];

/// The file with tests of all alerts together.
const ALL_ALERTS: &str = "together";

fn unit_tests(name: &str) -> String {
    format!("tests/metrics/alerts/{name}.yaml")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .expect("a file of the repository")
}

pub fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&read(RULES)).expect("YAML");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules");
    rules.clone()
}

pub fn text<'a>(alert: &'a Value, place: &str) -> &'a str {
    let text = alert.pointer(place).and_then(Value::as_str);
    text.unwrap_or_else(|| panic!("no {place} in {alert}"))
}

#[test]
fn prometheus_accepts_the_rules_and_their_unit_tests_pass() {
    let Some(promtool) = promtool::promtool() else {
        return;
    };
    promtool::run(&promtool, &["check", "rules", RULES], "");
    for name in TOPICS.into_iter().chain([ALL_ALERTS]) {
        promtool::run(&promtool, &["test", "rules", &unit_tests(name)], "");
    }
}

#[test]
fn each_alert_has_a_description_and_a_runbook_link() {
    let runbook = read("docs/how-to/runbook.md");
    let tests = TOPICS.map(|name| read(&unit_tests(name))).concat();
    let alerts = alerts();
    assert_eq!(alerts.len(), 18);
    for alert in &alerts {
        let name = text(alert, "/alert");
        assert!(
            ["critical", "warning"].contains(&text(alert, "/labels/severity")),
            "{name}"
        );
        assert!(!text(alert, "/annotations/summary").is_empty(), "{name}");
        assert!(!text(alert, "/annotations/description").is_empty(), "{name}");
        let anchor = format!("/docs/how-to/runbook.md#{}", name.to_lowercase());
        assert!(
            text(alert, "/annotations/runbook_url").ends_with(&anchor),
            "{name}"
        );
        let section = runbook
            .split("\n## ")
            .find_map(|section| section.strip_prefix(&format!("{name}\n")));
        let section = section.unwrap_or_else(|| panic!("no section for {name}"));
        for part in ["Meaning", "Impact", "Diagnosis", "Mitigation"] {
            assert!(section.contains(&format!("**{part}.**")), "{name}: {part}");
        }
        let short = name
            .strip_prefix("EndpointCopier")
            .expect("the EndpointCopier prefix");
        for what in ["fires", "is quiet"] {
            let test = format!("- name: '{short} {what}: ");
            assert!(tests.contains(&test), "there is no {test}");
        }
    }
    let sections = runbook.matches("\n## ").count();
    assert_eq!(sections, alerts.len(), "a section is not about an alert");
}

/// `time() - metric` includes the time since the scrape, which can be a minute.
#[test]
fn no_age_counts_the_time_since_the_scrape() {
    for alert in alerts() {
        assert!(!text(&alert, "/expr").contains("time()"), "{alert}");
    }
}

/// A missing metric would silence an alert, or suppress an exception to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_use_only_metrics_of_a_real_scrape() {
    let (_cluster, leader, _standby) = eventful(Platform::Testbed).await;
    let there = families(&page(&leader).await);
    for alert in alerts() {
        let selectors = text(&alert, "/expr").match_indices('{');
        for (at, _) in selectors {
            let before = &text(&alert, "/expr")[..at];
            let is_part = |sign: char| sign.is_ascii_alphanumeric() || sign == '_';
            let name = &before[before.trim_end_matches(is_part).len()..];
            let family = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(name == "up" || there.contains_key(family), "there is no {name}");
        }
    }
}
