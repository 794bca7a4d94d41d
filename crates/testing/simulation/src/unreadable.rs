//! Objects that no client can decode. The store holds them without the flaw, but with an annotation that names it. The
//! flaw is inserted on the way to a replica.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use testbed::{Store, Written};

use crate::objects::{SERVICES, SOURCES};
use crate::probe_steps::probe_lease;
use crate::slices::{Key, MANAGED_BY, SERVICE_NAME, US, annotation, is_ours, key, label};

/// The annotation that names the flaw.
const FLAW: &str = "simulate/flaw";

/// A flaw of an object on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Fields that the operator reads have the wrong type.
    Fields,
    /// Lists have entries that are null.
    Entries,
    /// The annotations are not a map.
    Annotations,
    /// The labels are not a map.
    Labels,
    /// Lists without entries are null, and fields that no client reads have the wrong type. Such an object is readable.
    Harmless,
}

impl Flaw {
    /// All flaws.
    pub const ALL: [Self; 5] = [
        Self::Fields,
        Self::Entries,
        Self::Annotations,
        Self::Labels,
        Self::Harmless,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Fields => "fields",
            Self::Entries => "entries",
            Self::Annotations => "annotations",
            Self::Labels => "labels",
            Self::Harmless => "harmless",
        }
    }

    /// The flaw that an object of the store has on the wire.
    pub fn of(object: &Value) -> Option<Self> {
        let name = annotation(object, FLAW)?;
        Self::ALL.into_iter().find(|flaw| flaw.name() == name)
    }

    fn put_into(self, object: &mut Value) {
        let is_service = object.get("spec").is_some();
        // In a list that contains only metadata, nothing else can have a flaw.
        let is_whole = is_service || object.get("addressType").is_some();
        match self {
            Self::Fields | Self::Entries if !is_whole => {}
            Self::Fields if is_service => object["spec"] = json!(7),
            Self::Fields => (object["addressType"], object["endpoints"]) = (json!(4), json!({})),
            Self::Entries if is_service => object["spec"]["ports"] = json!([null]),
            Self::Entries => object["endpoints"] = json!([null]),
            Self::Annotations => object["metadata"]["annotations"] = json!([FLAW]),
            Self::Labels => object["metadata"]["labels"] = json!(3),
            Self::Harmless => {
                let metadata = &mut object["metadata"];
                metadata["managedFields"] = json!([null, {"time": "9999-12-31T23:59:59Z", "fieldsV1": 8}]);
                metadata["creationTimestamp"] = json!(true);
                metadata["finalizers"] = Value::Null;
                for list in ["endpoints", "ports"] {
                    if object
                        .get(list)
                        .is_some_and(|it| it.as_array().is_none_or(Vec::is_empty))
                    {
                        object[list] = Value::Null;
                    }
                }
            }
        }
    }
}

/// Whether no client can decode an object of the store.
pub fn is_unreadable(object: &Value) -> bool {
    Flaw::of(object).is_some_and(|flaw| flaw != Flaw::Harmless)
}

/// Whether a client must assume that an unreadable slice might belong to a Service.
pub fn may_belong(slice: &Value, service: &str) -> bool {
    is_unreadable(slice)
        && (Flaw::of(slice) == Some(Flaw::Labels) || label(slice, SERVICE_NAME) == Some(service))
}

/// Inserts the flaws into a response, or into some lines of a watch.
pub fn spoiled(bytes: Bytes) -> Bytes {
    if !bytes.windows(FLAW.len()).any(|window| window == FLAW.as_bytes()) {
        return bytes;
    }
    let mut spoiled = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match serde_json::from_slice::<Value>(line) {
            Ok(mut answer) => {
                objects_of(&mut answer, |object| {
                    if let Some(flaw) = Flaw::of(object) {
                        flaw.put_into(object);
                    }
                });
                spoiled.extend_from_slice(as_sent(&answer).as_bytes());
                spoiled.push(b'\n');
            }
            Err(_) => spoiled.extend_from_slice(line),
        }
    }
    spoiled.into()
}

/// The text of a response. As in the response of an API server, the type of an event comes before its object. In the
/// opposite order, no client could decode the object on its own.
fn as_sent(answer: &Value) -> String {
    match (answer.get("type"), answer.get("object")) {
        (Some(kind), Some(object)) => format!(r#"{{"type":{kind},"object":{object}}}"#),
        _ => answer.to_string(),
    }
}

/// Calls `look` with each object of a response: the items of a list, the object of an event, or the response itself.
pub fn objects_of(answer: &mut Value, mut look: impl FnMut(&mut Value)) {
    if let Some(items) = answer.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(look);
    } else if answer.get("type").is_some_and(Value::is_string) && answer.get("object").is_some() {
        look(&mut answer["object"]);
    } else {
        look(answer);
    }
}

/// Adds a flaw to a Service, a slice of a source or a copy. An unreadable slice of a source also loses its last
/// endpoint, unless that is the only one. Returns the name under which the change is counted.
pub fn spoil(store: &Store, pick: usize, flaw: Flaw) -> Option<&'static str> {
    let (resource, object) = one_of(store, pick, |_| true)?;
    let (namespace, name) = key(&object);
    let mut patch = json!({"metadata": {"annotations": {FLAW: flaw.name()}}});
    let what = match resource {
        _ if flaw == Flaw::Harmless => "object with harmless flaws",
        "services" => "Service unreadable",
        _ if is_ours(&object) => "copy unreadable",
        _ => {
            let mut endpoints = object["endpoints"].as_array().cloned().unwrap_or_default();
            endpoints.truncate(endpoints.len().max(2) - 1);
            patch["endpoints"] = json!(endpoints);
            "source slice unreadable"
        }
    };
    store.patch(resource, &namespace, &name, patch).ok()?;
    Some(what)
}

/// Removes the flaw from one of the objects that have a flaw. Returns the name under which the change is counted.
pub fn restore(store: &Store, pick: usize) -> Option<&'static str> {
    let (resource, object) = one_of(store, pick, |object| Flaw::of(object).is_some())?;
    let (namespace, name) = key(&object);
    let patch = json!({"metadata": {"annotations": {FLAW: null}}});
    store.patch(resource, &namespace, &name, patch).ok()?;
    Some("unreadable object readable again")
}

/// Deletes one of the unreadable objects. Returns the name under which the change is counted.
pub fn delete(store: &Store, pick: usize) -> Option<&'static str> {
    let (resource, object) = one_of(store, pick, is_unreadable)?;
    let (namespace, name) = key(&object);
    store.delete(resource, &namespace, &name).ok()?;
    Some("unreadable object deleted")
}

/// A Service, a slice of a source or a copy. Each kind is equally likely if there are objects of every kind.
fn one_of(store: &Store, pick: usize, is_meant: impl Fn(&Value) -> bool) -> Option<(&'static str, Value)> {
    let is_known = |object: &Value| {
        let (namespace, name) = key(object);
        let place = (namespace.as_str(), name.as_str());
        SERVICES[1..].contains(&place) || SOURCES[1..].contains(&place)
    };
    let is_source = |slice: &Value| {
        label(slice, MANAGED_BY) != Some(US)
            && SOURCES.iter().any(|(namespace, name)| {
                key(slice).0 == *namespace && label(slice, SERVICE_NAME) == Some(name)
            })
    };
    let (mut services, slices) = (store.list("services", None), store.list("endpointslices", None));
    services.retain(|service| is_known(service) && is_meant(service));
    let (copies, others): (Vec<_>, Vec<_>) = slices.into_iter().filter(|it| is_meant(it)).partition(is_ours);
    let sources: Vec<_> = others.into_iter().filter(is_source).collect();
    let mut kinds = [
        ("services", services),
        ("endpointslices", sources),
        ("endpointslices", copies),
    ];
    kinds.rotate_left(pick % 3);
    let (resource, mut objects) = kinds.into_iter().find(|(_, objects)| !objects.is_empty())?;
    let at = pick / 3 % objects.len();
    Some((resource, objects.swap_remove(at)))
}

/// A resource and one of its objects.
pub type Place = (&'static str, Key);

/// When objects became unreadable, and when Services last changed.
#[derive(Debug, Default)]
pub struct Episodes {
    /// The first version at which an object was unreadable.
    unreadable: BTreeMap<Place, u64>,
    /// When a Service last changed.
    changed: BTreeMap<Key, Duration>,
}

impl Episodes {
    /// Records a write.
    pub fn written(&mut self, now: Duration, written: &Written) {
        let key = (written.namespace.clone(), written.name.clone());
        if written.resource == "services" {
            self.changed.insert(key.clone(), now);
        }
        let place = (written.resource, key);
        if written.new.as_deref().is_some_and(is_unreadable) {
            self.unreadable.entry(place).or_insert(written.revision);
        } else {
            self.unreadable.remove(&place);
        }
    }

    /// Records that etcd was restored from a backup, which makes earlier versions meaningless.
    pub fn restored(&mut self, now: Duration, store: &Store) {
        self.unreadable.clear();
        for resource in ["services", "endpointslices"] {
            for object in store.list(resource, None) {
                if resource == "services" {
                    self.changed.insert(key(&object), now);
                }
                if is_unreadable(&object) {
                    self.unreadable.insert((resource, key(&object)), 0);
                }
            }
        }
    }

    /// The version at which an object became unreadable, if it has been unreadable ever since.
    pub fn unreadable_since(&self, place: &Place) -> Option<u64> {
        self.unreadable.get(place).copied()
    }

    /// When a Service last changed.
    pub fn changed(&self, service: &Key) -> Duration {
        self.changed.get(service).copied().unwrap_or_default()
    }
}

/// Makes a Node undecodable.
pub fn spoil_node(store: &Store, name: &str, flaw: Flaw) -> Option<Value> {
    let patch = json!({"metadata": {"annotations": {FLAW: flaw.name()}}});
    store.patch("nodes", "", name, patch).ok()
}

/// Makes a Node decodable again.
pub fn restore_node(store: &Store, name: &str) -> Option<Value> {
    let patch = json!({"metadata": {"annotations": {FLAW: null}}});
    store.patch("nodes", "", name, patch).ok()
}

/// Makes the probe Lease undecodable.
pub fn spoil_probe_lease(store: &Store, flaw: Flaw) -> Option<Value> {
    let (namespace, name) = probe_lease();
    let patch = json!({"metadata": {"annotations": {FLAW: flaw.name()}}});
    store.patch("leases", namespace, &name, patch).ok()
}

/// Makes the probe Lease decodable again.
pub fn restore_probe_lease(store: &Store) -> Option<Value> {
    let (namespace, name) = probe_lease();
    let patch = json!({"metadata": {"annotations": {FLAW: null}}});
    store.patch("leases", namespace, &name, patch).ok()
}
