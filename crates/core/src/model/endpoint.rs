//! One endpoint of a slice.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointHints};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// An endpoint, as `k8s-openapi` has it but in a quarter of the memory: what most endpoints leave out is behind
/// a pointer. `deprecatedTopology` is left out, since `discovery.k8s.io/v1` does not serve it to consumers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Consumers use the first only.
    #[serde(deserialize_with = "addresses")]
    pub addresses: Vec<String>,
    /// Whether it gets traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<EndpointConditions>,
    /// The zones and Nodes that should use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<Box<EndpointHints>>,
    /// Its DNS name within a headless Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Box<str>>,
    /// The Node that it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Box<str>>,
    /// The object that it stands for, a Pod for example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// The zone that it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Box<str>>,
}

/// A reference to an object, as JSON. Its fields as a structure would be five to eight allocations, for something
/// that is compared and copied and that nobody reads.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetRef {
    /// Empty if the reference names no namespace.
    namespace: Box<str>,
    /// As `k8s-openapi` writes it, so that equal references are equal text.
    json: Box<str>,
}

impl TargetRef {
    /// Whether readers in a namespace can follow it.
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
        // Without `..`: a new field of the API has to be decided about here.
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
    fn null_is_as_good_as_absent() {
        let nothing = json!({"addresses": null, "conditions": null, "hints": null, "nodeName": null, "targetRef": null});
        let endpoint: Endpoint = serde_json::from_value(nothing).unwrap();
        assert_eq!(endpoint, Endpoint::default());
        assert_eq!(serde_json::to_value(&endpoint).unwrap(), json!({"addresses": []}));
    }
}
