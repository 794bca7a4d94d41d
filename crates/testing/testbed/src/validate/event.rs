//! Event (pkg/apis/core/validation/events.go): with an `eventTime`, fields such as the controller are required,
//! whichever view the request uses. Requests to `events.k8s.io` require an `eventTime` and must follow more rules.

use super::{complaints, immutable};
use crate::{field::FieldError, kinds::Kind, names, object};
use serde_json::{Value, json};

pub fn check(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = legacy(kind, new);
    if kind.group.is_empty() {
        return errors;
    }
    if let Some(old) = old {
        for field in [
            "involvedObject",
            "reason",
            "message",
            "source",
            "count",
            "type",
            "action",
            "related",
        ] {
            errors.extend(immutable(field, &new[field], &old[field]));
        }
        errors.extend(immutable("eventTime", &new["eventTime"], &old["eventTime"]));
        return errors;
    }
    if new["eventTime"].is_null() {
        errors.push(FieldError::required("eventTime", ""));
    }
    let kind = new["type"].as_str().unwrap_or_default();
    if kind != "Normal" && kind != "Warning" {
        errors.push(FieldError::invalid(
            "type",
            &json!(""),
            format!("has invalid value: {kind}"),
        ));
    }
    for field in ["firstTimestamp", "lastTimestamp"] {
        if !new[field].is_null() {
            errors.push(FieldError::invalid(field, &json!(""), "needs to be unset"));
        }
    }
    if new["count"].as_i64().unwrap_or(0) != 0 {
        errors.push(FieldError::invalid("count", &json!(""), "needs to be unset"));
    }
    errors
}

fn legacy(kind: &Kind, new: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let namespace = object::namespace(new);
    let regarding = new["involvedObject"]["namespace"].as_str().unwrap_or_default();
    let agree = if new["eventTime"].is_null() {
        regarding == namespace || (regarding.is_empty() && namespace == "default")
    } else {
        !regarding.is_empty() || namespace == "default" || namespace == "kube-system"
    };
    if !agree {
        let (field, why) = ("involvedObject.namespace", "does not match event.namespace");
        errors.push(FieldError::invalid(field, &json!(regarding), why));
    }
    if new["eventTime"].is_null() {
        return errors;
    }
    let text = |field: &str| new[field].as_str().unwrap_or_default();
    let controller = if kind.group.is_empty() {
        "reportingComponent"
    } else {
        "reportingController"
    };
    if text("reportingComponent").is_empty() {
        errors.push(FieldError::required(controller, ""));
    }
    let complaint = names::qualified_name(text("reportingComponent"));
    errors.extend(complaints(controller, &new["reportingComponent"], complaint));
    for (field, limit) in [
        ("reportingInstance", 128),
        ("action", 128),
        ("reason", 128),
        ("message", 1024),
    ] {
        if text(field).is_empty() && field != "message" {
            errors.push(FieldError::required(field, ""));
        }
        if text(field).len() > limit {
            errors.push(FieldError::invalid(
                field,
                &json!(""),
                format!("can have at most {limit} characters"),
            ));
        }
    }
    errors
}
