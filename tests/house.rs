//! Rules for the source code that the compiler does not check: the folders of `src/` that a folder may import, the
//! length and the first line of files, unique names, and the mutants. The Cargo.toml and clippy.toml of `crates/core`
//! keep that crate pure.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;
use walkdir::WalkDir;

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
    let (comment, import) = (
        regex(r"(?m)^\s*//.*$"),
        regex(r"\b(?:crate|endpoint_copier_operator)::(\w+)"),
    );
    let position = |layer: &str| LAYERS.iter().position(|known| *known == layer);
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let Some(path) = file.strip_prefix("src/").filter(|path| *path != "lib.rs") else {
            continue;
        };
        let layer = path.split(['/', '.']).next().unwrap_or_default();
        let layer = position(layer).unwrap_or_else(|| panic!("{file} is in no layer"));
        for import in import.captures_iter(&comment.replace_all(&text, "")) {
            if position(&import[1]).is_some_and(|imported| imported < layer) {
                wrong.push(format!("{file} imports {}", &import[1]));
            }
        }
    }
    assert_none(&wrong, "imports from higher in LAYERS");
}

#[test]
fn a_file_is_short_and_begins_with_its_purpose() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let lines = text.lines().count();
        if lines > LONGEST {
            wrong.push(format!(
                "{file} has {lines} lines without its tests, more than {LONGEST}"
            ));
        }
        if !text.starts_with("//! ") {
            wrong.push(format!("{file} does not begin with //!"));
        }
    }
    assert_none(&wrong, "files");
}

/// A name that stands for two things makes a reader open the wrong file.
#[test]
fn types_and_constants_have_unique_names() {
    let item = regex(r"(?m)^(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait|type|const|static) (\w+)");
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in sources() {
        for item in item
            .captures_iter(&text)
            .filter(|item| !["Error", "_", "fn"].contains(&&item[1]))
        {
            files.entry(item[1].to_owned()).or_default().push(file.clone());
        }
    }
    files.retain(|_, files| files.len() > 1);
    let shared: Vec<_> = files
        .iter()
        .map(|(name, files)| format!("{name}: {files:?}"))
        .collect();
    assert_none(&shared, "names of several types or constants");
}

/// Without this test, a broken patch would be noticed only when someone runs the mutants.
#[test]
fn mutant_patches_apply() {
    let output = Command::new("hack/mutants/run")
        .arg("--check")
        .output()
        .expect("bash");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern")
}

fn assert_none(wrong: &[String], what: &str) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

/// Returns each file without its tests, by its path relative to the repository.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_test = |path: &Path| {
        path.file_stem()
            .is_some_and(|stem| stem == "tests" || stem == "testing")
    };
    let mut files = BTreeMap::new();
    for folder in ["src", "crates/core/src"] {
        let entries = WalkDir::new(root.join(folder))
            .into_iter()
            .filter_entry(|entry| !is_test(entry.path()));
        for entry in entries.map(|entry| entry.expect("an entry")) {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(path).expect("a source");
                let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
                let name = path
                    .strip_prefix(root)
                    .expect("below the root")
                    .display()
                    .to_string();
                files.insert(name, code.to_owned());
            }
        }
    }
    assert!(files.len() > 50, "only {} files were found", files.len());
    files
}
