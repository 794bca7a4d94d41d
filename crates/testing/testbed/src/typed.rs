//! Converts JSON to a typed object and back, which is the first thing that the real server does with a body.
//!
//! A wrong type causes a 400, unknown fields are dropped, and empty optional fields are left out.

use crate::{
    clock, events,
    kinds::{Kind, Storage},
    object,
    status::ApiError,
};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Endpoints, Event, Namespace, Node, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// An object in its stored form, with the defaults of the type and without empty fields.
///
/// # Errors
///
/// 400 if a field has the wrong type.
pub fn round_trip(kind: &Kind, mut stored: Value) -> Result<Value, ApiError> {
    let micro_times: &[&'static [&'static str]] = match kind.storage {
        Storage::Lease => &[&["spec", "renewTime"], &["spec", "acquireTime"]],
        Storage::Event => &[&["eventTime"], &["series", "lastObservedTime"]],
        _ => &[],
    };
    for path in micro_times {
        if let Some(text) = path.iter().fold(&stored, |value, key| &value[*key]).as_str()
            && !clock::is_micro_time(text)
        {
            return Err(wrong_type(
                kind,
                &format!("parsing time {text:?} as \"2006-01-02T15:04:05.000000Z07:00\""),
            ));
        }
    }
    // The managed fields are kept as sent, because field ownership belongs to server-side apply, which the testbed does
    // not support.
    let managed_fields = stored["metadata"]["managedFields"].take();
    object::set_meta(&mut stored, "managedFields", None);
    stored["apiVersion"] = if kind.storage == Storage::Event {
        "v1".into()
    } else {
        kind.api_version().into()
    };
    stored["kind"] = kind.kind.into();
    if kind.storage == Storage::Event {
        events::normalize(&mut stored);
    }
    let through = match kind.storage {
        Storage::Service => through::<Service>,
        Storage::Endpoints => through::<Endpoints>,
        Storage::EndpointSlice => through::<EndpointSlice>,
        Storage::Event => through::<Event>,
        Storage::Lease => through::<Lease>,
        Storage::Namespace => through::<Namespace>,
        Storage::ServiceAccount => through::<ServiceAccount>,
        Storage::Node => through::<Node>,
        Storage::ReferenceGrant | Storage::Review => through::<Value>,
    };
    let beyond_jiff = take_beyond_jiff(&mut stored, micro_times);
    let mut typed = through(slice_lists(kind, stored)).map_err(|e| wrong_type(kind, &e.to_string()))?;
    for (path, time) in beyond_jiff {
        *path.iter().fold(&mut typed, |value, key| &mut value[*key]) = time;
    }
    prune(&mut typed["metadata"]);
    if managed_fields.is_array() {
        object::set_meta(&mut typed, "managedFields", Some(managed_fields));
    }
    match kind.storage {
        Storage::EndpointSlice => normalize_slice(&mut typed),
        Storage::Event => events::normalize(&mut typed),
        Storage::Lease | Storage::Service if typed["spec"].is_null() => typed["spec"] = json!({}),
        Storage::Service => prune(&mut typed["spec"]),
        _ => {}
    }
    Ok(typed)
}

/// Removes and returns the times that a real server stores unchanged but that our types cannot represent.
fn take_beyond_jiff(
    stored: &mut Value,
    paths: &[&'static [&'static str]],
) -> Vec<(&'static [&'static str], Value)> {
    let mut taken = Vec::new();
    for path in paths.iter().copied() {
        let is_beyond = |value: &Value| value.as_str().is_some_and(clock::is_beyond_jiff);
        if is_beyond(path.iter().fold(&*stored, |value, key| &value[*key])) {
            let time = path.iter().fold(&mut *stored, |value, key| &mut value[*key]);
            taken.push((path, time.take()));
        }
    }
    taken
}

fn through<T: DeserializeOwned + Serialize>(value: Value) -> serde_json::Result<Value> {
    serde_json::to_value(serde_json::from_value::<T>(value)?)
}

fn wrong_type(kind: &Kind, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        kind.kind, kind.version, kind.kind
    ))
}

/// Fills in `addressType` and `addresses`, so that a slice without them fails validation (422), not decoding.
fn slice_lists(kind: &Kind, mut stored: Value) -> Value {
    if kind.storage == Storage::EndpointSlice && stored["addressType"].is_null() {
        stored["addressType"] = "".into();
    }
    for endpoint in object::items_mut(&mut stored, "endpoints") {
        if endpoint["addresses"].is_null() {
            endpoint["addresses"] = json!([]);
        }
    }
    stored
}

/// Go writes an empty list of endpoints or ports as null, and absent conditions as `{}`. Clients see both.
fn normalize_slice(slice: &mut Value) {
    for list in ["endpoints", "ports"] {
        if object::array(&slice[list]).is_empty() {
            slice[list] = Value::Null;
        }
    }
    for endpoint in object::items_mut(slice, "endpoints") {
        if endpoint["conditions"].is_null() {
            endpoint["conditions"] = json!({});
        }
    }
    for port in object::items_mut(slice, "ports") {
        for (field, default) in [("name", ""), ("protocol", "TCP")] {
            if port[field].is_null() {
                port[field] = default.into();
            }
        }
    }
}

fn prune(map: &mut Value) {
    if let Some(map) = map.as_object_mut() {
        map.retain(|_, value| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(members) => !members.is_empty(),
            _ => true,
        });
    }
}
