//! Holds the rules of the house: who may import whom, what is pure, how long a file may be.
//!
//! ```text
//!     watch ──> index ──> queue ──> reconcile { snapshot ─> plan ─> apply } ──> API server
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each module of `src/` and what it may import of the others: a whole module, or one item of it.
const HOUSE: &[(&str, &[&str])] = &[
    ("main", &["cli", "inspect", "run", "telemetry"]),
    ("run", &["*"]),
    // The pure half.
    ("model", &[]),
    ("index", &["model"]),
    ("plan", &["model"]),
    // From the API server to the queue.
    (
        "watch",
        &[
            "client::Elsewhere",
            "client::Server",
            "client::is_watch",
            "client::overload",
            "decode",
            "election::Lease",
            "election::Record",
            "error",
            "index",
            "metrics",
            "model",
            "outage",
            "pulse",
            "queue",
        ],
    ),
    ("pulse", &[]),
    ("queue", &["metrics", "model"]),
    ("progress", &[]),
    ("budget", &[]),
    // From the queue to the API server.
    (
        "worker",
        &[
            "election::term",
            "index::SharedIndex",
            "metrics",
            "model",
            "progress",
            "pulse",
            "queue",
            "reconcile",
        ],
    ),
    (
        "reconcile",
        &[
            "apply",
            "budget",
            "client::throttled",
            "decode",
            "election::term",
            "error",
            "events::Herald",
            "index",
            "metrics",
            "model",
            "outage",
            "plan",
            "progress",
            "pulse",
            "queue",
        ],
    ),
    (
        "events",
        &["budget", "election::term", "error", "metrics", "model", "outage"],
    ),
    (
        "apply",
        &[
            "client::NotAfter",
            "client::TooLate",
            "client::throttled",
            "election::term",
            "error",
            "metrics",
            "model",
            "plan",
            "progress",
        ],
    ),
    (
        "election",
        &[
            "cli::ElectionConfig",
            "client::Beside",
            "error",
            "metrics",
            "model::version",
            "outage",
            "progress",
            "pulse",
        ],
    ),
    (
        "client",
        &[
            "cli::ApiServerConfig",
            "cli::ApiServerMode",
            "cli::ServerAddress",
            "error",
            "metrics",
        ],
    ),
    ("decode", &["model"]),
    ("error", &[]),
    ("outage", &[]),
    // What people touch and see.
    ("cli", &["model"]),
    (
        "inspect",
        &[
            "cli",
            "client",
            "decode",
            "election::Lease",
            "error",
            "index",
            "metrics",
            "model",
            "plan",
            "watch",
        ],
    ),
    ("http", &["cli::BindAddress", "metrics"]),
    ("metrics", &["model"]),
    (
        "telemetry",
        &["cli::LogConfig", "cli::LogFilter", "cli::LogFormat"],
    ),
];

/// Modules without client, async, clock, environment and logging.
const PURE: [&str; 3] = ["index", "model", "plan"];

/// What a pure module does not name.
const IMPURE: [&str; 14] = [
    "backoff",
    "futures",
    "hyper",
    "jiff",
    "kube",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::time",
    "tokio",
    "tracing",
];

/// Lines of a file without its tests. A longer one has a second idea in it.
const LONGEST: usize = 400;

#[test]
fn a_module_imports_only_what_the_house_allows() {
    let mut wrong = Vec::new();
    for file in sources() {
        let Some((_, allowed)) = HOUSE.iter().find(|(module, _)| *module == file.module()) else {
            continue;
        };
        let allows = |path: &str| {
            let own = [file.module()];
            let mut rules = allowed.iter().copied().chain(own);
            rules.any(|rule| rule == "*" || is_within(path, rule))
        };
        let strangers = file
            .crate_paths()
            .into_iter()
            .filter(|path| is_module(path) && !allows(path));
        wrong.extend(strangers.map(|path| format!("{} imports {path}", file.name())));
    }
    assert!(
        wrong.is_empty(),
        "against the one way through the house (HOUSE, at the top of this test):\n  {}",
        wrong.join("\n  ")
    );
}

#[test]
fn the_house_names_every_module() {
    let there: BTreeSet<_> = sources()
        .iter()
        .map(|file| file.module().to_owned())
        .filter(|module| module != "lib")
        .collect();
    let named: BTreeSet<_> = HOUSE.iter().map(|(module, _)| (*module).to_owned()).collect();
    assert_eq!(there, named);
}

#[test]
fn the_pure_half_knows_no_client_no_async_no_clock_no_environment_and_no_logging() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| PURE.contains(&file.module())) {
        let named = IMPURE.iter().filter(|word| file.names(word));
        wrong.extend(named.map(|word| format!("{} names {word}", file.name())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_without_its_tests_is_short() {
    let lines = |file: &Source| file.text.lines().count();
    let long: Vec<_> = sources()
        .iter()
        .filter(|file| lines(file) > LONGEST)
        .map(|file| format!("{} has {} lines", file.name(), lines(file)))
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST}:\n  {}", long.join("\n  "));
}

#[test]
fn a_file_begins_with_what_it_is_for() {
    let silent: Vec<_> = sources()
        .iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(Source::name)
        .collect();
    assert!(silent.is_empty(), "without //! at their top: {silent:?}");
}

/// They would be forgotten otherwise until somebody runs them.
#[test]
fn the_patches_of_the_mutants_apply() {
    let checked = Command::new("hack/mutants/run").arg("--check").output();
    let output = checked.expect("bash");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A file of `src/` without its tests.
struct Source {
    /// Below `src/`.
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> String {
        format!("src/{}", self.path.display())
    }

    /// The names of the modules that lead here: `src/watch/named.rs` is `watch`, `named`.
    fn modules(&self) -> Vec<&str> {
        let stem = self.path.file_stem().and_then(|stem| stem.to_str());
        let folders = self.path.parent().into_iter().flat_map(Path::iter);
        folders.filter_map(|name| name.to_str()).chain(stem).collect()
    }

    /// The module of the house that this file belongs to.
    fn module(&self) -> &str {
        self.modules()[0]
    }

    fn code(&self) -> String {
        let is_comment = |line: &&str| line.trim_start().starts_with("//");
        let lines: Vec<_> = self.text.lines().filter(|line| !is_comment(line)).collect();
        lines.join("\n")
    }

    /// All paths into this crate, from its root: of `use` lines, and of those in the code.
    fn crate_paths(&self) -> BTreeSet<String> {
        let (uses, rest) = split_uses(&self.code());
        let mut paths = Vec::new();
        for tree in uses {
            expand("", &tree, &mut paths);
        }
        paths.extend(paths_in(&rest));
        paths
            .iter()
            .filter_map(|path| self.absolute(path))
            .filter(|path| !path.is_empty())
            .collect()
    }

    /// `None`: the path leads into another crate.
    fn absolute(&self, path: &str) -> Option<String> {
        let mut at: Vec<&str> = match self.modules()[..] {
            ["lib" | "main"] => Vec::new(),
            ref modules => modules.to_vec(),
        };
        let mut segments = path.split("::").peekable();
        match segments.next()? {
            "crate" | "endpoint_copier_operator" => at.clear(),
            "self" => {}
            "super" => {
                at.pop();
                while segments.next_if_eq(&"super").is_some() {
                    at.pop();
                }
            }
            _ => return None,
        }
        at.extend(segments);
        Some(at.join("::"))
    }

    /// Whether the code has a path that begins so.
    fn names(&self, root: &str) -> bool {
        let (uses, rest) = split_uses(&self.code());
        let mut paths = paths_in(&rest);
        for tree in uses {
            expand("", &tree, &mut paths);
        }
        paths
            .iter()
            .any(|path| is_within(path, root) || is_within(path, &format!("{root}_util")))
    }
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &src, &mut files);
    assert!(files.len() > 10, "{} holds only {}", src.display(), files.len());
    files
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry
            .file_stem()
            .is_some_and(|stem| stem == "tests" || stem == "testing")
        {
            continue;
        }
        if entry.is_dir() {
            collect(root, &entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&entry).unwrap();
            let without_tests = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            files.push(Source {
                path: entry.strip_prefix(root).unwrap().to_owned(),
                text: without_tests.to_owned(),
            });
        }
    }
}

/// The trees of the `use` lines, on one line each, and the code without them.
fn split_uses(code: &str) -> (Vec<String>, String) {
    let (mut uses, mut rest) = (Vec::new(), String::new());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let words = line.trim_start();
        let words = words.strip_prefix("pub ").unwrap_or(words);
        let Some(begin) = words.strip_prefix("use ") else {
            rest.push_str(line);
            rest.push('\n');
            continue;
        };
        let mut tree = begin.to_owned();
        while !tree.contains(';') {
            tree.push_str(lines.next().unwrap_or(";"));
        }
        let tree = tree.split(';').next().unwrap_or_default();
        uses.push(tree.split(" as ").map(str::trim).collect::<Vec<_>>().join(" as "));
    }
    (uses, rest)
}

/// `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        paths.push(format!("{prefix}{path}").trim_end_matches("::self").to_owned());
        return;
    };
    let group = group.strip_suffix('}').unwrap_or(group);
    let (mut depth, mut start) = (0_usize, 0);
    let prefix = format!("{prefix}{}", head.trim());
    for (at, sign) in group.char_indices().chain([(group.len(), ',')]) {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = &group[start..at];
                if !part.trim().is_empty() {
                    expand(&prefix, part, paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Paths of at least two words, as they stand in code.
fn paths_in(code: &str) -> Vec<String> {
    let is_part = |sign: char| sign.is_alphanumeric() || sign == '_' || sign == ':';
    code.split(|sign| !is_part(sign))
        .filter(|word| word.contains("::"))
        .map(|word| word.trim_matches(':').to_owned())
        .collect()
}

/// Whether a path is this one or leads through it.
fn is_within(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// A path from the root that begins with a module, not with a word of the file's own.
fn is_module(path: &str) -> bool {
    let first = path.split("::").next().unwrap_or_default();
    HOUSE.iter().any(|(module, _)| *module == first)
}

/// The test must see what it is to forbid.
#[test]
fn imports_are_read_from_use_lines_and_from_code() {
    let file = Source {
        path: "watch/named.rs".into(),
        text: "//! Purpose.\n// crate::not::me\nuse std::time::{Duration, Instant};\n\
               use crate::{index::{Dirty, Scope}, model as words,\n    queue::Inbox};\n\
               use super::super::plan::Plan;\nuse super::{Watches, backoff};\n\
               fn f() { crate::reconcile::lock(); tokio_util::time::x() }"
            .to_owned(),
    };
    let expected = [
        "index::Dirty",
        "index::Scope",
        "model",
        "plan::Plan",
        "queue::Inbox",
        "reconcile::lock",
        "watch::Watches",
        "watch::backoff",
    ];
    assert_eq!(
        file.crate_paths(),
        expected.into_iter().map(str::to_owned).collect()
    );
    assert!(file.names("std::time") && file.names("tokio") && !file.names("kube"));
}
