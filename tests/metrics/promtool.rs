//! promtool as a process: from PATH, or where `make tools` puts it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where it is. Without it a test returns at once, and has said why.
pub fn promtool() -> Option<PathBuf> {
    program("promtool")
}

/// A program of that package.
pub fn program(name: &str) -> Option<PathBuf> {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&in_path).collect::<Vec<_>>();
    let brought = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools");
    let mut places = folders
        .into_iter()
        .chain([brought])
        .map(|folder| folder.join(name));
    let found = places.find(|program| program.is_file());
    if found.is_none() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "there is no {name}: make tools brings it, or Debian's package prometheus"
        );
        println!("skipped: needs {name}, which make tools brings, or Debian's package prometheus");
    }
    found
}

/// Runs it with this on its standard input; it has to succeed, and says this.
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
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}
