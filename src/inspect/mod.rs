//! `status` and `plan`: what a person sees of a cluster, without a write.
//!
//! The same index and the same plan as the operator's decide; only the reads are others: lists, and no watch.

use std::io::Write as _;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use tokio::time::sleep;

use crate::apiserver::error::one_line;
use crate::apiserver::{self, Access};
use crate::config::Config;
use crate::telemetry::metrics::Metrics;

mod changes;
mod dated;
mod look;
mod report;
mod table;

use look::Looker;
use report::Report;

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspect {
    /// Every managed Service, and whether its copies are in step.
    Status,
    /// What would be written now.
    Plan,
}

/// How to print what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// One JSON document; with `--watch` one a line.
    Json,
}

/// Between two looks with `--watch`.
const PERIOD: Duration = Duration::from_secs(2);

/// What is out of step is looked at again, since a change that is just being carried over is none to tell of.
const AGAIN: usize = 2;
const PAUSE: Duration = Duration::from_millis(500);

/// Why nothing could be seen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration leads nowhere.
    #[error(transparent)]
    Configuration(#[from] apiserver::Error),
    /// Metrics contradict each other.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A read failed.
    #[error("{0}")]
    Read(String),
    /// Standard output is closed.
    #[error("cannot print: {0}")]
    Output(#[from] std::io::Error),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::Read(one_line(&error))
    }
}

/// Looks, prints, and answers whether all is in step, or whether there is nothing to write. With `watch` it goes on for ever.
///
/// # Errors
/// Nothing can be seen or printed.
pub async fn inspect(
    config: &Config,
    what: Inspect,
    format: OutputFormat,
    watch: bool,
) -> Result<bool, Error> {
    let metrics = Metrics::new(&config.election.lease_name)?;
    let access = Access::find(config.kubeconfig.as_deref(), &config.api_server, metrics.clone()).await?;
    let looker = Looker::new(config, access.client("reads")?, access.namespace(), metrics);
    let (mut shown, mut failed) = (None, None);
    loop {
        match settled(&looker, what, watch).await {
            Ok(report) => {
                if !watch {
                    print(&render(&report, what, format, false)?)?;
                    return Ok(match what {
                        Inspect::Status => report.in_step,
                        Inspect::Plan => report.changes().services.is_empty(),
                    });
                }
                failed = None;
                let news = report.without_ages();
                if shown.as_ref() != Some(&news) {
                    print(&render(&report, what, format, true)?)?;
                    shown = Some(news);
                }
            }
            Err(error) if watch => {
                // Once; and when it is over, what there is to see then.
                let error = error.to_string();
                if failed.as_ref() != Some(&error) {
                    eprintln!("--- {:.0}\ncannot look, trying again: {error}", Timestamp::now());
                }
                (shown, failed) = (None, Some(error));
            }
            Err(error) => return Err(error),
        }
        sleep(PERIOD).await;
    }
}

/// A look, and more of them while something is on its way.
async fn settled(looker: &Looker, what: Inspect, watch: bool) -> Result<Report, Error> {
    let mut report = looker.look().await?;
    // A plan shows what is on its way, and whoever watches sees it go.
    let times = if watch || what == Inspect::Plan { 0 } else { AGAIN };
    for _ in 0..times {
        if report.in_step {
            break;
        }
        sleep(PAUSE).await;
        report = looker.look().await?;
    }
    Ok(report)
}

fn render(report: &Report, what: Inspect, format: OutputFormat, one_of_many: bool) -> Result<String, Error> {
    let text = match (what, format) {
        (Inspect::Status, OutputFormat::Text) => table::status(report),
        (Inspect::Plan, OutputFormat::Text) => table::plan(report),
        (Inspect::Status, OutputFormat::Json) => json(report, one_of_many)?,
        (Inspect::Plan, OutputFormat::Json) => json(&report.changes(), one_of_many)?,
    };
    Ok(if one_of_many && format == OutputFormat::Text {
        format!("--- {:.0}\n{text}", Timestamp::now())
    } else {
        text
    })
}

fn json(value: &impl Serialize, one_line: bool) -> Result<String, Error> {
    let value = serde_json::to_value(value).map_err(std::io::Error::from)?;
    Ok(if one_line {
        format!("{value}\n")
    } else {
        format!("{value:#}\n")
    })
}

fn print(text: &str) -> Result<(), std::io::Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests;
