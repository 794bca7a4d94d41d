//! The parts of Services and EndpointSlices that the operator reads.
//!
//! As in `k8s-openapi`, field names and optionality match the API. These types leave out most timestamps,
//! `managedFields` and most of `status`. The API server accepts values there that the operator could not decode, such
//! as a `managedFields` entry from the year 9999, or one that is nested hundreds of levels deep. An object that cannot
//! be decoded must not affect other objects.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::EndpointPort;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use super::compact::{self, StringMap, string_map};
use super::condition::{self, Condition};
use super::endpoint::Endpoint;
use super::ports::tcp_numbers;
use super::{EndpointCounts, SliceKey};

/// The fields of `metadata` that copies depend on, or that an update of a copy must keep.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectMeta {
    /// Unique within the namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Absent on cluster-scoped objects only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Distinguishes an object from its successor with the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Opaque in general; see [`super::version`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// The creation time as Unix time in seconds, or `None` if it cannot be parsed. Never sent.
    #[serde(
        rename = "creationTimestamp",
        deserialize_with = "compact::seconds",
        skip_serializing
    )]
    pub created: Option<i64>,
    /// Present once the object is being deleted. Never parsed, because only its presence matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    /// All labels, because an update of a copy keeps what others added.
    #[serde(with = "string_map", skip_serializing_if = "Option::is_none")]
    pub labels: Option<StringMap>,
    /// All annotations, because an update of a copy keeps what others added.
    #[serde(with = "string_map", skip_serializing_if = "Option::is_none")]
    pub annotations: Option<StringMap>,
    /// All owners, because an update of a copy keeps what others added.
    #[serde(deserialize_with = "compact::list", skip_serializing_if = "Option::is_none")]
    pub owner_references: Option<Vec<OwnerReference>>,
    /// All finalizers, because an update of a copy keeps what others added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finalizers: Option<Vec<String>>,
}

/// An entry of `ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// `v1` for a Service.
    pub api_version: String,
    /// `Service` for a Service.
    pub kind: String,
    /// The owner's name; the owner is in the namespace of the object.
    pub name: String,
    /// The owner's UID.
    pub uid: String,
    /// Whether the owner is the managing controller. An object has at most one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether a foreground deletion of the owner waits for the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
    /// Fields of later API versions, which an update keeps.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Service {
    /// Name, labels and annotations.
    pub metadata: ObjectMeta,
    /// The specification that the user wrote.
    pub spec: Option<ServiceSpec>,
    /// The state that controllers write.
    pub status: Option<ServiceStatus>,
}

impl Service {
    /// The addresses and host names at which its load balancer receives traffic.
    pub fn ingress(&self) -> impl Iterator<Item = &LoadBalancerIngress> {
        let status = self.status.as_ref();
        let balancer = status.and_then(|status| status.load_balancer.as_ref());
        balancer
            .and_then(|balancer| balancer.ingress.as_ref())
            .into_iter()
            .flatten()
    }
}

/// The fields of a Service's `spec` on which copies depend.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// The primary cluster IP, or the word `None` for a headless Service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// One cluster IP of each family.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    /// Addresses that the user routes to the Nodes.
    #[serde(rename = "externalIPs")]
    pub external_ips: Option<Vec<String>>,
    /// The load-balancer address that the user requests. Deprecated, but still in use.
    #[serde(rename = "loadBalancerIP")]
    pub load_balancer_ip: Option<String>,
    /// `IPv4`, `IPv6`, or both; the primary one first.
    pub ip_families: Option<Vec<String>>,
    /// `SingleStack`, `PreferDualStack` or `RequireDualStack`.
    pub ip_family_policy: Option<String>,
    /// Selects Pods. A Service with a non-empty selector gets no copies.
    pub selector: Option<BTreeMap<String, String>>,
    /// Its ports. Copies have at most the first 100.
    pub ports: Option<Vec<ServicePort>>,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: Option<String>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: Option<String>,
    /// `PreferClose`, `PreferSameZone` or `PreferSameNode`.
    pub traffic_distribution: Option<String>,
}

/// The fields of a Service's `status` that the operator reads.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceStatus {
    /// The state of the load balancer.
    pub load_balancer: Option<LoadBalancerStatus>,
    /// The condition that the operator writes. Conditions that others write are not kept.
    #[serde(rename = "conditions", deserialize_with = "condition::own")]
    pub condition: Option<Box<Condition>>,
}

/// `status.loadBalancer` of a Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// The addresses and host names at which the load balancer receives traffic.
    pub ingress: Option<Vec<LoadBalancerIngress>>,
}

/// One ingress of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LoadBalancerIngress {
    /// Its address, if it has one.
    pub ip: Option<String>,
    /// Its host name, if it has one.
    pub hostname: Option<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Name, labels, annotations and owners.
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`. Immutable.
    pub address_type: String,
    /// Its endpoints. The API server stores an absent list and an empty list in the same way.
    #[serde(deserialize_with = "compact::list", skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<Endpoint>>,
    /// The ports of each endpoint.
    #[serde(deserialize_with = "compact::list", skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<EndpointPort>>,
    /// How much of the slice is in memory.
    #[serde(skip)]
    pub kept: Kept,
}

/// How much of a slice the index keeps in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// Everything that the operator reads of a slice.
    #[default]
    Whole,
    /// Everything except the metadata that others added to a copy. An update must keep that metadata, so the copy is
    /// read first.
    WithoutOthersMetadata,
    /// No endpoints and no ports, only the numbers of endpoints by condition. Metadata that others added can be missing
    /// too.
    Outline(EndpointCounts),
}

impl EndpointSlice {
    /// Whether the slice has no endpoints, ready or not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match &self.kept {
            Kept::Outline(counts) => counts.total() == 0,
            Kept::Whole | Kept::WithoutOthersMetadata => self.endpoints.as_ref().is_none_or(Vec::is_empty),
        }
    }

    /// Whether its endpoints and ports are not in memory.
    #[must_use]
    pub fn is_outline(&self) -> bool {
        matches!(self.kept, Kept::Outline(_))
    }

    /// Its namespace and name.
    #[must_use]
    pub fn key(&self) -> SliceKey {
        SliceKey::of(&self.metadata)
    }

    /// The first address of each endpoint, ready or not.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().flatten().filter_map(Endpoint::address)
    }

    /// The numbers of the TCP ports whose names satisfy `is_wanted`.
    pub fn tcp_ports(&self, is_wanted: impl Fn(Option<&str>) -> bool) -> impl Iterator<Item = u16> {
        tcp_numbers(self.ports.as_deref().unwrap_or_default(), is_wanted)
    }
}

/// An object that cannot be decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    /// The fields of its metadata that [`Unreadable::read`] found readable.
    pub metadata: ObjectMeta,
    /// The condition that the operator wrote, if the object is a Service that has it.
    pub condition: Option<Box<Condition>>,
    /// The reason why it cannot be decoded.
    pub error: String,
}

impl Unreadable {
    /// Reads parts of an object that could not be decoded because of `error`: the condition, and the name, namespace,
    /// UID, resourceVersion, creation time, labels and annotations. Each part is read separately. A field, label or
    /// annotation of the wrong type is treated as absent.
    #[must_use]
    pub fn read(object: &RawValue, error: impl ToString) -> Self {
        #[derive(Deserialize)]
        struct Object<'a> {
            #[serde(borrow)]
            metadata: Option<&'a RawValue>,
            #[serde(borrow)]
            status: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Status {
            #[serde(default, rename = "conditions", deserialize_with = "condition::own")]
            condition: Option<Box<Condition>>,
        }
        let object: Option<Object<'_>> = serde_json::from_str(object.get()).ok();
        let status = object.as_ref().and_then(|object| object.status);
        let status: Option<Status> = status.and_then(|status| serde_json::from_str(status.get()).ok());
        let fields = object
            .and_then(|object| fields_of(object.metadata?))
            .unwrap_or_default();
        let text = |name| fields.get(name).and_then(|value| text_of(value));
        let texts = |name| {
            let entries = fields_of(fields.get(name)?)?.into_iter();
            Some(
                entries
                    .filter_map(|(key, value)| Some((key.into(), text_of(value)?.into())))
                    .collect(),
            )
        };
        Self {
            metadata: ObjectMeta {
                name: text("name"),
                namespace: text("namespace"),
                uid: text("uid"),
                resource_version: text("resourceVersion"),
                created: text("creationTimestamp").and_then(|time| compact::unix_seconds(&time)),
                labels: texts("labels"),
                annotations: texts("annotations"),
                ..ObjectMeta::default()
            },
            condition: status.and_then(|status| status.condition),
            error: error.to_string(),
        }
    }
}

/// The undecoded fields of an object.
fn fields_of(object: &RawValue) -> Option<BTreeMap<String, &RawValue>> {
    serde_json::from_str(object.get()).ok()
}

fn text_of(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn a_slice_is_decoded_whatever_its_unused_fields_hold() {
        let deep = format!("{}1{}", r#"{"f:a":"#.repeat(300), "}".repeat(300));
        let slice = format!(
            r#"{{"metadata": {{"name": "a", "creationTimestamp": 7, "generation": "x",
                "managedFields": [{{"time": "9999-12-31T23:59:59Z", "fieldsV1": {deep}}}, null, 3]}},
                "addressType": "IPv4", "endpoints": null, "ports": null, "status": []}}"#
        );
        let slice: EndpointSlice = serde_json::from_str(&slice).unwrap();
        assert_eq!(slice.metadata.name.as_deref(), Some("a"));
        let service = r#"{"metadata": {"name": "b", "labels": null}, "spec": {"ports": null, "healthCheckNodePort": "x"},
            "status": {"conditions": [{"lastTransitionTime": "9999-12-31T23:59:59Z"}]}}"#;
        let service: Service = serde_json::from_str(service).unwrap();
        assert_eq!(service.spec, Some(ServiceSpec::default()));
    }

    #[test]
    fn an_update_keeps_fields_of_owners_that_a_later_api_adds() {
        let owner = r#"{"apiVersion":"v1","kind":"Service","name":"a","uid":"u","added":{"later":[1]}}"#;
        let read: OwnerReference = serde_json::from_str(owner).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), owner);
    }

    #[test]
    fn readable_parts_of_an_unreadable_object_are_read() {
        let object = raw(
            r#"{"metadata": {"name": "a", "namespace": "n", "uid": 7, "resourceVersion": "42", "creationTimestamp": "1970-01-01T00:01:00Z",
                "labels": {"good": "yes", "bad": {}}, "annotations": []}, "spec": 3,
                "status": {"loadBalancer": 3, "conditions": [{"type": "endpoint-copier/InSync", "status": "True", "reason": "A"}]}}"#,
        );
        let Unreadable {
            metadata,
            condition,
            error,
        } = Unreadable::read(&object, "wrong type");
        assert_eq!(
            condition.map(|condition| condition.reason.into_owned()),
            Some("A".to_owned())
        );
        let expected = ObjectMeta {
            name: Some("a".to_owned()),
            namespace: Some("n".to_owned()),
            resource_version: Some("42".to_owned()),
            created: Some(60),
            labels: Some(StringMap::from_iter([("good".into(), "yes".into())])),
            ..ObjectMeta::default()
        };
        assert_eq!((metadata, error.as_str()), (expected, "wrong type"));
        for hopeless in ["null", "[]", r#"{"metadata": 7}"#, "{}"] {
            let read = Unreadable::read(&raw(hopeless), "");
            assert_eq!(read.metadata, ObjectMeta::default(), "{hopeless}");
        }
    }
}
