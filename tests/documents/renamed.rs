//! The command in docs/contributing/releasing.md that gives the project its public address. The test runs the command
//! on a copy of the repository, and no occurrence of the placeholder for the organization may remain.

use std::path::Path;
use std::process::Command;

use crate::{read, root};

/// The placeholder for the name of the organization.
const ORG: &str = "endpoint-copier-operator";

const RELEASING: &str = "docs/contributing/releasing.md";

fn git(folder: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).current_dir(folder).output().ok()?;
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    output.status.success().then_some(text)
}

#[test]
fn the_rename_command_replaces_every_organization_name() {
    let Some(files) = git(root(), &["ls-files"]) else {
        println!("skipped: needs git, and a clone");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    for name in files.lines().filter(|name| root().join(name).is_file()) {
        let to = folder.path().join(name);
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        std::fs::copy(root().join(name), to).expect("a copy");
    }
    git(folder.path(), &["init", "--quiet"]).expect("a repository");
    git(folder.path(), &["add", "--all"]).expect("added");

    let text = read(RELEASING);
    let (_, command) = text.split_once("```sh\norg=").expect("the command");
    let command = command
        .split("\n```")
        .next()
        .expect("text before the end of the block");
    let command = command
        .strip_suffix("\nmake fmt test")
        .expect("make fmt test after the command");
    let run = Command::new("bash")
        .args(["-c", &format!("org={command}")])
        .current_dir(folder.path())
        .status();
    assert!(run.expect("bash").success());

    let left = [
        format!("com/{ORG}/"),
        format!("ghcr.io/{ORG}"),
        format!("{ORG}.github.io"),
        format!("--repo {ORG}/"),
        // An image in any other registry. `<Helm repository>/<chart>` does not match, because no slash precedes it.
        format!("/{ORG}/{ORG}"),
    ];
    let mut found = Vec::new();
    let mut renamed = 0;
    for name in files.lines().filter(|name| *name != RELEASING) {
        let Ok(text) = std::fs::read_to_string(folder.path().join(name)) else {
            continue;
        };
        renamed += usize::from(text.contains("the-real-one"));
        let lines = text
            .lines()
            .filter(|line| left.iter().any(|left| line.contains(left.as_str())));
        found.extend(lines.map(|line| format!("{name}: {}", line.trim())));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(renamed > 15, "{renamed}");
}
