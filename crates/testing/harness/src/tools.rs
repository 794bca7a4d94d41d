//! External programs: helm, kubectl, promtool, prometheus.

use std::path::{Path, PathBuf};

/// A program from PATH, from the folder of `make tools`, or next to the API server. If it is missing, this prints why,
/// and the test returns at once.
///
/// `tmp` is the `CARGO_TARGET_TMPDIR` of the caller, which cargo gives to no other crate.
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

/// The folder into which `make tools` installs, next to the output of cargo.
#[must_use]
pub fn brought(tmp: &str) -> PathBuf {
    Path::new(tmp).with_file_name("tools")
}

/// Prints that a test is skipped because a tool is missing. With `CI=true` that is a failure.
pub fn skipped(tool: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "there is no {tool}: make tools brings it"
    );
    println!("skipped: needs {tool}, which make tools brings");
}
