//! What a Service asks of the operator, parsed once, when the index receives the Service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServicePort;

use super::{
    Defaults, Family, Finding, ObjectMeta, Reason, Service, ServiceKey, ServiceSpec, Unreadable, annotation,
    annotation_of, is_dns_label,
};

/// What a managed or disabled Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Copy the slices of this source.
    Copy(ServiceKey),
    /// The annotations are invalid, or the Service cannot be decoded: create nothing, and leave the copies as they are.
    Unclear(Finding),
    /// The Service cannot have copies: delete the existing ones.
    Refused(Finding),
    /// `enabled: "false"`: delete the copies and whatever the Go operator left behind.
    Disabled,
}

/// A managed or disabled Service, reduced to the fields that determine its copies.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the fields are independent of each other"
)]
pub struct ManagedService {
    /// Its key.
    pub key: ServiceKey,
    /// Its UID.
    pub uid: String,
    /// When it was created, as Unix time in seconds, if it can be parsed.
    pub created: Option<i64>,
    /// Whether it has a deletionTimestamp.
    pub deleting: bool,
    /// What it asks for.
    pub intent: Intent,
    /// Whether the last good copies stay while the source is empty.
    pub holds: bool,
    /// Whether probes may take endpoints out of its copies. Probes do so only for the API source.
    pub probed: bool,
    /// Findings about fields and annotations that are ignored.
    pub remarks: Vec<Finding>,
    /// The IP families that it wants.
    pub families: Vec<Family>,
    /// Whether every wanted family must exist: `RequireDualStack` on a Service with a cluster IP.
    pub needs_all_families: bool,
    /// `clusterIP: None`
    pub headless: bool,
    /// Ports of the Service, for its copies. Empty unless the intent is [`Intent::Copy`].
    pub ports: Vec<ServicePort>,
    /// Whether it asks for topology-aware routing. If so, hints are copied.
    pub wants_hints: bool,
    /// `externalTrafficPolicy: Local` or `internalTrafficPolicy: Local`
    pub local_traffic: bool,
    /// `trafficDistribution`
    pub distribution: Option<Distribution>,
    /// Its own load-balancer, external and cluster addresses, sorted. An endpoint with one of these addresses is a
    /// loop.
    pub own_addresses: Box<[IpAddr]>,
}

/// The endpoints that a Service prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Endpoints in the client's zone: `PreferClose` or `PreferSameZone`.
    SameZone,
    /// Endpoints on the client's Node: `PreferSameNode`.
    SameNode,
    /// Any other value, for example, one from a later version of Kubernetes.
    Other,
}

impl ManagedService {
    /// Reads a Service. Returns `None` if neither an annotation nor a flag says whether it is managed.
    #[must_use]
    pub fn read(service: &Service, defaults: &Defaults) -> Option<Self> {
        let key = ServiceKey::of(&service.metadata);
        let intent = match annotation_of(&service.metadata, annotation::ENABLED) {
            Some("true") => intent(service, &key, defaults),
            Some("false") => return Some(Self::without_spec(&service.metadata, Intent::Disabled)),
            Some(other) => {
                let help = "use \"true\" or \"false\"";
                Intent::Unclear(invalid(annotation::ENABLED, other, help))
            }
            None if defaults.managed.as_ref() == Some(&key) => intent(service, &key, defaults),
            None => return None,
        };
        Some(Self::with(service, intent))
    }

    /// A Service that cannot be decoded: it asks for nothing, and its copies stay as they are.
    #[must_use]
    pub fn unreadable(unreadable: &Unreadable) -> Self {
        let note = format!(
            "the Service cannot be decoded ({}), so its copies stay as they are; correct the field that the error names and apply the Service again",
            shorten(&unreadable.error)
        );
        let intent = Intent::Unclear(Finding::new(Reason::Unreadable, note));
        Self::without_spec(&unreadable.metadata, intent)
    }

    /// A Service of which only the metadata matters.
    fn without_spec(metadata: &ObjectMeta, intent: Intent) -> Self {
        let service = Service {
            metadata: metadata.clone(),
            ..Service::default()
        };
        Self {
            remarks: Vec::new(),
            ..Self::with(&service, intent)
        }
    }

    fn with(service: &Service, intent: Intent) -> Self {
        let no_spec = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&no_spec);
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let ((holds, hold_finding), (probed, probe_finding)) = (holds(service, &intent), probed(service));
        let (ports, port_finding) = ports(spec, &intent);
        Self {
            key: ServiceKey::of(&service.metadata),
            uid: service.metadata.uid.clone().unwrap_or_default(),
            created: service.metadata.created,
            deleting: service.metadata.deletion_timestamp.is_some(),
            intent,
            holds,
            probed,
            remarks: hold_finding
                .into_iter()
                .chain(probe_finding)
                .chain(port_finding)
                .collect(),
            families: families(spec),
            needs_all_families: !headless && spec.ip_family_policy.as_deref() == Some("RequireDualStack"),
            headless,
            ports,
            wants_hints: wants_hints(service, spec),
            local_traffic: [&spec.external_traffic_policy, &spec.internal_traffic_policy]
                .into_iter()
                .any(|policy| policy.as_deref() == Some("Local")),
            distribution: distribution(spec),
            own_addresses: own_addresses(service, spec),
        }
    }

    /// Whether a Service that cannot be decoded is managed or might be, according to its readable fields.
    #[must_use]
    pub fn may_be_managed(unreadable: &Unreadable, defaults: &Defaults) -> bool {
        let annotations = unreadable.metadata.annotations.iter().flatten();
        defaults.managed.as_ref() == Some(&ServiceKey::of(&unreadable.metadata))
            || annotations
                .map(|(key, _)| key)
                .any(|key| key.starts_with(annotation::PREFIX))
    }

    /// Whether its copies need the Node and the zone of each endpoint.
    #[must_use]
    pub fn needs_node_names(&self) -> bool {
        self.local_traffic || self.distribution.is_some()
    }

    /// Whether it is managed rather than disabled.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        self.intent != Intent::Disabled
    }

    /// The source, if it has a valid one.
    #[must_use]
    pub fn source(&self) -> Option<&ServiceKey> {
        match &self.intent {
            Intent::Copy(source) => Some(source),
            Intent::Unclear(_) | Intent::Refused(_) | Intent::Disabled => None,
        }
    }
}

fn intent(service: &Service, key: &ServiceKey, defaults: &Defaults) -> Intent {
    if let Some(refused) = service.spec.as_ref().and_then(refusal) {
        return Intent::Refused(refused);
    }
    match source(service, key, defaults) {
        Err(unclear) => Intent::Unclear(unclear),
        Ok(source) if source == *key => Intent::Refused(Finding::new(
            Reason::SourceIsSelf,
            format!("the Service names itself ({key}) as its source; name another one"),
        )),
        Ok(source) => Intent::Copy(source),
    }
}

/// The source that the annotations name, or else the one that the flags name.
fn source(service: &Service, key: &ServiceKey, defaults: &Defaults) -> Result<ServiceKey, Finding> {
    let set = |name| annotation_of(&service.metadata, name).filter(|value| !value.is_empty());
    for annotation in [annotation::SOURCE_NAME, annotation::SOURCE_NAMESPACE] {
        if let Some(value) = set(annotation).filter(|value| !is_dns_label(value)) {
            let help = "use a DNS label, as Kubernetes requires for this name";
            return Err(invalid(annotation, value, help));
        }
    }
    match (set(annotation::SOURCE_NAME), set(annotation::SOURCE_NAMESPACE)) {
        (Some(name), namespace) => Ok(ServiceKey::new(
            namespace.unwrap_or_else(|| key.namespace()),
            name,
        )),
        (None, None) => Ok(defaults.source.clone()),
        (None, Some(namespace)) => Err(Finding::new(
            Reason::InvalidAnnotation,
            format!(
                "{}: {:?} is set without {}; set both, or neither for the default source {}",
                annotation::SOURCE_NAMESPACE,
                shorten(namespace),
                annotation::SOURCE_NAME,
                defaults.source
            ),
        )),
    }
}

/// The reason why a Service cannot have copies of any source.
fn refusal(spec: &ServiceSpec) -> Option<Finding> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(Finding::new(
            Reason::ExternalName,
            "a Service of type ExternalName has no endpoints; change its type, or set endpoint-copier/enabled: \"false\"",
        ));
    }
    let selector = spec.selector.as_ref();
    selector.is_some_and(|selector| !selector.is_empty()).then(|| {
        Finding::new(
            Reason::HasSelector,
            "the Service has a selector, so Kubernetes manages its EndpointSlices; remove spec.selector, or set endpoint-copier/enabled: \"false\"",
        )
    })
}

/// Whether the copies of a Service are held while its source is empty, and a finding if the annotation is invalid.
fn holds(service: &Service, intent: &Intent) -> (bool, Option<Finding>) {
    // Each running API server should list itself in `default/kubernetes`, so an empty API source is a sign of a fault.
    let by_default = matches!(intent, Intent::Copy(source) if source.is_api_source());
    match annotation_of(&service.metadata, annotation::WHEN_SOURCE_EMPTY) {
        None | Some("") => (by_default, None),
        Some("hold") => (true, None),
        Some("follow") => (false, None),
        Some(other) => {
            let help = "use \"hold\" or \"follow\"";
            (
                by_default,
                Some(invalid(annotation::WHEN_SOURCE_EMPTY, other, help)),
            )
        }
    }
}

/// Whether probes may change the copies of a Service, and a finding if the annotation is invalid.
fn probed(service: &Service) -> (bool, Option<Finding>) {
    match annotation_of(&service.metadata, annotation::PROBE) {
        None | Some("") => (true, None),
        Some("off") => (false, None),
        Some(other) => (
            true,
            Some(invalid(annotation::PROBE, other, "use \"off\", or remove it")),
        ),
    }
}

/// The IP families that a Service wants. The API server sets ipFamilies on every Service of a type that has endpoints.
/// If the field is missing anyway, the family is IPv4, as in most single-stack clusters.
fn families(spec: &ServiceSpec) -> Vec<Family> {
    match &spec.ip_families {
        Some(families) if !families.is_empty() => families
            .iter()
            .filter_map(|family| Family::parse(family))
            .collect(),
        _ => vec![Family::V4],
    }
}

/// Whether a Service asks for topology-aware routing, in a field, or in an annotation with its old or new name.
fn wants_hints(service: &Service, spec: &ServiceSpec) -> bool {
    let asks = |key| {
        annotation_of(&service.metadata, key)
            .is_some_and(|mode| !mode.is_empty() && !mode.eq_ignore_ascii_case("disabled"))
    };
    distribution(spec).is_some()
        || asks("service.kubernetes.io/topology-mode")
        || asks("service.kubernetes.io/topology-aware-hints")
}

fn distribution(spec: &ServiceSpec) -> Option<Distribution> {
    match spec.traffic_distribution.as_deref()? {
        "" => None,
        "PreferClose" | "PreferSameZone" => Some(Distribution::SameZone),
        "PreferSameNode" => Some(Distribution::SameNode),
        _ => Some(Distribution::Other),
    }
}

/// The maximum number of ports in a copy. The API documentation allows no more in an EndpointSlice, although newer API
/// servers accept more.
const MAX_PORTS: usize = 100;

/// The maximum total size, in bytes, of the names and `appProtocol` values of these ports. A hundred ports with the
/// longest names and ordinary values fit. Without this limit, the Services of one tenant could take several times as
/// much memory.
const MAX_PORT_TEXT: usize = 16 * 1024;

/// The ports for copies, as many as [`MAX_PORTS`] and [`MAX_PORT_TEXT`] allow, and a finding if the Service has more.
/// There are neither ports nor a finding unless the intent is [`Intent::Copy`].
fn ports(spec: &ServiceSpec, intent: &Intent) -> (Vec<ServicePort>, Option<Finding>) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    if !matches!(intent, Intent::Copy(_)) {
        return (Vec::new(), None);
    }
    let mut text = 0;
    let fits = |port: &&ServicePort| {
        text += [&port.name, &port.app_protocol]
            .into_iter()
            .flatten()
            .map(String::len)
            .sum::<usize>();
        text <= MAX_PORT_TEXT
    };
    let kept: Vec<_> = ports.iter().take(MAX_PORTS).take_while(fits).cloned().collect();
    let too_many = (kept.len() < ports.len()).then(|| {
        Finding::new(
            Reason::LimitReached,
            format!(
                "the Service has {} ports, and its copies have only the first {}; remove ports from it, or split them among several Services",
                ports.len(),
                kept.len()
            ),
        )
    });
    (kept, too_many)
}

/// The maximum number of the Service's own addresses that are read, so that a long list of external IPs takes little
/// memory.
const MAX_OWN_ADDRESSES: usize = 64;

fn own_addresses(service: &Service, spec: &ServiceSpec) -> Box<[IpAddr]> {
    let addresses = service
        .ingress()
        .filter_map(|ingress| ingress.ip.as_ref())
        .chain(&spec.load_balancer_ip)
        .chain(&spec.cluster_ip)
        .chain(spec.cluster_ips.iter().flatten())
        .chain(spec.external_ips.iter().flatten());
    // "None" is not an address.
    let addresses = addresses
        .filter_map(|address| address.parse().ok())
        .take(MAX_OWN_ADDRESSES);
    let addresses: BTreeSet<_> = addresses.map(|address: IpAddr| address.to_canonical()).collect();
    addresses.into_iter().collect()
}

fn invalid(annotation: &str, value: &str, help: &str) -> Finding {
    Finding::new(
        Reason::InvalidAnnotation,
        format!("{annotation}: {:?} is not a valid value; {help}", shorten(value)),
    )
}

/// Shortens a value for a note, because an annotation can be up to 256 KiB long.
fn shorten(value: &str) -> String {
    const MAX_VALUE: usize = 100;
    match value.char_indices().nth(MAX_VALUE) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests;
