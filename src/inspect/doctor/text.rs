//! Formats a diagnosis as text for people.

use std::fmt::Write as _;

use super::{Check, CheckResult, Diagnosis};
use crate::inspect::table::shown;

/// Formats one section for each Service, one for the cluster, and the totals. Services with a problem come first.
pub(super) fn text(diagnosis: &Diagnosis) -> String {
    let mut sections: Vec<(Option<&str>, Vec<&Check>)> = Vec::new();
    for check in &diagnosis.checks {
        let service = check.service.as_deref();
        match sections.last_mut().filter(|(last, _)| *last == service) {
            Some((_, checks)) => checks.push(check),
            None => sections.push((service, vec![check])),
        }
    }
    let is_right = |checks: &[&Check]| checks.iter().all(|check| check.result == CheckResult::Ok);
    sections.sort_by_key(|(service, checks)| (service.is_none(), is_right(checks)));
    let mut text = String::new();
    for (service, checks) in sections {
        _ = writeln!(text, "{}", service.unwrap_or("Cluster"));
        for check in checks {
            let (result, name) = (check.result.as_str(), check.name);
            _ = writeln!(text, "  {result:<7}  {name:<14}  {}", shown(&check.detail));
            if let Some(remedy) = &check.remedy {
                _ = writeln!(text, "           -> {}", shown(remedy));
            }
        }
        text.push('\n');
    }
    let count = |verdict| {
        let of_verdict = diagnosis.checks.iter().filter(|check| check.result == verdict);
        format!("{} {}", of_verdict.count(), verdict.as_str().to_lowercase())
    };
    _ = writeln!(text, "{}", CheckResult::ALL.map(count).join(", "));
    text
}
