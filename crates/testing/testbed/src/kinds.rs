//! The table of kinds that the server knows. Each kind is a row, and each difference between kinds is a column.

/// The storage of a kind. Two API kinds can share one, as the two kinds of Events do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Storage {
    /// `v1` Service.
    Service,
    /// `v1` Endpoints.
    Endpoints,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` and `events.k8s.io/v1` Event, stored in the `v1` form.
    Event,
    /// `coordination.k8s.io/v1` Lease.
    Lease,
    /// `v1` Namespace.
    Namespace,
    /// `v1` ServiceAccount.
    ServiceAccount,
    /// `v1` Node.
    Node,
    /// `gateway.networking.k8s.io/v1` ReferenceGrant, a custom resource.
    ReferenceGrant,
    /// A review, which is answered and not stored.
    Review,
}

/// An API kind, with the properties of its strategy on the real server.
#[derive(Debug)]
#[expect(
    clippy::struct_field_names,
    clippy::struct_excessive_bools,
    reason = "a row of a table, in Kubernetes' words"
)]
pub struct Kind {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// Version, always `v1` here.
    pub version: &'static str,
    /// Kind as in an object's `kind` field.
    pub kind: &'static str,
    /// Resource as in the URL.
    pub plural: &'static str,
    /// The singular that `kubectl` accepts.
    pub singular: &'static str,
    /// Short names for `kubectl`.
    pub short: &'static [&'static str],
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// The storage of its objects.
    pub storage: Storage,
    /// Whether the kind has a `/status` subresource.
    pub status: bool,
    /// Whether a PUT of a missing object creates it (`AllowCreateOnUpdate`).
    pub create_on_update: bool,
    /// Whether a PUT without a resourceVersion is accepted (`AllowUnconditionalUpdate`).
    pub unconditional_update: bool,
    /// Whether a DELETE returns the object instead of a `Status` (`ReturnDeletedObject`).
    pub returns_deleted: bool,
    /// The path of its keys in etcd, which appears in the messages of some conflicts.
    pub registry: &'static str,
}

impl Kind {
    /// `v1`, or `group/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The resource as error texts name it: `services`, or `leases.coordination.k8s.io`.
    #[must_use]
    pub fn qualified_resource(&self) -> String {
        qualified(self.plural, self.group)
    }

    /// The kind as error texts name it: `Service`, or `Lease.coordination.k8s.io`.
    #[must_use]
    pub fn qualified_kind(&self) -> String {
        qualified(self.kind, self.group)
    }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

/// The Event of `events.k8s.io`. The Event of the core group differs only in the group.
const EVENT: Kind = Kind {
    group: "events.k8s.io",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short: &["ev"],
    namespaced: true,
    storage: Storage::Event,
    status: false,
    create_on_update: true,
    unconditional_update: true,
    returns_deleted: false,
    registry: "/registry/events",
};

/// Every kind that the server stores. ReferenceGrants are served once [`Store::serve_reference_grants`] is called.
///
/// [`Store::serve_reference_grants`]: crate::Store::serve_reference_grants
pub static KINDS: &[Kind] = &[
    Kind {
        group: "",
        version: "v1",
        kind: "Service",
        plural: "services",
        singular: "service",
        short: &["svc"],
        namespaced: true,
        storage: Storage::Service,
        status: true,
        create_on_update: false,
        unconditional_update: true,
        returns_deleted: true,
        registry: "/registry/services/specs",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short: &["ep"],
        namespaced: true,
        storage: Storage::Endpoints,
        status: false,
        create_on_update: true,
        unconditional_update: true,
        returns_deleted: false,
        registry: "/registry/services/endpoints",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short: &["ns"],
        namespaced: false,
        storage: Storage::Namespace,
        status: true,
        create_on_update: false,
        unconditional_update: true,
        returns_deleted: true,
        registry: "/registry/namespaces",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short: &["sa"],
        namespaced: true,
        storage: Storage::ServiceAccount,
        status: false,
        create_on_update: false,
        unconditional_update: true,
        returns_deleted: true,
        registry: "/registry/serviceaccounts",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short: &["no"],
        namespaced: false,
        storage: Storage::Node,
        status: true,
        create_on_update: false,
        unconditional_update: true,
        returns_deleted: false,
        registry: "/registry/minions",
    },
    Kind { group: "", ..EVENT },
    EVENT,
    Kind {
        group: "discovery.k8s.io",
        version: "v1",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        short: &[],
        namespaced: true,
        storage: Storage::EndpointSlice,
        status: false,
        create_on_update: false,
        unconditional_update: true,
        returns_deleted: false,
        registry: "/registry/endpointslices",
    },
    Kind {
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        short: &[],
        namespaced: true,
        storage: Storage::Lease,
        status: false,
        create_on_update: true,
        unconditional_update: false,
        returns_deleted: false,
        registry: "/registry/leases",
    },
    Kind {
        group: "gateway.networking.k8s.io",
        version: "v1",
        kind: "ReferenceGrant",
        plural: "referencegrants",
        singular: "referencegrant",
        short: &[],
        namespaced: true,
        storage: Storage::ReferenceGrant,
        status: false,
        create_on_update: false,
        unconditional_update: false,
        returns_deleted: false,
        registry: "/registry/gateway.networking.k8s.io/referencegrants",
    },
];

/// Reviews, which discovery does not list.
static REVIEWS: &[Kind] = &[
    Kind {
        group: "authentication.k8s.io",
        kind: "TokenReview",
        plural: "tokenreviews",
        singular: "tokenreview",
        ..REVIEW
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        ..REVIEW
    },
];

const REVIEW: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short: &[],
    namespaced: false,
    storage: Storage::Review,
    status: false,
    create_on_update: false,
    unconditional_update: false,
    returns_deleted: false,
    registry: "",
};

/// The kind of a resource in a group and version.
#[must_use]
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .chain(REVIEWS)
        .find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The kind with the `apiVersion` and `kind` of an object.
#[must_use]
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|k| k.kind == kind && k.api_version() == api_version)
}

/// The kind with this plural, with or without its group. `events` is the `v1` Event, and `events.events.k8s.io` is the
/// newer view.
#[must_use]
pub fn by_name(resource: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|k| k.plural == resource || k.qualified_resource() == resource)
}

/// The plural of the resource that a storage holds.
#[must_use]
pub fn plural_of(storage: Storage) -> &'static str {
    KINDS
        .iter()
        .find(|k| k.storage == storage)
        .map_or("", |k| k.plural)
}
