//! Formats reports as text for people.

use std::fmt::Write as _;

use k8s_openapi::jiff::Timestamp;

use super::report::{ClusterReport, Leader, Row};

const HEADER: [&str; 9] = [
    "SERVICE",
    "SOURCE",
    "FAMILIES",
    "SOURCE READY",
    "COPY READY",
    "OUT",
    "IN SYNC",
    "SINCE",
    "FINDINGS",
];

/// Formats the table of Services, the notes on problems, and the leaders.
pub(super) fn status(report: &ClusterReport) -> String {
    let now = report.at;
    // Problems must be visible without scrolling.
    let (right, mut rows): (Vec<_>, Vec<_>) = report.services.iter().partition(|row| row.in_sync);
    let count = right.len();
    rows.extend(right);
    let mut lines = vec![HEADER.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| cells(row, now)));
    let mut text = if rows.is_empty() {
        "No Service is managed.\n".to_owned()
    } else {
        aligned(&lines)
    };
    if rows.len() > 1 {
        _ = writeln!(text, "\n{count} of {} in sync", rows.len());
    }
    let notes = notes(report);
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&notes);
    }
    text.push('\n');
    match (&report.leaders_error, report.leaders.as_slice()) {
        (Some(error), _) => {
            _ = writeln!(
                text,
                "Leader: unknown, the Lease cannot be read: {}",
                shown(error)
            );
        }
        (None, []) => text.push_str("Leader: none, there is no Lease\n"),
        (None, leaders) => {
            for it in leaders {
                _ = writeln!(text, "Leader: {}", leader(it, now));
            }
        }
    }
    text
}

/// Formats the Services that need consent, and how to give it.
pub(super) fn consent(report: &ClusterReport) -> String {
    let mut text = String::new();
    for (row, finding) in report.without_consent() {
        _ = writeln!(text, "{} {}: {}", row.key(), finding.reason, shown(&finding.note));
    }
    if text.is_empty() {
        text.push_str("No Service needs consent.\n");
    }
    text
}

/// Formats the notes on all problems.
fn notes(report: &ClusterReport) -> String {
    let mut text = String::new();
    for row in &report.services {
        let name = row.key();
        for finding in &row.findings {
            _ = writeln!(text, "{name} {}: {}", finding.reason, shown(&finding.note));
        }
        if !row.managed {
            _ = writeln!(text, "{name} {}", unmanaged(row));
        } else if row.findings.is_empty() && !row.in_sync {
            _ = writeln!(
                text,
                "{name} is not in sync: the command plan shows what would be written."
            );
        }
    }
    if let Some(error) = &report.events_error {
        _ = writeln!(
            text,
            "Events cannot be read, so findings that only Events show may be missing or out of date: {}",
            shown(error)
        );
    }
    text
}

pub(super) fn unmanaged(row: &Row) -> &'static str {
    if row.disabled { DISABLED } else { UNMANAGED }
}

const DISABLED: &str = "has the annotation endpoint-copier/enabled: \"false\", so its copies and what the Go operator \
                        left are deleted.";

/// Some Services are managed only because a flag of the operator names them. Without that flag, their copies look like
/// leftovers.
const UNMANAGED: &str = "has copies but is not managed, as far as this command knows: the copies would be deleted. \
                         If flags of the operator make it managed, pass the same flags here.";

fn cells(row: &Row, now: Timestamp) -> [String; 9] {
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let mut reasons: Vec<_> = row
        .findings
        .iter()
        .map(|finding| finding.reason.as_str())
        .collect();
    reasons.dedup();
    let taken_out: Vec<_> = row.taken_out.iter().map(ToString::to_string).collect();
    let count = |count: super::report::ReadyCount| format!("{}/{}", count.ready, count.total);
    [
        row.key().to_string(),
        or_dash(row.source.clone().unwrap_or_default()),
        or_dash(row.families.join(",")),
        count(row.source_endpoints),
        count(row.copy_endpoints),
        or_dash(taken_out.join(",")),
        if row.in_sync { "yes" } else { "NO" }.to_owned(),
        or_dash(row.since.map(|since| age(since, now)).unwrap_or_default()),
        or_dash(reasons.join(",")),
    ]
}

fn aligned(lines: &[[String; 9]]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for line in lines {
        let mut padded = String::new();
        for (cell, width) in line.iter().zip(widths) {
            _ = write!(padded, "{cell:<width$}   ");
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

fn leader(leader: &Leader, now: Timestamp) -> String {
    let holder = leader.holder.as_deref();
    let mut text = holder.map_or_else(|| "none, the Lease is free".to_owned(), shown);
    _ = write!(text, " (namespace {}", leader.namespace);
    if let Some(renewed) = leader.renewed {
        _ = write!(text, ", renewed {} ago", age(renewed, now));
        if holder.is_some() && !leader.leads {
            text.push_str(", so its Lease has expired");
        }
    }
    // The acquire time stays in the Lease even when no replica leads anymore.
    if leader.leads
        && let Some(since) = leader.since
    {
        _ = write!(text, ", leading for {}", age(since, now));
    }
    if let Some(transitions) = leader.transitions {
        let changes = if transitions == 1 { "change" } else { "changes" };
        _ = write!(text, ", {transitions} {changes} of leader");
    }
    text.push(')');
    text
}

/// Replaces control characters in text that others have written, so that the text cannot control the terminal or add a
/// line that looks like one of ours.
pub(super) fn shown(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Formats an age in one unit, similar to the ages that kubectl prints.
fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Formats the diff of all Services.
pub(super) fn plan(report: &ClusterReport) -> String {
    let mut text = String::new();
    for service in report.to_write() {
        let source = service.source.as_deref().unwrap_or("no source");
        _ = writeln!(text, "{} (from {source})", service.key());
        for change in &service.changes {
            _ = writeln!(text, "  {} {}", change.operation, change.slice);
            for line in &change.removed {
                _ = writeln!(text, "  - {}", shown(line));
            }
            for line in &change.added {
                _ = writeln!(text, "  + {}", shown(line));
            }
        }
    }
    if text.is_empty() {
        text.push_str("Nothing to write.\n");
    }
    for row in report.services.iter().filter(|row| !row.managed) {
        _ = writeln!(text, "\n{} {}", row.key(), unmanaged(row));
    }
    text
}
