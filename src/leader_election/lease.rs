//! The parts of the Lease that the election reads. They can be decoded whatever a user has written into the Lease.
//!
//! A real API server stores times that our clients cannot read, such as `9999-12-31T23:59:59.999999Z`, which exceeds
//! jiff's maximum. With the `k8s_openapi` type, one such time, even in `managedFields`, would break the watch and every
//! GET, and no replica would lead until somebody removed this time. So this type parses only what the election needs. A
//! value of the wrong type counts as absent.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde_json::value::RawValue;

use crate::apiserver::decode::Slim;
use endpoint_copier_core::model::{ObjectMeta, Unreadable};

/// The parts of a Lease that the election reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lease {
    /// The metadata, such as the version.
    pub metadata: ObjectMeta,
    /// The holder and the times.
    pub spec: LeaseSpec,
}

/// The fields of the `spec` of a Lease that the election reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LeaseSpec {
    /// The name of the holder. The Lease has no holder if this is absent or empty.
    #[serde(deserialize_with = "if_readable")]
    pub holder_identity: Option<String>,
    /// How long the Lease is valid after a renewal, in seconds.
    #[serde(deserialize_with = "if_readable")]
    pub lease_duration_seconds: Option<i64>,
    /// The number of times that the holder has changed.
    #[serde(deserialize_with = "if_readable")]
    pub lease_transitions: Option<i64>,
    /// The time of the last renewal, by the holder's clock. The election compares it as text and never parses it.
    #[serde(deserialize_with = "if_readable")]
    pub renew_time: Option<String>,
    /// When the holder took the Lease, by the holder's clock. This time is used only in reports.
    #[serde(deserialize_with = "if_readable")]
    pub acquire_time: Option<String>,
}

impl Lease {
    /// Returns the holder that the Lease names, unless the name is empty.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.spec
            .holder_identity
            .as_deref()
            .filter(|holder| !holder.is_empty())
    }
}

impl<'de> Deserialize<'de> for Lease {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
        let spec = fields.get("spec");
        let spec: Option<LeaseSpec> = spec.and_then(|spec| serde_json::from_str(spec.get()).ok());
        let spec = spec.unwrap_or_default();
        let Unreadable { metadata, .. } = Unreadable::read(&raw, "");
        Ok(Self { metadata, spec })
    }
}

impl Slim for Lease {
    type Resource = v1::Lease;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// Reads a value. A value of the wrong type counts as absent, however deeply it is nested.
fn if_readable<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: DeserializeOwned + Default,
    D: Deserializer<'de>,
{
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Returns JSON values of every kind.
    fn anything() -> Vec<Value> {
        let deep = (0..100).fold(json!(1), |inner, _| json!({"a": [inner]}));
        vec![
            Value::Null,
            json!(true),
            json!(-1),
            json!(u64::MAX),
            json!(1.5),
            json!("9999-12-31T23:59:59.999999Z"),
            json!([]),
            json!([{"time": "9999-12-31T23:59:59Z"}]),
            json!({}),
            deep,
        ]
    }

    fn whole() -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": "lease", "namespace": "default", "uid": "u1", "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [], "labels": {},
            },
            "spec": {
                "holderIdentity": "us", "leaseDurationSeconds": 6, "leaseTransitions": 3,
                "renewTime": "2026-01-01T00:00:00.000000Z", "acquireTime": "2026-01-01T00:00:00.000000Z",
            },
        })
    }

    fn read(lease: &Value) -> Lease {
        serde_json::from_str(&lease.to_string()).unwrap_or_else(|error| panic!("{error}: {lease}"))
    }

    /// Rule: 5.unreadable
    #[test]
    fn a_lease_is_read_whatever_is_in_any_field() {
        let good = read(&whole());
        assert_eq!(good.spec.holder_identity.as_deref(), Some("us"));
        assert_eq!(good.spec.lease_duration_seconds, Some(6));
        for part in ["metadata", "spec"] {
            for value in anything() {
                let mut lease = whole();
                lease[part] = value;
                read(&lease);
            }
            let fields: Vec<_> = whole()[part].as_object().unwrap().keys().cloned().collect();
            for field in fields {
                for value in anything() {
                    let mut lease = whole();
                    lease[part][&field] = value.clone();
                    let lease = read(&lease);
                    if part == "spec" {
                        assert_eq!(lease.metadata, good.metadata, "{field}: {value}");
                    } else {
                        assert_eq!(lease.spec, good.spec, "{field}: {value}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_value_of_another_type_counts_as_none() {
        let mut lease = whole();
        lease["spec"] = json!({"holderIdentity": 1, "leaseDurationSeconds": "6", "leaseTransitions": 1.5, "renewTime": {}});
        assert_eq!(read(&lease).spec, LeaseSpec::default());
    }

    #[test]
    fn text_that_is_no_json_object_is_no_lease() {
        for text in ["\"nonsense\"", "null", "[]", "7", "<html>"] {
            assert!(serde_json::from_str::<Lease>(text).is_err(), "{text}");
        }
    }
}
