//! Findings: problems of a Service, in the words that users see.

use serde::Serialize;

use super::words::words;

words! {
    /// The reason of a finding, and of its Event.
    Reason {
        /// The Service cannot be decoded.
        Unreadable => "Unreadable",
        /// An annotation has an invalid value.
        InvalidAnnotation => "InvalidAnnotation",
        /// The managed Service has a selector: the built-in controller writes its slices.
        HasSelector => "HasSelector",
        /// The managed Service is of type `ExternalName`.
        ExternalName => "ExternalName",
        /// The managed Service names itself as its source.
        SourceIsSelf => "SourceIsSelf",
        /// The source is in another namespace, and nobody allows the managed Service to copy it.
        NotPermitted => "NotPermitted",
        /// A port is not one of the source, which is in another namespace.
        PortNotPermitted => "PortNotPermitted",
        /// All slices of the source are copies made by this operator.
        SourceIsCopy => "SourceIsCopy",
        /// Neither the source Service nor slices of it exist.
        SourceNotFound => "SourceNotFound",
        /// The source has slices of an address type that is never copied.
        UnsupportedAddressType => "UnsupportedAddressType",
        /// The source has no slice of an IP family that the managed Service wants.
        FamilyMissing => "FamilyMissing",
        /// Nodes do not tell the address of each API server in an IP family that the API source lacks.
        FamilyIncomplete => "FamilyIncomplete",
        /// The number of a port is not known.
        PortUnresolved => "PortUnresolved",
        /// A slice of another owner has the name of a copy.
        NameTaken => "NameTaken",
        /// The API server keeps rejecting a write.
        WriteRefused => "WriteRefused",
        /// The source is empty and its last good copies are kept.
        SourceEmptyHeld => "SourceEmptyHeld",
        /// The source is empty and the copies should not become empty too, but there is no copy to keep.
        SourceEmpty => "SourceEmpty",
        /// A traffic policy is `Local`, and an endpoint has no node.
        NodeNameMissing => "NodeNameMissing",
        /// Probes took API servers out of the copies, or would have with `--probe=enforce`.
        EndpointUnreachable => "EndpointUnreachable",
        /// No API server answers probes, so probes change nothing.
        ProbesBlind => "ProbesBlind",
        /// API servers answer probes with 401 or 403.
        ProbeUnauthorized => "ProbeUnauthorized",
        /// A port of a copy has never answered, while another port of the address does.
        PortNotAnswering => "PortNotAnswering",
        /// Other controllers write slices for the managed Service too.
        ForeignSlices => "ForeignSlices",
        /// An `Endpoints` object of the Go operator is mirrored, and the operator may not delete it.
        LegacyEndpoints => "LegacyEndpoints",
    }
}

impl Reason {
    /// Whether something that the user asked for is missing while the finding lasts. The other findings report that
    /// what exists may not be what the user meant.
    #[must_use]
    pub fn leaves_undone(self) -> bool {
        match self {
            Self::Unreadable
            | Self::InvalidAnnotation
            | Self::HasSelector
            | Self::ExternalName
            | Self::SourceIsSelf
            | Self::NotPermitted
            | Self::PortNotPermitted
            | Self::PortUnresolved
            | Self::NameTaken
            | Self::SourceEmpty
            | Self::WriteRefused => true,
            Self::SourceIsCopy
            | Self::SourceNotFound
            | Self::UnsupportedAddressType
            | Self::FamilyMissing
            | Self::FamilyIncomplete
            | Self::SourceEmptyHeld
            | Self::NodeNameMissing
            | Self::EndpointUnreachable
            | Self::ProbesBlind
            | Self::ProbeUnauthorized
            | Self::PortNotAnswering
            | Self::ForeignSlices
            | Self::LegacyEndpoints => false,
        }
    }

    /// The meaning of the reason, in Markdown. `make docs` copies it to the reference page of Events.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Unreadable => {
                "The Service cannot be decoded: a field that the operator reads has a value of the wrong type. Its copies \
                 stay as they are, and no new ones are created."
            }
            Self::InvalidAnnotation => {
                "An annotation has a value that the operator does not understand: `enabled` is neither `true` nor \
                 `false`, a name is not a DNS label, a namespace is given without a name, or `when-source-empty` is \
                 neither `hold` nor `follow`. Existing copies stay as they are, and no new ones are created. With an \
                 unknown `when-source-empty` the copies follow its default, but the Service counts as out of sync."
            }
            Self::HasSelector => {
                "The Service has a selector, so Kubernetes itself maintains its EndpointSlices. Its copies were deleted."
            }
            Self::ExternalName => {
                "The Service is of type `ExternalName`, which has no endpoints. Its copies were deleted."
            }
            Self::SourceIsSelf => "The Service names itself as its source. Its copies were deleted.",
            Self::NotPermitted => {
                "The source is in another namespace, and neither its owner nor the admin allows this namespace to copy it. \
                 There are no copies. The Event is the same whether or not the source exists."
            }
            Self::PortNotPermitted => {
                "The source is in another namespace, and a port of the Service is not one of the ports of the source's \
                 EndpointSlice. The port is left out. A copy without any port is not created."
            }
            Self::SourceIsCopy => {
                "All EndpointSlices of the source are copies made by this operator. Copies are not copied again."
            }
            Self::SourceNotFound => {
                "Neither a Service nor an EndpointSlice of the source exists. The source is treated as empty."
            }
            Self::UnsupportedAddressType => {
                "The source has an EndpointSlice whose `addressType` is neither IPv4 nor IPv6. That slice is not copied."
            }
            Self::FamilyMissing => {
                "The source has no EndpointSlice of an IP family that the Service needs: of none of its families, or of \
                 one of them while its policy is `RequireDualStack`. Not reported for `default/kubernetes`, whose missing \
                 family comes from Nodes."
            }
            Self::FamilyIncomplete => {
                "The Service wants an IP family that `default/kubernetes` lacks. Its addresses come from Nodes, and those \
                 of some API servers are not known, not unique, or never answered. They are left out. Or the operator \
                 cannot list Nodes: then the copies keep the addresses that they have."
            }
            Self::PortUnresolved => {
                "The `targetPort` of a port is a name, and the source has no port with that name and protocol. The port \
                 is left out. A copy without any port is not created."
            }
            Self::NameTaken => {
                "An EndpointSlice that is not a copy has the name of a copy. The operator does not touch it, and that \
                 copy is missing."
            }
            Self::WriteRefused => {
                "The API server rejects a write with 403 or 422. The operator tries again after 5 s, doubling up to 30 s."
            }
            Self::SourceEmptyHeld => {
                "The source lists no endpoint of an IP family, and the operator keeps the last good copy: the source is \
                 `default/kubernetes`, or the annotation `endpoint-copier/when-source-empty` is `hold`."
            }
            Self::SourceEmpty => {
                "The source lists no endpoint. The operator would keep the last good copy, but there is none, so the \
                 Service has no endpoint."
            }
            Self::NodeNameMissing => {
                "`externalTrafficPolicy` or `internalTrafficPolicy` is `Local`, and a ready endpoint names no node. Its \
                 node does not announce the address. For `default/kubernetes` the names come from Nodes; the note says \
                 which address no Node fits, and why."
            }
            Self::EndpointUnreachable => {
                "An API server does not answer the probes of the operator while another one does. It stays in the copy as \
                 not ready, so it gets no traffic; with `--probe=observe` it is only reported."
            }
            Self::ProbesBlind => {
                "No API server has answered a probe for 3 s. The fault may be on the way from the operator, so all API \
                 servers stay in the copy."
            }
            Self::ProbeUnauthorized => {
                "API servers answer the probes with 401 or 403. They count as alive, but whether they are ready is not \
                 known."
            }
            Self::PortNotAnswering => {
                "A port of the copy has not answered for a minute, while another port of the same address does. It is not \
                 judged."
            }
            Self::ForeignSlices => {
                "The Service has EndpointSlices that are not copies. kube-proxy sends traffic to their endpoints too. The \
                 operator does not touch them."
            }
            Self::LegacyEndpoints => {
                "Kubernetes mirrors an `Endpoints` object with the name of the Service into an EndpointSlice, and the \
                 operator may not read or delete it. Version 0.2 of the Go operator leaves such an object."
            }
        }
    }

    /// The remedy, in Markdown. `make docs` copies it to the reference page of Events.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Unreadable => "Write the Service again with valid values. The note names the field.",
            Self::InvalidAnnotation => "Fix the annotation that the note names.",
            Self::HasSelector => "Remove `spec.selector`, or the annotation `endpoint-copier/enabled`.",
            Self::ExternalName => "Change the type, or remove the annotation `endpoint-copier/enabled`.",
            Self::SourceIsSelf => "Name another Service as the source.",
            Self::NotPermitted => {
                "Annotate the source with `endpoint-copier/allow-from`, or create a ReferenceGrant in its namespace; the note \
                 has the names. An admin can use `--allow-source` instead."
            }
            Self::PortNotPermitted => {
                "Use a port of the source. For the default source an admin can allow others with `--allow-port`."
            }
            Self::SourceIsCopy => "Name the source of that Service instead.",
            Self::SourceNotFound => {
                "Check the name and the namespace in the annotations, or create the source."
            }
            Self::UnsupportedAddressType => {
                "Nothing, if the other slices are enough. kube-proxy does not use such slices."
            }
            Self::FamilyMissing => {
                "Set `spec.ipFamilies` and `spec.ipFamilyPolicy` to the families that the source has."
            }
            Self::FamilyIncomplete => {
                "Correct what the note says: `status.addresses` of the Node, `--nodes-selector`, the right to list Nodes, or \
                 an API server that listens on one family only."
            }
            Self::PortUnresolved => "Use a number, or the name of a port of the source's EndpointSlices.",
            Self::NameTaken => "Delete or rename the EndpointSlice that the note names.",
            Self::WriteRefused => {
                "Read the server's reason in the note: an admission policy, an invalid value, or missing permissions, as in a \
                 namespace that `rbac.namespaces` of the chart does not list. There the operator may not write Events \
                 either, and only its log has the reason."
            }
            Self::SourceEmptyHeld => {
                "Find out why the source is empty. To empty the copy as well, set \
                 `endpoint-copier/when-source-empty: follow`."
            }
            Self::SourceEmpty => "Find out why the source is empty.",
            Self::NodeNameMissing => {
                "Correct what the note says about Nodes: their `status.addresses`, `--nodes-selector`, or the right to \
                 list them. For another source, name the nodes in its EndpointSlices. Or set the policy to `Cluster`."
            }
            Self::EndpointUnreachable => {
                "Check this API server and the network to it. It returns to the copy by itself once it has answered three \
                 probes in a row."
            }
            Self::ProbesBlind => {
                "Check the API servers. If they are well, check whether a NetworkPolicy or a firewall keeps the operator \
                 from them."
            }
            Self::ProbeUnauthorized => {
                "Allow the ServiceAccount of the operator to `get` the nonResourceURL `/readyz`, as the chart does."
            }
            Self::PortNotAnswering => {
                "Remove the port from the Service if nothing listens there, as 9345 on K3s; else open the firewall."
            }
            Self::ForeignSlices => "Delete them, or stop the component that creates them.",
            Self::LegacyEndpoints => {
                "If the Go operator made it, delete the object with the command in the note, or set `rbac.goOperator: true` in \
                 the chart until it is gone. Else see `ForeignSlices`."
            }
        }
    }
}

/// The reason of the only Event that is not a warning.
pub const SYNCED: &str = "Synced";

/// The meaning of [`SYNCED`], in Markdown.
pub const SYNCED_MEANING: &str = "The first copies were written, or the cause of a Warning is gone: the copies are in sync \
                                  with the source. The Event is not repeated for each change.";

/// The longest note of an Event. The API server rejects 1,024 bytes and more.
const LONGEST_NOTE: usize = 1000;

/// A problem with a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The kind of problem.
    pub reason: Reason,
    /// The details and the remedy, at most 1,000 bytes.
    pub note: String,
}

impl Finding {
    /// A finding with its note, which is truncated if it is too long.
    pub fn new(reason: Reason, note: impl Into<String>) -> Self {
        const CUT: &str = "…";
        let mut note = note.into();
        if note.len() > LONGEST_NOTE {
            let ends = (0..=LONGEST_NOTE - CUT.len()).rev();
            let end = ends.into_iter().find(|&end| note.is_char_boundary(end));
            note.truncate(end.unwrap_or_default());
            note.push_str(CUT);
        }
        Self { reason, note }
    }
}

/// Names for a note: the first few, and the number of the others.
#[must_use]
pub fn a_few<S: AsRef<str>>(names: &[S]) -> String {
    const NAMED: usize = 3;
    let first = names.iter().take(NAMED).map(AsRef::as_ref).collect::<Vec<_>>();
    let first = first.join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
