//! Fills docs/contributing/rules.md with the tests of each rule, and checks that each rule and each attack has a test.
//!
//! A test names its rules in its doc comment, as `Rule: 1.enabled-true, 1.enabled-false`. `make docs` sets `BLESS=1`,
//! which writes the page. Otherwise, the test fails if the page is out of date.

#[path = "reference/generated.rs"]
mod generated;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use generated::{check, path, read};

const PAGE: &str = "docs/contributing/rules.md";

/// The rules of each test, by its module path.
type Tests = BTreeMap<String, BTreeSet<String>>;

/// The ID and the text of a row, or `None` if the line is not a rule.
fn rule(line: &str) -> Option<(&str, &str)> {
    let (id, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
    let (rule, _) = rest.strip_suffix(" |")?.rsplit_once(" | ")?;
    is_id(id).then_some((id, rule.trim()))
}

/// Whether a word has the form `<section>.<words-with-dashes>`.
fn is_id(word: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    word.split_once('.')
        .is_some_and(|(section, words)| is_word(section) && words.split('-').all(is_word))
}

/// The page with the existing tests filled in.
fn filled(page: &str, tests: &Tests) -> String {
    let line = |line: &str| match rule(line) {
        Some((id, rule)) => {
            let of_rule = tests.iter().filter(|(_, rules)| rules.contains(id));
            let names: Vec<_> = of_rule.map(|(name, _)| format!("`{name}`")).collect();
            format!("| `{id}` | {rule} | {} |\n", names.join(" "))
        }
        None => format!("{line}\n"),
    };
    page.lines().map(line).collect()
}

/// The errors in the rules of a page, given the existing tests.
fn complaints(page: &str, tests: &Tests) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ids = BTreeSet::new();
    for (id, rule) in page.lines().filter_map(rule) {
        if !ids.insert(id) {
            wrong.push(format!("{id} occurs twice"));
        }
        if rule.is_empty() {
            wrong.push(format!("{id} has no text"));
        }
        if !tests.values().any(|rules| rules.contains(id)) {
            wrong.push(format!("{id} has no test"));
        }
    }
    for (test, rules) in tests {
        let unknown = rules.iter().filter(|id| !ids.contains(id.as_str()));
        wrong.extend(unknown.map(|id| format!("{test} names {id}, which is not a rule")));
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

/// The tests of a file, with the rules that they name. A test has a test attribute, or is a scenario that runs on both
/// kinds of API server.
fn tests_of(text: &str) -> Tests {
    let mut tests = Tests::new();
    let (mut marked, mut rules) = (false, BTreeSet::new());
    for line in text.lines().map(str::trim) {
        marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        if let Some(ids) = line.strip_prefix("/// Rule: ") {
            rules.extend(ids.split(", ").map(str::to_owned));
        } else {
            // When a comment is wrapped again, its lines can be joined.
            let is_joined = line.starts_with("/// ") && line.contains(". Rule: ");
            assert!(!is_joined, "a rule needs its own line: {line}");
        }
        let name = line.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
        if let Some((name, parameters)) = name
            && (marked || parameters.starts_with("cluster: &mut Cluster"))
        {
            tests.insert(name.to_owned(), std::mem::take(&mut rules));
        }
        if !line.starts_with("#[") && !line.starts_with("//") {
            // Only a test may name a rule. Elsewhere, the rule would be lost.
            assert!(rules.is_empty(), "{rules:?} is named above {line}");
            marked = false;
        }
    }
    tests
}

/// Every test of the operator and of its core, with the rules that it names.
fn tests() -> Tests {
    let mut tests = Tests::new();
    for folder in ["src", "crates/core/src", "tests"] {
        let mut files = Vec::new();
        sources(&path(folder), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).expect("a source");
            let mut module = module(file.strip_prefix(path(folder)).expect("below the folder"));
            // Tests in the file that they test are in its module `tests`.
            if folder != "tests" && text.contains("mod tests {") {
                module.push_str("::tests");
            }
            let of_file = tests_of(&text).into_iter();
            tests.extend(of_file.map(|(name, rules)| (format!("{module}::{name}"), rules)));
        }
    }
    assert!(tests.len() > 300, "only {} tests were found", tests.len());
    tests
}

#[test]
fn every_rule_has_a_test_and_the_page_is_up_to_date() {
    let (page, tests) = (read(PAGE), tests());
    for section in ["1", "2", "3", "4", "5", "6", "7", "survive", "chart"] {
        let rules = page.lines().filter_map(rule);
        let count = rules
            .filter(|(id, _)| id.split('.').next() == Some(section))
            .count();
        assert!(count >= 3, "section {section} has {count} rules");
    }
    let wrong = complaints(&page, &tests);
    assert!(wrong.is_empty(), "{PAGE}:\n  {}", wrong.join("\n  "));
    check(PAGE, &filled(&page, &tests));
}

/// The cells of the rows about attacks. Some tables also name controls: mutants that remove a check, so that the attack
/// succeeds.
fn attacks(page: &str) -> Vec<Vec<&str>> {
    let mut is_attack = false;
    let rows = page.lines().filter_map(|line| {
        is_attack = line.starts_with("| attack |") || is_attack && line.starts_with('|');
        let line = line
            .strip_prefix("| ")
            .filter(|_| is_attack)?
            .strip_suffix(" |")?;
        let cells: Vec<_> = line.split(" | ").collect();
        (cells[0] != "attack").then_some(cells)
    });
    rows.collect()
}

/// The words of a cell in backquotes.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_attack_has_a_test() {
    let (tests, page) = (tests(), read("docs/explanation/security.md"));
    let (attacks, mut wrong) = (attacks(&page), Vec::new());
    for cells in &attacks {
        let (attack, named) = (cells[0], cells[3]);
        if names(named).next().is_none() {
            wrong.push(format!("{attack}: no test"));
        }
        let missing = names(named).filter(|test| !tests.contains_key(*test));
        wrong.extend(missing.map(|test| format!("{attack}: {test} is not a test")));
        let controls = cells.get(4).into_iter().flat_map(|cell| names(cell));
        let missing = controls.filter(|name| !path(&format!("hack/mutants/{name}.patch")).is_file());
        wrong.extend(missing.map(|name| format!("{attack}: {name} is not a mutant")));
    }
    let with_control = attacks.iter().filter(|cells| cells.len() == 5).count();
    assert!(attacks.len() >= 45, "only {} attacks", attacks.len());
    assert!(with_control >= 25, "only {with_control} attacks have a control");
    assert!(wrong.is_empty(), "{}", wrong.join("\n  "));
}

#[test]
fn a_flaw_in_the_rules_is_found() {
    let tests: Tests = [("plan::tests::a".to_owned(), ["1.good-rule".to_owned()].into())].into();
    let page = "| id | rule | tests |\n|---|---|---|\n| `1.good-rule` | r |  |\n";
    assert!(complaints(page, &tests).is_empty());
    assert!(filled(page, &tests).ends_with("| `1.good-rule` | r | `plan::tests::a` |\n"));
    for (page, flaw) in [
        (
            format!("{page}| `1.good-rule` | r |  |"),
            "1.good-rule occurs twice",
        ),
        (page.replace("| r |", "|  |"), "1.good-rule has no text"),
        (
            format!("{page}| `survive.other` | r |  |"),
            "survive.other has no test",
        ),
        (String::new(), "plan::tests::a names 1.good-rule"),
    ] {
        let wrong = complaints(&page, &tests);
        assert!(wrong.len() == 1 && wrong[0].contains(flaw), "{page}: {wrong:?}");
    }
}

#[test]
fn tests_are_found_by_their_attribute_or_as_scenarios() {
    let text = [
        "/// Why.",
        "/// Rule: 1.a, 2.b",
        "/// Rule: 3.c",
        "#[test]",
        "fn plain() {}",
        "fn helper() {}",
        "#[tokio::test(start_paused = true)]",
        "async fn paused() {}",
        "// #[test]",
        "fn commented() {}",
        "    /// Rule: 1.a",
        "    async fn scenario(cluster: &mut Cluster) {}",
        "    #[test]",
        "    #[ignore]",
        "    fn two() {}",
    ];
    let found = tests_of(&text.join("\n"));
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        ["paused", "plain", "scenario", "two"]
    );
    let rules = |name: &str| found[name].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(rules("plain"), ["1.a", "2.b", "3.c"]);
    assert_eq!(rules("scenario"), ["1.a"]);
    assert!(rules("two").is_empty());
    assert_eq!(module(Path::new("plan/copy/mod.rs")), "plan::copy");
    assert_eq!(module(Path::new("blackbox/main.rs")), "blackbox");
    assert_eq!(module(Path::new("race.rs")), "race");
}
