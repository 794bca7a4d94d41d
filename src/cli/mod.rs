//! Turns the flags and the environment into a validated [`Config`].
//!
//! Every flag that takes a value and has an effect can also be set by an environment variable: `ENDPOINT_COPIER_`
//! followed by the flag in upper snake case. The flag takes precedence over its variable. To add a flag, add a field to
//! `flags.rs`, and the field of [`Config`] that it sets.

mod address;
mod checks;
mod flags;
mod go;
mod label_selector;
mod migration;
mod refusal;
mod secure_metrics;
mod task;
mod values;

use std::fmt::Display;

use crate::config::Config;

pub use flags::{command, parse, variable};
pub use task::Task;

/// The task and the settings that the command line specifies.
#[derive(Debug)]
pub struct Invocation {
    /// Run the operator, or inspect a cluster.
    pub task: Task,
    /// The validated settings.
    pub config: Config,
    /// Lines to log once logging works, for example about flags that have no effect here.
    pub warnings: Vec<String>,
}

/// The output and the exit code of a process that runs no task.
#[derive(Debug)]
pub struct Exit {
    /// 0 for `--help` and `--version`, 2 for bad arguments.
    pub code: u8,
    /// Goes to standard output if the code is 0, and to standard error otherwise. Ends in a newline.
    pub text: String,
}

impl Exit {
    /// Rejects the arguments. `reason` is one line that says what is wrong, and what is allowed.
    fn refused(reason: impl Display) -> Self {
        let text = format!("{}: {reason}\n", env!("CARGO_PKG_NAME"));
        Self { code: 2, text }
    }
}

#[cfg(test)]
mod tests;
