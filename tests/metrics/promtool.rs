//! promtool as a process.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::tool;

/// The path of promtool. If promtool is missing, prints that the test is skipped, and returns `None`.
pub fn promtool() -> Option<PathBuf> {
    tool("promtool", env!("CARGO_TARGET_TMPDIR"))
}

/// Runs promtool with this standard input, and returns its output. Panics if promtool fails.
pub fn run(promtool: &Path, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(promtool)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {printed}");
    printed
}
