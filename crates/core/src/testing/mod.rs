//! Objects for tests, with good defaults, so that a test states only what matters to it.
//!
//! ```ignore
//! service("vip").source("web", "app").port("https", "api")
//! slice("app-x7k2p").of("app").namespace("web").endpoints(["192.0.2.1"])
//! ```

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::{
    ConsentPolicy, CrossNamespace, Defaults, Endpoint, EndpointSlice, MANAGED_BY_US, Node, NodeAddress,
    NodeAddressKind, ObjectMeta, OwnerReference, Service, ServiceKey, ServiceSpec, annotation, label,
    provenance,
};

pub mod facts;
pub mod world;

/// The defaults of the flags, except that sources need no consent.
pub fn defaults() -> Defaults {
    Defaults {
        source: ServiceKey::new("default", "kubernetes"),
        managed: Some(ServiceKey::new("default", "kubernetes-vip")),
        consent: ConsentPolicy {
            cross_namespace: CrossNamespace::Allow,
            ..ConsentPolicy::default()
        },
    }
}

/// A managed Service `default/<name>` with a cluster IP, one family and a port `https` with target port 6443. It names
/// no source.
pub fn service(name: &str) -> Service {
    let service = plain_service(name).annotate(annotation::ENABLED, "true");
    service
        .edit(|service| service.spec_mut().ports = None)
        .number("https", 6443)
}

/// A Service `default/<name>` without annotations.
pub fn plain_service(name: &str) -> Service {
    Service {
        metadata: metadata(name),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("10.96.0.10".to_owned()),
            ip_families: Some(vec!["IPv4".to_owned()]),
            ip_family_policy: Some("SingleStack".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// An IPv4 slice `default/<name>` of the Service `kubernetes`, with port `https` 6443 and no endpoints.
pub fn slice(name: &str) -> EndpointSlice {
    EndpointSlice {
        metadata: metadata(name),
        address_type: "IPv4".to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(vec![slice_port("https", 6443)]),
        ..EndpointSlice::default()
    }
    .of("kubernetes")
}

/// An endpoint with only an address.
pub fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        addresses: vec![address.to_owned()],
        ..Endpoint::default()
    }
}

/// A Node without addresses.
pub fn node(name: &str) -> Node {
    Node {
        name: name.into(),
        addresses: Box::default(),
        zone: None,
    }
}

/// Methods for Nodes.
impl Node {
    pub fn internal(self, address: &str) -> Self {
        self.with_address(NodeAddressKind::Internal, address)
    }

    pub fn external(self, address: &str) -> Self {
        self.with_address(NodeAddressKind::External, address)
    }

    pub fn zone(self, zone: &str) -> Self {
        Self {
            zone: Some(zone.into()),
            ..self
        }
    }

    fn with_address(self, kind: NodeAddressKind, address: &str) -> Self {
        let address = address.parse().expect("an address");
        let added = NodeAddress { kind, address };
        Self {
            addresses: self.addresses.into_iter().chain([added]).collect(),
            ..self
        }
    }
}

/// A TCP port of a slice.
pub fn slice_port(name: &str, number: i32) -> EndpointPort {
    EndpointPort {
        name: Some(name.to_owned()),
        port: Some(number),
        protocol: Some("TCP".to_owned()),
        app_protocol: None,
    }
}

/// Metadata as the API server completes it.
fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some("100".to_owned()),
        ..ObjectMeta::default()
    }
}

/// Methods for Services and slices.
pub trait Build: Sized {
    fn meta(&mut self) -> &mut ObjectMeta;

    fn edit(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn namespace(self, namespace: &str) -> Self {
        self.edit(|object| object.meta().namespace = Some(namespace.to_owned()))
    }

    fn uid(self, uid: &str) -> Self {
        self.edit(|object| object.meta().uid = Some(uid.to_owned()))
    }

    fn version(self, version: u64) -> Self {
        self.edit(|object| object.meta().resource_version = Some(version.to_string()))
    }

    /// Sets the creation time, as Unix time in seconds.
    fn created(self, second: i64) -> Self {
        self.edit(|object| object.meta().created = Some(second))
    }

    fn label(self, key: &str, value: &str) -> Self {
        self.edit(|object| {
            let labels = object.meta().labels.get_or_insert_default();
            labels.insert(key.to_owned().into(), value.into());
        })
    }

    fn annotate(self, key: &str, value: &str) -> Self {
        self.edit(|object| {
            let annotations = object.meta().annotations.get_or_insert_default();
            annotations.insert(key.to_owned().into(), value.into());
        })
    }

    fn without_label(self, key: &str) -> Self {
        self.edit(|object| _ = object.meta().labels.get_or_insert_default().remove(key))
    }

    fn without_annotation(self, key: &str) -> Self {
        self.edit(|object| _ = object.meta().annotations.get_or_insert_default().remove(key))
    }

    fn deleting(self) -> Self {
        self.edit(|object| object.meta().deletion_timestamp = Some("1970-01-01T00:00:00Z".to_owned()))
    }
}

impl Build for Service {
    fn meta(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Build for EndpointSlice {
    fn meta(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Methods for Services.
pub trait BuildService: Build {
    fn spec_mut(&mut self) -> &mut ServiceSpec;

    /// Sets the annotations that name the source.
    fn source(self, namespace: &str, name: &str) -> Self {
        self.annotate(annotation::SOURCE_NAMESPACE, namespace)
            .annotate(annotation::SOURCE_NAME, name)
    }

    fn families(self, families: &[&str]) -> Self {
        let families = families.iter().map(|&family| family.to_owned()).collect();
        self.edit(|service| service.spec_mut().ip_families = Some(families))
    }

    fn headless(self) -> Self {
        self.edit(|service| service.spec_mut().cluster_ip = Some("None".to_owned()))
    }

    fn no_ports(self) -> Self {
        self.edit(|service| service.spec_mut().ports = None)
    }

    /// Adds a port with a named target port.
    fn port(self, name: &str, target: &str) -> Self {
        self.add_port(name, IntOrString::String(target.to_owned()))
    }

    /// Adds a port with a numeric target port.
    fn number(self, name: &str, target: i32) -> Self {
        self.add_port(name, IntOrString::Int(target))
    }

    fn add_port(self, name: &str, target: IntOrString) -> Self {
        self.edit(|service| {
            service
                .spec_mut()
                .ports
                .get_or_insert_default()
                .push(ServicePort {
                    name: Some(name.to_owned()),
                    port: 443,
                    protocol: Some("TCP".to_owned()),
                    target_port: Some(target),
                    ..ServicePort::default()
                });
        })
    }
}

impl BuildService for Service {
    fn spec_mut(&mut self) -> &mut ServiceSpec {
        self.spec.get_or_insert_default()
    }
}

/// Methods for slices.
pub trait BuildSlice: Build {
    /// Sets the Service that the slice belongs to.
    fn of(self, service: &str) -> Self {
        self.label(label::SERVICE_NAME, service)
    }

    fn family(self, address_type: &str) -> Self;

    fn endpoints<'a>(self, addresses: impl IntoIterator<Item = &'a str>) -> Self;

    fn ports(self, ports: &[EndpointPort]) -> Self;

    /// Turns the slice into a copy of the slice `default/<source>` for the Service `default/<service>`.
    fn copied(self, service: &str, source: &str) -> Self {
        self.label(label::SERVICE_NAME, service)
            .label(label::MANAGED_BY, MANAGED_BY_US)
            .label(label::SOURCE, source)
            .annotate(provenance::NAMESPACE, "default")
            .annotate(provenance::SLICE, source)
            .annotate(provenance::UID, &format!("uid-{source}"))
            .annotate(provenance::RESOURCE_VERSION, "100")
            .edit(|copy| copy.meta().owner_references = Some(vec![owner(service)]))
    }
}

impl BuildSlice for EndpointSlice {
    fn family(self, address_type: &str) -> Self {
        self.edit(|slice| address_type.clone_into(&mut slice.address_type))
    }

    fn endpoints<'a>(self, addresses: impl IntoIterator<Item = &'a str>) -> Self {
        let endpoints = addresses.into_iter().map(endpoint).collect();
        self.edit(|slice| slice.endpoints = Some(endpoints))
    }

    fn ports(self, ports: &[EndpointPort]) -> Self {
        self.edit(|slice| slice.ports = Some(ports.to_vec()))
    }
}

/// The reference from a copy to its owner, the Service that [`service`] returns for this name.
pub fn owner(name: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        controller: Some(true),
        block_owner_deletion: Some(false),
        ..OwnerReference::default()
    }
}
