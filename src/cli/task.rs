//! The subcommands, and the task that the command line names.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::go;
use super::values::service;
use crate::inspect::{Inspect, OutputFormat};
use endpoint_copier_core::model::ServiceKey;

/// The task of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Keep copies in sync. This is the task if there is no subcommand.
    Run,
    /// Inspect a cluster, write nothing, and exit.
    Inspect {
        /// Selects what to show.
        what: Inspect,
        /// How to print the result.
        format: OutputFormat,
    },
    /// Check for common causes of a failing VIP, write nothing, and exit.
    Doctor {
        /// How to print the result.
        format: OutputFormat,
    },
    /// Wait until a Service is in sync, write nothing, and exit.
    Wait {
        /// The Service.
        service: ServiceKey,
        /// The maximum time to wait.
        limit: Duration,
    },
}

impl Task {
    /// Returns the log level that applies if no flag sets it. Commands that only inspect a cluster log only errors.
    pub(super) fn log_level(&self) -> &'static str {
        match self {
            Self::Run => "info",
            Self::Inspect { .. } | Self::Doctor { .. } | Self::Wait { .. } => "error",
        }
    }

    /// Returns the task that the command line names, and the flags that were given with it.
    pub(super) fn of(matches: &ArgMatches) -> (Self, &ArgMatches) {
        let (what, matches) = match matches.subcommand() {
            Some((STATUS, matches)) => (Inspect::Status, matches),
            Some((PLAN, matches)) if matches.get_flag(CONSENT) => (Inspect::Consent, matches),
            Some((PLAN, matches)) => (Inspect::Plan, matches),
            Some((WAIT, matches)) => {
                // clap requires this argument.
                let service = matches.get_one::<ServiceKey>(SERVICE).cloned();
                let service = service.unwrap_or_else(|| ServiceKey::new("", ""));
                let limit = matches.get_one(TIMEOUT).copied().unwrap_or_default();
                return (Self::Wait { service, limit }, matches);
            }
            Some((DOCTOR, matches)) => {
                let format = format(matches);
                return (Self::Doctor { format }, matches);
            }
            _ => return (Self::Run, matches),
        };
        let format = format(matches);
        (Self::Inspect { what, format }, matches)
    }
}

fn format(matches: &ArgMatches) -> OutputFormat {
    match matches.get_one::<String>(OUTPUT).map(String::as_str) {
        Some("json") => OutputFormat::Json,
        _ => OutputFormat::Text,
    }
}

const STATUS: &str = "status";
const PLAN: &str = "plan";
const WAIT: &str = "wait";
const DOCTOR: &str = "doctor";
const SERVICE: &str = "service";
const TIMEOUT: &str = "timeout";
const OUTPUT: &str = "output";
const CONSENT: &str = "consent";

/// The prefixes of flags that appear in the help of commands that only inspect a cluster. These commands accept all
/// flags of the operator, so that its command line can be reused.
const SHOWN_PREFIXES: [&str; 8] = [
    "kubeconfig",
    "cross-namespace",
    "allow-",
    "max-services",
    "default-endpoint-",
    "managed-endpoint-",
    "api-server-",
    "nodes-",
];
/// The other flags that appear in the help of these commands.
const SHOWN_FLAGS: [&str; 3] = ["leader-election-namespace", "leader-election-id", "log-level"];

/// The flags of features whose permissions `doctor` checks.
const SHOWN_BY_DOCTOR: [&str; 4] = ["leader-elect", "metrics-secure", "probe", "service-conditions"];

/// Adds the subcommands to the command of the operator.
pub(super) fn with_subcommands(operator: Command) -> Command {
    let status = inspection(&operator, STATUS)
        .about("Shows every managed Service, its source, whether its copies are in sync, and which replica leads")
        .after_help(format!(
            "Exit code: 0 if all Services are in sync, 1 if at least one is not, 2 if the cluster cannot be read.\n{RIGHTS}"
        ));
    let plan = inspection(&operator, PLAN)
        .about("Shows what the operator would write now, and writes nothing")
        .arg(
            Arg::new(CONSENT)
                .long(CONSENT)
                .action(ArgAction::SetTrue)
                .help("Show the Services that need consent to copy their source, and what to add"),
        )
        .after_help(format!(
            "Exit code: 0 if there is nothing to write (with --consent: nothing to add), 1 if there is something, 2 if the \
             cluster cannot be read.\n{RIGHTS}"
        ));
    let wait = reading(&operator, WAIT)
        .about("Waits until the copies of a Service are in sync; for scripts and hooks")
        .arg(
            Arg::new(SERVICE)
                .value_name("NAMESPACE/NAME")
                .required(true)
                .value_parser(service)
                .help("The Service to wait for"),
        )
        .arg(
            Arg::new(TIMEOUT)
                .long(TIMEOUT)
                .value_name("DURATION")
                .default_value("60s")
                .value_parser(go::duration)
                .help("How long to wait; 0: check once"),
        )
        .after_help(format!(
            "A Service can be in sync even while its copies show API servers as not ready because probes failed.\n\
             Exit code: 0 if the Service is in sync, 1 if it is still not in sync when the timeout expires, 2 if the cluster cannot be read.\n{RIGHTS}"
        ));
    let doctor = inspection(&operator, DOCTOR)
        .about("Checks for common causes of a failing VIP, and says what to do")
        .after_help(format!(
            "Exit code: 0 if no check failed, 1 if a check failed, 2 if the cluster cannot be read. Warnings and unknown results \
             do not count as failures.\n{RIGHTS} A check that lacks a permission names it."
        ));
    operator
        .disable_help_subcommand(true)
        .subcommands([status, plan, wait, doctor])
}

const RIGHTS: &str = "Needs permission to list Services and EndpointSlices; shows more with permission to list Nodes, \
                      ReferenceGrants and Events, and to get the Lease. Outside the operator's Pod, pass the same \
                      flags for Services, limits and consent that the operator runs with.";

fn inspection(operator: &Command, name: &'static str) -> Command {
    reading(operator, name).arg(
        Arg::new(OUTPUT)
            .short('o')
            .long(OUTPUT)
            .value_name("FORMAT")
            .default_value("text")
            .value_parser(["text", "json"])
            .help("Output format"),
    )
}

/// Creates a command that accepts the flags of the operator.
fn reading(operator: &Command, name: &'static str) -> Command {
    let flags = operator.get_arguments().map(|arg| {
        let flag = arg.get_long().unwrap_or_default();
        let is_shown = SHOWN_PREFIXES.iter().any(|prefix| flag.starts_with(prefix))
            || SHOWN_FLAGS.contains(&flag)
            || (name == DOCTOR && SHOWN_BY_DOCTOR.contains(&flag));
        arg.clone().hide(!is_shown)
    });
    Command::new(name).args_override_self(true).args(flags)
}
