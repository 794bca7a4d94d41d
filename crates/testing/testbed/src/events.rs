//! The two views of an Event, `v1` (the stored form) and `events.k8s.io/v1`: the same object with different field
//! names.

use crate::kinds::{Kind, Storage};
use serde_json::{Map, Value, json};

/// Field names in `events.k8s.io/v1`, with their names in `v1`.
const FIELDS: &[(&str, &str)] = &[
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn is_newer(kind: &Kind) -> bool {
    kind.storage == Storage::Event && !kind.group.is_empty()
}

/// Converts a stored object to the form of a kind.
#[must_use]
pub fn view(kind: &Kind, stored: &Value) -> Value {
    if !is_newer(kind) {
        return stored.clone();
    }
    let mut shown = rename(stored, |name| {
        FIELDS.iter().find(|f| f.1 == name).map_or(name, |f| f.0)
    });
    shown["apiVersion"] = kind.api_version().into();
    for field in ["reportingController", "reportingInstance"] {
        if shown[field] == json!("") {
            shown.as_object_mut().map(|o| o.remove(field));
        }
    }
    shown
}

/// Converts an object in the form of a kind to its stored form.
#[must_use]
pub fn to_stored(kind: &Kind, shown: Value) -> Value {
    if !is_newer(kind) {
        return shown;
    }
    let mut stored = rename(&shown, |name| {
        FIELDS.iter().find(|f| f.0 == name).map_or(name, |f| f.1)
    });
    stored["apiVersion"] = "v1".into();
    stored
}

/// Adds the fields that an Event always has, even if they are empty.
pub fn normalize(event: &mut Value) {
    for (field, empty) in [
        ("source", json!({})),
        ("firstTimestamp", Value::Null),
        ("lastTimestamp", Value::Null),
        ("eventTime", Value::Null),
        ("reportingComponent", json!("")),
        ("reportingInstance", json!("")),
        ("involvedObject", json!({})),
    ] {
        if event[field].is_null() {
            event[field] = empty;
        }
    }
}

fn rename<'a>(object: &'a Value, name: impl Fn(&'a str) -> &'a str) -> Value {
    let members = object.as_object().into_iter().flatten();
    Value::Object(
        members
            .map(|(key, value)| (name(key).to_owned(), value.clone()))
            .collect::<Map<_, _>>(),
    )
}
