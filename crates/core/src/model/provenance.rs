//! The labels and annotations in which a copy names its Service and its source.

use super::copy_name::name_of_copy;
use super::words::documented;
use super::{
    EndpointSlice, MANAGED_BY_US, OwnerReference, ServiceKey, SliceKey, annotation_of, is_dns_label,
    is_dns_subdomain, label, label_of, version,
};

documented! {
    /// The annotations of a copy with their values, in Markdown. `make docs` copies them to the reference page of
    /// annotations.
    REFERENCE;
    /// Namespace of the source slice.
    NAMESPACE = "endpoint-copier/source-namespace" =>
        "Namespace of the source EndpointSlice.";
    /// Name of the source slice.
    SLICE = "endpoint-copier/source-slice" =>
        "Name of the source EndpointSlice.";
    /// UID of the source slice.
    UID = "endpoint-copier/source-uid" =>
        "UID of the source EndpointSlice.";
    /// resourceVersion of the source slice that the copy was last written from.
    RESOURCE_VERSION = "endpoint-copier/source-resource-version" =>
        "`resourceVersion` of the source EndpointSlice from which the operator last wrote the copy.";
    /// A Kubernetes annotation: the time of the last change to the endpoints. Copied from the source slice if that
    /// slice has it.
    TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time" =>
        "Time of the last change to the endpoints. If the source EndpointSlice has this annotation, the operator \
         copies its value. If not, the value is the time when the operator first saw the cause of the change, such as \
         a change to the source or a failed probe. kube-proxy uses this time to measure its network programming \
         latency.";
    /// Addresses of the endpoints that the operator marked as not ready because of failed probes.
    UNREACHABLE = "endpoint-copier/unreachable" =>
        "Addresses, separated by commas, of the endpoints that the operator marked as not ready because they failed \
         probes. A new leader keeps these endpoints not ready while its own probes of them fail and another API server \
         answers. An address in this list has no effect if its endpoint is ready in the copy.";
}

/// The source slice of a copy, according to the annotations of the copy. Users can edit these annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provenance<'a> {
    /// Namespace of the source slice.
    pub namespace: &'a str,
    /// Name of the source slice.
    pub name: &'a str,
    /// UID of the source slice.
    pub uid: &'a str,
    /// resourceVersion of the source slice from which the copy was last written, if it is a number.
    pub version: Option<u64>,
}

impl Provenance<'_> {
    /// The key of the source slice, or `None` if the namespace or the name is not valid. Only valid names can become
    /// parts of a URL.
    #[must_use]
    pub fn source(&self) -> Option<SliceKey> {
        let is_legal = is_dns_label(self.namespace) && is_dns_subdomain(self.name);
        is_legal.then(|| SliceKey::new(self.namespace, self.name))
    }
}

impl EndpointSlice {
    /// The Service that the slice names in its label.
    #[must_use]
    pub fn service(&self) -> Option<ServiceKey> {
        let name = label_of(&self.metadata, label::SERVICE_NAME)?;
        Some(ServiceKey::new(self.namespace(), name))
    }

    /// Whether the slice names this Service in its label.
    #[must_use]
    pub fn belongs_to(&self, service: &ServiceKey) -> bool {
        self.namespace() == service.namespace()
            && label_of(&self.metadata, label::SERVICE_NAME) == Some(service.name())
    }

    /// Whether the slice has our managed-by label. A slice with this label is never copied, but the label alone is not
    /// a reason to delete it.
    #[must_use]
    pub fn is_labeled_as_copy(&self) -> bool {
        label_of(&self.metadata, label::MANAGED_BY) == Some(MANAGED_BY_US)
    }

    /// The controller reference of the slice if it names a Service.
    #[must_use]
    pub fn owner(&self) -> Option<&OwnerReference> {
        let mut owners = self.metadata.owner_references.iter().flatten();
        owners.find(|owner| {
            owner.controller == Some(true) && owner.api_version == "v1" && owner.kind == "Service"
        })
    }

    /// The source slice that the annotations state, or `None` if its namespace, name or UID is missing.
    #[must_use]
    pub fn provenance(&self) -> Option<Provenance<'_>> {
        let read = |key| annotation_of(&self.metadata, key);
        Some(Provenance {
            namespace: read(NAMESPACE)?,
            name: read(SLICE)?,
            uid: read(UID)?,
            version: version(read(RESOURCE_VERSION)),
        })
    }

    /// The key of the source slice of a copy, or `None` if the annotations do not name a valid one.
    #[must_use]
    pub fn source(&self) -> Option<SliceKey> {
        self.provenance().and_then(|provenance| provenance.source())
    }

    /// Whether no controller owns the slice. A copy without a controller was probably restored by a backup tool,
    /// because such tools remove ownerReferences. Such a copy is as old as the backup.
    #[must_use]
    pub fn has_no_controller(&self) -> bool {
        let mut owners = self.metadata.owner_references.iter().flatten();
        !owners.any(|owner| owner.controller == Some(true))
    }

    /// The managed Service that one of our copies is for. A slice is one of our copies if it has our managed-by label,
    /// annotations with the namespace, name and UID of a source slice, and either a controller reference to a Service,
    /// or no controller and the name of a copy for the Service in its label. Returns `None` for any other slice, which
    /// must not be touched.
    #[must_use]
    pub fn owner_of_copy(&self) -> Option<ServiceKey> {
        let service = self.owner_name_of_copy()?;
        Some(ServiceKey::new(self.namespace(), service))
    }

    fn owner_name_of_copy(&self) -> Option<&str> {
        if !self.is_labeled_as_copy() {
            return None;
        }
        let claimed = self.provenance()?;
        // The API server accepts any owner name and any label, but the name becomes part of a URL.
        if self.has_no_controller() {
            let service = label_of(&self.metadata, label::SERVICE_NAME).filter(|name| is_dns_label(name))?;
            let source = SliceKey::new(claimed.namespace, claimed.name);
            let is_its_name = |name: &str| name == name_of_copy(service, &source, &self.address_type);
            self.metadata.name.as_deref().filter(|name| is_its_name(name))?;
            Some(service)
        } else {
            let owner = self.owner().filter(|owner| is_dns_label(&owner.name))?;
            Some(&owner.name)
        }
    }

    /// Whether the slice is one of our copies for this Service.
    #[must_use]
    pub fn is_copy_for(&self, service: &ServiceKey) -> bool {
        self.namespace() == service.namespace() && self.owner_name_of_copy() == Some(service.name())
    }

    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
}
