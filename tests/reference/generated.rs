//! Generated files. With `BLESS=1` they are written, and without it they are compared.

use std::path::{Path, PathBuf};

/// The path of a file of the repository.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The text of a file of the repository.
pub fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// With `BLESS=1`, writes this text to a file. Otherwise checks that the file has this text.
pub fn check(name: &str, text: &str) {
    if std::env::var("BLESS").as_deref() == Ok("1") {
        let folder = path(name);
        std::fs::create_dir_all(folder.parent().expect("a folder")).expect("a folder");
        return std::fs::write(path(name), text).expect("written");
    }
    let found = read(name);
    let differs = |(number, (is, should)): (usize, (&str, &str))| {
        (is != should).then(|| format!("line {number} is\n  {is}\nand should be\n  {should}"))
    };
    let mut lines = (1..).zip(found.lines().zip(text.lines()));
    let first = lines.find_map(differs);
    assert!(
        found == text,
        "{name} is out of date, run make docs: {}",
        first.unwrap_or_else(|| format!(
            "{} lines, should be {}",
            found.lines().count(),
            text.lines().count()
        ))
    );
}
