//! Rules for the source code that the compiler does not check: the folders of `src/` that a folder may import, the
//! length and the first line of files, and the mutants. The Cargo.toml and clippy.toml of `crates/core` keep that crate
//! pure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folders and files of `src/`, from top to bottom. Each imports only those below it.
const LAYERS: &[&str] = &[
    "main",
    "cli",
    "inspect",
    "run",
    "replica",
    "admin",
    "controller",
    "leader_election",
    "apiserver",
    "telemetry",
    "config",
    "pauses",
    "timing",
];

/// The maximum number of lines of a file without its tests. A longer file has more than one purpose.
const LONGEST: usize = 400;

#[test]
fn a_folder_imports_only_what_is_below_it() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| file.layer() != "lib") {
        let layer = position(file.layer()).unwrap_or_else(|| panic!("{} is in no layer", file.name()));
        for import in file.imports() {
            if position(&import).is_some_and(|imported| imported < layer) {
                wrong.push(format!("{} imports {import}", file.name()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports from higher in LAYERS:\n  {}",
        wrong.join("\n  ")
    );
}

#[test]
fn a_file_without_its_tests_is_short() {
    let lines = |file: &Source| file.text.lines().count();
    let long: Vec<_> = sources()
        .iter()
        .filter(|file| lines(file) > LONGEST)
        .map(|file| format!("{} has {} lines", file.name(), lines(file)))
        .collect();
    assert!(
        long.is_empty(),
        "longer than {LONGEST} lines:\n  {}",
        long.join("\n  ")
    );
}

#[test]
fn a_file_begins_with_its_purpose() {
    let silent: Vec<_> = sources()
        .iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(Source::name)
        .collect();
    assert!(silent.is_empty(), "files that do not begin with //!: {silent:?}");
}

/// Without this test, a broken patch would be noticed only when someone runs the mutants.
#[test]
fn mutant_patches_apply() {
    let output = Command::new("hack/mutants/run")
        .arg("--check")
        .output()
        .expect("bash");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A file without its tests.
struct Source {
    /// The path, relative to the repository.
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The layer of a file: `src/controller/watch/named.rs` is in `controller`. Files of `crates/core` are in `lib`,
    /// which imports nothing.
    fn layer(&self) -> &str {
        let below = self
            .path
            .strip_prefix("src")
            .ok()
            .and_then(|path| path.iter().next());
        below
            .and_then(|name| name.to_str())
            .map_or("lib", |name| name.trim_end_matches(".rs"))
    }

    /// The folders and files of `src/` that the file imports.
    fn imports(&self) -> Vec<String> {
        let code = self
            .text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let code = code.collect::<Vec<_>>().join("\n");
        let paths = code
            .split("crate::")
            .skip(1)
            .chain(code.split("endpoint_copier_operator::").skip(1));
        let word = |path: &str| {
            path.split(|sign: char| !sign.is_alphanumeric() && sign != '_')
                .next()
                .map(str::to_owned)
        };
        paths.filter_map(word).collect()
    }
}

fn position(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|known| *known == layer)
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "crates/core/src"] {
        collect(root, &root.join(folder), &mut files);
    }
    assert!(files.len() > 50, "only {} files were found", files.len());
    files
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<Source>) {
    for entry in fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
    {
        let stem = entry.file_stem().and_then(|stem| stem.to_str());
        if stem.is_some_and(|stem| stem == "tests" || stem == "testing") {
            continue;
        }
        if entry.is_dir() {
            collect(root, &entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&entry).expect("a source");
            let text = text
                .split("#[cfg(test)]\nmod ")
                .next()
                .unwrap_or_default()
                .to_owned();
            files.push(Source {
                path: entry.strip_prefix(root).expect("below the root").to_owned(),
                text,
            });
        }
    }
}
