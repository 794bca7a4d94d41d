//! Patches: JSON merge patch (RFC 7386), JSON patch (RFC 6902), and the part of strategic merge patch that equals a
//! merge patch.

use crate::{object::array, status::ApiError};
use serde_json::{Map, Value};

/// A patch of one content type.
#[derive(Clone, Debug)]
pub enum Patch {
    /// `application/merge-patch+json`.
    Merge(Value),
    /// `application/strategic-merge-patch+json`. Conditions in the status are merged by type, and `$patch: delete`
    /// deletes a condition. Other lists are replaced, and other directives are ignored.
    Strategic(Value),
    /// `application/json-patch+json`.
    Json(Vec<Value>),
}

impl Patch {
    /// Parses a body by its content type.
    ///
    /// # Errors
    ///
    /// 415 for an unsupported type such as server-side apply, 400 for a body that is not a patch.
    pub fn read(content_type: &str, body: &[u8]) -> Result<Self, ApiError> {
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        let parse = || {
            serde_json::from_slice::<Value>(body)
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))
        };
        match content_type {
            "application/merge-patch+json" => Ok(Self::Merge(parse()?)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(parse()?)),
            "application/json-patch+json" => match parse()? {
                Value::Array(steps) => Ok(Self::Json(steps)),
                _ => Err(ApiError::bad_request(
                    "error decoding patch: a JSON patch is a list",
                )),
            },
            _ => Err(ApiError::unsupported_media_type()),
        }
    }

    /// The patched object.
    ///
    /// # Errors
    /// 422 if a step of a JSON patch does not fit the object.
    pub fn apply(&self, object: &Value) -> Result<Value, ApiError> {
        let mut patched = object.clone();
        match self {
            Self::Merge(patch) => merge(&mut patched, patch),
            Self::Strategic(patch) => {
                let mut patch = patch.clone();
                if let Some(changes) = patch.pointer_mut("/status/conditions") {
                    let conditions = object.pointer("/status/conditions");
                    *changes = merge_conditions(conditions.unwrap_or(&Value::Null), changes);
                }
                merge(&mut patched, &without_directives(&patch));
            }
            Self::Json(steps) => {
                for step in steps {
                    apply_step(&mut patched, step).map_err(|why| {
                        ApiError::new(
                            422,
                            "Invalid",
                            format!("the server rejected our request due to an error in our request: {why}"),
                        )
                    })?;
                }
            }
        }
        Ok(patched)
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn merge_conditions(conditions: &Value, changes: &Value) -> Value {
    let mut conditions = array(conditions).to_vec();
    for change in array(changes) {
        let known = conditions
            .iter()
            .position(|condition| condition["type"] == change["type"]);
        match known {
            Some(known) if change["$patch"] == "delete" => _ = conditions.remove(known),
            Some(known) => merge(&mut conditions[known], change),
            None if change["$patch"] == "delete" => {}
            None => conditions.insert(0, change.clone()),
        }
    }
    conditions.into()
}

fn without_directives(patch: &Value) -> Value {
    match patch {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .filter(|(key, _)| !key.starts_with('$'))
                .map(|(key, value)| (key.clone(), without_directives(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_directives).collect()),
        other => other.clone(),
    }
}

fn apply_step(target: &mut Value, step: &Value) -> Result<(), String> {
    let path = step["path"].as_str().ok_or("a step without path")?;
    let missing = || format!("unable to find {path}");
    match step["op"].as_str().unwrap_or_default() {
        "add" => put(target, path, step["value"].clone(), true),
        "replace" => {
            *target.pointer_mut(path).ok_or_else(missing)? = step["value"].clone();
            Ok(())
        }
        "remove" => take(target, path).map(drop).ok_or_else(missing),
        "test" if target.pointer(path) == Some(&step["value"]) => Ok(()),
        "test" => Err(format!("testing value {path} failed")),
        op @ ("move" | "copy") => {
            let from = step["from"].as_str().ok_or("a step without from")?;
            let value = if op == "move" {
                take(target, from)
            } else {
                target.pointer(from).cloned()
            };
            put(target, path, value.ok_or_else(missing)?, true)
        }
        other => Err(format!("unknown operation {other}")),
    }
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn put(target: &mut Value, path: &str, value: Value, insert: bool) -> Result<(), String> {
    let Some((parent, last)) = split(path) else {
        *target = value;
        return Ok(());
    };
    match target.pointer_mut(parent) {
        Some(Value::Object(members)) => {
            members.insert(last, value);
            Ok(())
        }
        Some(Value::Array(items)) => {
            let at = if last == "-" {
                Some(items.len())
            } else {
                last.parse().ok()
            };
            match at {
                Some(at) if insert && at <= items.len() => {
                    items.insert(at, value);
                    Ok(())
                }
                _ => Err(format!("unable to access invalid index: {last}")),
            }
        }
        _ => Err(format!("unable to find {parent}")),
    }
}

fn take(target: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(members) => members.remove(&last),
        Value::Array(items) => {
            let at = last.parse().ok().filter(|at: &usize| *at < items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_merge_patch_removes_with_null_and_replaces_lists() {
        let patch = Patch::Merge(json!({"a": null, "b": {"c": 1}, "l": [3]}));
        let object = json!({"a": 1, "b": {"d": 2}, "l": [1, 2]});
        assert_eq!(
            patch.apply(&object).unwrap(),
            json!({"b": {"c": 1, "d": 2}, "l": [3]})
        );
    }

    #[test]
    fn a_json_patch_is_applied_step_by_step() {
        let steps = json!([
            {"op": "test", "path": "/a", "value": 1},
            {"op": "add", "path": "/l/0", "value": 0},
            {"op": "add", "path": "/l/-", "value": 9},
            {"op": "remove", "path": "/a"},
            {"op": "replace", "path": "/x~1y", "value": 2},
        ]);
        let patch = Patch::read("application/json-patch+json", steps.to_string().as_bytes()).unwrap();
        let patched = patch.apply(&json!({"a": 1, "l": [1], "x/y": 1})).unwrap();
        assert_eq!(patched, json!({"l": [0, 1, 9], "x/y": 2}));
        assert!(patch.apply(&json!({"a": 2})).is_err());
    }
}
