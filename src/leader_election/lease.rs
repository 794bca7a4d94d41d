//! The parts of the Lease that the election reads. They decode whatever a user has written into the Lease.
//!
//! A real API server stores times that our clients cannot read, such as `9999-12-31T23:59:59.999999Z`, which
//! exceeds jiff's maximum. With the type of `k8s_openapi`, one such time, even in `managedFields`, would
//! break the watch and every GET for good, and no replica would lead. So this type parses only what the
//! election needs, and a value of the wrong type counts as absent.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::api::coordination::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{NamespaceResourceScope, Resource};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A Lease.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lease {
    /// Only name, namespace, uid and resourceVersion.
    pub metadata: ObjectMeta,
    /// Its holder and times.
    pub spec: LeaseSpec,
}

/// The `spec` of a Lease, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseSpec {
    /// The holder. Absent or empty: the Lease is free.
    pub holder_identity: Option<String>,
    /// How long it is valid after a renewal, in seconds.
    pub lease_duration_seconds: Option<i64>,
    /// How often it changed hands.
    pub lease_transitions: Option<i64>,
    /// The time of its last renewal by the holder's clock. Compared as text, never parsed.
    pub renew_time: Option<String>,
    /// The moment at which its holder took it, likewise.
    pub acquire_time: Option<String>,
}

impl<'de> serde::Deserialize<'de> for Lease {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let lease = Shallow(DEPTH).deserialize(deserializer)?;
        if !lease.is_object() {
            return Err(serde::de::Error::custom("a Lease that is no JSON object"));
        }
        let (metadata, spec) = (&lease["metadata"], &lease["spec"]);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(Self {
            metadata: ObjectMeta {
                name: text(&metadata["name"]),
                namespace: text(&metadata["namespace"]),
                uid: text(&metadata["uid"]),
                resource_version: text(&metadata["resourceVersion"]),
                ..ObjectMeta::default()
            },
            spec: LeaseSpec {
                holder_identity: text(&spec["holderIdentity"]),
                lease_duration_seconds: spec["leaseDurationSeconds"].as_i64(),
                lease_transitions: spec["leaseTransitions"].as_i64(),
                renew_time: text(&spec["renewTime"]),
                acquire_time: text(&spec["acquireTime"]),
            },
        })
    }
}

impl Resource for Lease {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        v1::Lease::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        v1::Lease::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        v1::Lease::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        v1::Lease::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The depth that is read: the Lease, and its metadata and spec.
const DEPTH: u8 = 2;

/// Reads JSON objects down to this depth, and no lists. The rest is skipped without recursion, so it may be
/// nested to any depth.
struct Shallow(u8);

impl<'de> DeserializeSeed<'de> for Shallow {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shallow {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let Some(depth) = self.0.checked_sub(1) else {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        };
        let mut read = Map::new();
        while let Some(name) = members.next_key()? {
            read.insert(name, members.next_value_seed(Shallow(depth))?);
        }
        Ok(Value::Object(read))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// JSON of every kind.
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
    fn what_is_no_json_object_is_no_lease() {
        for text in ["\"nonsense\"", "null", "[]", "7", "<html>"] {
            assert!(serde_json::from_str::<Lease>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn it_is_the_resource_that_k8s_openapi_names() {
        assert_eq!(Lease::api_version(&()), v1::Lease::api_version(&()));
        assert_eq!(
            Lease::url_path(&(), Some("default")),
            v1::Lease::url_path(&(), Some("default"))
        );
    }
}
