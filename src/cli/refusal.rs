//! Rejects arguments with a one-line message. If our parser of a flag rejects its value, or an argument is missing, the
//! message is our own. Otherwise, it is the first line of clap's message.

use std::collections::HashMap;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Exit;

/// Returns the name under which the user set a flag: the name of the environment variable if the value comes from the
/// environment.
pub(super) fn origin(flag: &str, from_env: &HashMap<String, String>) -> String {
    from_env.get(flag).cloned().unwrap_or_else(|| format!("--{flag}"))
}

/// Returns the output and the exit code for an error from clap, which also reports help and version as errors.
pub(super) fn exit(error: &clap::Error, from_env: &HashMap<String, String>) -> Exit {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let text = error.render().to_string();
        return Exit { code: 0, text };
    }
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = context(ContextKind::InvalidArg)
        .and_then(|arg| arg.strip_prefix("--"))
        .and_then(|arg| arg.split(['=', ' ', '[']).next());
    if let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) {
        return Exit::refused(format!("missing argument {}: see --help", missing.join(" ")));
    }
    let rule = std::error::Error::source(error);
    Exit::refused(match (flag, context(ContextKind::InvalidValue), rule) {
        (Some(flag), Some(value), Some(rule)) => format!("{} {value:?}: {rule}", origin(flag, from_env)),
        _ => error
            .render()
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
    })
}
