//! Label and field selectors of LIST, WATCH and DELETE of collections.

use crate::{
    kinds::{Kind, Storage},
    object,
    status::ApiError,
};
use serde_json::Value;

#[derive(Clone, Debug)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// The selection of a LIST or WATCH.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, String, bool)>,
}

impl Selector {
    /// Parses `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    ///
    /// 400 for a text that is not a selector, or for a field that is not selectable for this kind.
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, ApiError> {
        Ok(Self {
            labels: parse_labels(labels)?,
            fields: parse_fields(kind, fields)?,
        })
    }

    /// Whether the selector is empty and matches everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The only name that a `metadata.name=` field selector allows. RBAC rules with resourceNames use it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|f| f.0 == "metadata.name" && f.2)
            .map(|f| f.1.as_str())
    }

    /// Whether an object in its stored form matches.
    #[must_use]
    pub fn matches(&self, stored: &Value) -> bool {
        self.labels.iter().all(|r| r.holds(stored))
            && self
                .fields
                .iter()
                .all(|(field, value, equal)| (field_of(stored, field) == *value) == *equal)
    }
}

impl Requirement {
    fn holds(&self, stored: &Value) -> bool {
        match self {
            Self::In(key, values) => {
                object::label(stored, key).is_some_and(|v| values.iter().any(|x| x == v))
            }
            // An object without the label satisfies "not in" for all values.
            Self::NotIn(key, values) => {
                object::label(stored, key).is_none_or(|v| values.iter().all(|x| x != v))
            }
            Self::Exists(key) => object::label(stored, key).is_some(),
            Self::Absent(key) => object::label(stored, key).is_none(),
        }
    }
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, ApiError> {
    let mut requirements = Vec::new();
    for part in split_outside_parentheses(text) {
        let part = part.trim();
        if !part.is_empty() {
            requirements.push(parse_requirement(part)?);
        }
    }
    Ok(requirements)
}

/// Splits requirements at commas, but not at those inside `in (a,b)`.
fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Result<Requirement, ApiError> {
    if let Some((key, values)) = part.split_once(" in ").or_else(|| part.split_once(" notin ")) {
        let values = values
            .trim()
            .strip_prefix('(')
            .and_then(|v| v.strip_suffix(')'))
            .ok_or_else(|| ApiError::bad_request(format!("unable to parse requirement: found '{part}'")))?;
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        let key = check_key(key)?;
        return Ok(if part.contains(" notin ") {
            Requirement::NotIn(key, values)
        } else {
            Requirement::In(key, values)
        });
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(check_key(key)?, vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::In(check_key(key)?, vec![value.trim().to_owned()]));
    }
    match part.strip_prefix('!') {
        Some(key) => Ok(Requirement::Absent(check_key(key)?)),
        None => Ok(Requirement::Exists(check_key(part)?)),
    }
}

fn check_key(key: &str) -> Result<String, ApiError> {
    let key = key.trim();
    match key.split_once(' ') {
        Some((_, rest)) => Err(ApiError::bad_request(format!(
            "unable to parse requirement: found '{rest}', expected: in, notin, =, ==, !=, gt, lt"
        ))),
        None => match crate::names::qualified_name(key).first() {
            Some(why) => Err(ApiError::bad_request(format!(
                "unable to parse requirement: <nil>: Invalid value: {key:?}: {why}"
            ))),
            None => Ok(key.to_owned()),
        },
    }
}

fn parse_fields(kind: &Kind, text: &str) -> Result<Vec<(String, String, bool)>, ApiError> {
    let mut fields = Vec::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
            (field, value, false)
        } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
            (field, value, true)
        } else {
            return Err(ApiError::bad_request(format!(
                "invalid field selector: {part:?}; can't understand it"
            )));
        };
        // The field is named as in the stored form, whichever view was requested.
        let stored = stored_field(kind, field).ok_or_else(|| unknown_field(kind, field))?;
        fields.push((stored, value.to_owned(), equal));
    }
    Ok(fields)
}

fn unknown_field(kind: &Kind, field: &str) -> ApiError {
    ApiError::bad_request(match kind.storage {
        Storage::EndpointSlice | Storage::Lease => {
            format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
        _ => format!("field label not supported: {field}"),
    })
}

fn stored_field(kind: &Kind, field: &str) -> Option<String> {
    if field == "metadata.name" || (field == "metadata.namespace" && kind.namespaced) {
        return Some(field.to_owned());
    }
    match kind.storage {
        Storage::Service => (field == "spec.clusterIP" || field == "spec.type").then(|| field.to_owned()),
        Storage::Namespace => (field == "status.phase").then(|| field.to_owned()),
        Storage::Event => {
            let stored = match field.strip_prefix("regarding.") {
                Some(rest) if !kind.group.is_empty() => format!("involvedObject.{rest}"),
                _ => field.to_owned(),
            };
            let (object, of) = stored.split_once('.').unwrap_or((&stored, ""));
            let known = match object {
                "involvedObject" => [
                    "kind",
                    "namespace",
                    "name",
                    "uid",
                    "apiVersion",
                    "resourceVersion",
                    "fieldPath",
                ]
                .contains(&of),
                "reason" | "reportingComponent" | "source" | "type" => of.is_empty(),
                _ => false,
            };
            known.then_some(stored)
        }
        _ => None,
    }
}

fn field_of<'a>(stored: &'a Value, field: &str) -> &'a str {
    // `source` is the only selectable field whose name is not its path.
    if field == "source" {
        let component = stored["source"]["component"].as_str().unwrap_or_default();
        return if component.is_empty() {
            stored["reportingComponent"].as_str().unwrap_or_default()
        } else {
            component
        };
    }
    field
        .split('.')
        .fold(stored, |value, key| &value[key])
        .as_str()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::Selector;
    use crate::kinds::by_name;
    use serde_json::json;

    fn matches(labels: &str, fields: &str) -> bool {
        let slice = json!({"metadata": {"name": "n", "namespace": "d", "labels": {"a": "1", "x.io/b": ""}}});
        Selector::parse(by_name("endpointslices").unwrap(), labels, fields)
            .unwrap()
            .matches(&slice)
    }

    #[test]
    fn label_selectors_match_with_every_operator() {
        for good in [
            "",
            "a",
            "a=1",
            "a==1",
            "a!=2",
            "a in (1,2)",
            "a in (1)",
            "a notin (2, 3)",
            "!c",
            "c!=1",
            "c notin (1)",
            "x.io/b",
            "x.io/b=",
            "a=1,x.io/b in (,z)",
        ] {
            assert!(matches(good, ""), "{good}");
        }
        for bad in ["c", "a=2", "a!=1", "a in (2,3)", "a notin (1,2)", "!a", "a=1,c"] {
            assert!(!matches(bad, ""), "{bad}");
        }
    }

    #[test]
    fn field_selectors_match_name_and_namespace() {
        assert!(matches("", "metadata.name=n,metadata.namespace=d"));
        assert!(!matches("", "metadata.name!=n"));
        assert!(Selector::parse(by_name("leases").unwrap(), "", "spec.x=y").is_err());
        assert!(Selector::parse(by_name("leases").unwrap(), "a b", "").is_err());
    }
}
