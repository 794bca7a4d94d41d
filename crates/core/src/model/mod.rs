//! The types that the index and the plan share, such as objects, keys, findings and snapshots, and the words that users
//! see in them.
//!
//! These types are pure: they use no client, no clock, no environment and no logging.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use words::words;

mod compact;
mod condition;
mod consent;
mod copy_name;
mod endpoint;
mod endpoint_counts;
mod finding;
mod kinds;
mod limits;
mod loops;
mod node;
mod nodes;
mod objects;
pub mod ports;
mod priority;
pub mod provenance;
mod service;
mod slice_name;
mod snapshot;
pub(crate) mod words;

pub use compact::StringMap;
pub use condition::{Condition, ConditionStatus, IN_SYNC, is_in_sync};
pub use consent::{
    AllowFrom, Consent, ConsentPolicy, CrossNamespace, Grant, Grantors, Grants, MAX_ALLOW_FROM,
    PermittedPorts, ReferenceGrant, ReferenceGrantFrom, ReferenceGrantSpec, ReferenceGrantTo, Refusal,
};
pub(crate) use copy_name::short_hash;
pub use copy_name::{copy_name, copy_name_in, service_of_copy_name};
pub use endpoint::{Endpoint, TargetRef};
pub use endpoint_counts::{EndpointCounts, SourceAndCopies};
pub use finding::{Finding, Reason, SYNCED, SYNCED_MEANING, a_few};
pub use kinds::{Operation, ReconcileResult, Restart, SyncResult, WatchKind};
pub use limits::{Exceeded, ServiceLimits};
pub use node::{Node, NodeAddress, NodeAddressKind, NodeObject};
pub use nodes::{KnownNodes, NoCounterpart, Nodes, NodesUnknown};
pub use objects::{
    EndpointSlice, Kept, LoadBalancerIngress, LoadBalancerStatus, ObjectMeta, OwnerReference, Service,
    ServiceSpec, ServiceStatus, Unreadable,
};
pub use priority::Priority;
pub use service::{Distribution, Intent, ManagedService};
pub use slice_name::{is_named_after, named_after};
pub use snapshot::{SlicesByKey, Snapshot, Source};

/// Annotations that users write on a Service.
pub mod annotation {
    use super::words::documented;

    /// The prefix of all these annotations.
    pub const PREFIX: &str = "endpoint-copier/";

    documented! {
        /// The annotations on managed Services with their values, in Markdown. `make docs` copies them to the reference
        /// page.
        REFERENCE;
        /// `true`: managed; `false`: not managed, whatever the flags say.
        ENABLED = "endpoint-copier/enabled" =>
            "`\"true\"`: the Service is managed. `\"false\"`: the Service is not managed, whatever the flags say. The \
             operator deletes the copies of the Service, and the slice or `Endpoints` object that the Go operator left \
             behind for the Service. With any other value, even an empty one, the copies stay as they are until you fix the \
             value (`InvalidAnnotation`), unless permission to copy the source is withdrawn (see `NotPermitted`). \
             Without the annotation, only the Service that `--managed-endpoint-name` names is managed.";
        /// Name of the source Service.
        SOURCE_NAME = "endpoint-copier/default-service-name" =>
            "Name of the source Service. Without this annotation, the source is the default source, which is \
             `default/kubernetes` unless flags name another one. A source that does not exist counts as empty \
             (`SourceNotFound`). If you misspell the name, the operator also deletes the existing copies, because they \
             belong to another source.";
        /// Namespace of the source Service.
        SOURCE_NAMESPACE = "endpoint-copier/default-service-namespace" =>
            "Namespace of the source Service. If only `default-service-name` is set, the source is in the \
             namespace of the managed Service. Without `default-service-name`, this annotation is invalid \
             (`InvalidAnnotation`).";
        /// `hold` or `follow`: whether the last good copies stay or become empty when the source is empty.
        WHEN_SOURCE_EMPTY = "endpoint-copier/when-source-empty" =>
            "`hold`: while the source has no endpoints, the last good copy stays (`SourceEmptyHeld`). `follow`: the \
             copy becomes empty too. The default is `hold` for `default/kubernetes`, and `follow` for any other \
             source.";
        /// `off`: probes do not change the copies of this Service.
        PROBE = "endpoint-copier/probe" =>
            "`off`: API servers that fail probes stay ready in the copies of this Service. Any other non-empty value \
             is ignored (`InvalidAnnotation`). The annotation has an effect only if the source is \
             `default/kubernetes`, because the operator probes no other source.";
    }

    documented! {
        /// The annotations on sources with their values, in Markdown.
        OF_SOURCES;
        /// On a source: the namespaces that may copy it.
        ALLOW_FROM = "endpoint-copier/allow-from" =>
            "Namespaces whose Services may copy this Service, separated by commas without spaces, or `\"*\"` for all. \
             There are no other patterns. A value that is empty, or longer than 4,096 bytes, allows no namespace. \
             Services in the same namespace as the source may always copy it. The annotation has no effect with \
             `--cross-namespace=deny`.";
    }
}

/// Labels of EndpointSlices.
pub mod label {
    use super::words::documented;

    documented! {
        /// The labels of a copy with their values, in Markdown. `make docs` copies them to the reference page of
        /// annotations.
        REFERENCE;
        /// The Service that a slice belongs to.
        SERVICE_NAME = "kubernetes.io/service-name" =>
            "Name of the managed Service.";
        /// The controller that a slice belongs to.
        MANAGED_BY = "endpointslice.kubernetes.io/managed-by" =>
            "`endpoint-copier-operator`.";
        /// Name of the source slice, on a copy. The Go operator's slices have it too.
        SOURCE = "endpoint-copier/source" =>
            "Name of the source EndpointSlice. A copy does not have this label if the name is longer than 63 \
             characters.";
        /// Marks slices of a Service that has no cluster IP. kube-proxy ignores slices with this label.
        HEADLESS = "service.kubernetes.io/headless" =>
            "Empty. A copy has this label only if the managed Service is headless. kube-proxy ignores slices with this \
             label.";
    }

    /// The labels that only the operator sets on a copy. It removes any of them that the copy should not have.
    pub const OF_COPIES: [&str; 4] = [SERVICE_NAME, MANAGED_BY, SOURCE, HEADLESS];
}

/// Our value of [`label::MANAGED_BY`].
pub const MANAGED_BY_US: &str = "endpoint-copier-operator";

/// The value of [`label::MANAGED_BY`] on slices that Kubernetes writes for a Service with a selector.
pub const ENDPOINT_SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// The value of [`label::MANAGED_BY`] on slices into which Kubernetes mirrors an `Endpoints` object.
pub const MIRRORING_CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";

/// Declares a key that consists of a namespace and a name. Each kind of key has its own type, so that a slice cannot be
/// mistaken for a Service. Clones share the text, because a dozen tables hold the key of a Service.
macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            namespace: Arc<str>,
            name: Arc<str>,
        }

        impl $name {
            /// Creates a key from its two parts.
            pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
                Self { namespace: namespace.into(), name: name.into() }
            }

            /// The key of an object, from its metadata.
            #[must_use]
            pub fn of(metadata: &ObjectMeta) -> Self {
                let text = |field: &Option<String>| field.as_deref().unwrap_or_default().into();
                Self { namespace: text(&metadata.namespace), name: text(&metadata.name) }
            }

            /// The namespace of the object.
            #[must_use]
            pub fn namespace(&self) -> &str {
                &self.namespace
            }

            /// The name of the object.
            #[must_use]
            pub fn name(&self) -> &str {
                &self.name
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }
    };
}

key! {
    /// The key of a Service: a managed Service, a source, or any other.
    ServiceKey
}

impl ServiceKey {
    /// The Service whose slices list the API servers, whatever the flags say: `default/kubernetes`.
    #[must_use]
    pub fn api_source() -> Self {
        Self::new("default", "kubernetes")
    }

    /// Whether this is [`ServiceKey::api_source`].
    #[must_use]
    pub fn is_api_source(&self) -> bool {
        self.namespace() == "default" && self.name() == "kubernetes"
    }
}

key! {
    /// The key of an EndpointSlice.
    SliceKey
}

/// The settings that flags define for Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The source of a managed Service that names none.
    pub source: ServiceKey,
    /// The Service that is managed without an annotation, or `None` if the flags name none.
    pub managed: Option<ServiceKey>,
    /// The settings for sources in other namespaces.
    pub consent: ConsentPolicy,
}

words! {
    /// An IP family, as in `spec.ipFamilies` of a Service and `addressType` of a slice.
    Family {
        /// `IPv4`
        V4 => "IPv4",
        /// `IPv6`
        V6 => "IPv6",
    }
}

impl Family {
    /// Parses the name that the API uses. Returns `None` for anything else, including `FQDN`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.as_str() == word)
    }

    /// The family of an address in canonical form.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The other family.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// A resourceVersion as a number, or `None` if it is not a number. Versions from the same cluster can be compared
/// (KEP-5504).
#[must_use]
pub fn version(resource_version: Option<&str>) -> Option<u64> {
    resource_version?.parse().ok()
}

/// The resourceVersion of an object as a number.
#[must_use]
pub fn version_of(metadata: &ObjectMeta) -> Option<u64> {
    version(metadata.resource_version.as_deref())
}

/// The value of a label of an object.
#[must_use]
pub fn label_of<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(AsRef::as_ref)
}

/// The value of an annotation of an object.
#[must_use]
pub fn annotation_of<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(AsRef::as_ref)
}

/// Whether a name is a DNS label (RFC 1123), which the name of a Service or namespace must be.
#[must_use]
pub fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && is_label_of_any_length(name)
}

/// Whether a name is a DNS subdomain (RFC 1123), which the name of an EndpointSlice must be.
#[must_use]
pub fn is_dns_subdomain(name: &str) -> bool {
    // Kubernetes limits only the whole name, not each label.
    name.len() <= 253 && name.split('.').all(is_label_of_any_length)
}

fn is_label_of_any_length(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !name.is_empty() && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule: 1.illegal-name
    #[test]
    fn a_dns_label_is_short_lower_case_and_has_no_outer_dashes() {
        for (name, legal) in [
            ("kubernetes", true),
            ("a", true),
            ("3scale-api", true),
            (&"a".repeat(63), true),
            (&"a".repeat(64), false),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("a.b", false),
            ("A", false),
            (" a", false),
            ("a,b", false),
            ("ä", false),
        ] {
            assert_eq!(is_dns_label(name), legal, "{name:?}");
        }
    }

    #[test]
    fn a_dns_subdomain_has_labels_and_at_most_253_characters() {
        for (name, legal) in [
            ("kubernetes", true),
            ("a.b-c.0", true),
            (&"a".repeat(253), true),
            (&"a".repeat(254), false),
            ("", false),
            (".a", false),
            ("a..b", false),
            ("a.-b", false),
            ("a-.b", false),
            ("..", false),
            ("a/b", false),
            ("a?watch=true&x=", false),
            ("a b", false),
            ("A", false),
            ("a%2fb", false),
        ] {
            assert_eq!(is_dns_subdomain(name), legal, "{name:?}");
        }
    }

    /// Rule: survive.memory
    #[test]
    fn clones_of_a_key_share_its_text() {
        let key = ServiceKey::new("default", "vip");
        let clone = key.clone();
        assert_eq!(clone, key);
        assert!(std::ptr::eq(clone.namespace(), key.namespace()));
        assert!(std::ptr::eq(clone.name(), key.name()));
    }

    #[test]
    fn a_resource_version_is_read_as_a_number_or_none() {
        assert_eq!(version(Some("42")), Some(42));
        assert_eq!(version(Some("")), None);
        assert_eq!(version(Some("v1")), None);
        assert_eq!(version(None), None);
    }
}
