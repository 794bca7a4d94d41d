//! ReferenceGrants of the Gateway API, with which a namespace lets others refer to its Services.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::super::{ObjectMeta, ServiceKey, is_dns_label};
use super::Consent;

/// A ReferenceGrant, v1 or v1beta1.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrant {
    /// Its name.
    pub metadata: ObjectMeta,
    /// The permissions that it grants.
    pub spec: ReferenceGrantSpec,
}

/// `spec` of a ReferenceGrant.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantSpec {
    /// The objects that may refer.
    pub from: Option<Vec<ReferenceGrantFrom>>,
    /// The objects to which they may refer.
    pub to: Option<Vec<ReferenceGrantTo>>,
}

/// Objects of one kind in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantFrom {
    /// Empty for a Service.
    pub group: String,
    /// `Service`.
    pub kind: String,
    /// The namespace of these objects.
    pub namespace: String,
}

/// Objects of one kind in the namespace of the grant.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantTo {
    /// Empty for a Service.
    pub group: String,
    /// `Service`.
    pub kind: String,
    /// The name of one object. If it is absent, all objects are meant.
    pub name: Option<String>,
}

/// What a ReferenceGrant means for copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The namespaces whose Services may copy.
    from: BTreeSet<String>,
    /// The names of the sources. `None` means all Services of the grant's namespace.
    to: Option<BTreeSet<String>>,
}

impl Grant {
    /// Reads a ReferenceGrant. Returns `None` if it does not concern Services. A name that is not valid grants nothing.
    #[must_use]
    pub fn read(grant: &ReferenceGrant) -> Option<Self> {
        let from = grant.spec.from.iter().flatten();
        let from: BTreeSet<_> = from
            .filter(|from| from.group.is_empty() && from.kind == "Service" && is_dns_label(&from.namespace))
            .map(|from| from.namespace.clone())
            .collect();
        let to = grant.spec.to.iter().flatten();
        let to: Option<BTreeSet<_>> = to
            .filter(|to| to.group.is_empty() && to.kind == "Service")
            .filter(|to| to.name.as_deref().is_none_or(is_dns_label))
            .map(|to| to.name.clone())
            .collect();
        let grants_nothing = from.is_empty() || to.as_ref().is_some_and(BTreeSet::is_empty);
        (!grants_nothing).then_some(Self { from, to })
    }

    fn allows(&self, namespace: &str, source: &str) -> bool {
        self.from.contains(namespace) && self.to.as_ref().is_none_or(|names| names.contains(source))
    }
}

/// Whether the ReferenceGrants of the cluster are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listed {
    /// They have not been listed yet.
    #[default]
    Never,
    /// The API server does not serve them, which may be a temporary fault.
    Absent,
    /// All of them were listed, or the API server has not served them for a long time.
    Yes,
}

/// All ReferenceGrants that concern Services.
#[derive(Debug, Default)]
pub struct Grants {
    listed: Listed,
    by_namespace: BTreeMap<String, BTreeMap<String, Grant>>,
}

impl Grants {
    pub(super) fn consent(&self, namespace: &str, source: &ServiceKey) -> Consent {
        let mut there = self.by_namespace.get(source.namespace()).into_iter().flatten();
        if there.any(|(_, grant)| grant.allows(namespace, source.name())) {
            return Consent::Given;
        }
        match self.listed {
            Listed::Never => Consent::Unknown,
            Listed::Absent => Consent::RefusedForNow,
            Listed::Yes => Consent::Refused,
        }
    }

    /// Whether all grants are known.
    pub(crate) fn are_listed(&self) -> bool {
        self.listed == Listed::Yes
    }

    /// Whether a namespace without a grant is known to have none, as far as the API server serves grants.
    pub(crate) fn are_known(&self) -> bool {
        self.listed != Listed::Never
    }

    /// Takes in a grant that was added, changed or, with `None`, removed. Returns the namespace whose sources it
    /// affects, if anything changed.
    pub fn apply(&mut self, metadata: &ObjectMeta, grant: Option<Grant>) -> Option<String> {
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let name = metadata.name.clone().unwrap_or_default();
        let there = self.by_namespace.entry(namespace.clone()).or_default();
        let has_changed = match grant {
            Some(grant) => there.insert(name, grant.clone()) != Some(grant),
            None => there.remove(&name).is_some(),
        };
        if there.is_empty() {
            self.by_namespace.remove(&namespace);
        }
        has_changed.then_some(namespace)
    }

    /// Replaces all known grants with a complete list.
    pub fn replace(&mut self, listed: impl IntoIterator<Item = (ObjectMeta, Grant)>) {
        self.by_namespace.clear();
        for (metadata, grant) in listed {
            self.apply(&metadata, Some(grant));
        }
        self.listed = Listed::Yes;
    }

    /// Notes that the API server does not serve ReferenceGrants. Existing copies stay until grants are listed, or until
    /// this has lasted and the caller passes an empty list to [`Grants::replace`].
    pub fn absent(&mut self) {
        if self.listed == Listed::Never {
            self.listed = Listed::Absent;
        }
    }
}
