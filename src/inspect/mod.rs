//! `status`, `plan`, `wait` and `doctor`: the commands that inspect a cluster and write nothing.
//!
//! They use the same index and the same plan as the operator. But they list objects instead of watching them, and for
//! the plan they take the results of probes from the copies.

use std::io::Write as _;
use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;

use crate::apiserver::error::one_line;
use crate::apiserver::{self, Access};
use crate::config::Config;
use crate::telemetry::metrics::Metrics;

mod announced;
mod changes;
mod dated;
mod doctor;
mod look;
mod report;
mod table;
mod wait;

pub use doctor::doctor;
use look::ClusterReader;
use report::ClusterReport;
pub use wait::wait;

/// Selects what to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspect {
    /// Every managed Service, and whether its copies are in sync.
    Status,
    /// The writes that the operator would make now.
    Plan,
    /// The Services that need consent, and how to give it.
    Consent,
}

/// How to print the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// The number of further reads while a Service is out of sync, because the operator may not have copied a recent change
/// yet.
const MORE_READS: usize = 2;
const READ_PAUSE: Duration = Duration::from_millis(500);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Configuration(#[from] apiserver::Error),
    /// The metrics cannot be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A read failed.
    #[error("{}", one_line(.0))]
    Read(#[from] kube::Error),
    /// The time limit passed before the cluster was read.
    #[error("the cluster could not be read in time")]
    NoAnswer,
    /// The result cannot be printed, for example because standard output is closed.
    #[error("cannot print: {0}")]
    Output(#[from] std::io::Error),
}

/// Prints what `what` selects. Returns `true` if there is nothing to do: all Services are in sync, there is nothing to
/// write, or no Service needs consent.
///
/// # Errors
/// Returns an error if the cluster cannot be read, or the result cannot be printed.
pub async fn inspect(config: &Config, what: Inspect, format: OutputFormat) -> Result<bool, Error> {
    let reader = connect(config).await?;
    let report = settled(&reader, what).await?;
    let text = match (what, format) {
        (Inspect::Status, OutputFormat::Text) => table::status(&report),
        (Inspect::Plan, OutputFormat::Text) => table::plan(&report),
        (Inspect::Consent, OutputFormat::Text) => table::consent(&report),
        (Inspect::Status, OutputFormat::Json) => json(&report)?,
        (Inspect::Plan, OutputFormat::Json) => json(&report.plan())?,
        (Inspect::Consent, OutputFormat::Json) => json(&report.consent())?,
    };
    print(&text)?;
    Ok(match what {
        Inspect::Status => report.in_sync,
        Inspect::Plan => report.to_write().next().is_none(),
        Inspect::Consent => report.without_consent().next().is_none(),
    })
}

async fn connect(config: &Config) -> Result<ClusterReader<'_>, Error> {
    let metrics = Metrics::new(&config.election.lease_name)?;
    let access = Access::find(config.kubeconfig.as_deref(), &config.api_server, metrics.clone()).await?;
    Ok(ClusterReader {
        client: access.client("reads")?,
        metrics,
        config,
        own_namespace: access.namespace().to_owned(),
        is_in_pod: access.is_in_pod(),
    })
}

/// Reads the cluster. For `status`, reads it a few more times while a Service is out of sync. A plan is meant to show
/// what is not copied yet, so it needs only one read.
async fn settled(reader: &ClusterReader<'_>, what: Inspect) -> Result<ClusterReport, Error> {
    let mut report = reader.report().await?;
    let mut again = if what == Inspect::Status { MORE_READS } else { 0 };
    while again > 0 && !report.in_sync {
        sleep(READ_PAUSE).await;
        report = reader.report().await?;
        again -= 1;
    }
    Ok(report)
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    let value = serde_json::to_value(value).map_err(std::io::Error::from)?;
    Ok(format!("{value:#}\n"))
}

#[cfg(test)]
mod tests;
