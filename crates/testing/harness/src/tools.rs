//! External programs: helm, kubectl, promtool, prometheus.

use std::path::{Path, PathBuf};

/// A program from PATH, from the folder of `make tools`, or from `KUBEBUILDER_ASSETS`. If the program is missing, this
/// function prints that the test is skipped and returns `None`, and the test must return.
///
/// `tmp` is the caller's `CARGO_TARGET_TMPDIR`, which Cargo sets only for integration tests and benchmarks.
#[must_use]
pub fn tool(name: &str, tmp: &str) -> Option<PathBuf> {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let beside = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let mut places = std::env::split_paths(&in_path)
        .chain([brought(tmp)])
        .chain(beside);
    let found = places.find_map(|folder| Some(folder.join(name)).filter(|program| program.is_file()));
    if found.is_none() {
        skipped(name);
    }
    found
}

/// The folder into which `make tools` installs programs, in Cargo's target directory.
#[must_use]
pub fn brought(tmp: &str) -> PathBuf {
    Path::new(tmp).with_file_name("tools")
}

/// Prints that a test is skipped because a tool is missing. With `CI=true`, the test fails instead.
pub fn skipped(tool: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{tool} is missing: make tools installs it"
    );
    println!("skipped: needs {tool}, which make tools installs");
}
