//! The parts of Nodes that the copies of the API source depend on.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::words::words;
use super::{Family, ObjectMeta, label_of};

words! {
    /// The kinds of Node addresses that the operator reads. It ignores host names and other kinds.
    NodeAddressKind {
        /// An address within the cluster.
        Internal => "InternalIP",
        /// An address that clients outside the cluster can reach.
        External => "ExternalIP",
    }
}

/// One address of a Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The kind of the address.
    pub kind: NodeAddressKind,
    /// In canonical form: an IPv4-mapped IPv6 address is stored as an IPv4 address.
    pub address: IpAddr,
}

/// A Node, reduced to what the operator reads. It takes a few hundred bytes instead of 12 KB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, as in the `nodeName` of an endpoint.
    pub name: Arc<str>,
    /// The Node's internal and external addresses that an endpoint can have, in the Node's order. At most 64.
    pub addresses: Box<[NodeAddress]>,
    /// The value of the `topology.kubernetes.io/zone` label, unless it is empty.
    pub zone: Option<Box<str>>,
}

/// A Node, decoded from a response of the API server. Decoding skips the fields that the operator does not read, so
/// even a page of large Nodes takes little memory.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "RawNode")]
pub struct NodeObject {
    /// Name, UID and resourceVersion, and nothing else.
    pub metadata: ObjectMeta,
    /// The part that the index keeps.
    pub node: Node,
}

impl Node {
    /// The addresses of one kind and family, in the Node's order.
    pub fn addresses_of(&self, kind: NodeAddressKind, family: Family) -> impl Iterator<Item = IpAddr> {
        let addresses = self.addresses.iter();
        let wanted = addresses.filter(move |known| known.kind == kind && Family::of(known.address) == family);
        wanted.map(|known| known.address)
    }

    /// The kind of this address of the Node, or `None` if the Node does not have it. An address of both kinds is
    /// treated as internal, whatever their order.
    #[must_use]
    pub fn kind_of(&self, address: IpAddr) -> Option<NodeAddressKind> {
        let known = self.addresses.iter().filter(|known| known.address == address);
        known.map(|known| known.kind).min()
    }
}

/// The maximum number of addresses that are read from one Node, so that no Node takes much more memory than another.
const MAX_ADDRESSES: usize = 64;

/// The label of a Node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Deserialize)]
struct RawNode {
    metadata: ObjectMeta,
    #[serde(default)]
    status: Option<RawStatus>,
}

#[derive(Deserialize)]
struct RawStatus {
    addresses: Option<Vec<RawAddress>>,
}

#[derive(Deserialize)]
struct RawAddress {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl From<RawNode> for NodeObject {
    fn from(shown: RawNode) -> Self {
        let zone = label_of(&shown.metadata, ZONE).filter(|zone| !zone.is_empty());
        let addresses = shown.status.and_then(|status| status.addresses);
        let node = Node {
            name: shown.metadata.name.as_deref().unwrap_or_default().into(),
            addresses: addresses
                .iter()
                .flatten()
                .filter_map(read)
                .take(MAX_ADDRESSES)
                .collect(),
            zone: zone.map(Into::into),
        };
        Self {
            metadata: ObjectMeta {
                name: shown.metadata.name,
                uid: shown.metadata.uid,
                resource_version: shown.metadata.resource_version,
                ..ObjectMeta::default()
            },
            node,
        }
    }
}

fn read(shown: &RawAddress) -> Option<NodeAddress> {
    let mut kinds = NodeAddressKind::ALL.into_iter();
    let kind = kinds.find(|kind| kind.as_str() == shown.kind)?;
    let address: IpAddr = shown.address.parse().ok()?;
    let address = address.to_canonical();
    may_be_endpoint(address).then_some(NodeAddress { kind, address })
}

/// Whether an endpoint can have this address. The API server rejects unspecified, loopback, link-local and link-local
/// multicast addresses. Other multicast addresses never belong to a server.
fn may_be_endpoint(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(is_link_local || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(node: &Value) -> NodeObject {
        serde_json::from_str(&node.to_string()).unwrap()
    }

    /// Rule: 8.addresses
    #[test]
    fn node_addresses_are_read_in_canonical_form_and_in_order() {
        let object = read(&json!({
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "7", "annotations": {"x": "y"},
                "labels": {"other": "z", "topology.kubernetes.io/zone": "north"},
                "managedFields": [{"time": "9999-12-31T23:59:59Z"}]},
            "spec": {"podCIDR": 7},
            "status": {"images": [{"names": ["n"]}], "conditions": "x", "addresses": [
                {"type": "Hostname", "address": "a"},
                {"type": "InternalIP", "address": "::ffff:192.0.2.1"},
                {"type": "ExternalIP", "address": "2001:0DB8:0::0001"},
                {"type": "InternalDNS", "address": "192.0.2.9"},
                {"type": "InternalIP", "address": "a"},
                {"type": "InternalIP", "address": "fd00::1"},
            ]},
        }));
        let shown: Vec<_> = object
            .node
            .addresses
            .iter()
            .map(|it| (it.kind.as_str(), it.address.to_string()))
            .collect();
        let expected = [
            ("InternalIP", "192.0.2.1"),
            ("ExternalIP", "2001:db8::1"),
            ("InternalIP", "fd00::1"),
        ];
        assert_eq!(shown, expected.map(|(kind, address)| (kind, address.to_owned())));
        assert_eq!(
            (&*object.node.name, object.node.zone.as_deref()),
            ("a", Some("north"))
        );
        let ObjectMeta {
            name,
            uid,
            resource_version,
            labels,
            annotations,
            ..
        } = object.metadata;
        assert_eq!(
            (name.as_deref(), uid.as_deref(), resource_version.as_deref()),
            (Some("a"), Some("u"), Some("7"))
        );
        assert_eq!((labels, annotations), (None, None));
    }

    #[test]
    fn an_address_that_no_endpoint_may_have_is_skipped() {
        for address in [
            "fe80::1",
            "169.254.1.1",
            "127.0.0.1",
            "::1",
            "::",
            "0.0.0.0",
            "224.0.0.1",
            "ff02::1",
            "fe80::1%eth0",
            "",
        ] {
            let object = read(&json!({
                "metadata": {"name": "a"}, "status": {"addresses": [{"type": "InternalIP", "address": address}]}
            }));
            assert!(object.node.addresses.is_empty(), "{address}");
        }
    }

    /// Rule: survive.memory
    #[test]
    fn a_node_takes_little_memory() {
        assert!(size_of::<Node>() <= 48);
        assert!(size_of::<NodeAddress>() <= 18);
        let addresses =
            (0..1000).map(|number| json!({"type": "InternalIP", "address": format!("2001:db8::{number:x}")}));
        let addresses: Vec<_> = addresses.collect();
        let object = read(&json!({"metadata": {"name": "a"}, "status": {"addresses": addresses}}));
        assert_eq!(object.node.addresses.len(), 64);
    }

    #[test]
    fn a_node_with_empty_fields_is_read() {
        for status in [json!(null), json!({}), json!({"addresses": null})] {
            let object =
                read(&json!({"metadata": {"labels": {"topology.kubernetes.io/zone": ""}}, "status": status}));
            assert_eq!(
                (&*object.node.name, object.node.addresses.len(), object.node.zone),
                ("", 0, None)
            );
        }
    }
}
