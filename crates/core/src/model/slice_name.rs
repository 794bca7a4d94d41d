//! The names that Kubernetes gives to the slices of a Service: `<service>-`, truncated to 58 characters, and 5 random
//! characters. API servers give their own slice the name of its Service.

use super::{ServiceKey, SliceKey, is_dns_label};

/// The maximum length of the part of a name that comes from the Service, including the dash.
const MAX_STEM: usize = 58;

/// The number of random characters.
const RANDOM: usize = 5;

/// The characters from which Kubernetes chooses the random ones (`k8s.io/apimachinery/pkg/util/rand`).
const RANDOM_CHARACTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Whether the name of a slice is the name of a Service, or `<service>-`, possibly truncated, followed by ASCII letters
/// or digits.
#[must_use]
pub fn is_named_after(slice: &str, service: &str) -> bool {
    let stem = format!("{service}-");
    let stem = stem.get(..MAX_STEM).unwrap_or(&stem);
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|c| c.is_ascii_alphanumeric());
    slice == service || slice.strip_prefix(stem).is_some_and(is_word)
}

/// The Services after which a slice might be named. A Service whose `<service>-` was truncated is not returned, because
/// the name of the slice does not show where the Service's name ends.
#[must_use]
pub fn named_after(slice: &SliceKey) -> Vec<ServiceKey> {
    // Without this check, a forged copy of a slice `app-admin` would reveal whether a Service `app-admin` exists, if a
    // Service `app` gives consent.
    let is_random = |word: &str| word.len() == RANDOM && word.bytes().all(|c| RANDOM_CHARACTERS.contains(&c));
    let split = slice.name().rsplit_once('-').filter(|(_, word)| is_random(word));
    std::iter::once(slice.name())
        .chain(split.map(|(stem, _)| stem))
        .filter(|name| is_dns_label(name))
        .map(|name| ServiceKey::new(slice.namespace(), name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_after_leaves_out_services_whose_names_were_cut() {
        let long = "a".repeat(57);
        let after = |slice: &str| -> Vec<_> {
            let services = named_after(&SliceKey::new("web", slice));
            services.iter().map(|service| service.name().to_owned()).collect()
        };
        let cut = format!("{}-cdx7k2p", "a".repeat(55));
        for (slice, expected) in [
            ("app", vec!["app"]),
            ("app-x7k2p", vec!["app-x7k2p", "app"]),
            ("app-admin", vec!["app-admin"]),
            (&format!("{long}-x7k2p"), vec![&format!("{long}-x7k2p"), &long]),
            (&cut, vec![&cut]),
        ] {
            assert_eq!(after(slice), expected, "{slice}");
            let last = expected.last().expect("a Service");
            assert!(is_named_after(slice, last), "{slice}");
        }
        assert!(is_named_after(&cut, &format!("{}-cd-more", "a".repeat(55))));
    }
}
