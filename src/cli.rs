//! Flags and environment to a checked [`Config`].
//!
//! Every flag has an environment variable, `ENDPOINT_COPIER_` and the flag in upper snake case, which it beats.
//! To add a flag: a field in `flags.rs`, and the field of [`Config`] that it sets.

mod address;
mod flags;
mod go;
mod task;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::model::Defaults;

pub use address::{BindAddress, ServerAddress};
pub use task::{Inspect, OutputFormat, Task};

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Run the operator, or look at a cluster.
    Run {
        /// Which of them.
        task: Task,
        /// The settings, all checked.
        config: Box<Config>,
        /// Lines to log once logging works: flags that have no effect here.
        warnings: Vec<String>,
    },
    /// Print and end.
    Exit {
        /// 0 for `--help` and `--version`, 2 for bad arguments.
        code: u8,
        /// For standard output when the code is 0, else for standard error. Ends in a newline.
        text: String,
    },
}

/// Reads the command line (`args` begins with the program's name) and the environment through `env`.
///
/// A variable that is set to an empty text counts as set.
pub fn parse(args: impl IntoIterator<Item = OsString>, env: impl Fn(&str) -> Option<String>) -> Parsed {
    match flags::read(args.into_iter().skip(1), env) {
        Ok((task, config, warnings)) => Parsed::Run {
            task,
            config: Box::new(config),
            warnings,
        },
        Err(flags::Stop::Asked(text)) => Parsed::Exit { code: 0, text },
        Err(flags::Stop::Refused(reason)) => Parsed::Exit {
            code: 2,
            text: format!("{}: {reason}\n", env!("CARGO_PKG_NAME")),
        },
    }
}

/// All settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where `/metrics` is served; `None`: nowhere.
    pub metrics_bind_address: Option<BindAddress>,
    /// Where the health paths are served; `None`: nowhere.
    pub health_probe_bind_address: Option<BindAddress>,
    /// Race for the Lease; without it this replica has the right to write without end.
    pub leader_elect: bool,
    /// Source and managed Service where annotations are silent.
    pub defaults: Defaults,
    /// How to race for the Lease.
    pub election: ElectionConfig,
    /// A kubeconfig to use instead of the service account or the default kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// Where the API servers are.
    pub api_server: ApiServerConfig,
    /// What to log, and how.
    pub log: LogConfig,
}

/// Where the API servers are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiServerConfig {
    /// Which addresses to use; `None`: [`ApiServerMode::Auto`] in a Pod, [`ApiServerMode::Cluster`] elsewhere.
    pub mode: Option<ApiServerMode>,
    /// More addresses, in any mode.
    pub addresses: Vec<ServerAddress>,
}

/// Which addresses of API servers to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiServerMode {
    /// The configured address, and behind it those that `default/kubernetes` lists.
    Auto,
    /// The configured address alone.
    Cluster,
    /// This node's API server first, then as [`ApiServerMode::Auto`].
    Local(ServerAddress),
}

/// How to race for the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionConfig {
    /// How long a Lease holds after its last renewal; whole seconds, 2 to 60.
    pub lease_duration: Duration,
    /// How long after the last successful renewal the leader may write; shorter than `lease_duration`.
    pub renew_deadline: Duration,
    /// Pause before the next attempt after a failed one; 1.2 of it is shorter than `renew_deadline`.
    pub retry_period: Duration,
    /// Namespace of the Lease by flag or `POD_NAMESPACE`; `None`: the service account's or the context's.
    pub namespace: Option<String>,
    /// Name of the Lease.
    pub lease_name: String,
}

impl ElectionConfig {
    /// A candidate honours the duration that a Lease states up to this: an absurd one must not lock
    /// everybody out, and a longer one of ours would let a successor begin while we believe to hold it.
    pub const LONGEST_LEASE: Duration = Duration::from_secs(60);

    /// Pause between two renewals while they succeed: two fit into the deadline, whatever the flags say.
    #[must_use]
    pub fn renew_interval(&self) -> Duration {
        self.retry_period.saturating_mul(2).min(self.renew_deadline / 2)
    }
}

/// What to log, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Which events.
    pub filter: LogFilter,
    /// In which form.
    pub format: LogFormat,
}

/// Which events are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFilter {
    /// Those of this level and graver; libraries are quieter, see [`crate::telemetry`].
    Level(LevelFilter),
    /// Directives of a tracing filter, such as `info,kube=debug`; valid ones, each with a level.
    Directives(String),
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One flat JSON object a line, for collectors.
    Json,
}

#[cfg(test)]
mod tests;
