//! `doctor`: checks for common causes of a failing VIP (the address that a load balancer announces for a Service). It
//! writes nothing.
//!
//! ```text
//!     API, servers ──> read ──> Facts ──> of_service, of_cluster ──> Diagnosis ──> text or JSON
//! ```
//!
//! Only `read` sends requests. The checks are pure functions.

use std::fmt;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use super::{Error, OutputFormat, connect, json, print};
use crate::apiserver::error::one_line;
use crate::apiserver::http_status::{is_forbidden, status_of};
use crate::config::Config;

mod facts;
mod of_cluster;
mod of_service;
mod read;
mod rights;
mod text;

use facts::Facts;

/// Checks the managed Services and what they depend on, prints the results, and returns `true` if no check failed. A
/// check that could not run has not failed.
///
/// # Errors
/// Returns an error if the cluster cannot be read, or the result cannot be printed.
pub async fn doctor(config: &Config, format: OutputFormat) -> Result<bool, Error> {
    let diagnosis = Diagnosis::of(&read::facts(&connect(config).await?).await?);
    print(&match format {
        OutputFormat::Text => text::text(&diagnosis),
        OutputFormat::Json => json(&diagnosis)?,
    })?;
    Ok(diagnosis.ok)
}

/// The results of all checks.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Diagnosis {
    /// When the cluster was read, by the API server's clock if that is known, and by our own otherwise.
    at: Timestamp,
    /// Whether no check failed.
    ok: bool,
    checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    #[serde(rename = "check")]
    name: &'static str,
    /// `<namespace>/<name>`, or `None` if the check concerns the whole cluster.
    service: Option<String>,
    result: CheckResult,
    detail: String,
    /// What the user should do. `None` unless the result calls for an action.
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckResult {
    Ok,
    /// A problem that is not a failure, for example because only some clients notice it.
    Warning,
    Failed,
    /// The check could not run.
    Unknown,
}

impl CheckResult {
    const ALL: [Self; 4] = [Self::Ok, Self::Warning, Self::Failed, Self::Unknown];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
            Self::Unknown => "unknown",
        }
    }
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            service: None,
            result: CheckResult::Ok,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn wrong(
        name: &'static str,
        result: CheckResult,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            result,
            remedy: Some(remedy.into()),
            ..Self::ok(name, detail)
        }
    }

    fn failed(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::wrong(name, CheckResult::Failed, detail, remedy)
    }

    fn warning(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::wrong(name, CheckResult::Warning, detail, remedy)
    }

    fn unknown(name: &'static str, why: impl fmt::Display) -> Self {
        Self {
            result: CheckResult::Unknown,
            ..Self::ok(name, why.to_string())
        }
    }
}

impl Diagnosis {
    fn of(facts: &Facts) -> Self {
        let services = facts.services.iter();
        let of_services = services.flat_map(|service| of_service::checks(service, facts));
        let checks: Vec<_> = of_services.chain(of_cluster::checks(facts)).collect();
        Self {
            at: facts.at,
            ok: checks.iter().all(|check| check.result != CheckResult::Failed),
            checks,
        }
    }
}

/// The reason why a fact is unknown, on one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Unknown(String);

impl Unknown {
    /// Explains a failed request. `right` is the permission that the request needs, such as `list nodes`.
    fn of(right: &str, error: &kube::Error) -> Self {
        Self(match status_of(error) {
            Some(status) if is_forbidden(status) => {
                format!("needs permission to {right}: {}", one_line(error))
            }
            _ => one_line(error),
        })
    }

    fn late(what: &str) -> Self {
        Self(format!("{what}: no response in time"))
    }
}

#[cfg(test)]
mod tests;
