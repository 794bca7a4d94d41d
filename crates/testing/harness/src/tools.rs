//! Programs that are not ours: helm, kubectl, promtool, prometheus.

use std::path::{Path, PathBuf};

/// A program from PATH, or from where `make tools` puts it. Without it a test returns at once, and this has said why.
///
/// `tmp` is the caller's `CARGO_TARGET_TMPDIR`, which cargo gives to no other crate.
#[must_use]
pub fn tool(name: &str, tmp: &str) -> Option<PathBuf> {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&in_path).chain([brought(tmp)]);
    let found = places.find_map(|folder| Some(folder.join(name)).filter(|program| program.is_file()));
    if found.is_none() {
        skipped(name);
    }
    found
}

/// Where `make tools` puts what it brings: beside what cargo builds.
#[must_use]
pub fn brought(tmp: &str) -> PathBuf {
    Path::new(tmp).with_file_name("tools")
}

/// Says that a test is skipped for want of a tool; in CI that is a failure.
pub fn skipped(tool: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "there is no {tool}: make tools brings it"
    );
    println!("skipped: needs {tool}, which make tools brings");
}
