//! Flags and environment to a checked [`Config`].
//!
//! Every flag has an environment variable, `ENDPOINT_COPIER_` and the flag in upper snake case, which it beats.
//! To add a flag: a field in `flags.rs`, and the field of [`Config`] that it sets.

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

/// What the command line asks for.
#[derive(Debug)]
pub struct Invocation {
    /// Run the operator, or look at a cluster.
    pub task: Task,
    /// The settings, all checked.
    pub config: Config,
    /// Lines to log once logging works: flags that have no effect here.
    pub warnings: Vec<String>,
}

/// What to print instead of running.
#[derive(Debug)]
pub struct Exit {
    /// 0 for `--help` and `--version`, 2 for bad arguments.
    pub code: u8,
    /// For standard output when the code is 0, else for standard error. Ends in a newline.
    pub text: String,
}

impl Exit {
    /// `reason`: one line that says what is wrong, and what is allowed.
    fn refused(reason: impl Display) -> Self {
        let text = format!("{}: {reason}\n", env!("CARGO_PKG_NAME"));
        Self { code: 2, text }
    }
}

#[cfg(test)]
mod tests;
