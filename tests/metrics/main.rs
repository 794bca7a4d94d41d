//! The metrics of the replicas in a real scrape, compared with docs/reference/metrics.md, the alerts, the runbook and
//! the dashboard.
//!
//! Some tests need promtool, which `make tools` installs. Without it, they print that they are skipped. With `CI=true`,
//! they fail instead.

mod alerts;
mod dashboard;
mod histograms;
mod monitored;
mod panels;
mod prometheus;
mod promtool;
mod recorded;
mod scrape;

/// The binary of the operator.
const PROGRAM: &str = env!("CARGO_BIN_EXE_endpoint-copier-operator");
