//! Panels as Grafana draws them: a tile without data is green only if the absence of data is good, an increase is drawn
//! once, and an age excludes the time since the scrape.

use serde_json::{Value, json};

use crate::dashboard::{dashboard, list, panels, queries, replaced, word};
use crate::promtool::{promtool, run};

/// Whether a panel shows current values, with colors.
fn is_tile(panel: &Value) -> bool {
    panel["type"] == "stat" || panel["type"] == "bargauge"
}

/// Grafana draws a tile without a series in the base color of its steps, and with `noValue` if the tile shows values.
#[test]
fn tile_without_data_is_green_only_if_no_data_is_good() {
    let dashboard = dashboard();
    let tiles: Vec<_> = panels(&dashboard).filter(|panel| is_tile(panel)).collect();
    assert!(tiles.len() >= 9, "{} tiles", tiles.len());
    for panel in tiles {
        let title = word(panel, "/title");
        assert!(
            !word(panel, "/fieldConfig/defaults/noValue").is_empty(),
            "{title}"
        );
        assert_ne!(
            panel["options"]["textMode"], "name",
            "{title}: noValue is not drawn"
        );
        let of_overrides = list(panel, "/fieldConfig/overrides")
            .iter()
            .flat_map(|it| list(it, "/properties"))
            .filter(|property| property["id"] == "thresholds")
            .map(|property| &property["value"]);
        // A query for values above 0 returns nothing when all is well.
        let mut targets = list(panel, "/targets").iter();
        let nothing_is_good = targets.all(|target| word(target, "/expr").ends_with("> 0"));
        for thresholds in of_overrides.chain([&panel["fieldConfig"]["defaults"]["thresholds"]]) {
            let base = &list(thresholds, "/steps")[0];
            assert_eq!(base["value"], Value::Null, "{title}");
            assert_eq!(base["color"] == "green", nothing_is_good, "{title}");
        }
    }
}

/// If two points are at least four scrape intervals apart, `$__rate_interval` is their distance plus one scrape
/// interval. With that interval, each increase is in the range of only one point.
#[test]
fn an_increase_is_drawn_once() {
    let dashboard = dashboard();
    let counted = |panel: &&Value| {
        let mut targets = list(panel, "/targets").iter();
        targets.any(|target| word(target, "/expr").contains("increase("))
    };
    let counted: Vec<_> = panels(&dashboard).filter(counted).collect();
    assert_eq!(counted.len(), 5);
    for panel in counted {
        // Four scrape intervals of 15 s, the default that Grafana assumes.
        assert_eq!(panel["interval"], "1m", "{}", word(panel, "/title"));
    }
}

/// In the series of this test, each timestamp is 1 s before its scrape, and scrapes are 15 s apart. Therefore the age
/// is always 1 s.
#[test]
fn an_age_in_a_panel_excludes_the_time_since_the_scrape() {
    let Some(promtool) = promtool() else { return };
    let dashboard = dashboard();
    let queries = queries(&dashboard);
    for (place, query, _) in &queries {
        assert!(!query.contains("time()"), "{place}");
    }
    let ages: Vec<_> = queries
        .iter()
        .filter(|(_, query, _)| query.contains("timestamp("))
        .collect();
    assert!(ages.len() >= 4, "{ages:?}");
    let target = "job=\"endpoint-copier-operator\", namespace=\"copier\", pod=\"a\", resource=\"lease\"";
    let metrics = [
        "endpoint_copier_lease_seen_renewed_timestamp_seconds",
        "endpoint_copier_watch_last_event_timestamp_seconds",
        "process_start_time_seconds",
    ];
    let series: Vec<_> = metrics
        .map(|metric| json!({"series": format!("{metric}{{{target}}}"), "values": "-1+15x40"}))
        .into();
    let asked = |moment: &'static str| {
        let ask = move |query: &str| {
            let expr = format!("max({})", replaced(query, "1m"));
            json!({"expr": expr, "eval_time": moment, "exp_samples": [{"labels": "{}", "value": 1}]})
        };
        ages.iter().map(move |(_, query, _)| ask(query))
    };
    let asked: Vec<_> = asked("5m").chain(asked("5m14s")).collect();
    let tests = json!({
        "rule_files": [],
        "tests": [{"interval": "15s", "input_series": series, "promql_expr_test": asked}],
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ages.yaml");
    std::fs::write(&file, tests.to_string()).expect("written");
    run(&promtool, &["test", "rules", &file.display().to_string()], "");
}
