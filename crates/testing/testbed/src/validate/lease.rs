//! Lease (`ValidateLeaseSpec`): the holder may be empty, the duration must be positive, and transitions must not be
//! negative.

use crate::field::{Cause, FieldError};
use serde_json::Value;

pub fn check(new: &Value) -> Vec<FieldError> {
    let spec = &new["spec"];
    let mut errors = Vec::new();
    if spec["leaseDurationSeconds"].as_i64().is_some_and(|n| n <= 0) {
        let value = &spec["leaseDurationSeconds"];
        errors.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            value,
            "must be greater than 0",
        ));
    }
    if spec["leaseTransitions"].as_i64().is_some_and(|n| n < 0) {
        let value = &spec["leaseTransitions"];
        errors.push(FieldError::invalid(
            "spec.leaseTransitions",
            value,
            "must be greater than or equal to 0",
        ));
    }
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    if !text("preferredHolder").is_empty() && text("strategy").is_empty() {
        let why = "may only be specified if `strategy` is defined";
        errors.push(FieldError::bare(Cause::Forbidden, "spec.preferredHolder", why));
    }
    errors
}
