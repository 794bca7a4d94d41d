//! Makes a copy of one source slice for one managed Service, and compares it with an existing slice. [`copy_name`]
//! makes the name of the copy.

use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointPort};

use crate::model::{
    Endpoint, EndpointSlice, Kept, MANAGED_BY_US, ManagedService, ObjectMeta, OwnerReference, SliceKey,
    StringMap, annotation_of, copy_name, label, label_of, ports::protocol, provenance, version,
};

/// Annotations that belong to the content of a copy. The annotation with the source slice's resourceVersion is not one
/// of them, so a source update that changes nothing else causes no write.
const CONTENT_ANNOTATIONS: [&str; 4] = [
    provenance::NAMESPACE,
    provenance::SLICE,
    provenance::UID,
    provenance::UNREACHABLE,
];

fn copy_endpoint(service: &ManagedService, endpoint: &Endpoint) -> Endpoint {
    // This pattern has no `..`, so that a new field of `Endpoint` requires a decision here.
    let Endpoint {
        addresses,
        conditions,
        hints,
        hostname,
        node_name,
        target_ref,
        zone,
    } = endpoint;
    let conditions = conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    Endpoint {
        addresses: addresses.clone(),
        // kube-vip and ServiceLB read an absent condition as false.
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(conditions.and_then(|c| c.serving).unwrap_or(ready)),
            terminating: Some(conditions.and_then(|c| c.terminating).unwrap_or(false)),
        }),
        hints: hints.clone().filter(|_| service.wants_hints),
        hostname: hostname.clone(),
        node_name: node_name.clone(),
        // A reference to an object in another namespace means nothing to readers of the copy.
        target_ref: target_ref
            .clone()
            .filter(|target| target.is_for(service.key.namespace())),
        zone: zone.clone(),
    }
}

/// The key of the copy of a source slice.
#[must_use]
pub fn key(service: &ManagedService, source: &EndpointSlice) -> SliceKey {
    SliceKey::new(service.key.namespace(), copy_name(service.key.name(), source))
}

/// A copy of a source slice.
#[must_use]
pub fn fresh(service: &ManagedService, source: &EndpointSlice, ports: Vec<EndpointPort>) -> EndpointSlice {
    let name = copy_name(service.key.name(), source);
    copy_of(service, source, name, annotations(&source.metadata), ports)
}

/// A held copy: its endpoints stay, and everything else in it follows the Service. If the source slice still exists,
/// the provenance annotations name that slice. If not, the provenance annotations of the existing copy stay.
#[must_use]
pub fn held(
    service: &ManagedService,
    current: &EndpointSlice,
    slice: Option<&EndpointSlice>,
    ports: Vec<EndpointPort>,
) -> EndpointSlice {
    let name = current.metadata.name.clone().unwrap_or_default();
    let mut annotations = match slice {
        Some(slice) => annotations(&slice.metadata),
        None => current.metadata.annotations.clone().unwrap_or_default(),
    };
    let stays = [
        provenance::NAMESPACE,
        provenance::SLICE,
        provenance::UID,
        provenance::RESOURCE_VERSION,
    ];
    annotations.retain(|key, _| stays.contains(&key.as_ref()));
    copy_of(service, &current.restored(), name, annotations, ports)
}

/// A copy with the endpoints of `shown`. `annotations` name the source slice of the copy.
fn copy_of(
    service: &ManagedService,
    shown: &EndpointSlice,
    name: String,
    annotations: StringMap,
    ports: Vec<EndpointPort>,
) -> EndpointSlice {
    let source_slice = annotations.get(provenance::SLICE).map_or("", AsRef::as_ref);
    let endpoints = shown.endpoints.iter().flatten();
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(service.key.namespace().to_owned()),
            labels: Some(labels(service, source_slice)),
            annotations: Some(annotations),
            owner_references: Some(vec![owner(service)]),
            ..ObjectMeta::default()
        },
        address_type: shown.address_type.clone(),
        endpoints: Some(
            endpoints
                .map(|endpoint| copy_endpoint(service, endpoint))
                .collect(),
        ),
        ports: Some(ports),
        kept: Kept::Whole,
    }
}

fn labels(service: &ManagedService, source_slice: &str) -> StringMap {
    let mut labels = StringMap::from_iter([
        (label::SERVICE_NAME.into(), service.key.name().into()),
        (label::MANAGED_BY.into(), MANAGED_BY_US.into()),
    ]);
    // A label value has at most 63 characters, and the name of a slice at most 253. A name that is short enough is a
    // valid value.
    if source_slice.len() <= 63 {
        labels.insert(label::SOURCE.into(), source_slice.into());
    }
    if service.headless {
        labels.insert(label::HEADLESS.into(), "".into());
    }
    labels
}

fn annotations(source: &ObjectMeta) -> StringMap {
    let text = |value: &Option<String>| value.as_deref().unwrap_or_default().into();
    let mut annotations = StringMap::from_iter([
        (provenance::NAMESPACE.into(), text(&source.namespace)),
        (provenance::SLICE.into(), text(&source.name)),
        (provenance::UID.into(), text(&source.uid)),
        (
            provenance::RESOURCE_VERSION.into(),
            text(&source.resource_version),
        ),
    ]);
    if let Some(time) = annotation_of(source, provenance::TRIGGER_TIME) {
        annotations.insert(provenance::TRIGGER_TIME.into(), time.into());
    }
    annotations
}

fn owner(service: &ManagedService) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: service.key.name().to_owned(),
        uid: service.uid.clone(),
        controller: Some(true),
        // Deleting the Service must not wait for its copies.
        block_owner_deletion: Some(false),
        ..OwnerReference::default()
    }
}

/// Whether both slices are the same for clients such as kube-proxy, which read some labels, the ports and the
/// endpoints.
#[must_use]
pub fn serves_alike(current: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let (is, should) = (&current.metadata, &wanted.metadata);
    [label::SERVICE_NAME, label::HEADLESS]
        .iter()
        .all(|key| label_of(is, key) == label_of(should, key))
        && same_ports(current.ports.as_deref(), wanted.ports.as_deref())
        && same_endpoints(current.endpoints.as_deref(), wanted.endpoints.as_deref())
}

/// Whether `current` has the metadata of `wanted`. If so, and if [`serves_alike`] returns true, no update is needed.
#[must_use]
pub fn same_metadata(current: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let (is, should) = (&current.metadata, &wanted.metadata);
    label::OF_COPIES
        .iter()
        .all(|key| label_of(is, key) == label_of(should, key))
        && CONTENT_ANNOTATIONS
            .iter()
            .all(|key| annotation_of(is, key) == annotation_of(should, key))
        && same_trigger_time(is, should)
        && same_version(is, should)
        && current.owner() == wanted.owner()
}

/// Whether the trigger times match. If the source slice has none, any time in the copy matches: it says when the copy
/// itself last changed, and is no reason for a write.
fn same_trigger_time(is: &ObjectMeta, should: &ObjectMeta) -> bool {
    let read = |metadata| annotation_of(metadata, provenance::TRIGGER_TIME);
    read(should).is_none() || read(is) == read(should)
}

/// Whether the source versions in both slices match. A number in `is` matches any version, because a new version of the
/// source can have the same content. Text that is not a number must be replaced, because it would disable the check for
/// copies of a newer version.
fn same_version(is: &ObjectMeta, should: &ObjectMeta) -> bool {
    let read = |metadata| annotation_of(metadata, provenance::RESOURCE_VERSION);
    version(read(is)).is_some() || read(is) == read(should)
}

/// Whether the ports are the same, in the same order. The API server stores an absent list and an empty list in the
/// same way.
fn same_ports(is: Option<&[EndpointPort]>, should: Option<&[EndpointPort]>) -> bool {
    let normal = |port: &EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        protocol: Some(protocol(port.protocol.as_deref()).to_owned()),
        ..port.clone()
    };
    let (is, should) = (is.unwrap_or_default(), should.unwrap_or_default());
    is.len() == should.len() && is.iter().map(normal).eq(should.iter().map(normal))
}

/// Whether the endpoints are the same, in any order.
fn same_endpoints(is: Option<&[Endpoint]>, should: Option<&[Endpoint]>) -> bool {
    let (is, should) = (is.unwrap_or_default(), should.unwrap_or_default());
    if is.len() != should.len() {
        return false;
    }
    // Only endpoints that differ from those at the same position need sorting. Most updates change one endpoint.
    let moved = is.iter().zip(should).filter(|(is, should)| is != should);
    let (mut is, mut should): (Vec<_>, Vec<_>) = moved.unzip();
    // The order uses all fields, because the endpoints of Pods that share the host network of a node can differ only in
    // `targetRef`.
    let order = |endpoint: &&Endpoint| format!("{endpoint:?}");
    is.sort_by_cached_key(order);
    should.sort_by_cached_key(order);
    is == should
}

/// The object to write over `current`: `wanted`, with the metadata that others added to `current`.
#[must_use]
pub fn over(current: &EndpointSlice, mut wanted: EndpointSlice) -> EndpointSlice {
    let ours = std::mem::replace(&mut wanted.metadata, current.metadata.clone());
    let metadata = &mut wanted.metadata;
    let labels = metadata.labels.get_or_insert_default();
    labels.retain(|key, _| !label::OF_COPIES.contains(&key.as_ref()));
    labels.extend(ours.labels.unwrap_or_default());
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.remove(provenance::TRIGGER_TIME);
    annotations.remove(provenance::UNREACHABLE);
    annotations.extend(ours.annotations.unwrap_or_default());
    let owners = metadata.owner_references.get_or_insert_default();
    // An object can have only one controller. This also removes our reference to an earlier Service of the same name.
    owners.retain(|owner| owner.controller != Some(true));
    owners.extend(ours.owner_references.unwrap_or_default());
    wanted
}

#[cfg(test)]
mod tests;
