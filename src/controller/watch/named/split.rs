//! Splits names into sets that fit into selectors.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

/// The maximum number of bytes of names in one selector. `http::Uri` accepts 64 KiB, and the rest of the URL is short.
/// An encoded comma takes three bytes.
pub(in crate::controller::watch) const SELECTOR_BYTES: usize = 48 * 1024;

/// The number of bytes that a name takes in a selector.
pub(super) fn bytes_of(name: &str) -> usize {
    name.len() + "%2C".len()
}

/// Returns the number of bytes that names take in a selector.
pub(super) fn selector_bytes<'a>(names: impl IntoIterator<Item = &'a String>) -> usize {
    names.into_iter().map(|name| bytes_of(name)).sum()
}

/// Splits names into sets that each take at most `longest` bytes in a selector. A set that is too long is divided by
/// the next bit of the names' hashes, so a new name changes only its own set.
pub(in crate::controller::watch) fn split(names: &BTreeSet<String>, longest: usize) -> Vec<BTreeSet<String>> {
    let mut hashed: Vec<_> = names.iter().map(|name| (hash(name), name.as_str())).collect();
    hashed.sort_unstable();
    let mut shards = Vec::new();
    halve(&hashed, 1 << (u64::BITS - 1), longest, &mut shards);
    shards
}

fn halve(names: &[(u64, &str)], bit: u64, longest: usize, shards: &mut Vec<BTreeSet<String>>) {
    let length: usize = names.iter().map(|(_, name)| bytes_of(name)).sum();
    // The bits would run out only for hundreds of names with the same hash.
    if length > longest && bit > 0 {
        let (low, high) = names.split_at(names.partition_point(|(hash, _)| hash & bit == 0));
        halve(low, bit >> 1, longest, shards);
        halve(high, bit >> 1, longest, shards);
    } else if !names.is_empty() {
        shards.push(names.iter().map(|&(_, name)| name.to_owned()).collect());
    }
}

/// Computes a part of the SHA-256 of a name, so that no user can find many names that always end up in the same set.
/// Every replica computes the same value.
fn hash(name: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(name).into();
    digest
        .iter()
        .take(8)
        .fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::watch::named_selector;

    fn names(count: usize) -> BTreeSet<String> {
        (0..count).map(|n| format!("{n:0>63}")).collect()
    }

    /// Rule: survive.selector-length, survive.selector-merged
    #[test]
    fn names_are_split_where_a_selector_would_get_too_long() {
        assert!(split(&names(0), SELECTOR_BYTES).is_empty());
        assert_eq!(split(&names(500), SELECTOR_BYTES).len(), 1);
        let shards = split(&names(2000), SELECTOR_BYTES);
        assert_eq!(shards.len(), 4);
        assert_eq!(shards.iter().map(BTreeSet::len).sum::<usize>(), 2000);
        for shard in shards {
            let selector = named_selector(&shard);
            let encoded: usize = selector
                .bytes()
                .map(|c| if c.is_ascii_alphanumeric() { 1 } else { 3 })
                .sum();
            assert!(encoded < 60 * 1024, "{encoded}");
        }
    }

    /// Rule: survive.selector-merged
    #[test]
    fn a_new_name_changes_only_one_set_of_names() {
        let mut all = names(2000);
        let mut before = split(&all, SELECTOR_BYTES);
        for number in 0..500 {
            all.insert(format!("new-{number}"));
            let after = split(&all, SELECTOR_BYTES);
            let changed = before.iter().filter(|shard| !after.contains(shard)).count();
            assert_eq!(changed, 1, "by name {number}");
            before = after;
        }
    }
}
