//! Measures failover, fan-out and cost. Each row runs several times on the testbed and on real API servers, and is
//! compared with its limit.
//!
//! The time of a failover or fan-out runs from the fault, the start of a process, the return of the API or the change
//! of the source until a watch through an unaffected server shows the copy. Exit code 1 means that a run failed or
//! exceeded its limit.

mod copies;
mod cost;
mod fair;
mod outage;
mod replicas;
mod rows;
mod signals;
mod stage;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use harness::Platform;

use rows::Row;
use stage::Stages;
use table::Table;

const USAGE: &str = "usage: bench-failover --operator BINARY [--runs N] [--long] [--only TEXT]";

/// The parsed command line.
struct Arguments {
    /// The release binary of the operator.
    operator: PathBuf,
    runs: usize,
    /// Whether to include rows that take minutes.
    long: bool,
    /// Selects rows whose names contain this text. If it is empty, all rows run.
    only: String,
}

fn arguments() -> anyhow::Result<Arguments> {
    let (mut operator, mut runs, mut long, mut only) = (None, 5, false, String::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().context(USAGE);
        match word.as_str() {
            "--long" => long = true,
            "--operator" => operator = Some(PathBuf::from(value()?)),
            "--only" => only = value()?,
            "--runs" => runs = value()?.parse().context("--runs")?,
            _ => bail!("unknown argument {word}\n{USAGE}"),
        }
    }
    let operator = operator.context(USAGE)?;
    if !operator.is_file() {
        bail!("{} does not exist: run make build", operator.display());
    }
    ensure!(runs > 0, "--runs: at least 1");
    Ok(Arguments {
        operator,
        runs,
        long,
        only,
    })
}

/// Runs the selected rows on one platform, and prints the results. Returns whether every limit was met.
async fn measure(arguments: &Arguments, platform: Platform, name: &str) -> bool {
    let mut table = Table::new(name, arguments.runs);
    let mut stages = Stages::new(platform, &arguments.operator);
    let wanted = |row: &&Row| (arguments.long || !row.is_long()) && row.name.contains(&arguments.only);
    for row in rows::ROWS.iter().filter(wanted) {
        for run in 1..=arguments.runs {
            let outcome = stages.run(row).await;
            eprintln!("{name}: {}: run {run}: {outcome}", row.name);
            let is_repeatable = outcome.can_be_repeated();
            table.add(row, outcome);
            if !is_repeatable {
                break;
            }
        }
    }
    print!("{table}");
    table.is_good()
}

async fn all(arguments: &Arguments) -> bool {
    let mut good = measure(arguments, Platform::Testbed, "testbed").await;
    if Platform::Real.is_here() {
        good &= measure(arguments, Platform::Real, "real API servers").await;
    } else {
        println!(
            "skipped real API servers: set KUBEBUILDER_ASSETS to a directory with etcd and kube-apiserver"
        );
    }
    good
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(usage) => {
            eprintln!("bench-failover: {usage:#}");
            return ExitCode::from(2);
        }
    };
    signals::run_until_signal("bench-failover", all(&arguments)).await
}
