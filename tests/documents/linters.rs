//! Linters for the Dockerfile and the workflows, run offline. `make tools` installs them.

use std::path::PathBuf;
use std::process::Command;

use crate::root;

/// The path of a linter. If the linter is missing, prints that the test is skipped, and returns `None`.
fn linter(name: &str) -> Option<PathBuf> {
    let program = harness::brought(env!("CARGO_TARGET_TMPDIR"))
        .join("linters/bin")
        .join(name);
    if !program.is_file() {
        harness::skipped(name);
        return None;
    }
    Some(program)
}

/// Checks that a linter finds nothing.
fn check(program: PathBuf, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).current_dir(root()).output();
    let output = output.expect("the linter starts");
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{printed}");
}

#[test]
fn hadolint_finds_nothing_in_the_dockerfile() {
    let Some(hadolint) = linter("hadolint") else {
        return;
    };
    check(hadolint, &["Dockerfile"]);
}

#[test]
fn zizmor_finds_nothing_in_the_workflows() {
    let Some(zizmor) = linter("zizmor") else { return };
    check(
        zizmor,
        &["--offline", "--no-progress", "--persona", "pedantic", ".github"],
    );
}
