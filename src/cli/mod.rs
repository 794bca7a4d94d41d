//! Flags and environment to a checked [`Config`].
//!
//! Every flag has an environment variable, `ENDPOINT_COPIER_` and the flag in upper snake case, which it beats.
//! To add a flag: a field in `flags.rs`, and the field of [`Config`] that it sets.

mod address;
mod flags;
mod go;
mod migration;
mod task;
mod values;

use std::ffi::OsString;

use crate::config::Config;

pub use flags::{command, variable};
pub use task::Task;

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

#[cfg(test)]
mod tests;
