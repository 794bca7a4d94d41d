//! The Services and slices of schedules.

use serde_json::{Value, json};
use testbed::builders;

use crate::slices::{SERVICE_NAME, SOURCE_LABEL};

/// The managed Services of a schedule, by number. The first is the one that the flags name.
pub const SERVICES: [(&str, &str); 6] = [
    ("default", "kubernetes-vip"),
    ("default", "one"),
    ("default", "two"),
    ("apps", "three"),
    ("apps", "four"),
    ("apps", "five"),
];

/// The sources, by number.
pub const SOURCES: [(&str, &str); 4] = [
    ("default", "kubernetes"),
    ("default", "web"),
    ("apps", "db"),
    ("apps", "names"),
];

/// The address types of the slices of one source, by number.
pub const SLICES: [&str; 4] = ["IPv4", "IPv4", "IPv6", "FQDN"];

/// The port that a flag permits in copies of the API source, in addition to the ports of its slices.
pub const ALLOWED_PORT: u16 = 9345;

/// The spec and annotations of a managed Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One port with a numeric target port.
    Plain,
    /// Two ports. One names a port of the source, and the other names a port that no source has.
    NamedPorts,
    /// One port, which names a port that no source has.
    UnknownPort,
    /// Headless, without ports.
    Headless,
    /// IPv6 only.
    V6,
    /// Both families.
    Dual,
    /// Copies are held while the source is empty.
    Hold,
    /// Copies are emptied when the source is empty.
    Follow,
    /// The annotation that says whether copies are held is invalid.
    HoldTypo,
    /// Not managed, because the `enabled` annotation is `false`.
    Disabled,
    /// Without an annotation, so not managed unless the flags name the Service.
    Silent,
    /// The `enabled` annotation is invalid.
    EnabledTypo,
    /// The annotations name the namespace of a source without its name.
    NamespaceAlone,
    /// The annotations name a source with an invalid name.
    IllegalSource,
    /// The Service has a selector.
    Selector,
    /// The Service has the type `ExternalName`.
    ExternalName,
    /// The Service names itself as its source.
    Itself,
    /// The Service names a managed Service as its source.
    CopyOfCopy,
    /// The Service names a source that does not exist.
    NoSource,
    /// Only nodes with an endpoint announce the Service.
    Local,
    /// The Service is exempt from probes.
    ProbeOff,
    /// Both families, and only nodes with an endpoint announce the Service.
    DualLocal,
    /// Both families, and clients prefer endpoints in their zone.
    DualClose,
    /// Clients prefer endpoints on their node.
    SameNode,
}

/// Shapes of Services that need Nodes if they copy the API source.
pub const NODE_SHAPES: [Shape; 6] = [
    Shape::V6,
    Shape::Dual,
    Shape::DualLocal,
    Shape::DualLocal,
    Shape::DualClose,
    Shape::SameNode,
];

/// Shapes that are useful with any source.
pub const SHAPES: [Shape; 21] = [
    Shape::Plain,
    Shape::NamedPorts,
    Shape::UnknownPort,
    Shape::Headless,
    Shape::V6,
    Shape::Dual,
    Shape::Hold,
    Shape::Follow,
    Shape::HoldTypo,
    Shape::Disabled,
    Shape::Silent,
    Shape::EnabledTypo,
    Shape::NamespaceAlone,
    Shape::IllegalSource,
    Shape::Selector,
    Shape::ExternalName,
    Shape::Itself,
    Shape::CopyOfCopy,
    Shape::NoSource,
    Shape::Local,
    Shape::ProbeOff,
];

/// A managed Service.
pub fn service(number: usize, shape: Shape, source: usize, port: u16) -> Value {
    let (namespace, name) = SERVICES[number];
    let mut source = SOURCES[source];
    let mut annotations = json!({"endpoint-copier/enabled": "true"});
    let mut spec = json!({"ports": [{"name": "https", "port": port, "targetPort": port}]});
    match shape {
        Shape::Plain => {}
        Shape::NamedPorts => {
            spec["ports"] = json!([
                {"name": "https", "port": 443, "targetPort": "https"},
                {"name": "other", "port": port, "targetPort": "nobody-has-it"},
            ]);
        }
        Shape::UnknownPort => {
            spec["ports"] = json!([{"name": "other", "port": port, "targetPort": "nobody-has-it"}]);
        }
        Shape::Headless => spec = json!({"clusterIP": "None", "ipFamilies": ["IPv4"]}),
        Shape::V6 => spec["ipFamilies"] = json!(["IPv6"]),
        Shape::Dual => spec["ipFamilies"] = json!(["IPv4", "IPv6"]),
        Shape::Hold => annotations["endpoint-copier/when-source-empty"] = json!("hold"),
        Shape::Follow => annotations["endpoint-copier/when-source-empty"] = json!("follow"),
        Shape::HoldTypo => annotations["endpoint-copier/when-source-empty"] = json!("perhaps"),
        Shape::Disabled => annotations["endpoint-copier/enabled"] = json!("false"),
        Shape::Silent => annotations = json!({}),
        Shape::EnabledTypo => annotations["endpoint-copier/enabled"] = json!("yes"),
        Shape::NamespaceAlone => {
            annotations["endpoint-copier/default-service-namespace"] = json!("apps");
        }
        Shape::IllegalSource => source.1 = "no such.name",
        Shape::ProbeOff => annotations["endpoint-copier/probe"] = json!("off"),
        Shape::Selector => spec["selector"] = json!({"app": "web"}),
        Shape::ExternalName => spec = json!({"type": "ExternalName", "externalName": "example.org"}),
        Shape::Itself => source = (namespace, name),
        Shape::CopyOfCopy => source = SERVICES[usize::from(number == 0)],
        Shape::NoSource => source.1 = "nobody",
        Shape::Local => {
            spec["type"] = json!("LoadBalancer");
            spec["externalTrafficPolicy"] = json!("Local");
        }
        // Edge Image Builder writes a Service like this if two addresses are given.
        Shape::DualLocal => {
            spec["type"] = json!("LoadBalancer");
            spec["externalTrafficPolicy"] = json!("Local");
            spec["ipFamilyPolicy"] = json!("RequireDualStack");
            spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
        }
        Shape::DualClose => {
            spec["ipFamilyPolicy"] = json!("PreferDualStack");
            spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
            spec["trafficDistribution"] = json!("PreferClose");
        }
        Shape::SameNode => spec["trafficDistribution"] = json!("PreferSameNode"),
    }
    if matches!(shape, Shape::V6 | Shape::Dual) {
        // These Services are headless. DualLocal and DualClose have an IPv6 cluster IP.
        spec["clusterIP"] = json!("None");
    }
    let is_default = source == SOURCES[0];
    if !is_default && !matches!(shape, Shape::NamespaceAlone | Shape::Silent) {
        annotations["endpoint-copier/default-service-name"] = json!(source.1);
        if source.0 != namespace {
            annotations["endpoint-copier/default-service-namespace"] = json!(source.0);
        }
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": spec,
    })
}

/// The Service object of a source.
pub fn source_service(source: usize) -> Value {
    if source == 0 {
        return builders::kubernetes_service();
    }
    let (namespace, name) = SOURCES[source];
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"name": "https", "port": 443}]},
    })
}

/// The name of a slice of a source.
pub fn slice_name(source: usize, slice: usize) -> String {
    let (_, name) = SOURCES[source];
    match slice {
        0 if source == 0 => name.to_owned(),
        _ => format!("{name}-{}{}", ["aaa", "bbb", "ccc", "ddd"][slice], "zz"),
    }
}

/// The source whose slice has this name.
pub fn source_of(namespace: &str, slice: &str) -> Option<&'static str> {
    let is_it = |source: usize| {
        SOURCES[source].0 == namespace && (0..SLICES.len()).any(|number| slice_name(source, number) == slice)
    };
    (0..SOURCES.len())
        .find(|source| is_it(*source))
        .map(|source| SOURCES[source].1)
}

/// A slice of a source that lists these addresses. If `unready`, the last address is not ready.
pub fn slice(source: usize, slice: usize, addresses: &[u8], unready: bool) -> Value {
    let (namespace, name) = SOURCES[source];
    let family = SLICES[slice];
    let address = |number: &u8| match family {
        "IPv4" => format!("192.0.2.{number}"),
        "IPv6" => format!("2001:db8::{number}"),
        _ => format!("host-{number}.example.org"),
    };
    let last = addresses.len().saturating_sub(1);
    let endpoints: Vec<Value> = addresses
        .iter()
        .enumerate()
        .map(|(at, number)| {
            let mut endpoint = json!({"addresses": [address(number)], "conditions": {}});
            if unready && at == last {
                endpoint["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
            }
            if source == 2 {
                endpoint["nodeName"] = json!(format!("node-{number}"));
            }
            endpoint
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(source, slice), "namespace": namespace, "labels": {SERVICE_NAME: name},
        },
        "addressType": family, "endpoints": endpoints,
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    })
}

/// A slice that another program made for a Service.
pub fn foreign(number: usize, name: &str) -> Value {
    let (namespace, service) = SERVICES[number];
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {SERVICE_NAME: service}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["198.51.100.7"]}], "ports": [],
    })
}

/// The slice that version 0.3 of the Go operator made for a Service.
pub fn leftover_slice(number: usize) -> Value {
    let mut slice = foreign(number, SERVICES[number].1);
    slice["metadata"]["labels"][SOURCE_LABEL] = json!("kubernetes");
    slice
}

/// The Endpoints of version 0.2 of the Go operator, preceded by the slice into which Kubernetes mirrors them. The slice
/// is created first, so that a backup never has Endpoints without a mirror. Kubernetes would recreate a missing mirror,
/// but nothing does so here.
pub fn leftover_endpoints(number: usize) -> [Value; 2] {
    let (namespace, name) = SERVICES[number];
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": name, "namespace": namespace, "labels": {
            "endpointslice.kubernetes.io/managed-by": "endpoint-copier-operator",
        }},
        "subsets": [{"addresses": [{"ip": "198.51.100.8"}], "ports": [{"port": 6443}]}],
    });
    let mut mirror = foreign(number, &mirror_name(number));
    mirror["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] =
        json!("endpointslicemirroring-controller.k8s.io");
    [mirror, endpoints]
}

/// The name of the slice into which Kubernetes mirrors the Endpoints of a Service.
pub fn mirror_name(number: usize) -> String {
    format!("{}-mirror", SERVICES[number].1)
}
