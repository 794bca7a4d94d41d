//! The syntax of Go's flag package: durations, booleans, one dash or two, `=` or a space.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Arg, Command};

/// A flag on the command line: its long name, even if the short one was given, and its value, if any.
pub(super) type Given = (String, Option<String>);

/// Splits the arguments (without the program name) into the flags of `command` and at most as many positional arguments
/// as it accepts. On error, returns a one-line message.
///
/// Go silently stops at the first argument that is not a flag: in `--leader-elect false --kubeconfig x`, it ignores
/// `false` and everything after it. Here, an unexpected argument is an error.
pub(super) fn split_args(
    command: &Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<(Vec<Given>, Vec<String>), String> {
    let mut args = args.into_iter().map(text).peekable();
    let (mut given, mut words) = (Vec::new(), Vec::new());
    let takes_words = command.get_positionals().count();
    while let Some(arg) = args.next() {
        let arg = arg?;
        let Some(flag) = arg
            .strip_prefix("--")
            .or_else(|| arg.strip_prefix('-'))
            .filter(|f| !f.is_empty())
        else {
            if words.len() < takes_words && !arg.starts_with('-') {
                words.push(arg);
                continue;
            }
            return Err(format!(
                "unexpected argument {arg:?}: flags take the form --name=value, and a command (status, plan, wait or doctor), if any, must come first"
            ));
        };
        let (name, mut value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let Some((name, arg)) = find(command, name) else {
            return Err(format!(
                "unknown flag {:?}: see --help",
                arg.split('=').next().unwrap_or_default()
            ));
        };
        // Go's booleans take a value only after `=`.
        let takes_next = arg.get_action().takes_values() && !arg.is_require_equals_set();
        if value.is_none() && takes_next {
            let needs_value = arg.get_num_args().is_none_or(|count| count.min_values() > 0);
            let is_flag = |next: &Result<String, String>| next.as_ref().is_ok_and(|n| n.starts_with('-'));
            value = args.next_if(|next| needs_value || !is_flag(next)).transpose()?;
            if value.is_none() && needs_value {
                return Err(format!("--{name} needs a value"));
            }
        }
        given.push((name, value));
    }
    Ok((given, words))
}

fn text(arg: OsString) -> Result<String, String> {
    arg.into_string()
        .map_err(|arg| format!("argument {:?} is not valid UTF-8", arg.to_string_lossy()))
}

fn find<'a>(command: &'a Command, name: &str) -> Option<(String, &'a Arg)> {
    let arg = command.get_arguments().find(|arg| {
        let short = arg.get_short().is_some_and(|short| name.chars().eq([short]));
        short || arg.get_long() == Some(name)
    })?;
    Some((arg.get_long()?.to_owned(), arg))
}

/// Parses the same spellings as Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Parses a duration in Go's notation, such as `1m30s`, `1.5h` or `500ms`. It must not be negative.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    // The parser of the `kube` crate reads an empty string as 0 and accepts extra signs. It panics on a minus sign
    // after the first number, and on durations that Rust cannot represent.
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let mut numbers = unsigned
        .split(|c: char| !c.is_ascii_digit())
        .filter(|number| !number.is_empty())
        .peekable();
    let is_sound = !unsigned.contains(['+', '-'])
        && numbers.peek().is_some()
        && numbers.all(|number| number.len() <= 12);
    let parsed = is_sound
        .then(|| unsigned.parse::<kube::core::Duration>().ok())
        .flatten();
    parsed
        .map(Duration::from)
        .ok_or_else(|| "must be a duration such as 6s, 1m30s or 500ms".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule: 4.go-syntax
    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, milliseconds) in [
            ("0", 0),
            ("+5s", 5_000),
            ("6s", 6_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("2h", 7_200_000),
            ("1.5s", 1_500),
            (".5s", 500),
            ("1.s", 1_000),
            ("1h15m30.918s", 4_530_918),
            ("3000us", 3),
            ("3000µs", 3),
            ("3000μs", 3),
            ("2000000ns", 2),
            ("0.100000s", 100),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn invalid_and_negative_durations_are_rejected() {
        for text in [
            "",
            "+",
            "6",
            "s",
            ".s",
            ".",
            "-1s",
            "1d",
            "1 s",
            "1s ",
            "1s2",
            "5s-3s",
            "5s+3s",
            "+-5s",
            "++5s",
            "1m-30s",
            "9999999999999h",
            "é",
            "99999999999999999999s",
        ] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn booleans_are_read_as_go_reads_them() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(boolean(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(boolean(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "on", "tRUE", " true"] {
            assert!(boolean(text).is_err(), "{text:?}");
        }
    }
}
