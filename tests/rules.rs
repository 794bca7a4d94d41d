//! Checks the tables rule → test of docs/contributing/verification-map.md and attack → test of docs/explanation/security.md against the
//! existing tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One row: id, rule, tests.
struct Row<'a> {
    id: &'a str,
    rule: &'a str,
    tests: Vec<&'a str>,
}

/// The rows whose first cell is an id.
fn rows(text: &str) -> Vec<Row<'_>> {
    let cells = text.lines().filter_map(|line| {
        let (id, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (rule, tests) = rest.strip_suffix(" |")?.rsplit_once(" | ")?;
        is_id(id).then_some((id, rule, tests))
    });
    cells
        .map(|(id, rule, tests)| Row {
            id,
            rule,
            tests: tests.split('`').skip(1).step_by(2).collect(),
        })
        .collect()
}

/// `<section>.<words-with-dashes>`
fn is_id(word: &str) -> bool {
    let Some((section, words)) = word.split_once('.') else {
        return false;
    };
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    section.len() == 1 && section.bytes().all(|c| c.is_ascii_digit()) && words.split('-').all(is_word)
}

/// What is wrong with a table, given the tests that there are.
fn complaints(text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ids = BTreeSet::new();
    for Row {
        id,
        rule,
        tests: named,
    } in rows(text)
    {
        if !ids.insert(id) {
            wrong.push(format!("{id} stands twice"));
        }
        if rule.trim().is_empty() {
            wrong.push(format!("{id} says no rule"));
        }
        if named.is_empty() {
            wrong.push(format!("{id} has no test"));
        }
        let missing = named.iter().filter(|test| !tests.contains(**test));
        wrong.extend(missing.map(|test| format!("{id} names {test}, which is no test")));
    }
    wrong
}

fn sources(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The module path of a file below the folder of its crate: `plan/copy.rs` is `plan::copy`, `index/mod.rs` is `index`.
fn module(file: &Path) -> String {
    let words = file.components().map(|word| word.as_os_str().to_string_lossy());
    let path = words.collect::<Vec<_>>().join("::");
    let path = path.trim_end_matches(".rs");
    let folder = path.strip_suffix("::main").or_else(|| path.strip_suffix("::mod"));
    folder.unwrap_or(path).to_owned()
}

/// The names of a file's tests: after their attribute, or as a scenario that runs on both API servers.
fn names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        let is_attribute = line.starts_with("#[");
        marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let name = line.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
        if let Some((name, parameters)) = name
            && (marked || parameters.starts_with("cluster: &mut Cluster"))
        {
            names.insert(name.to_owned());
        }
        marked &= is_attribute || line.starts_with("//");
    }
    names
}

/// Every test of the operator and of its core by its module path.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    for folder in ["src", "crates/core/src", "tests"] {
        let mut files = Vec::new();
        sources(&root.join(folder), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).expect("a source");
            let mut module = module(file.strip_prefix(root.join(folder)).expect("below the folder"));
            // Those in the file that they test are in a module of it.
            if folder != "tests" && text.contains("mod tests {") {
                module.push_str("::tests");
            }
            tests.extend(names(&text).into_iter().map(|name| format!("{module}::{name}")));
        }
    }
    tests
}

#[test]
fn every_rule_has_a_test_and_every_test_named_is_there() {
    let text = include_str!("../docs/contributing/verification-map.md");
    let tests = tests();
    assert!(tests.len() > 300, "only {} tests were found", tests.len());
    for section in 1..=6 {
        let of_section = rows(text)
            .iter()
            .filter(|row| row.id.starts_with(&format!("{section}.")))
            .count();
        assert!(of_section >= 3, "section {section} has {of_section} rules");
    }
    let wrong = complaints(text, &tests);
    assert!(
        wrong.is_empty(),
        "docs/contributing/verification-map.md:\n  {}",
        wrong.join("\n  ")
    );
}

#[test]
fn every_attack_has_a_test_and_every_test_named_is_there() {
    let tests = tests();
    let rows = include_str!("../docs/explanation/security.md")
        .lines()
        .filter_map(|line| {
            let cells: Vec<_> = line
                .strip_prefix("| ")?
                .strip_suffix(" |")?
                .split(" | ")
                .collect();
            <[&str; 4]>::try_from(cells)
                .ok()
                .filter(|[attack, ..]| *attack != "attack")
        });
    let (mut attacks, mut wrong) = (0, Vec::new());
    for [attack, _, _, named] in rows {
        attacks += 1;
        let named: Vec<_> = named.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            wrong.push(format!("{attack}: no test"));
        }
        let missing = named.iter().filter(|test| !tests.contains(**test));
        wrong.extend(missing.map(|test| format!("{attack}: {test} is no test")));
    }
    assert!(attacks >= 20, "only {attacks} attacks");
    assert!(
        wrong.is_empty(),
        "docs/explanation/security.md:\n  {}",
        wrong.join("\n  ")
    );
}

#[test]
fn what_is_wrong_with_a_table_is_found() {
    let tests = ["plan::tests::a".to_owned()].into();
    let table = "| id | rule | tests |\n|---|---|---|\n| `1.good-rule` | r | `plan::tests::a` |\n";
    assert!(complaints(table, &tests).is_empty());
    assert_eq!(rows(table).len(), 1);
    for (row, says) in [
        ("| `1.good-rule` | r | `plan::tests::a` |", "stands twice"),
        ("| `1.other` |  | `plan::tests::a` |", "says no rule"),
        ("| `1.other` | r |  |", "has no test"),
        (
            "| `1.other` | r | `plan::tests::a` `plan::tests::b` |",
            "names plan::tests::b",
        ),
    ] {
        let wrong = complaints(&format!("{table}{row}\n"), &tests);
        assert!(wrong.len() == 1 && wrong[0].contains(says), "{row}: {wrong:?}");
    }
}

#[test]
fn tests_are_found_by_their_attribute_or_as_scenarios() {
    let text = "#[test]\nfn plain() {}\nfn helper() {}\n#[tokio::test(start_paused = true)]\nasync fn paused() {}\n\
                // #[test]\nfn commented() {}\n    async fn scenario(cluster: &mut Cluster) {}\n    #[test]\n    #[ignore]\n    fn two() {}\n";
    let found: Vec<_> = names(text).into_iter().collect();
    assert_eq!(found, ["paused", "plain", "scenario", "two"]);
    assert_eq!(module(Path::new("plan/copy/mod.rs")), "plan::copy");
    assert_eq!(module(Path::new("blackbox/main.rs")), "blackbox");
    assert_eq!(module(Path::new("race.rs")), "race");
}
