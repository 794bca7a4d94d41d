//! `wait`: waits until one Service is in sync, for scripts and hooks.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::report::ClusterReport;
use super::{Error, connect, print, table};
use crate::config::Config;
use endpoint_copier_core::model::ServiceKey;

/// The pause between two reads, because each of them lists all Services.
const PAUSE: Duration = Duration::from_secs(1);

/// The minimum time for the first read, so that a limit of 0 reads once.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// Waits until the copies of a Service are in sync, prints the result, and returns whether they are. A Service that does
/// not exist or is not managed may still become so. Failed reads are repeated.
///
/// # Errors
/// The last read of the cluster failed, or the result cannot be printed.
pub async fn wait(config: &Config, service: &ServiceKey, limit: Duration) -> Result<bool, Error> {
    let looker = connect(config).await?;
    let start = Instant::now();
    // A limit beyond what the clock can hold is no limit.
    let end = start.checked_add(limit);
    let end_of_look = end.map(|end| end.max(start + FIRST_LOOK));
    let mut last = Err(Error::NoAnswer);
    loop {
        let look = looker.look();
        let result = match end_of_look {
            Some(end) => timeout_at(end, look).await,
            None => Ok(look.await),
        };
        match result {
            Ok(report) => last = report,
            Err(_) => break,
        }
        let is_over = end.is_some_and(|end| Instant::now() + PAUSE >= end);
        if is_over || last.as_ref().is_ok_and(|report| is_in_sync(report, service)) {
            break;
        }
        sleep(PAUSE).await;
    }
    let report = last?;
    let in_sync = is_in_sync(&report, service);
    let text = if in_sync {
        format!("{service} is in sync\n")
    } else {
        not_in_sync(report, service, limit)
    };
    print(&text)?;
    Ok(in_sync)
}

/// An endpoint that the probes took out does not count as a difference, as in `status`.
pub(super) fn is_in_sync(report: &ClusterReport, service: &ServiceKey) -> bool {
    let mut rows = report.services.iter();
    rows.any(|row| row.key() == *service && row.managed && row.in_sync)
}

/// What `status` shows for this Service alone.
pub(super) fn not_in_sync(mut report: ClusterReport, service: &ServiceKey, limit: Duration) -> String {
    report.services.retain(|row| row.key() == *service);
    let after = if limit.is_zero() {
        String::new()
    } else {
        format!(" after {limit:?}")
    };
    if report.services.is_empty() {
        return format!(
            "{service} is not managed{after}: it does not exist, or lacks the annotation endpoint-copier/enabled: \"true\"\n"
        );
    }
    format!("{service} is not in sync{after}\n\n{}", table::status(&report))
}
