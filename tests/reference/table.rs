//! Tables in Markdown.

/// The first line of a generated page.
pub fn generated_from(source: &str) -> String {
    format!("<!-- `make docs` writes this page from {source}. Do not edit it. -->\n\n")
}

/// A table. Cells are Markdown.
pub fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line = |cells: [String; N]| {
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(head.map(str::to_owned));
    text.extend(["|", &"---|".repeat(N), "\n"]);
    text.extend(rows.into_iter().map(line));
    text
}

/// A cell in code font. An empty text gives an empty cell.
pub fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{text}`")
    }
}
