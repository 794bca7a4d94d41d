//! Findings: problems of a Service, in the words that users see.

use serde::Serialize;

use super::words::words;

/// Declares the reasons of findings, with what users read about each.
macro_rules! reasons {
    ($(
        $(#[$doc:meta])*
        $reason:ident, leaves_undone: $undone:literal, means: $meaning:literal, remedy: $remedy:literal;
    )+) => {
        words! {
            /// The reason of a finding, and of its Event.
            Reason { $($(#[$doc])* $reason => stringify!($reason),)+ }
        }

        impl Reason {
            /// Whether something that the user asked for is missing while the finding lasts. The other findings report
            /// that what exists may not be what the user meant.
            #[must_use]
            pub fn leaves_undone(self) -> bool {
                match self { $(Self::$reason => $undone,)+ }
            }

            /// The meaning of the reason, in Markdown. `make docs` copies it to the reference page of Events.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$reason => $meaning,)+ }
            }

            /// The remedy, in Markdown. `make docs` copies it to the reference page of Events.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$reason => $remedy,)+ }
            }
        }
    };
}

reasons! {
    /// The Service cannot be decoded.
    Unreadable, leaves_undone: true,
        means: "The Service cannot be decoded: a field that the operator reads has a value of the wrong type. Its \
            copies stay as they are, and no new ones are created.",
        remedy: "Write the Service again with valid values. The note names the field.";

    /// An annotation has an invalid value.
    InvalidAnnotation, leaves_undone: true,
        means: "An annotation has a value that the operator does not understand: `enabled` is neither `true` nor \
            `false`, a name is not a DNS label, a namespace is given without a name, or `when-source-empty` is \
            neither `hold` nor `follow`. Existing copies stay as they are, and no new ones are created. With an \
            unknown `when-source-empty` the copies follow its default, but the Service counts as out of sync.",
        remedy: "Fix the annotation that the note names.";

    /// The managed Service has a selector: the built-in controller writes its slices.
    HasSelector, leaves_undone: true,
        means: "The Service has a selector, so Kubernetes itself maintains its EndpointSlices. Its copies were \
            deleted.",
        remedy: "Remove `spec.selector`, or the annotation `endpoint-copier/enabled`.";

    /// The managed Service is of type `ExternalName`.
    ExternalName, leaves_undone: true,
        means: "The Service is of type `ExternalName`, which has no endpoints. Its copies were deleted.",
        remedy: "Change the type, or remove the annotation `endpoint-copier/enabled`.";

    /// The managed Service names itself as its source.
    SourceIsSelf, leaves_undone: true,
        means: "The Service names itself as its source. Its copies were deleted.",
        remedy: "Name another Service as the source.";

    /// More Services are managed than the limits allow, and this one gets no copies.
    LimitReached, leaves_undone: true,
        means: "More Services are managed than the limits allow, in the namespace or in the cluster. Services that \
            have copies come first, then the oldest, then the first by name. This one gets no copies, and those that \
            it had were deleted.",
        remedy: "Remove the annotation `endpoint-copier/enabled` from Services that need no copies: the next in line \
            gets its copies at once. Or raise `--max-services-per-namespace` or `--max-services`; the note says which.";

    /// The source is in another namespace, and nobody allows the managed Service to copy it.
    NotPermitted, leaves_undone: true,
        means: "The source is in another namespace, and neither its owner nor the admin allows this namespace to copy \
            it. There are no copies. The Event is the same whether or not the source exists.",
        remedy: "Annotate the source with `endpoint-copier/allow-from`, or create a ReferenceGrant in its namespace; \
            the note has the names. An admin can use `--allow-source` instead.";

    /// A port is not one of the source, which is in another namespace.
    PortNotPermitted, leaves_undone: true,
        means: "The source is in another namespace, and a port of the Service is not one of the ports of the source's \
            EndpointSlice. The port is left out. A copy without any port is not created.",
        remedy: "Use a port of the source. For the default source an admin can allow others with `--allow-port`.";

    /// All slices of the source are copies made by this operator.
    SourceIsCopy, leaves_undone: false,
        means: "All EndpointSlices of the source are copies made by this operator. Copies are not copied again.",
        remedy: "Name the source of that Service instead.";

    /// Neither the source Service nor slices of it exist.
    SourceNotFound, leaves_undone: false,
        means: "Neither a Service nor an EndpointSlice of the source exists. The source is treated as empty.",
        remedy: "Check the name and the namespace in the annotations, or create the source.";

    /// The source has slices of an address type that is never copied.
    UnsupportedAddressType, leaves_undone: false,
        means: "The source has an EndpointSlice whose `addressType` is neither IPv4 nor IPv6. That slice is not \
            copied.",
        remedy: "Nothing, if the other slices are enough. kube-proxy does not use such slices.";

    /// The source has no slice of an IP family that the managed Service wants.
    FamilyMissing, leaves_undone: false,
        means: "The source has no EndpointSlice of an IP family that the Service needs: of none of its families, or \
            of one of them while its policy is `RequireDualStack`. Not reported for `default/kubernetes`, whose \
            missing family comes from Nodes.",
        remedy: "Set `spec.ipFamilies` and `spec.ipFamilyPolicy` to the families that the source has.";

    /// Nodes do not tell the address of each API server in an IP family that the API source lacks.
    FamilyIncomplete, leaves_undone: false,
        means: "The Service wants an IP family that `default/kubernetes` lacks. Its addresses come from Nodes, and \
            those of some API servers are not known, not unique, or never answered. They are left out. Or the \
            operator cannot list Nodes: then the copies keep the addresses that they have.",
        remedy: "Correct what the note says: `status.addresses` of the Node, `--nodes-selector`, the right to list \
            Nodes, or an API server that listens on one family only.";

    /// The number of a port is not known.
    PortUnresolved, leaves_undone: true,
        means: "The `targetPort` of a port is a name, and the source has no port with that name and protocol. The \
            port is left out. A copy without any port is not created.",
        remedy: "Use a number, or the name of a port of the source's EndpointSlices.";

    /// The source lists an address of the managed Service itself.
    EndpointIsVip, leaves_undone: false,
        means: "The source lists an address of the Service itself: its load balancer IP, an external IP or its \
            cluster IP. Traffic to that endpoint would come back to the Service. It is left out while the source has \
            another endpoint of the family.",
        remedy: "Correct the source. An API server lists its `--advertise-address`: set it to the address of its node, \
            not to the VIP.";

    /// A copy of the API source has a port that the source does not list.
    PortNotInSource, leaves_undone: false,
        means: "The Service copies `default/kubernetes` with a port that no EndpointSlice of it lists, so nothing may \
            answer there. Port 9345, where the supervisor of RKE2 listens, is not reported.",
        remedy: "Set `targetPort` to the port that the API servers listen on, such as 6443.";

    /// A slice of another owner has the name of a copy.
    NameTaken, leaves_undone: true,
        means: "An EndpointSlice that is not a copy has the name of a copy. The operator does not touch it, and that \
            copy is missing.",
        remedy: "Delete or rename the EndpointSlice that the note names.";

    /// The API server keeps rejecting a write.
    WriteRefused, leaves_undone: true,
        means: "The API server rejects a write with 403 or 422. The operator tries again after 5 s, doubling up to 30 \
            s.",
        remedy: "Read the server's reason in the note: an admission policy, an invalid value, or missing permissions, as \
            in a namespace that `rbac.namespaces` of the chart does not list. There the operator may not write Events \
            either, and only its log has the reason.";

    /// Somebody else writes our copies again and again.
    OtherInstallation, leaves_undone: false,
        means: "Something else wrote a copy three times within a minute, and the operator repaired it each time. Usually \
            that is a second installation of the operator, in another namespace. Neither yields. Differences that \
            clients notice (endpoints, ports and what kube-proxy reads) are repaired at once, others once a minute. The \
            finding ends two minutes after the last such write.",
        remedy: "Uninstall one of the two installations, or stop the other writer; the note has commands that find them.";

    /// The source is empty and its last good copies are kept.
    SourceEmptyHeld, leaves_undone: false,
        means: "The source lists no endpoint of an IP family, and the operator keeps the last good copy: the source \
            is `default/kubernetes`, or the annotation `endpoint-copier/when-source-empty` is `hold`.",
        remedy: "Find out why the source is empty. To empty the copy as well, set `endpoint-copier/when-source-empty: \
            follow`.";

    /// The source is empty and the copies should not become empty too, but there is no copy to keep.
    SourceEmpty, leaves_undone: true,
        means: "The source lists no endpoint. The operator would keep the last good copy, but there is none, so the \
            Service has no endpoint.",
        remedy: "Find out why the source is empty.";

    /// A traffic policy is `Local`, and an endpoint has no node.
    NodeNameMissing, leaves_undone: false,
        means: "`externalTrafficPolicy` or `internalTrafficPolicy` is `Local`, and a ready endpoint names no node. \
            Its node does not announce the address. For `default/kubernetes` the names come from Nodes; the note says \
            which address no Node fits, and why.",
        remedy: "Correct what the note says about Nodes: their `status.addresses`, `--nodes-selector`, or the right \
            to list them. For another source, name the nodes in its EndpointSlices. Or set the policy to `Cluster`.";

    /// Probes took API servers out of the copies, or would have with `--probe=enforce`.
    EndpointUnreachable, leaves_undone: false,
        means: "An API server does not answer the probes of the operator while another one does. It stays in the copy \
            as not ready, so it gets no traffic; with `--probe=observe` it is only reported.",
        remedy: "Check this API server and the network to it. It returns to the copy by itself once it has answered \
            three probes in a row.";

    /// No API server answers probes, so probes change nothing.
    ProbesBlind, leaves_undone: false,
        means: "No API server has answered a probe for 3 s. The fault may be on the way from the operator, so all API \
            servers stay in the copy.",
        remedy: "Check the API servers. If they are well, check whether a NetworkPolicy or a firewall keeps the \
            operator from them.";

    /// API servers answer probes with 401 or 403.
    ProbeUnauthorized, leaves_undone: false,
        means: "API servers answer the probes with 401 or 403. They count as alive, but whether they are ready is not \
            known.",
        remedy: "Allow the ServiceAccount of the operator to `get` the nonResourceURL `/readyz`, as the chart does.";

    /// A port of a copy has never answered, while another port of the address does.
    PortNotAnswering, leaves_undone: false,
        means: "A port of the copy has not answered for a minute, while another port of the same address does. It is \
            not judged.",
        remedy: "Remove the port from the Service if nothing listens there, as 9345 on K3s; else open the firewall.";

    /// Other controllers write slices for the managed Service too.
    ForeignSlices, leaves_undone: false,
        means: "The Service has EndpointSlices that are not copies. kube-proxy sends traffic to their endpoints too. \
            The operator does not touch them. There is one Event for each kind of writer: Kubernetes mirrors an \
            `Endpoints` object with the name of the Service; Kubernetes wrote them while the Service had a selector, \
            and nobody removes them; or another component writes them.",
        remedy: "Run the command in the note. A mirrored slice comes back until the `Endpoints` object is deleted. Stop \
            another component before you delete its slices.";

    /// An `Endpoints` object of the Go operator is mirrored, and the operator may not delete it.
    LegacyEndpoints, leaves_undone: false,
        means: "Kubernetes mirrors an `Endpoints` object with the name of the Service into an EndpointSlice, and the \
            operator may not read or delete it. Version 0.2 of the Go operator leaves such an object.",
        remedy: "If the Go operator made it, delete the object with the command in the note, or set \
            `rbac.goOperator: true` in the chart until it is gone. Else see `ForeignSlices`.";
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
