//! The words of the contract as types.

use std::fmt;

/// Name of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}

impl ObjectKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Names a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey(pub ObjectKey);

/// What the flags say of Services without annotations (contract, section 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Source of a managed Service that names none.
    pub source: ServiceKey,
    /// The Service that is managed without an annotation; `None` switches that off.
    pub managed: Option<ServiceKey>,
}
