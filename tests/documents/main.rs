//! Compares documents, workflows and the Dockerfile with the repository: links, pins, paths, versions and manifests.

mod guide;
mod linters;
mod release;
mod renamed;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of a folder with this extension, as paths from the root.
fn files(folder: &str, extension: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(folder)).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let fitting = names.filter(|name| {
        Path::new(name)
            .extension()
            .is_some_and(|there| there == extension)
    });
    let mut files: Vec<_> = fitting.map(|name| format!("{folder}/{name}")).collect();
    files.sort();
    assert!(!files.is_empty(), "no .{extension} in {folder}");
    files
}

/// The Markdown files of the repository's root and of docs, as paths from the root.
fn pages() -> Vec<String> {
    let mut pages = files(".", "md");
    let mut folders = vec!["docs".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = format!("{folder}/{}", entry.file_name().into_string().expect("UTF-8"));
            if entry.file_type().expect("a file type").is_dir() {
                folders.push(name);
            } else if Path::new(&name).extension().is_some_and(|end| end == "md") {
                pages.push(name);
            }
        }
    }
    pages
}

/// The files of the repository that a page links to, as paths from the root.
fn linked(page: &str) -> Vec<PathBuf> {
    let text = read(page);
    let folder = Path::new(page).parent().expect("a folder");
    let links = text.split("](").skip(1);
    let links = links.filter_map(|rest| rest.split_once(')').map(|(link, _)| link));
    let files = links.map(|link| link.split('#').next().unwrap_or_default());
    files
        .filter(|file| !file.is_empty() && !file.contains("://"))
        .map(|file| folder.join(file))
        .collect()
}

/// A path without `..` and `.`, so that two paths to one file are equal.
fn normalized(path: &Path) -> PathBuf {
    let mut normalized = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => _ = normalized.pop(),
            std::path::Component::CurDir => {}
            _ => normalized.push(part),
        }
    }
    normalized
}

/// The documents of a YAML text.
fn documents(name: &str, yaml: &str) -> Vec<Value> {
    yaml.split("\n---\n")
        .map(|document| {
            serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{name}: {error}\n{document}"))
        })
        .collect()
}

#[test]
fn a_link_in_a_document_leads_to_a_file() {
    let mut broken = Vec::new();
    for page in pages() {
        let links = linked(&page).into_iter();
        let missing = links.filter(|file| !root().join(normalized(file)).exists());
        broken.extend(missing.map(|file| format!("{page}: {}", file.display())));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Users cannot find a page without a link to it.
#[test]
fn every_page_of_the_docs_is_reached_from_the_index() {
    let mut reached = BTreeSet::new();
    let mut next = vec![PathBuf::from("docs/README.md")];
    while let Some(page) = next.pop() {
        if reached.insert(page.clone()) {
            let links = linked(&page.to_string_lossy()).into_iter();
            let links = links.map(|link| normalized(&link));
            next.extend(
                links.filter(|link| link.starts_with("docs") && link.extension() == page.extension()),
            );
        }
    }
    let pages = pages().into_iter().map(PathBuf::from);
    let missing: Vec<_> = pages
        .filter(|page| page.starts_with("docs") && !reached.contains(page))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// A figure that was measured at one commit says nothing about the next one, so only one page names commits.
#[test]
fn only_the_verification_page_names_commits() {
    for page in pages() {
        let text = read(&page);
        let words = text.split('`').skip(1).step_by(2);
        let is_commit = |word: &&str| {
            word.len() == 7
                && word.bytes().all(|sign| sign.is_ascii_hexdigit())
                && word.bytes().any(|sign| sign.is_ascii_digit())
        };
        let found: Vec<_> = words.filter(is_commit).collect();
        let may = page == "docs/contributing/verification.md";
        assert!(may || found.is_empty(), "{page}: {found:?}");
    }
}

/// The source of release notes: `.ci/release-version` needs the dated section of the version that it releases.
#[test]
fn the_changelog_dates_every_section_except_unreleased() {
    let text = read("CHANGELOG.md");
    let headings: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let (first, released) = headings.split_first().expect("a section");
    assert_eq!(*first, "[Unreleased]");
    for heading in released {
        let (version, date) = heading.split_once("] - ").expect("a version and a date");
        let numbers = version.trim_start_matches('[').split('.');
        assert!(
            numbers.clone().count() == 3 && numbers.into_iter().all(|part| part.parse::<u32>().is_ok()),
            "{heading}"
        );
        assert!(date.parse::<jiff::civil::Date>().is_ok(), "{heading}");
    }
}
