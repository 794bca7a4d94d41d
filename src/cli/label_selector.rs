//! Checks label selectors against the syntax that `labels.Parse` in apimachinery accepts.
//!
//! The API server rejects an invalid selector in each list. This check rejects an invalid flag when the process starts.

use super::values::is_subdomain;

/// Whether the text is a label selector. An empty one selects everything.
pub(super) fn is_valid(text: &str) -> bool {
    text.trim().is_empty() || requirements(text).into_iter().all(is_requirement)
}

/// Splits a selector at its commas, except for those inside parentheses.
fn requirements(text: &str) -> Vec<&str> {
    let mut is_in_list = false;
    text.split(move |c| {
        match c {
            '(' => is_in_list = true,
            ')' => is_in_list = false,
            _ => {}
        }
        c == ',' && !is_in_list
    })
    .collect()
}

fn is_requirement(text: &str) -> bool {
    let text = text.trim();
    if let Some(key) = text.strip_prefix('!') {
        return is_key(key.trim());
    }
    if let Some((words, values)) = text.split_once('(') {
        let Some(values) = values.strip_suffix(')') else {
            return false;
        };
        let mut words = words.split_whitespace();
        let has_operator = |word| matches!(word, Some("in" | "notin"));
        return words.next().is_some_and(is_key)
            && has_operator(words.next())
            && words.next().is_none()
            && !values.trim().is_empty()
            && values.split(',').map(str::trim).all(is_value);
    }
    for operator in ["!=", "==", "="] {
        if let Some((key, value)) = text.split_once(operator) {
            return is_key(key.trim()) && is_value(value.trim());
        }
    }
    for operator in ['<', '>'] {
        if let Some((key, value)) = text.split_once(operator) {
            return is_key(key.trim()) && value.trim().parse::<i64>().is_ok();
        }
    }
    is_key(text)
}

/// Whether the text is a name, optionally prefixed with a DNS subdomain and a slash.
fn is_key(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((prefix, name)) if is_subdomain(prefix) => name,
        Some(_) => return false,
        None => text,
    };
    !name.is_empty() && is_value(name)
}

fn is_value(text: &str) -> bool {
    let is_end = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && is_end(text.chars().next())
        && is_end(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_that_an_api_server_accepts_are_valid() {
        for text in [
            "",
            " ",
            "node-role.kubernetes.io/control-plane",
            "node-role.kubernetes.io/control-plane=",
            "node-role.kubernetes.io/control-plane=true",
            "a,!b",
            "! a",
            "a=b,c!=d, e == f",
            "a in (b,c),d notin ( e , f )",
            "a in (,b)",
            "a>1,b < -2",
            "Zone=Blue_1.x",
        ] {
            assert!(is_valid(text), "{text:?}");
        }
    }

    #[test]
    fn other_texts_are_not_valid() {
        let long = "a".repeat(64);
        for text in [
            ",",
            "a,",
            "a,,b",
            "!",
            "=a",
            "a=b=c",
            "a b",
            "a in",
            "a in b",
            "a in (b",
            "a in b)",
            "in (a)",
            "a in ()",
            "a in (b)c",
            "a is (b)",
            "a in in (b)",
            "a>b",
            "-a",
            "a=-b",
            "/a",
            "a/",
            "a/b/c",
            "A/b",
            "ä",
            "a=b\nc",
            &long,
        ] {
            assert!(!is_valid(text), "{text:?}");
        }
    }
}
