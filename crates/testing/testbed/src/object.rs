//! Accessors for the metadata of objects, which are JSON values. Except in [`label`], absent, null and empty values are
//! treated alike.

use serde_json::{Map, Value};

/// A string in `metadata`, or an empty one if it is absent.
#[must_use]
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// `metadata`, created if it is missing.
///
/// # Panics
///
/// Never: a value that is not a map is replaced.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    object["metadata"].as_object_mut().expect("created above")
}

/// `metadata.name`.
#[must_use]
pub fn name(object: &Value) -> &str {
    meta(object, "name")
}

/// `metadata.namespace`, or empty for a cluster-scoped object.
#[must_use]
pub fn namespace(object: &Value) -> &str {
    meta(object, "namespace")
}

/// `metadata.uid`.
#[must_use]
pub fn uid(object: &Value) -> &str {
    meta(object, "uid")
}

/// `metadata.resourceVersion` as a number, or 0 if it is absent.
#[must_use]
pub fn revision(object: &Value) -> u64 {
    meta(object, "resourceVersion").parse().unwrap_or(0)
}

/// `metadata.finalizers`.
#[must_use]
pub fn finalizers(object: &Value) -> Vec<&str> {
    array(&object["metadata"]["finalizers"])
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

/// Whether the object is being deleted and waits for its finalizers.
#[must_use]
pub fn is_terminating(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

/// The UIDs of `metadata.ownerReferences`.
#[must_use]
pub fn owners(object: &Value) -> Vec<&str> {
    array(&object["metadata"]["ownerReferences"])
        .iter()
        .filter_map(|o| o["uid"].as_str())
        .collect()
}

/// The value of a label.
#[must_use]
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["labels"].get(key)?.as_str()
}

/// The items of a list, or none if it is absent.
#[must_use]
pub fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The items of a list, mutable. Plain indexing would insert null for a missing list.
pub fn items_mut<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object
        .get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Sets a field of `metadata`, or removes it.
pub fn set_meta(object: &mut Value, field: &str, value: Option<Value>) {
    let metadata = meta_mut(object);
    match value {
        Some(value) => metadata.insert(field.to_owned(), value),
        None => metadata.remove(field),
    };
}
