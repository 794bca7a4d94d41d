//! Reports slices that others have written for a managed Service. kube-proxy sends traffic to their endpoints too.
//!
//! The remedy depends on the writer, which the managed-by label names, because a controller recreates a slice that is
//! deleted.

use std::collections::BTreeMap;

use super::Plan;
use crate::migration::is_leftover;
use crate::model::{
    ENDPOINT_SLICE_CONTROLLER, EndpointSlice, MIRRORING_CONTROLLER, Reason, ServiceKey, Snapshot, a_few,
    label, label_of,
};

/// The kinds of writers, each with its own remedy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum WriterKind {
    /// Kubernetes, from an `Endpoints` object with the name of the Service.
    Mirroring,
    /// Kubernetes, while the Service had a selector. Kubernetes leaves the slices behind when the selector is removed.
    Selector,
    /// Anything else.
    Other,
}

impl WriterKind {
    fn of(slice: &EndpointSlice) -> Self {
        match label_of(&slice.metadata, label::MANAGED_BY) {
            Some(MIRRORING_CONTROLLER) => Self::Mirroring,
            Some(ENDPOINT_SLICE_CONTROLLER) => Self::Selector,
            _ => Self::Other,
        }
    }

    /// Describes the problem and the command that fixes it. The caller appends the names of the slices.
    fn remedy(self, service: &ServiceKey) -> String {
        let (namespace, name) = (service.namespace(), service.name());
        match self {
            Self::Mirroring => format!(
                "Kubernetes mirrors the Endpoints object {service} into slices of this Service, which get traffic, and writes them again when they are deleted. Delete the object: kubectl delete endpoints {name} --namespace {namespace}; slices"
            ),
            Self::Selector => format!(
                "Kubernetes wrote slices while this Service had a selector. They still get traffic, and nothing removes them. Delete them: kubectl delete endpointslices --namespace {namespace} --selector {}={name},{}={ENDPOINT_SLICE_CONTROLLER}; slices",
                label::SERVICE_NAME,
                label::MANAGED_BY
            ),
            Self::Other => format!(
                "slices that are not copies get traffic of this Service. kubectl get endpointslices -n {namespace} -l {}={name} --show-managed-fields -o yaml shows their writers. Stop these, then kubectl delete endpointslices -n {namespace} these slices",
                label::SERVICE_NAME
            ),
        }
    }
}

/// Reports foreign slices, with one finding for each kind of writer.
pub(super) fn report(snapshot: &Snapshot, plan: &mut Plan) {
    let is_foreign = |slice: &&EndpointSlice| {
        slice.owner_of_copy().is_none()
            && !is_leftover(slice, &snapshot.key)
            && label_of(&slice.metadata, label::SERVICE_NAME) == Some(snapshot.key.name())
    };
    let foreign = snapshot.others.values().map(AsRef::as_ref).filter(is_foreign);
    let mut by_writer = BTreeMap::<_, Vec<_>>::new();
    for slice in foreign {
        by_writer
            .entry(WriterKind::of(slice))
            .or_default()
            .push(name_of(slice));
    }
    for (writer, slices) in by_writer {
        let remedy = writer.remedy(&snapshot.key);
        plan.find(Reason::ForeignSlices, format!("{remedy}: {}", a_few(&slices)));
    }
}

/// The name of a slice, followed by the manager that its label names, unless that is a known controller or this
/// operator.
fn name_of(slice: &EndpointSlice) -> String {
    let name = slice.key().name().to_owned();
    match label_of(&slice.metadata, label::MANAGED_BY) {
        Some(manager) if WriterKind::of(slice) == WriterKind::Other && !slice.is_labeled_as_copy() => {
            format!("{name} (managed by {manager})")
        }
        _ => name,
    }
}
