//! Writes docs/reference/flags.md from clap's command.

use clap::{Arg, Command};
use endpoint_copier_operator::cli;

use crate::generated::check;
use crate::table::{code, generated_from, table};

const INTRO: &str = "\
# Flags

If you set both a flag and its environment variable, the flag takes precedence. Flags follow Go's syntax: `-flag`,
`--flag=value`, and durations such as `1m30s`. `endpoint-copier-operator --help` shows the same list.

If a flag is invalid, the operator prints one line to standard error and exits with 2.
[Commands](commands.md#exit-codes) lists all exit codes.
";

#[test]
fn flags_page_is_up_to_date() {
    let command = cli::command();
    let mut text = generated_from("the flags in `src/cli`") + INTRO;
    let mut headings: Vec<_> = flags(&command).map(heading).collect();
    headings.dedup();
    for title in headings {
        let of_heading: Vec<_> = flags(&command).filter(|flag| heading(flag) == title).collect();
        text.extend(["\n## ", title, "\n\n"]);
        if of_heading.iter().all(|flag| flag.get_help().is_none()) {
            text.push_str(&list(of_heading));
        } else {
            let rows = of_heading.into_iter().map(row);
            text.push_str(&table(
                ["flag", "environment variable", "default", "meaning"],
                rows,
            ));
        }
    }
    text.push_str("\n## Subcommands\n\nWithout a subcommand, the operator runs.\n");
    for subcommand in command.get_subcommands() {
        text.push_str(&of_subcommand(&command, subcommand));
    }
    check("docs/reference/flags.md", &text);
}

/// All flags except those that clap adds. Positional arguments are not flags.
fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    let flags = command.get_arguments();
    flags.filter(|flag| !flag.is_positional() && !["help", "version"].contains(&name(flag)))
}

fn name(flag: &Arg) -> &str {
    flag.get_long().expect("a long name")
}

fn heading(flag: &Arg) -> &str {
    flag.get_help_heading().unwrap_or("General")
}

fn row(flag: &Arg) -> [String; 4] {
    let (meaning, default) = meaning_and_default(flag);
    [
        code(&format!("--{}", name(flag))),
        code(&cli::variable(name(flag))),
        default,
        meaning,
    ]
}

/// The meaning and the default of a flag. A default that depends on the environment is part of the help text.
fn meaning_and_default(flag: &Arg) -> (String, String) {
    let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let values = flag.get_default_values();
    let default = values
        .iter()
        .map(|value| value.to_string_lossy())
        .collect::<Vec<_>>();
    match help.split_once(" [default: ") {
        Some((meaning, default)) => (meaning.to_owned(), default.trim_end_matches(']').to_owned()),
        None => (help, code(&default.join(","))),
    }
}

/// The names of flags, separated by commas.
fn list<'a>(flags: impl IntoIterator<Item = &'a Arg>) -> String {
    let flags = flags.into_iter().map(|flag| code(&format!("--{}", name(flag))));
    flags.collect::<Vec<_>>().join(", ") + ".\n"
}

fn of_subcommand(operator: &Command, subcommand: &Command) -> String {
    let about = subcommand.get_about().expect("a purpose");
    let after = subcommand
        .get_after_help()
        .expect("the exit codes after the help")
        .to_string();
    let is_own = |flag: &&Arg| flags(operator).all(|known| name(known) != name(flag));
    let own = flags(subcommand).filter(is_own).map(|flag| {
        let (meaning, default) = meaning_and_default(flag);
        let short = flag
            .get_short()
            .map(|short| format!("`-{short}`, "))
            .unwrap_or_default();
        let values = flag.get_possible_values();
        let values: Vec<_> = values.iter().map(|value| code(value.get_name())).collect();
        [
            format!("{short}`--{}`", name(flag)),
            default,
            if values.is_empty() {
                meaning
            } else {
                format!("{meaning}: {}", values.join(" or "))
            },
        ]
    });
    let mut words = vec![subcommand.get_name().to_owned()];
    let positionals = subcommand.get_positionals();
    words.extend(positionals.filter_map(|arg| Some(arg.get_value_names()?.first()?.to_string())));
    let shared = flags(subcommand).filter(|flag| !flag.is_hide_set() && !is_own(flag));
    format!(
        "\n### {}\n\n{about}.\n\n{}\n\n{}\nThis command accepts all flags above, but uses only the log flags and these: {}",
        code(&words.join(" ")),
        after.replace('\n', "\n\n"),
        table(["flag", "default", "meaning"], own),
        list(shared)
    )
}
