//! The demo: three real replicas of the operator against in-memory API servers, without a cluster.
//!
//! It plays a story with a time limit for each step, and prints a timeline. It exits with 0 at the end of the story,
//! with 1 if a step fails or does not happen in time, with 2 if an argument is wrong, and with 130 if a signal ends it
//! (with `--keep`, 0).

mod cluster;
mod manifest;
mod replica;
mod stage;
mod story;
mod timeline;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use stage::{End, Stage};

const USAGE: &str = "usage: demo --readme README.md [--operator BINARY] [--keep]";

/// The parsed command line.
struct Arguments {
    /// The file that contains the Service to apply.
    readme: PathBuf,
    /// The binary of the operator. By default, the one next to this program.
    operator: PathBuf,
    /// Whether to keep running at the end, for kubectl.
    keep: bool,
}

fn arguments() -> anyhow::Result<Arguments> {
    let (mut readme, mut operator, mut keep) = (None, None, false);
    let mut words = std::env::args_os().skip(1);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--keep") => keep = true,
            Some("--readme") => readme = words.next().map(PathBuf::from),
            Some("--operator") => operator = words.next().map(PathBuf::from),
            _ => bail!("unknown argument {}\n{USAGE}", word.display()),
        }
    }
    let beside = || {
        let demo = std::env::current_exe().context("the path of this program is unknown")?;
        anyhow::Ok(demo.with_file_name("endpoint-copier-operator"))
    };
    let operator = operator.map_or_else(beside, Ok)?;
    if !operator.is_file() {
        let build = "cargo build --locked --package endpoint-copier-operator";
        bail!("there is no {}; build it with: {build}", operator.display());
    }
    Ok(Arguments {
        readme: readme.context(USAGE)?,
        operator,
        keep,
    })
}

/// Plays the story. However the story ends, none of its processes remains.
async fn run(arguments: &Arguments) -> anyhow::Result<End> {
    let service = manifest::service(&arguments.readme)?;
    let on = |kind| signal(kind).context("cannot wait for signals");
    let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    let mut stage = Stage::start(&arguments.operator).await?;
    let story = async {
        story::play(&mut stage, service).await?;
        if arguments.keep {
            story::continue_until_stopped(&mut stage).await?;
        }
        Ok(())
    };
    let end = tokio::select! {
        played = story => End::Complete.unless(played),
        _ = terminate.recv() => End::Stopped,
        _ = interrupt.recv() => End::Stopped,
    };
    Ok(stage.stop(end).await)
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(usage) => {
            eprintln!("demo: {usage:#}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments).await {
        Ok(End::Complete) => ExitCode::SUCCESS,
        // With `--keep`, the user stops the demo, so that is a success.
        Ok(End::Stopped) if arguments.keep => ExitCode::SUCCESS,
        Ok(End::Stopped) => ExitCode::from(130),
        Ok(End::Failed(reason)) | Err(reason) => {
            eprintln!("demo: {reason:#}");
            ExitCode::FAILURE
        }
    }
}
