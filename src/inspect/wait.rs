//! `wait`: waits until one Service is in sync, for scripts and hooks.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::report::ClusterReport;
use super::{Error, connect, print, table};
use crate::config::Config;
use endpoint_copier_core::model::ServiceKey;

/// The pause between two reads. It is not shorter, because each read lists all Services.
const WAIT_PAUSE: Duration = Duration::from_secs(1);

/// The minimum time limit of the first read, so that a limit of 0 reads once.
const MIN_FIRST_READ: Duration = Duration::from_secs(5);

/// Waits until the copies of a Service are in sync, or until `limit` leaves no time for another read. Prints the
/// result, and returns whether the copies are in sync. A Service that does not exist or is not managed yet counts as
/// not in sync. Failed reads are repeated.
///
/// # Errors
/// Returns an error if the configuration cannot be used, the last read of the cluster failed, or the result cannot be
/// printed.
pub async fn wait(config: &Config, service: &ServiceKey, limit: Duration) -> Result<bool, Error> {
    let reader = connect(config).await?;
    let start = Instant::now();
    // If the clock cannot represent the end, there is no limit.
    let end = start.checked_add(limit);
    let mut end_of_read = end.map(|end| end.max(start + MIN_FIRST_READ));
    let mut last = Err(Error::NoAnswer);
    loop {
        let read = reader.report();
        let result = match end_of_read {
            Some(end) => timeout_at(end, read).await,
            None => Ok(read.await),
        };
        match result {
            Ok(report) => last = report,
            Err(_) => break,
        }
        end_of_read = end;
        let is_over = end.is_some_and(|end| Instant::now() + WAIT_PAUSE >= end);
        if is_over || last.as_ref().is_ok_and(|report| is_in_sync(report, service)) {
            break;
        }
        sleep(WAIT_PAUSE).await;
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

/// Whether a Service is managed and in sync. As in `status`, an endpoint that the probes took out makes no difference.
pub(super) fn is_in_sync(report: &ClusterReport, service: &ServiceKey) -> bool {
    let mut rows = report.services.iter();
    rows.any(|row| row.key() == *service && row.managed && row.in_sync)
}

/// Returns the text for a Service that is not in sync: the output of `status` for this Service alone.
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
