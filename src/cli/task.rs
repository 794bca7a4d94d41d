//! What the program is to do: run, or look at a cluster for a person.

use std::ffi::OsString;
use std::iter::Peekable;

use clap::{Arg, ArgAction, ArgMatches, Command};
use tracing::level_filters::LevelFilter;

use crate::inspect::{Inspect, OutputFormat};

/// What the first argument asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Keep copies in step: no word before the flags.
    Run,
    /// Look, write nothing, and end.
    Inspect {
        /// At what.
        what: Inspect,
        /// How to print it.
        format: OutputFormat,
        /// Look again and again, and print what has changed.
        watch: bool,
    },
}

impl Task {
    /// What is logged where no flag says. Who looks at a cluster wants the answer alone.
    pub(super) fn log_level(self) -> LevelFilter {
        match self {
            Self::Run => LevelFilter::INFO,
            Self::Inspect { .. } => LevelFilter::ERROR,
        }
    }
}

const OUTPUT: &str = "output";
const WATCH: &str = "watch";

/// Flags that also matter when nothing is run.
const KEPT: [&str; 4] = [
    "kubeconfig",
    "default-endpoint-",
    "managed-endpoint-",
    "api-server-",
];
const KEPT_WHOLE: [&str; 3] = ["leader-election-namespace", "leader-election-id", "log-level"];

/// Takes the word that names another task than to run off the arguments.
pub(super) fn word(args: &mut Peekable<impl Iterator<Item = OsString>>) -> Option<Inspect> {
    let what = match args.peek()?.to_str()? {
        "status" => Inspect::Status,
        "plan" => Inspect::Plan,
        _ => return None,
    };
    args.next();
    Some(what)
}

/// The command line of that task: the operator's, which tell how it was deployed, and its own.
pub(super) fn command(command: Command, what: Inspect) -> Command {
    let (name, about, exit) = match what {
        Inspect::Status => (
            "endpoint-copier-operator status",
            "Shows every managed Service, its source, and whether its copies are in step; and who leads",
            "Exit code: 0 all in step, 1 something is out of step, 2 it could not be seen.",
        ),
        Inspect::Plan => (
            "endpoint-copier-operator plan",
            "Shows what the operator would write now, and writes nothing",
            "Exit code: 0 nothing to write, 1 something to write, 2 it could not be seen.",
        ),
    };
    let output = Arg::new(OUTPUT)
        .short('o')
        .long(OUTPUT)
        .value_name("FORMAT")
        .default_value("text")
        .value_parser(["text", "json"])
        .help("text or json");
    let watch = Arg::new(WATCH)
        .short('w')
        .long(WATCH)
        .action(ArgAction::SetTrue)
        .help("Look every 2 s and print what has changed, until interrupted");
    let hidden = |arg: Arg| {
        let flag = arg.get_long().unwrap_or_default();
        let kept = KEPT.iter().any(|kept| flag.starts_with(kept)) || KEPT_WHOLE.contains(&flag);
        arg.hide(!kept)
    };
    command
        .mut_args(hidden)
        .arg(output)
        .arg(watch)
        .bin_name(name)
        .override_usage(format!("{name} [OPTIONS]"))
        .about(about)
        .after_help(format!(
            "{exit}\nNeeds the rights to list services and endpointslices, and to read the Lease; flags by which \
             the operator finds Services have to be given outside of its Pod too."
        ))
}

/// The task, from what clap has read.
pub(super) fn task(what: Option<Inspect>, matches: &ArgMatches) -> Task {
    let Some(what) = what else { return Task::Run };
    let format = matches.get_one::<String>(OUTPUT).map(String::as_str);
    Task::Inspect {
        what,
        format: if format == Some("json") {
            OutputFormat::Json
        } else {
            OutputFormat::Text
        },
        watch: matches.get_flag(WATCH),
    }
}
