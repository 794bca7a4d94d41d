//! Accepts the flags that only the Go operator has, so that its command line can be kept during an upgrade.
//!
//! This module exists only for the migration from the Go operator; see [`endpoint_copier_core::migration`].

use clap::Args;

use super::values::one_of;
use crate::config::LogFormat;

/// Flags under this heading only cause a warning.
pub(super) const WITHOUT_EFFECT: &str = "Accepted from the Go operator, without effect";

/// The flags of the zap package of controller-runtime, and others that this operator does not need.
#[derive(Args)]
pub(super) struct GoOperatorFlags {
    /// The Go operator's flag for --log-level: debug, info, warn, error, panic, or an integer from 1 to 127
    #[arg(long, value_name = "LEVEL", help_heading = "Logs", value_parser = level)]
    pub(super) zap_log_level: Option<String>,

    /// The Go operator's flag for --log-format: console or json
    #[arg(long, value_name = "FORMAT", help_heading = "Logs", value_parser = encoder)]
    pub(super) zap_encoder: Option<LogFormat>,

    #[arg(long, value_name = "BOOL", help_heading = WITHOUT_EFFECT, num_args = 0..=1, require_equals = true)]
    zap_devel: Option<String>,

    #[arg(long, value_name = "LEVEL", help_heading = WITHOUT_EFFECT, num_args = 0..=1)]
    zap_stacktrace_level: Option<String>,

    #[arg(long, value_name = "ENCODING", help_heading = WITHOUT_EFFECT, num_args = 0..=1)]
    zap_time_encoding: Option<String>,

    #[arg(long, value_name = "PORT", help_heading = WITHOUT_EFFECT, num_args = 0..=1)]
    apiserver_port: Option<String>,

    #[arg(long, value_name = "PROTOCOL", help_heading = WITHOUT_EFFECT, num_args = 0..=1)]
    apiserver_protocol: Option<String>,
}

/// Zap counts verbosity upward from info, in an 8-bit integer: 1 is debug, and higher levels log more.
fn level(text: &str) -> Result<String, String> {
    let level = match text.to_ascii_lowercase().as_str() {
        "debug" => "debug",
        "info" => "info",
        "warn" => "warn",
        "error" | "dpanic" | "panic" | "fatal" => "error",
        number if number.parse().is_ok_and(|n: i8| n > 0) => "debug",
        _ => return Err("must be debug, info, warn, error, panic, or an integer from 1 to 127".to_owned()),
    };
    Ok(level.to_owned())
}

fn encoder(text: &str) -> Result<LogFormat, String> {
    one_of(&[("console", LogFormat::Text), ("json", LogFormat::Json)], text)
}
