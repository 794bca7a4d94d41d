//! The times at which objects last changed. Only reports need them.

use std::collections::HashMap;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::apiserver::decode::Slim;
use endpoint_copier_core::model::{ObjectMeta, ServiceKey, SliceKey};

/// The times at which Services and slices last changed.
#[derive(Debug, Default)]
pub(super) struct Dates {
    pub services: HashMap<ServiceKey, Timestamp>,
    pub slices: HashMap<SliceKey, Timestamp>,
}

impl Dates {
    pub fn of_slice(&self, metadata: &ObjectMeta) -> Option<Timestamp> {
        self.slices.get(&SliceKey::of(metadata)).copied()
    }
}

/// An object, and the time of the last recorded change outside its status.
#[derive(Clone, Debug)]
pub(super) struct Dated<K> {
    pub object: K,
    pub changed: Option<Timestamp>,
}

/// Returns the time of the last recorded change outside the status, or of the creation if no change is recorded.
/// Ignores times that are out of range.
fn last_change(object: &Value) -> Option<Timestamp> {
    let time = |time: &Value| time.as_str()?.parse().ok();
    let metadata = &object["metadata"];
    let writes = metadata["managedFields"].as_array().into_iter().flatten();
    let of_spec = writes.filter(|write| write["subresource"].as_str().is_none_or(str::is_empty));
    let times = of_spec.filter_map(|write| time(&write["time"]));
    times.max().or_else(|| time(&metadata["creationTimestamp"]))
}

impl<'de, K: Slim> Deserialize<'de> for Dated<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let value: Value = serde_json::from_str(raw.get()).unwrap_or_default();
        Ok(Self {
            object: serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?,
            changed: last_change(&value),
        })
    }
}

impl<K: Slim> Slim for Dated<K> {
    type Resource = K::Resource;

    fn metadata(&self) -> &ObjectMeta {
        self.object.metadata()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use endpoint_copier_core::model::Service;

    #[test]
    fn time_that_is_out_of_range_does_not_count() {
        let object = json!({"metadata": {
            "name": "a",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [
                {"time": "2026-01-02T00:00:00Z"},
                {"time": "9999-12-31T23:59:59Z"},
                {"time": "2026-01-03T00:00:00Z", "subresource": "status"},
            ],
        }});
        let dated: Dated<Service> = serde_json::from_str(&object.to_string()).unwrap();
        assert_eq!(dated.changed, "2026-01-02T00:00:00Z".parse().ok());
    }
}
