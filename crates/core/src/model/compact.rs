//! Compact representations of objects, because the index holds thousands of them.
//!
//! A `BTreeMap<String, String>` takes 544 bytes for its first entry, and a `Vec` that a decoder filled can have room
//! for twice as many elements as it holds.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use litemap::LiteMap;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::{label, provenance};

/// Labels or annotations, sorted by key. Keys that are common on slices need no allocation.
pub type StringMap = LiteMap<Cow<'static, str>, Box<str>>;

/// The keys that are decoded without an allocation.
const KEYS: [&str; 9] = [
    label::SERVICE_NAME,
    label::MANAGED_BY,
    label::SOURCE,
    label::HEADLESS,
    provenance::NAMESPACE,
    provenance::SLICE,
    provenance::UID,
    provenance::RESOURCE_VERSION,
    provenance::TRIGGER_TIME,
];

fn key(key: Cow<'_, str>) -> Cow<'static, str> {
    match KEYS.into_iter().find(|known| *known == key) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(key.into_owned()),
    }
}

/// Decodes a list without spare capacity.
pub(super) fn list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let mut list = Option::<Vec<T>>::deserialize(deserializer)?;
    if let Some(list) = &mut list {
        list.shrink_to_fit();
    }
    Ok(list)
}

/// Decodes a time as Unix time in seconds. A value that is not a time gives `None`, not an error.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(match Time::deserialize(deserializer)? {
        Time::Text(text) => unix_seconds(&text),
        Time::Other(_) => None,
    })
}

/// Parses a time in the format of the API. Returns `None` if the text is not a time, or if the time is later than the
/// latest [`Timestamp`], which is December 30, 9999, 22:00 UTC.
pub(super) fn unix_seconds(time: &str) -> Option<i64> {
    time.parse().ok().map(Timestamp::as_second)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Time<'a> {
    #[serde(borrow)]
    Text(Cow<'a, str>),
    Other(IgnoredAny),
}

/// For `#[serde(with)]`, because an empty `LiteMap` would otherwise be serialized as a sequence.
pub(super) mod string_map {
    use serde::Serializer;

    use super::{BTreeMap, Cow, Deserialize as _, Deserializer, StringMap, key};

    #[allow(clippy::ref_option, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(map: &Option<StringMap>, serializer: S) -> Result<S::Ok, S::Error> {
        match map {
            Some(map) => serializer.collect_map(map.iter()),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<StringMap>, D::Error> {
        let map = Option::<BTreeMap<Cow<'de, str>, Box<str>>>::deserialize(deserializer)?;
        let entries = map.map(|map| map.into_iter().map(|(name, value)| (key(name), value)));
        Ok(entries.map(Iterator::collect))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::model::ObjectMeta;

    #[test]
    fn a_creation_time_is_read_leniently_and_never_sent() {
        for (given, created) in [
            (json!("1970-01-01T00:01:00Z"), Some(60)),
            (json!("9999-12-31T23:59:59Z"), None),
            (json!("yesterday"), None),
            (json!(7), None),
            (json!({"seconds": [7]}), None),
            (json!(null), None),
        ] {
            let text = json!({"name": "a", "creationTimestamp": given}).to_string();
            let metadata: ObjectMeta = serde_json::from_str(&text).unwrap();
            assert_eq!(metadata.created, created, "{given}");
            assert_eq!(serde_json::to_value(&metadata).unwrap(), json!({"name": "a"}));
        }
    }

    /// Rule: survive.memory
    #[test]
    fn labels_and_annotations_round_trip_unchanged() {
        for given in [
            json!({"labels": {}, "annotations": {}}),
            json!({"labels": {"b": "1", "a": "2", "kubernetes.io/service-name": "x"}}),
            json!({"annotations": {"a\nb": "\u{1}", "endpoint-copier/source-uid": "u"}}),
        ] {
            let metadata: ObjectMeta = serde_json::from_str(&given.to_string()).unwrap();
            assert_eq!(serde_json::to_value(&metadata).unwrap(), given);
        }
        let null: ObjectMeta = serde_json::from_value(json!({"labels": null})).unwrap();
        assert_eq!(null, ObjectMeta::default());
    }
}
