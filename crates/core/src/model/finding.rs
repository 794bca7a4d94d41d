//! Findings: problems with a Service. Each reason has a meaning and a remedy for the reference page. The message of a
//! finding comes from the code that finds the problem, mostly `crate::plan`; search for the reason.

use std::fmt::Display;

use serde::Serialize;

use super::words::words;

/// Declares the reasons of findings, each with its documentation for users.
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
            /// Whether something that the user asked for is missing while the finding lasts. Otherwise, everything
            /// exists, but might not be what the user meant.
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
        means: "The Service cannot be decoded: a field that the operator reads has a value of the wrong type. No new \
            copies are created. Existing copies stay as they are, unless permission to copy the source is withdrawn \
            (see `NotPermitted`).",
        remedy: "Correct the field that the message names, and apply the Service again.";

    /// An annotation has an invalid value.
    InvalidAnnotation, leaves_undone: true,
        means: "An annotation has an invalid value: `enabled` is neither `true` nor `false`, a name is not a DNS \
            label, a namespace is given without a name, `when-source-empty` is neither `hold` nor `follow`, or `probe` \
            is not `off`. No new copies are created. Existing copies stay as they are, unless permission to copy the \
            source is withdrawn (see `NotPermitted`). If only the value of `when-source-empty` or `probe` is invalid, \
            the operator ignores the value and keeps copying, but the Service counts as out of sync.",
        remedy: "Fix the annotation that the message names.";

    /// The managed Service has a selector, so Kubernetes writes its slices.
    HasSelector, leaves_undone: true,
        means: "The Service has a selector, so Kubernetes itself manages its EndpointSlices. The operator deletes the \
            copies of the Service.",
        remedy: "Remove `spec.selector`, or set `endpoint-copier/enabled: \"false\"`.";

    /// The managed Service is of type `ExternalName`.
    ExternalName, leaves_undone: true,
        means: "The Service is of type `ExternalName`, which has no endpoints. The operator deletes the copies of the \
            Service.",
        remedy: "Change the type, or set `endpoint-copier/enabled: \"false\"`.";

    /// The managed Service names itself as its source.
    SourceIsSelf, leaves_undone: true,
        means: "The Service names itself as its source. The operator deletes the copies of the Service.",
        remedy: "Name another Service as the source.";

    /// There are too many managed Services, so this one gets no copies. Or the Service has too many ports.
    LimitReached, leaves_undone: true,
        means: "The namespace or the cluster has too many managed Services, or this Service has too many ports. If \
            there are too many Services, those that have copies come first, then the oldest, then the first by name. \
            This Service gets no copies, and the operator deletes those that it had. If there are too many ports, the \
            copies have only the first ones: at most 100, as the documentation of EndpointSlices allows, and fewer if \
            their names and the values of `appProtocol` together exceed 16 KiB.",
        remedy: "Remove the annotation `endpoint-copier/enabled` from Services that need no copies. The next Service \
            in line then immediately gets its copies. Or raise the limit that the message names: \
            `--max-services-per-namespace` or `--max-services`. If the Service has too many ports, split them among \
            several Services.";

    /// The source is in another namespace, and there is no consent for the managed Service to copy it.
    NotPermitted, leaves_undone: true,
        means: "The source is in another namespace, and neither its owner nor an admin allows this namespace to copy \
            it. The operator creates no copies. It deletes existing copies, unless it cannot read an object that might \
            grant permission, such as the source or a ReferenceGrant. The Event is the same whether or not the source \
            exists.",
        remedy: "Annotate the source with `endpoint-copier/allow-from`, or create a ReferenceGrant in its namespace; \
            the message has the names. An admin can use `--allow-source` instead.";

    /// The source is in another namespace, and does not list a port of the managed Service.
    PortNotPermitted, leaves_undone: true,
        means: "The source is in another namespace, and the Service has a port that the source's EndpointSlice does \
            not list. The copy leaves out that port. If no port remains, there is no copy.",
        remedy: "Use a port of the source. For the default source, an admin can allow other ports with \
            `--allow-port`.";

    /// All slices of the source are copies.
    SourceIsCopy, leaves_undone: false,
        means: "All EndpointSlices of the source are copies that this operator or the Go operator made. The operator \
            does not copy copies.",
        remedy: "Set the source to the Service from which those copies were made.";

    /// Neither the source Service nor slices of it exist.
    SourceNotFound, leaves_undone: false,
        means: "Neither the source Service nor any EndpointSlice of it exists. The operator treats the source as \
            empty.",
        remedy: "Check the name and the namespace in the annotations, or create the source.";

    /// The source has slices of an address type that is never copied.
    UnsupportedAddressType, leaves_undone: false,
        means: "The source has an EndpointSlice whose `addressType` is neither IPv4 nor IPv6. The operator does not \
            copy that slice.",
        remedy: "If the endpoints in the other slices of the source are sufficient, do nothing: kube-proxy does not \
            use a slice of this type either. If they are not sufficient, list the addresses in an EndpointSlice of \
            type IPv4 or IPv6.";

    /// The source has no endpoint of an IP family that the managed Service needs.
    FamilyMissing, leaves_undone: false,
        means: "The source has no endpoints in any of the Service's IP families, or it has endpoints in only one of \
            them and the `ipFamilyPolicy` of the Service is `RequireDualStack`. The operator never sends this Event \
            for `default/kubernetes`, because it takes the addresses of the missing family from Nodes.",
        remedy: "Give the source endpoints of the missing family, or run the command in the message. If the second \
            family is missing, the command removes it with `ipFamilyPolicy: SingleStack`. If the first family of a \
            Service with a cluster IP is missing, the command deletes and recreates the Service, because the first \
            family cannot change; this interrupts the traffic of the Service.";

    /// Copies lack an API server in an IP family that the API source lacks, or Nodes cannot be listed.
    FamilyIncomplete, leaves_undone: false,
        means: "The Service wants an IP family that `default/kubernetes` lacks, so the operator takes the addresses in \
            that family from Nodes. The addresses of some API servers are unknown, are not unique, or have never \
            answered, so the copies leave them out. Or the operator cannot list Nodes, so the copies keep the \
            addresses that they have.",
        remedy: "Fix the problem that the message names: `status.addresses` of the Node, `--nodes-selector`, the \
            permission to list Nodes, or an API server that listens on one family only.";

    /// The number of a port is not known.
    PortUnresolved, leaves_undone: true,
        means: "The `targetPort` of a port is a name, and the source has no port with that name and protocol. The \
            copy leaves out that port. If no port remains, there is no copy.",
        remedy: "Use a number, or the name of a port of the source's EndpointSlices.";

    /// The source lists an address of the managed Service itself.
    EndpointIsVip, leaves_undone: false,
        means: "The source lists an address of the Service itself: its load balancer IP, an external IP or its cluster \
            IP. Traffic to that endpoint would come back to the Service. The copy leaves out the endpoint as long as \
            the source has another endpoint in the same family.",
        remedy: "Correct the source. An API server lists its `--advertise-address` in `default/kubernetes`: set this \
            flag to the address of the API server's node, not to the VIP.";

    /// A copy of the API source has a port that the source does not list.
    PortNotInSource, leaves_undone: false,
        means: "The Service copies `default/kubernetes`, but has a port that no EndpointSlice of `default/kubernetes` \
            lists. Perhaps nothing listens on that port. Port 9345, on which the RKE2 supervisor listens, causes no \
            Event.",
        remedy: "Set `targetPort` to the port that the API servers listen on, such as 6443.";

    /// A slice that is not a copy has the name of a copy.
    NameTaken, leaves_undone: true,
        means: "An EndpointSlice that is not a copy has the name of a copy. The operator does not touch that \
            EndpointSlice, so the copy is missing.",
        remedy: "Delete the EndpointSlice that the message names, or recreate it under another name.";

    /// The API server keeps rejecting a write.
    WriteRefused, leaves_undone: true,
        means: "The API server rejects a write, for example with 403 or 422, or something else reverts a copy, either \
            before an update is stored or after each of 30 writes in a row. The operator retries after 5 s, and \
            doubles the delay up to 30 s.",
        remedy: "Fix the problem that the message names, such as an admission policy, an invalid value, or a missing \
            permission. If the chart value `rbac.namespaces` leaves out the namespace, the operator can write neither \
            copies nor Events there, so only its log has the reason.";

    /// Something else keeps writing our copies.
    OtherInstallation, leaves_undone: false,
        means: "Something else wrote a copy three times within a minute, and the operator repaired the copy each time. \
            The writer is usually a second installation of the operator in another namespace. Neither installation \
            yields. The operator repairs differences that clients notice (endpoints, ports and what kube-proxy reads) \
            immediately, up to 30 times in a row (see `WriteRefused`), and other differences at most once a minute. \
            The finding ends two minutes after the other writer's last write.",
        remedy: "Uninstall one of the two installations, or stop the other writer. The message has commands that find \
            them.";

    /// The source is empty, and the operator keeps the last good copies.
    SourceEmptyHeld, leaves_undone: false,
        means: "The source lists no endpoints in an IP family, and the operator keeps the last good copy, because the \
            source is `default/kubernetes` or the annotation `endpoint-copier/when-source-empty` is `hold`.",
        remedy: "To find out why the source is empty, list its EndpointSlices. For `default/kubernetes`, run `kubectl \
            get endpointslices --namespace default --selector kubernetes.io/service-name=kubernetes`. The output \
            should include the API server that responds to this command. If it does not, check whether the API servers \
            are still starting. To let the copy become empty too, set `endpoint-copier/when-source-empty: follow`.";

    /// The source is empty, and there is no copy to hold.
    SourceEmpty, leaves_undone: true,
        means: "The source lists no endpoints. The operator would keep the last good copy, but there is none, so the \
            Service has no endpoints.",
        remedy: "Find out why the source is empty: `kubectl get endpointslices --namespace <namespace> --selector \
            kubernetes.io/service-name=<name>` lists its EndpointSlices.";

    /// A traffic policy is `Local`, and an endpoint has no node.
    NodeNameMissing, leaves_undone: false,
        means: "`externalTrafficPolicy` or `internalTrafficPolicy` is `Local`, and a ready endpoint has no `nodeName`, \
            so the endpoint is not local to any node. With `externalTrafficPolicy: Local`, the endpoint's node does \
            not announce the address of the Service. With `internalTrafficPolicy: Local`, clients on that node do not \
            reach the endpoint. For `default/kubernetes`, the operator takes the names from Nodes; the message says \
            which address has no Node, and why.",
        remedy: "Fix the problem that the message names: `status.addresses` of the Nodes, `--nodes-selector`, or the \
            permission to list Nodes. For any other source, set `nodeName` in its EndpointSlices. Or set the traffic \
            policy to `Cluster`.";

    /// Probes took API servers out of the copies, or would have with `--probe=enforce`.
    EndpointUnreachable, leaves_undone: false,
        means: "An API server fails the probes of the operator, for example because it does not respond or responds \
            with 5xx, while another API server passes them. The copy shows the failing server as not ready, so this \
            server gets no traffic. With `--probe=observe`, the operator only reports the server.",
        remedy: "Check this API server and the network to it. The server gets traffic again automatically once it has \
            answered `--probe-successes` probes in a row (3 by default), over at least 3 s.";

    /// No API server answers probes of an IP family, so probes change nothing in this family.
    ProbesBlind, leaves_undone: false,
        means: "For 3 s, no probe of any API server has succeeded in one IP family. The fault may lie between the \
            operator and the API servers, so all API servers stay ready in the copy of this family.",
        remedy: "Check the API servers. If they are healthy, check whether a NetworkPolicy or a firewall blocks the \
            operator.";

    /// API servers respond to probes with 401 or 403.
    ProbeUnauthorized, leaves_undone: false,
        means: "API servers respond to the probes with 401 or 403. These servers are alive, but the operator does not \
            know whether they are ready.",
        remedy: "Allow the ServiceAccount of the operator to `get` the nonResourceURL `/readyz`, as the chart does.";

    /// A port of an endpoint has never answered, while another port of the address or another API server answers.
    PortNotAnswering, leaves_undone: false,
        means: "A port of an endpoint has been listed for at least a minute and has never answered, while another port \
            of the same address answers. Or no port of the address has ever answered, while another API server \
            answers. This finding alone does not change the readiness of the endpoint in the copy.",
        remedy: "If nothing listens on that port, such as 9345 on K3s, remove the port from the Service. If a firewall \
            blocks the probes of the operator, allow them. If the API server no longer exists, find out why \
            `default/kubernetes` still lists it.";

    /// Other controllers also write slices for the managed Service.
    ForeignSlices, leaves_undone: false,
        means: "The Service has EndpointSlices that are not copies. kube-proxy sends traffic to their endpoints too. \
            The operator does not touch these slices. There is one Event for each origin of the slices: slices that \
            Kubernetes mirrors from an `Endpoints` object with the same name as the Service; slices that Kubernetes \
            left behind when the selector was removed from the Service; and slices that another component writes.",
        remedy: "Run the commands in the message. A mirrored slice keeps coming back until the `Endpoints` object is \
            deleted. If another component writes the slices, stop it before you delete them.";

    /// An `Endpoints` object of the Go operator is mirrored, and the operator is not allowed to delete it.
    LegacyEndpoints, leaves_undone: false,
        means: "Kubernetes mirrors an `Endpoints` object with the same name as the Service into an EndpointSlice, and \
            the operator is not allowed to read or delete the `Endpoints` object. Version 0.2 of the Go operator \
            leaves such an object behind.",
        remedy: "If the `Endpoints` object has the label `endpointslice.kubernetes.io/managed-by: \
            endpoint-copier-operator`, the Go operator created it. Delete it with the command in the message, or set \
            `rbac.goOperator: true` in the chart until it is deleted. If the object does not have this label, see \
            `ForeignSlices` for a managed Service, and do not delete the object for any other Service.";
}

/// The reason of the only Event whose type is not `Warning`.
pub const SYNCED: &str = "Synced";

/// The meaning of [`SYNCED`], in Markdown.
pub const SYNCED_MEANING: &str = "The operator wrote the first copies, or the cause of a Warning is resolved. The \
                                  copies are now in sync with the source. The operator does not send this Event for \
                                  every change.";

/// The maximum length of a note in bytes. The API server rejects more than 1,024 bytes.
const MAX_NOTE: usize = 1000;

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
        if note.len() > MAX_NOTE {
            let ends = (0..=MAX_NOTE - CUT.len()).rev();
            let end = ends.into_iter().find(|&end| note.is_char_boundary(end));
            note.truncate(end.unwrap_or_default());
            note.push_str(CUT);
        }
        Self { reason, note }
    }
}

/// A list of names for a note: the first three, and the number of the rest.
#[must_use]
pub fn a_few(names: impl IntoIterator<Item: Display>) -> String {
    const NAMED: usize = 3;
    let mut names = names.into_iter();
    let first = names.by_ref().take(NAMED).map(|name| name.to_string());
    let first = first.collect::<Vec<_>>().join(", ");
    match names.count() {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
