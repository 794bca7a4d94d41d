//! Decides whether a managed Service may copy a source in another namespace.
//!
//! ```text
//!   own namespace ── default source ── --allow-source ── ReferenceGrant ── endpoint-copier/allow-from
//!      if any of them allows it, the source is copied; until then, users learn nothing about the source
//! ```
//!
//! With `--cross-namespace=deny`, the last two are ignored. With `--cross-namespace=allow`, no consent is needed.
//!
//! The operator is allowed to write EndpointSlices, but most users who annotate Services are not (CVE-2021-25740). So
//! an annotation in one namespace is not enough to expose a Service in another.

use std::collections::{BTreeMap, BTreeSet};

use super::words::words;
use super::{Finding, ObjectMeta, Reason, ServiceKey, annotation, annotation_of, is_dns_label};

mod grants;
mod ports;

pub use grants::{Grant, Grants, ReferenceGrant, ReferenceGrantFrom, ReferenceGrantSpec, ReferenceGrantTo};
pub use ports::PermittedPorts;

words! {
    /// Which sources in other namespaces users may copy. The admin chooses.
    CrossNamespace {
        /// Sources that their owner or the admin allows.
        Consent => "consent",
        /// All sources.
        Allow => "allow",
        /// Only sources that the flags name.
        Deny => "deny",
    }
}

/// The settings for sources in other namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsentPolicy {
    /// The sources in other namespaces that users may copy.
    pub cross_namespace: CrossNamespace,
    /// Sources that the admin allows, with the namespaces that may copy each of them.
    pub allowed_sources: BTreeMap<ServiceKey, AllowFrom>,
    /// TCP ports that copies of the default source may have in addition to the ports of its slices.
    pub allowed_ports: BTreeSet<u16>,
}

impl Default for ConsentPolicy {
    fn default() -> Self {
        Self {
            cross_namespace: CrossNamespace::Consent,
            allowed_sources: BTreeMap::new(),
            allowed_ports: BTreeSet::new(),
        }
    }
}

/// Namespaces that may copy a source: names separated by commas, or `*`. The text stays unparsed to save memory,
/// because the operator keeps the annotation of every Service that has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowFrom(Box<str>);

/// The length in bytes of the longest valid annotation. A longer one allows nothing.
pub const MAX_ALLOW_FROM: usize = 4096;

impl AllowFrom {
    /// A list of namespaces.
    #[must_use]
    pub fn new(value: &str) -> Self {
        Self(value.into())
    }

    /// The annotation of a Service. `None` if it is missing, empty or too long.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        let value = annotation_of(metadata, annotation::ALLOW_FROM)?;
        let is_read = !value.is_empty() && value.len() <= MAX_ALLOW_FROM;
        is_read.then(|| Self::new(value))
    }

    /// A list that allows the namespaces of both lists.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        match (&*self.0, &*other.0) {
            ("*", _) | (_, "*") => Self::new("*"),
            (names, more) => Self::new(&format!("{names},{more}")),
        }
    }

    /// Whether the list allows this namespace. An entry that is not a valid name allows nothing, because patterns are
    /// not supported.
    #[must_use]
    pub fn allows(&self, namespace: &str) -> bool {
        &*self.0 == "*" || is_dns_label(namespace) && self.0.split(',').any(|name| name == namespace)
    }
}

/// Whether a managed Service may copy a source, ordered from refusal to consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consent {
    /// Neither the owner of the source nor the admin allows it.
    Refused,
    /// Nobody is known to allow it, but the API server has not served ReferenceGrants since the start, or an object
    /// that might allow it cannot be decoded. No copy is created, and existing copies stay.
    RefusedForNow,
    /// It is still unknown whether anybody allows it, so nothing changes.
    Unknown,
    /// The owner of the source or the admin allows it.
    Given,
}

/// Everything that can give consent to copy one source.
#[derive(Clone, Copy, Debug)]
pub struct Grantors<'a> {
    /// The flags.
    pub policy: &'a ConsentPolicy,
    /// The source that the flags name.
    pub default_source: &'a ServiceKey,
    /// The annotation of the source, if it allows anything.
    pub annotation: Option<&'a AllowFrom>,
    /// Whether the source has been undecodable since the index first saw it. If so, its annotation is unknown.
    pub is_unread: bool,
    /// Whether all Services have been listed. If so, an annotation that was not seen does not exist.
    pub services_listed: bool,
    /// All ReferenceGrants.
    pub grants: &'a Grants,
    /// Whether the annotation of the source changed before ReferenceGrants were listed. If so, somebody has made a
    /// decision, and a refusal is final even while the API server does not serve ReferenceGrants.
    pub is_revoked: bool,
}

impl Grantors<'_> {
    /// Whether a Service in this namespace may copy this source.
    #[must_use]
    pub fn consent(&self, namespace: &str, source: &ServiceKey) -> Consent {
        let by_admin = self.policy.allowed_sources.get(source);
        if source.namespace() == namespace
            || source == self.default_source
            || by_admin.is_some_and(|allowed| allowed.allows(namespace))
        {
            return Consent::Given;
        }
        match self.policy.cross_namespace {
            CrossNamespace::Allow => return Consent::Given,
            CrossNamespace::Deny => return Consent::Refused,
            CrossNamespace::Consent => {}
        }
        if self.annotation.is_some_and(|allowed| allowed.allows(namespace)) {
            return Consent::Given;
        }
        if !self.services_listed {
            return Consent::Unknown;
        }
        match self.grants.consent(namespace, source) {
            Consent::Refused if self.is_unread => Consent::RefusedForNow,
            Consent::RefusedForNow if self.is_revoked => Consent::Refused,
            consent => consent,
        }
    }

    /// The ports that copies of a source may have in this namespace.
    #[must_use]
    pub fn ports(&self, namespace: &str, source: &ServiceKey) -> PermittedPorts {
        if source.namespace() == namespace {
            PermittedPorts::Any
        } else if source == self.default_source {
            PermittedPorts::OfSlice(self.policy.allowed_ports.clone())
        } else {
            PermittedPorts::OfSlice(BTreeSet::new())
        }
    }

    /// The finding that says why a Service may not copy a source, and how to change that. The text depends only on
    /// names and flags, so it does not reveal whether the source exists.
    fn finding(&self, namespace: &str, source: &ServiceKey) -> Finding {
        let note = if self.policy.cross_namespace == CrossNamespace::Deny {
            format!(
                "{source} is in another namespace, and --cross-namespace=deny forbids copying it; an admin can add \
                 --allow-source={source}={namespace}"
            )
        } else {
            format!(
                "{source} is in another namespace, which does not allow {namespace} to copy it; annotate that Service \
                 with {}: {namespace:?}, or create a ReferenceGrant in namespace {} from Services of {namespace}",
                annotation::ALLOW_FROM,
                source.namespace()
            )
        };
        Finding::new(Reason::NotPermitted, note)
    }

    /// Why a Service in this namespace may not copy this source. Returns `None` if it may, or if that is still unknown.
    #[must_use]
    pub fn refusal(&self, namespace: &str, source: &ServiceKey) -> Option<Refusal> {
        let is_final = match self.consent(namespace, source) {
            Consent::Refused => true,
            Consent::RefusedForNow => false,
            Consent::Unknown | Consent::Given => return None,
        };
        let finding = self.finding(namespace, source);
        Some(Refusal { finding, is_final })
    }
}

/// Why no copies are created for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The finding that the user sees.
    pub finding: Finding,
    /// Whether existing copies are deleted. If not, they stay, but no copies are created.
    pub is_final: bool,
}

#[cfg(test)]
mod tests;
