//! An endpoint of a slice.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointHints};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// Like `Endpoint` in `k8s-openapi`, but a quarter of the size, because fields that most endpoints lack are behind a
/// pointer. It has no `deprecatedTopology`, which clients of `discovery.k8s.io/v1` cannot write.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Its addresses. Consumers use only the first.
    #[serde(deserialize_with = "addresses")]
    pub addresses: Vec<String>,
    /// Conditions that decide whether it gets traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<EndpointConditions>,
    /// The zones and Nodes whose clients should use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<Box<EndpointHints>>,
    /// Its DNS name within a headless Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Box<str>>,
    /// The Node that it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Box<str>>,
    /// The object that it represents, such as a Pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// The zone that it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Box<str>>,
}

impl Endpoint {
    /// Whether it is ready. An endpoint without the `ready` condition is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let conditions = self.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready) != Some(false)
    }

    /// Whether it is terminating. An endpoint without the `terminating` condition is not.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        let conditions = self.conditions.as_ref();
        conditions.and_then(|conditions| conditions.terminating) == Some(true)
    }

    /// The first address, in canonical form. Consumers ignore other addresses.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        let address: IpAddr = self.addresses.first()?.parse().ok()?;
        Some(address.to_canonical())
    }
}

/// A reference to an object, stored as JSON. As a struct, it would need five to eight allocations, although the
/// operator only compares and copies it.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetRef {
    /// Empty if the reference names no namespace.
    namespace: Box<str>,
    /// The reference in the form that `k8s-openapi` writes, so that equal references have equal text.
    json: Box<str>,
}

impl TargetRef {
    /// Whether a slice in this namespace may keep the reference.
    #[must_use]
    pub fn is_for(&self, namespace: &str) -> bool {
        self.namespace.is_empty() || *self.namespace == *namespace
    }
}

impl<'de> Deserialize<'de> for TargetRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let reference = ObjectReference::deserialize(deserializer)?;
        let json = serde_json::to_string(&reference).map_err(de::Error::custom)?;
        Ok(Self {
            namespace: reference.namespace.unwrap_or_default().into(),
            json: json.into(),
        })
    }
}

impl Serialize for TargetRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let reference: ObjectReference = serde_json::from_str(&self.json).map_err(ser::Error::custom)?;
        reference.serialize(serializer)
    }
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(super::compact::list(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1;
    use serde_json::json;

    use super::*;

    /// Rule: survive.memory
    #[test]
    fn every_field_of_an_endpoint_is_read_and_written() {
        // No `..`, so that a new field of the API breaks the build until somebody decides how to handle it.
        let v1::Endpoint {
            addresses: _,
            conditions: _,
            deprecated_topology: _,
            hints: _,
            hostname: _,
            node_name: _,
            target_ref: _,
            zone: _,
        } = v1::Endpoint::default();
        let all = json!({
            "addresses": ["192.0.2.1", "192.0.2.2"],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "hints": {"forNodes": [{"name": "n"}], "forZones": [{"name": "z"}]},
            "hostname": "h",
            "nodeName": "n",
            "targetRef": {
                "apiVersion": "v1", "fieldPath": "f", "kind": "Pod", "name": "p", "namespace": "ns",
                "resourceVersion": "7", "uid": "u"
            },
            "zone": "z",
        });
        let endpoint: Endpoint = serde_json::from_value(all.clone()).unwrap();
        assert_eq!(serde_json::to_value(&endpoint).unwrap(), all);
        let theirs: v1::Endpoint = serde_json::from_value(all.clone()).unwrap();
        assert_eq!(serde_json::to_value(&theirs).unwrap(), all);
    }

    #[test]
    fn null_equals_absent() {
        let nothing = json!({"addresses": null, "conditions": null, "hints": null, "nodeName": null, "targetRef": null});
        let endpoint: Endpoint = serde_json::from_value(nothing).unwrap();
        assert_eq!(endpoint, Endpoint::default());
        assert_eq!(serde_json::to_value(&endpoint).unwrap(), json!({"addresses": []}));
    }
}
