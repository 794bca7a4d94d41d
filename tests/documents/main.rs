//! Holds documents, workflows and the Dockerfile against the repository: links, pins, paths, versions, manifests.

mod guide;
mod linters;
mod release;
mod renamed;

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

/// Files of a folder with this extension, as paths from the root.
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

/// Each document of a YAML text.
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
    for name in [files(".", "md"), files("docs", "md"), files("docs/adr", "md")].concat() {
        let text = read(&name);
        let folder = PathBuf::from(&name).parent().expect("a folder").to_owned();
        let links = text.split("](").skip(1);
        for link in links.filter_map(|rest| rest.split_once(')').map(|(link, _)| link)) {
            let file = link.split('#').next().unwrap_or_default();
            let elsewhere = link.contains("://") || file.is_empty();
            if !elsewhere && !root().join(&folder).join(file).exists() {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_changelog_has_a_section_for_this_version() {
    let begin = format!("\n## [{VERSION}] - ");
    assert!(read("CHANGELOG.md").contains(&begin));
}
