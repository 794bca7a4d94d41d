//! The names of copies: `<service>-<10 base32 characters>`.

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

use super::{EndpointSlice, Family, ServiceKey, SliceKey};

/// The number of hash characters in a name.
const HASH_LENGTH: usize = 10;

/// The name of the copy of a source slice. The hash distinguishes slices by namespace, name and address type. Its input
/// is unambiguous, because no part of it contains `/`.
#[must_use]
pub fn copy_name(service: &str, source: &EndpointSlice) -> String {
    name_of_copy(service, &source.key(), &source.address_type)
}

/// The name of a source slice's copy in this family. If the slice is of the other family, the addresses of the copy
/// come from Nodes.
#[must_use]
pub fn copy_name_in(service: &str, source: &EndpointSlice, family: Family) -> String {
    name_of_copy(service, &source.key(), family.as_str())
}

/// The name of the copy of the source slice with this key and address type.
pub(super) fn name_of_copy(service: &str, source: &SliceKey, address_type: &str) -> String {
    format!("{service}-{}", short_hash(&format!("{source}/{address_type}")))
}

/// The first characters of the hash of a text, in an alphabet that is valid in names.
pub(crate) fn short_hash(text: &str) -> String {
    BASE32_NOPAD.encode(&Sha256::digest(text))[..HASH_LENGTH].to_ascii_lowercase()
}

/// The Service for which a slice with this name would be a copy, or `None` if this cannot be the name of a copy. Any
/// slice with the name of a copy can block that copy.
#[must_use]
pub fn service_of_copy_name(slice: &SliceKey) -> Option<ServiceKey> {
    let (service, hash) = slice.name().rsplit_once('-')?;
    let is_base32 = |c: u8| matches!(c, b'a'..=b'z' | b'2'..=b'7');
    (hash.len() == HASH_LENGTH && hash.bytes().all(is_base32))
        .then(|| ServiceKey::new(slice.namespace(), service))
}
