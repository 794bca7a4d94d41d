//! What the replicas tell Prometheus, as a real scrape shows it: held against docs/reference/metrics.md, the alerts, the runbook and
//! the dashboard.
//!
//! Some need promtool, which `make tools` brings: they say that they are skipped where it is not there, and with
//! `CI=true` that is a failure.

mod alerts;
mod dashboard;
mod monitored;
mod panels;
mod prometheus;
mod promtool;
mod recorded;
mod scrape;

/// The operator.
const PROGRAM: &str = env!("CARGO_BIN_EXE_endpoint-copier-operator");
