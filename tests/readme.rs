//! Checks that the metrics, make targets and commands in the README and in some guides exist.

use std::path::Path;

use endpoint_copier_core::model::{MANAGED_BY_US, ServiceKey, SourceAndCopies, label};
use endpoint_copier_operator::telemetry::metrics::Metrics;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of the table rows below a heading, without backticks.
fn rows(readme: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, section) = readme
        .split_once(&format!("\n## {heading}\n"))
        .expect("the heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split(" | ").map(|cell| cell.replace('`', "")).collect())
        .collect()
}

#[test]
fn named_metrics_exist() {
    let metrics = Metrics::new("lease").expect("metrics");
    // These series appear only with their first label values.
    metrics.api_request(&http::Method::GET, None, "host");
    let service = ServiceKey::new("default", "vip");
    metrics
        .services()
        .ended(&service, Some(true), Some(SourceAndCopies::default()));
    let page = metrics.render();
    let named: Vec<_> = rows(&file("docs/how-to/monitor.md"), "Metrics")
        .iter()
        .flat_map(|row| row[0].split(", ").map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(named.len() > 5, "{named:?}");
    for name in &named {
        let begin = format!("# TYPE {}", name.trim_end_matches('*'));
        assert!(page.contains(&begin), "there is no {name}");
    }
}

#[test]
fn named_make_targets_exist() {
    let makefile = file("Makefile");
    let readme = file("README.md");
    let named = readme
        .split("make ")
        .skip(1)
        .filter(|rest| rest.starts_with(|sign: char| sign.is_ascii_lowercase()))
        .filter_map(|rest| {
            rest.split(|sign: char| !sign.is_ascii_lowercase() && sign != '-')
                .next()
        });
    let mut count = 0;
    for target in named {
        let rule = format!("\n{target}:");
        let found = makefile
            .split_once(&rule)
            .and_then(|(_, rest)| rest.lines().next());
        assert!(
            found.is_some_and(|rest| rest.contains("## ")),
            "there is no make {target}"
        );
        count += 1;
    }
    assert!(count > 5);
}

/// A reader who only wants to try the operator reads no more than the first screen.
#[test]
fn the_readme_is_short_and_installs_within_40_lines() {
    let readme = file("README.md");
    assert!(readme.lines().count() <= 120);
    let install = readme.split("\n    helm install ").nth(1).expect("the install");
    let command = install.split("\n\n").next().unwrap_or_default();
    assert!(!command.contains("--set"), "{command}");
    let line = readme
        .lines()
        .position(|line| line.starts_with("    helm install "));
    assert!(line.is_some_and(|line| line < 40), "{line:?}");
}

/// Rule: 3.removal-commands
#[test]
fn commands_to_remove_copies_and_to_go_back_exist() {
    let page = file("docs/how-to/uninstall.md");
    let ours = format!("-l {}={}", label::MANAGED_BY, MANAGED_BY_US);
    let of_one = format!("-l {}=kubernetes-vip,{}", label::SERVICE_NAME, &ours[3..]);
    let whole = page.replace("\\\n        ", "");
    let commands: Vec<_> = whole
        .lines()
        .filter(|line| line.trim_start().starts_with("kubectl delete endpointslices"))
        .collect();
    let [remove, go_back] = commands.as_slice() else {
        panic!("{commands:?}");
    };
    assert!(
        remove.contains("--all-namespaces") && remove.ends_with(&ours),
        "{remove}"
    );
    assert!(
        !go_back.contains("--all-namespaces") && go_back.ends_with(&of_one),
        "{go_back}"
    );
    // The copies are deleted only after the slice of the Go operator exists. Otherwise the VIP would be empty in
    // between.
    assert!(page.contains("kubectl wait --for=create -n default endpointslice/kubernetes-vip"));
}
