//! `metadata`: names, labels, annotations, owners, finalizers (apimachinery `ValidateObjectMeta[Update]`).

use super::{complaints, immutable};
use crate::{
    field::{Cause, FieldError},
    names,
    object::{self, array, meta},
};
use serde_json::{Value, json};

/// The limit for the keys and values of all annotations of an object together, in bytes.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

pub fn check(new: &Value, old: Option<&Value>, name_rule: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    let mut errors = match old {
        Some(old) => changes(new, old),
        None => name(new, name_rule),
    };
    errors.extend(labels(new));
    errors.extend(annotations(new));
    errors.extend(owners(new));
    for finalizer in object::finalizers(new) {
        errors.extend(complaints(
            "metadata.finalizers",
            &json!(finalizer),
            names::qualified_name(finalizer),
        ));
    }
    errors
}

fn name(new: &Value, rule: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    let name = object::name(new);
    if name.is_empty() {
        vec![FieldError::required(
            "metadata.name",
            "name or generateName is required",
        )]
    } else {
        complaints("metadata.name", &json!(name), rule(name))
    }
}

fn changes(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if object::is_terminating(old) {
        let before = object::finalizers(old);
        let added: Vec<_> = object::finalizers(new)
            .into_iter()
            .filter(|f| !before.contains(f))
            .collect();
        if !added.is_empty() {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added
                    .iter()
                    .map(|f| format!("{f:?}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            );
            errors.push(FieldError::bare(Cause::Forbidden, "metadata.finalizers", why));
        }
    }
    errors.extend(immutable(
        "metadata.uid",
        &json!(meta(new, "uid")),
        &json!(meta(old, "uid")),
    ));
    let (is, was) = (
        &new["metadata"]["deletionTimestamp"],
        &old["metadata"]["deletionTimestamp"],
    );
    errors.extend(immutable("metadata.deletionTimestamp", is, was));
    errors
}

fn labels(new: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in new["metadata"]["labels"].as_object().into_iter().flatten() {
        errors.extend(complaints(
            "metadata.labels",
            &json!(key),
            names::qualified_name(key),
        ));
        let text = value.as_str().unwrap_or_default();
        errors.extend(complaints("metadata.labels", value, names::label_value(text)));
    }
    errors
}

fn annotations(new: &Value) -> Vec<FieldError> {
    let (mut errors, mut size) = (Vec::new(), 0);
    for (key, value) in new["metadata"]["annotations"].as_object().into_iter().flatten() {
        size += key.len() + value.as_str().unwrap_or_default().len();
        let texts = names::qualified_name(&key.to_lowercase());
        errors.extend(complaints("metadata.annotations", &json!(key), texts));
    }
    if size > ANNOTATIONS_LIMIT {
        let why = format!("may not be more than {ANNOTATIONS_LIMIT} bytes");
        errors.push(FieldError::bare(Cause::TooLong, "metadata.annotations", why));
    }
    errors
}

fn owners(new: &Value) -> Vec<FieldError> {
    const FIELD: &str = "metadata.ownerReferences";
    let (mut errors, mut controller) = (Vec::new(), None);
    for owner in array(&new["metadata"]["ownerReferences"]) {
        for (field, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            let value = owner[field].as_str().unwrap_or_default();
            if value.is_empty() {
                errors.push(FieldError::invalid(
                    format!("{FIELD}.{field}"),
                    &json!(value),
                    why,
                ));
            }
        }
        if owner["apiVersion"] == "v1" && owner["kind"] == "Event" {
            errors.push(FieldError::invalid(
                FIELD,
                owner,
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner["controller"] == true {
            let this = format!(
                "{}/{}",
                owner["kind"].as_str().unwrap_or_default(),
                owner["name"].as_str().unwrap_or_default()
            );
            match &controller {
                Some(first) => errors.push(FieldError::invalid(
                    FIELD,
                    &new["metadata"]["ownerReferences"],
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for \
                         {first} and {this}"
                    ),
                )),
                None => controller = Some(this),
            }
        }
    }
    errors
}
