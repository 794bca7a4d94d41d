//! The printed table: median and worst of the runs, and whether the worst is within the limit.

use std::fmt;

use crate::rows::{Outcome, Row};

/// Rows with the results of their runs.
pub struct Table {
    title: String,
    lines: Vec<(&'static Row, Vec<Outcome>)>,
}

impl Table {
    pub fn new(platform: &str, runs: usize) -> Self {
        Self {
            title: format!("{platform}, {runs} runs"),
            lines: Vec::new(),
        }
    }

    pub fn add(&mut self, row: &'static Row, outcome: Outcome) {
        match self.lines.last_mut() {
            Some((last, outcomes)) if last.name == row.name => outcomes.push(outcome),
            _ => self.lines.push((row, vec![outcome])),
        }
    }

    /// Whether every limit was met.
    pub fn is_good(&self) -> bool {
        self.lines.iter().all(|(row, outcomes)| is_good(row, outcomes))
    }
}

fn is_good(row: &Row, outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| outcome.is_within(row.limit))
}

/// The outcomes, best first.
fn sorted(outcomes: &[Outcome]) -> Vec<&Outcome> {
    let mut sorted: Vec<_> = outcomes.iter().collect();
    let key = |outcome: &Outcome| match outcome {
        Outcome::Took(took) => took.as_secs_f64(),
        Outcome::Writers(writers) => f64::from(u32::try_from(writers.len()).unwrap_or(u32::MAX)),
        Outcome::Measured(measured) => *measured,
        Outcome::Skipped(_) => f64::MAX,
        Outcome::Failed(_) => f64::INFINITY,
    };
    sorted.sort_by(|left, right| key(left).total_cmp(&key(right)));
    sorted
}

fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failed(_) => "failed".to_owned(),
        Outcome::Skipped(_) => "skipped".to_owned(),
        measured => measured.to_string(),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["row", "median", "worst", "Go operator", "limit", ""];
        writeln!(f, "\n{}", self.title)?;
        line(f, heads.map(str::to_owned))?;
        for (row, outcomes) in &self.lines {
            let sorted = sorted(outcomes);
            let (median, worst) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
            let verdict = match (worst, is_good(row, outcomes)) {
                (Outcome::Skipped(reason), _) => format!("skipped: {reason}"),
                (_, true) => "ok".to_owned(),
                (Outcome::Failed(reason), _) => format!("MISS: {reason}"),
                (Outcome::Writers(writers), _) => format!("MISS: {}", writers.join(", ")),
                _ => "MISS".to_owned(),
            };
            let cells = [row.name.to_owned(), word(median), word(worst), row.go.to_owned()];
            let [name, median, worst, go] = cells;
            line(f, [name, median, worst, go, row.limit.to_string(), verdict])?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, [name, median, worst, go, limit, verdict]: [String; 6]) -> fmt::Result {
    let text = format!("{name:<44} {median:>9} {worst:>9}  {go:<12} {limit:>6}  {verdict}");
    writeln!(f, "{}", text.trim_end())
}
