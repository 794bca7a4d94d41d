//! Omits large parts of slices that nobody needs, because otherwise the authors of slices would decide how much memory
//! the index uses.

use serde::Serialize;

use crate::model::{
    EndpointCounts, EndpointSlice, Kept, OwnerReference, StringMap, annotation_of, label, label_of,
    provenance,
};

/// The size, in bytes of JSON, up to which a copy's metadata is kept whole. The operator itself writes less than half
/// of that.
const LARGEST_METADATA: usize = 4096;

/// The size, in bytes of JSON, up to which a slice's endpoints and ports are kept even if no plan needs them. The few
/// endpoints of an ordinary slice take less, so an ordinary slice is kept whole and needs no GET later.
const LARGEST_UNNEEDED: usize = 1024;

/// The length in bytes of the longest annotation value that the operator writes, with some margin.
const MAX_VALUE: usize = 1024;

/// The length of a time in bytes, with some margin.
const MAX_TIME: usize = 64;

/// The labels that are read from slices that are not copies.
const LABELS_OF_OTHERS: [&str; 3] = [label::SERVICE_NAME, label::MANAGED_BY, label::SOURCE];

/// The annotations that are read from copies.
const ANNOTATIONS_OF_COPIES: [&str; 6] = [
    provenance::NAMESPACE,
    provenance::SLICE,
    provenance::UID,
    provenance::RESOURCE_VERSION,
    provenance::TRIGGER_TIME,
    provenance::UNREACHABLE,
];

/// The slice as the index keeps it. `is_needed` says whether a plan can need the endpoints and ports of the slice.
pub(super) fn abridged(mut slice: EndpointSlice, is_needed: bool) -> EndpointSlice {
    if slice.owner_of_copy().is_none() {
        strip_other(&mut slice);
    } else if bytes(&slice.metadata) > LARGEST_METADATA {
        strip_copy(&mut slice);
        slice.kept = Kept::WithoutOthersMetadata;
    }
    if !is_needed && bytes(&(&slice.endpoints, &slice.ports)) > LARGEST_UNNEEDED {
        slice.kept = Kept::Outline(EndpointCounts::of([&slice]));
        (slice.endpoints, slice.ports) = (None, None);
    }
    slice
}

/// Removes the metadata of a slice that is not a copy, except for the few fields that are read.
fn strip_other(slice: &mut EndpointSlice) {
    let metadata = &slice.metadata;
    let time = annotation_of(metadata, provenance::TRIGGER_TIME).filter(|time| time.len() <= MAX_TIME);
    let time = time.map(|time| (provenance::TRIGGER_TIME.into(), time.into()));
    // Only the presence of an owner matters.
    let has_owners = metadata.owner_references.iter().flatten().next().is_some();
    let labels = labels(slice, &LABELS_OF_OTHERS);
    let metadata = &mut slice.metadata;
    metadata.labels = labels;
    metadata.annotations = metadata.annotations.is_some().then(|| time.into_iter().collect());
    metadata.owner_references = has_owners.then(|| vec![OwnerReference::default()]);
    metadata.finalizers = None;
}

/// Removes the metadata that others added to a copy, and empties values that are longer than any that the operator
/// writes.
fn strip_copy(slice: &mut EndpointSlice) {
    let read = |key: &&'static str| {
        Some((
            (*key).into(),
            possible(annotation_of(&slice.metadata, key)?).into(),
        ))
    };
    let annotations = ANNOTATIONS_OF_COPIES.iter().filter_map(read).collect();
    let owner = slice.owner().map(|owner| OwnerReference {
        uid: possible(&owner.uid).to_owned(),
        ..owner.clone()
    });
    let labels = labels(slice, &label::OF_COPIES);
    let metadata = &mut slice.metadata;
    metadata.labels = labels;
    metadata.annotations = Some(annotations);
    metadata.owner_references = owner.map(|owner| vec![owner]);
    metadata.finalizers = None;
}

/// The value or, if it is longer than any that the operator writes, an empty text, which is just as invalid.
fn possible(value: &str) -> &str {
    if value.len() > MAX_VALUE { "" } else { value }
}

/// The labels of a slice that have these keys, in a new map, because removing entries in place would not free their
/// memory.
fn labels(slice: &EndpointSlice, keys: &[&'static str]) -> Option<StringMap> {
    slice.metadata.labels.as_ref()?;
    let read = |key: &&'static str| Some(((*key).into(), label_of(&slice.metadata, key)?.into()));
    Some(keys.iter().filter_map(read).collect())
}

/// The size of a value in bytes of JSON.
fn bytes(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |json| json.len())
}
