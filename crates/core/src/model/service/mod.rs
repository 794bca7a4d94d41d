//! What a Service asks of the operator, read once when it arrives.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ServicePort;

use super::{
    Defaults, Family, Finding, Reason, Service, ServiceKey, ServiceSpec, Unreadable, annotation,
    annotation_of, is_dns_label,
};

/// What became of a Service.
#[derive(Clone, Debug)]
pub enum ServiceState {
    /// No such Service.
    Absent,
    /// It exists and asks for nothing.
    Unmanaged,
    /// It asks for copies, or tried to.
    Managed(Arc<ManagedService>),
}

impl ServiceState {
    /// The Service, if it is managed.
    #[must_use]
    pub fn managed(&self) -> Option<&Arc<ManagedService>> {
        match self {
            Self::Managed(service) => Some(service),
            Self::Absent | Self::Unmanaged => None,
        }
    }
}

/// What a managed Service wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Copy the slices of this source.
    Copy(ServiceKey),
    /// What is written there cannot be understood: make nothing new, leave what there is.
    Unclear(Finding),
    /// It cannot have copies: remove ours.
    Refused(Finding),
}

/// What `endpoint-copier/when-source-empty` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenEmpty {
    /// Not set, or not understood: held for `default/kubernetes`, followed for others.
    Default,
    /// Keep the last good copies.
    Hold,
    /// Follow the source.
    Follow,
}

/// A managed Service, reduced to what decides about its copies.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own to the Service"
)]
pub struct ManagedService {
    /// Its name.
    pub key: ServiceKey,
    /// Its UID.
    pub uid: String,
    /// It has a deletionTimestamp.
    pub deleting: bool,
    /// What it wants.
    pub intent: Intent,
    /// What happens when its source is empty.
    pub when_empty: WhenEmpty,
    /// Set when `when_empty` was not understood.
    pub remark: Option<Finding>,
    /// IP families wanted.
    pub families: Vec<Family>,
    /// Every wanted family must be there: `RequireDualStack` on a Service with a cluster IP.
    pub needs_all_families: bool,
    /// `clusterIP: None`
    pub headless: bool,
    /// Ports of the Service.
    pub ports: Vec<ServicePort>,
    /// Asks for topology-aware routing, so hints are copied.
    pub wants_hints: bool,
    /// `externalTrafficPolicy: Local`
    pub local_traffic: bool,
    /// The API servers in its copies may be probed. It says `endpoint-copier/probe: "off"` otherwise.
    pub probe: bool,
}

impl ManagedService {
    /// Reads a Service. `None`: it is not managed.
    #[must_use]
    pub fn read(service: &Service, defaults: &Defaults) -> Option<Self> {
        let key = ServiceKey::of(&service.metadata);
        let no_spec = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&no_spec);
        let intent = match is_managed(service, &key, defaults) {
            Ok(false) => return None,
            Ok(true) => intent(service, spec, &key, defaults),
            Err(unclear) => Intent::Unclear(unclear),
        };
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let (when_empty, remark) = when_empty(service);
        Some(Self {
            uid: service.metadata.uid.clone().unwrap_or_default(),
            deleting: service.metadata.deletion_timestamp.is_some(),
            intent,
            when_empty,
            remark,
            families: families(spec),
            needs_all_families: !headless && spec.ip_family_policy.as_deref() == Some("RequireDualStack"),
            headless,
            ports: spec.ports.clone().unwrap_or_default(),
            wants_hints: wants_hints(service, spec),
            local_traffic: spec.external_traffic_policy.as_deref() == Some("Local"),
            probe: annotation_of(&service.metadata, annotation::PROBE) != Some("off"),
            key,
        })
    }

    /// A Service that cannot be decoded: it asks for nothing, and its copies stay as they are.
    #[must_use]
    pub fn unreadable(unreadable: &Unreadable) -> Self {
        let note = format!(
            "the Service cannot be decoded, so its copies stay as they are: {}; write it again with valid fields",
            shorten(&unreadable.error)
        );
        Self {
            key: ServiceKey::of(&unreadable.metadata),
            uid: unreadable.metadata.uid.clone().unwrap_or_default(),
            deleting: false,
            intent: Intent::Unclear(Finding::new(Reason::Unreadable, note)),
            when_empty: WhenEmpty::Default,
            remark: None,
            families: Vec::new(),
            needs_all_families: false,
            headless: false,
            ports: Vec::new(),
            wants_hints: false,
            local_traffic: false,
            probe: true,
        }
    }

    /// Whether a Service that cannot be decoded is or may be managed, according to its readable fields.
    #[must_use]
    pub fn may_be_managed(unreadable: &Unreadable, defaults: &Defaults) -> bool {
        let annotations = unreadable.metadata.annotations.iter().flatten();
        defaults.managed.as_ref() == Some(&ServiceKey::of(&unreadable.metadata))
            || annotations
                .map(|(key, _)| key)
                .any(|key| key.starts_with(annotation::PREFIX))
    }

    /// The source, if it has a valid one.
    #[must_use]
    pub fn source(&self) -> Option<&ServiceKey> {
        match &self.intent {
            Intent::Copy(source) => Some(source),
            Intent::Unclear(_) | Intent::Refused(_) => None,
        }
    }

    /// Whether the last good copies outlive an empty source.
    #[must_use]
    pub fn holds(&self, source: &ServiceKey) -> bool {
        match self.when_empty {
            WhenEmpty::Hold => true,
            WhenEmpty::Follow => false,
            // An API server that answers is in that list: seen empty, the list is wrong.
            WhenEmpty::Default => source.is_api_source(),
        }
    }
}

fn is_managed(service: &Service, key: &ServiceKey, defaults: &Defaults) -> Result<bool, Finding> {
    match annotation_of(&service.metadata, annotation::ENABLED) {
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(invalid(annotation::ENABLED, other, "use \"true\" or \"false\"")),
        None => Ok(defaults.managed.as_ref() == Some(key)),
    }
}

fn intent(service: &Service, spec: &ServiceSpec, key: &ServiceKey, defaults: &Defaults) -> Intent {
    if let Some(refused) = refusal(spec) {
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

/// The source that annotations name, or else the flags.
fn source(service: &Service, key: &ServiceKey, defaults: &Defaults) -> Result<ServiceKey, Finding> {
    let set = |name| annotation_of(&service.metadata, name).filter(|value| !value.is_empty());
    let (name, namespace) = (set(annotation::SOURCE_NAME), set(annotation::SOURCE_NAMESPACE));
    for (annotation, value) in [
        (annotation::SOURCE_NAME, name),
        (annotation::SOURCE_NAMESPACE, namespace),
    ] {
        if let Some(value) = value.filter(|value| !is_dns_label(value)) {
            return Err(invalid(
                annotation,
                value,
                "use a DNS label, as Kubernetes requires for this name",
            ));
        }
    }
    match (name, namespace) {
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

/// Why a Service can have no copies, wherever they would come from.
fn refusal(spec: &ServiceSpec) -> Option<Finding> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(Finding::new(
            Reason::ExternalName,
            "a Service of type ExternalName has no endpoints; change its type or remove endpoint-copier/enabled",
        ));
    }
    let selector = spec.selector.as_ref();
    selector.is_some_and(|selector| !selector.is_empty()).then(|| {
        Finding::new(
            Reason::HasSelector,
            "the Service has a selector, so Kubernetes keeps its EndpointSlices; remove spec.selector or endpoint-copier/enabled",
        )
    })
}

fn when_empty(service: &Service) -> (WhenEmpty, Option<Finding>) {
    match annotation_of(&service.metadata, annotation::WHEN_SOURCE_EMPTY) {
        None | Some("") => (WhenEmpty::Default, None),
        Some("hold") => (WhenEmpty::Hold, None),
        Some("follow") => (WhenEmpty::Follow, None),
        Some(other) => (
            WhenEmpty::Default,
            Some(invalid(
                annotation::WHEN_SOURCE_EMPTY,
                other,
                "use \"hold\" or \"follow\"",
            )),
        ),
    }
}

/// The API server fills in ipFamilies of every Service that has a type with endpoints; where they
/// are missing all the same, IPv4 is what it would have written on a cluster with one family.
fn families(spec: &ServiceSpec) -> Vec<Family> {
    match &spec.ip_families {
        Some(families) if !families.is_empty() => families
            .iter()
            .filter_map(|family| Family::parse(family))
            .collect(),
        _ => vec![Family::V4],
    }
}

/// Topology is asked for by field, or by annotation in its new or old spelling.
fn wants_hints(service: &Service, spec: &ServiceSpec) -> bool {
    let asks = |key| {
        annotation_of(&service.metadata, key)
            .is_some_and(|mode| !mode.is_empty() && !mode.eq_ignore_ascii_case("disabled"))
    };
    spec.traffic_distribution
        .as_deref()
        .is_some_and(|value| !value.is_empty())
        || asks("service.kubernetes.io/topology-mode")
        || asks("service.kubernetes.io/topology-aware-hints")
}

fn invalid(annotation: &str, value: &str, help: &str) -> Finding {
    Finding::new(
        Reason::InvalidAnnotation,
        format!("{annotation}: {:?} is not understood; {help}", shorten(value)),
    )
}

/// An annotation may be 256 KiB long; a note must not.
fn shorten(value: &str) -> String {
    const LONGEST_VALUE: usize = 100;
    match value.char_indices().nth(LONGEST_VALUE) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests;
