//! Holds the table of Events in docs/reference/events.md against the code.

use std::collections::BTreeMap;

use endpoint_copier_core::model::Reason;
use endpoint_copier_operator::controller::events::SYNCED;

/// Cells of each row by reason.
fn table() -> BTreeMap<String, Vec<String>> {
    let text = include_str!("../docs/reference/events.md");
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    rows.map(|row| {
        let cells: Vec<_> = row.split(" | ").map(str::to_owned).collect();
        (cells[0].trim_end_matches('`').to_owned(), cells[1..].to_vec())
    })
    .collect()
}

#[test]
fn every_reason_stands_in_the_table_with_type_meaning_and_what_to_do_and_no_other() {
    let table = table();
    let reasons = Reason::ALL.map(Reason::as_str).into_iter().chain([SYNCED]);
    let mut known: Vec<_> = reasons.map(str::to_owned).collect();
    known.sort();
    assert_eq!(table.keys().cloned().collect::<Vec<_>>(), known);
    for (reason, cells) in &table {
        assert_eq!(cells.len(), 3, "{reason}: {cells:?}");
        assert_eq!(
            cells[0],
            if reason == SYNCED { "Normal" } else { "Warning" },
            "{reason}"
        );
        assert!(cells.iter().all(|cell| !cell.trim().is_empty()), "{reason}");
    }
}

#[test]
fn the_list_of_all_reasons_is_whole() {
    // A reason that is missing in `ALL` would be missing here, and two of one name too.
    let mut names = Reason::ALL.map(Reason::as_str).to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Reason::ALL.len());
    let source = include_str!("../crates/core/src/model/finding.rs");
    let words = source
        .lines()
        .filter(|line| line.trim_start().starts_with("Self::") && line.contains("=> \""))
        .count();
    assert_eq!(words, Reason::ALL.len(), "a reason with a word is not in ALL");
}
