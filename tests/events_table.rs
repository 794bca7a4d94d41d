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
