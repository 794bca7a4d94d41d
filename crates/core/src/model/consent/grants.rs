//! ReferenceGrants of the Gateway API, with which a namespace allows other namespaces to refer to its Services.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::super::{ObjectMeta, ServiceKey, is_dns_label};
use super::Consent;

/// A ReferenceGrant, v1 or v1beta1.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrant {
    /// Its name and namespace.
    pub metadata: ObjectMeta,
    /// The permissions that it grants.
    pub spec: ReferenceGrantSpec,
}

/// `spec` of a ReferenceGrant.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantSpec {
    /// The objects that may refer to objects in the namespace of the grant.
    pub from: Option<Vec<ReferenceGrantFrom>>,
    /// The objects in the grant's namespace that the objects in `from` may refer to.
    pub to: Option<Vec<ReferenceGrantTo>>,
}

/// Objects of one kind in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantFrom {
    /// Empty for a Service.
    pub group: String,
    /// `Service`. Other kinds are ignored.
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
    /// `Service`. Other kinds are ignored.
    pub kind: String,
    /// The name of one object, or `None` for all objects of this kind.
    pub name: Option<String>,
}

/// The Services that a ReferenceGrant allows other namespaces to copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The namespaces whose Services may copy these sources. Empty if the ReferenceGrant allows no copies.
    from: BTreeSet<String>,
    /// The names of the sources. `None` means all Services of the grant's namespace.
    to: Option<BTreeSet<String>>,
}

impl Grant {
    /// Reads a ReferenceGrant. A ReferenceGrant that does not concern Services allows nothing, and an invalid name in
    /// it is ignored.
    #[must_use]
    pub fn read(grant: &ReferenceGrant) -> Self {
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
        if grants_nothing {
            Self::default()
        } else {
            Self { from, to }
        }
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
    /// The API server does not serve them, which can be a temporary fault.
    Absent,
    /// All of them were listed, or the API server has not served them for a long time.
    Yes,
}

/// All ReferenceGrants.
#[derive(Debug, Default)]
pub struct Grants {
    listed: Listed,
    /// The last readable state of each grant. `None` if the grant has been unreadable since the first list that
    /// contained it.
    by_namespace: BTreeMap<String, BTreeMap<String, Option<Grant>>>,
}

impl Grants {
    pub(super) fn consent(&self, namespace: &str, source: &ServiceKey) -> Consent {
        let in_namespace = || self.by_namespace.get(source.namespace()).into_iter().flatten();
        let allows = |grant: &Grant| grant.allows(namespace, source.name());
        if in_namespace().any(|(_, grant)| grant.as_ref().is_some_and(allows)) {
            return Consent::Given;
        }
        match self.listed {
            Listed::Never => Consent::Unknown,
            Listed::Absent => Consent::RefusedForNow,
            Listed::Yes if in_namespace().any(|(_, grant)| grant.is_none()) => Consent::RefusedForNow,
            Listed::Yes => Consent::Refused,
        }
    }

    /// Whether grants were listed, or were absent for so long that there seem to be none.
    pub(crate) fn are_listed(&self) -> bool {
        self.listed == Listed::Yes
    }

    /// Whether grants were listed, or the API server is known not to serve them.
    pub(crate) fn are_known(&self) -> bool {
        self.listed != Listed::Never
    }

    /// Records a grant that was added or changed. Returns its namespace if consent for sources there might have
    /// changed.
    pub fn apply(&mut self, metadata: &ObjectMeta, grant: Grant) -> Option<String> {
        let (namespace, name) = namespace_and_name(metadata);
        let known = self.by_namespace.entry(namespace.clone()).or_default();
        let has_changed = match known.insert(name, Some(grant.clone())) {
            Some(before) => before != Some(grant),
            None => !grant.from.is_empty(),
        };
        has_changed.then_some(namespace)
    }

    /// Records a grant that was added or changed and cannot be decoded. Its last readable state still applies. A new
    /// grant has no readable state, so it allows nothing.
    pub fn apply_unreadable(&mut self, metadata: &ObjectMeta) {
        let (namespace, name) = namespace_and_name(metadata);
        let known = self.by_namespace.entry(namespace).or_default();
        known.entry(name).or_insert_with(|| Some(Grant::default()));
    }

    /// Removes a grant that was deleted. Returns its namespace if the grant allowed anything, or if it is unknown what
    /// the grant allowed.
    pub fn remove(&mut self, metadata: &ObjectMeta) -> Option<String> {
        let (namespace, name) = namespace_and_name(metadata);
        let known = self.by_namespace.get_mut(&namespace)?;
        let grant = known.remove(&name);
        if known.is_empty() {
            self.by_namespace.remove(&namespace);
        }
        let granted = grant?.is_none_or(|grant| !grant.from.is_empty());
        granted.then_some(namespace)
    }

    /// Replaces all known grants with a complete list. `None` stands for a grant that cannot be decoded: its last
    /// readable state still applies.
    pub fn replace(&mut self, listed: impl IntoIterator<Item = (ObjectMeta, Option<Grant>)>) {
        let mut known = std::mem::take(&mut self.by_namespace);
        for (metadata, grant) in listed {
            let (namespace, name) = namespace_and_name(&metadata);
            let mut last = || known.get_mut(&namespace)?.remove(&name)?;
            let grant = grant.or_else(&mut last);
            self.by_namespace
                .entry(namespace)
                .or_default()
                .insert(name, grant);
        }
        self.listed = Listed::Yes;
    }

    /// Records that the API server does not serve ReferenceGrants. Has no effect if they were listed before. Copies
    /// that a grant might allow stay until grants are listed, or until the `allow-from` annotation of their source changes. If
    /// grants remain absent for some time, the caller passes an empty list to [`Grants::replace`].
    pub fn absent(&mut self) {
        if self.listed == Listed::Never {
            self.listed = Listed::Absent;
        }
    }
}

fn namespace_and_name(metadata: &ObjectMeta) -> (String, String) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    (text(&metadata.namespace), text(&metadata.name))
}
