//! Native histograms. With `convert_classic_histograms_to_nhcb`, Prometheus stores all histograms as native ones.
//! Native histograms have no buckets with the label `le`, so the query for each quantile needs a second form.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::alerts::{alerts, text};
use crate::dashboard::{dashboard, queries, replaced};
use crate::promtool::{promtool, run};

/// Ten observations per scrape: five of at most 1 s, and five of more than 1 s and at most 2 s.
const CLASSIC: [(&str, &str); 3] = [("1", "0+5x60"), ("2", "0+10x60"), ("+Inf", "0+10x60")];
/// The same observations as a native histogram.
const NATIVE: &str = "{{schema:-53 sum:0 count:0 custom_values:[1 2] buckets:[0 0 0]}}\
                      +{{schema:-53 sum:9 count:10 custom_values:[1 2] buckets:[5 5 0]}}x60";

/// The labels that the queries of the dashboard group by.
const TARGET: &str = "job=\"endpoint-copier-operator\", namespace=\"copier\", pod=\"a\"";

/// All queries and alerts that use a histogram, each with its name.
fn of_histograms() -> Vec<(String, String)> {
    let panels = queries(&dashboard());
    let panels = panels.into_iter().map(|(place, query, _)| (place, query));
    let alerts = alerts();
    let alerts = alerts.iter().map(|alert| {
        let expr = text(alert, "/expr").split_whitespace();
        let expr = expr.collect::<Vec<_>>().join(" ");
        (text(alert, "/alert").to_owned(), expr)
    });
    panels
        .chain(alerts)
        .filter(|(_, query)| query.contains("_bucket{"))
        .collect()
}

/// Whether this promtool supports histograms with custom buckets, as version 3 and later do. If not, prints that the
/// test is skipped.
fn knows_custom_buckets(promtool: &Path) -> bool {
    let output = Command::new(promtool).arg("--version").output();
    let printed = output.expect("promtool starts").stdout;
    let printed = String::from_utf8_lossy(&printed);
    let version = printed.split("version ").nth(1).unwrap_or_default();
    let major = version.split('.').next().unwrap_or_default();
    let knows = major.parse::<u32>().is_ok_and(|major| major >= 3);
    if !knows {
        println!("skipped: native histograms need promtool 3, this is {version}");
    }
    knows
}

#[test]
fn every_quantile_also_has_a_form_for_native_histograms() {
    let of_histograms = of_histograms();
    assert_eq!(of_histograms.len(), 12, "expected 10 panel queries and 2 alerts");
    for (place, query) in of_histograms {
        let quantiles = query.split("histogram_quantile(").skip(1);
        let classic: Vec<_> = quantiles.filter(|part| part.contains("_bucket{")).collect();
        for part in classic {
            let part = part.split(")))").next().unwrap_or_default();
            let native = part.replace("_bucket{", "{").replace(", le)", ")");
            let native = native.replace(" by (le)", "");
            let native = format!("or histogram_quantile({native})))");
            assert!(query.contains(&native), "{place} lacks: {native}");
        }
    }
}

/// Unit tests for each panel query about a quantile. They store its histogram in the native or in the classic form.
fn unit_tests(is_native: bool) -> serde_json::Value {
    let tests = of_histograms()
        .into_iter()
        .filter(|(_, query)| query.starts_with("histogram"));
    let tests = tests.map(|(_, query)| {
        let (metric, _) = query.split_once("_bucket{").expect("a query for buckets");
        let metric = metric.rsplit('(').next().expect("the name of the histogram");
        let series: Vec<_> = if is_native {
            vec![json!({"series": format!("{metric}{{{TARGET}}}"), "values": NATIVE})]
        } else {
            let bucket = |(le, values)| json!({"series": format!("{metric}_bucket{{{TARGET}, le=\"{le}\"}}"), "values": values});
            CLASSIC.map(bucket).into()
        };
        // The median is the bound of 1 s, and the 99th percentile is 1.98 s.
        let value = if query.contains("(0.5, ") { 1.0 } else { 1.98 };
        let asked = format!("round(max({}), 0.001)", replaced(&query, "5m"));
        let asked = json!({"expr": asked, "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": value}]});
        json!({"interval": "15s", "input_series": series, "promql_expr_test": [asked]})
    });
    let tests: Vec<_> = tests.collect();
    assert_eq!(tests.len(), 10);
    json!({"rule_files": [], "tests": tests})
}

/// Checks that unit tests pass.
fn check(promtool: &Path, tests: &serde_json::Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tests.yaml");
    std::fs::write(&file, tests.to_string()).expect("written");
    run(promtool, &["test", "rules", &file.display().to_string()], "");
}

#[test]
fn panels_show_quantiles_of_classic_and_native_histograms() {
    let Some(promtool) = promtool() else { return };
    check(&promtool, &unit_tests(false));
    if knows_custom_buckets(&promtool) {
        check(&promtool, &unit_tests(true));
    }
}

#[test]
fn alerts_fire_for_native_histograms() {
    let Some(promtool) = promtool() else { return };
    if knows_custom_buckets(&promtool) {
        run(
            &promtool,
            &["test", "rules", "tests/metrics/alerts/native.yaml"],
            "",
        );
    }
}
