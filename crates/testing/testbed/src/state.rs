//! The objects, the resourceVersion counter, and the history. The code here neither uses HTTP nor waits.

use crate::{
    clock::Clock,
    history::{Change, Compacted, History, Key, Objects},
    kinds::{KINDS, Kind, Storage},
    object::{self, array},
};
use serde_json::{Value, json};
use std::{hash::BuildHasher, sync::Arc};

/// The default number of changes that are remembered.
const HISTORY: usize = 10_000;
/// Namespaces that every cluster has.
const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

/// The whole state of a store.
#[derive(Debug)]
pub struct State {
    /// The resourceVersion of the last write.
    pub revision: u64,
    /// The current objects.
    pub objects: Objects,
    /// The changes so far.
    pub history: History,
    /// The source of timestamps.
    pub clock: Clock,
    /// Whether the garbage collector may have work.
    pub garbage: bool,
    /// Whether EndpointSlices may list loopback addresses.
    pub loopback: bool,
    /// Whether ReferenceGrants are served.
    pub has_grants: bool,
    ids: u64,
}

impl State {
    /// A cluster with its initial namespaces. UIDs and generated names follow from the seed. Without a seed, they are
    /// random.
    #[must_use]
    pub fn new(seed: Option<u64>) -> Self {
        let ids = seed.unwrap_or_else(|| std::hash::RandomState::new().hash_one("ids"));
        let (history, clock) = (History::new(HISTORY), Clock::new());
        let mut state = Self {
            revision: 0,
            objects: Objects::new(),
            history,
            clock,
            garbage: false,
            loopback: false,
            has_grants: false,
            ids,
        };
        for name in NAMESPACES {
            let mut namespace = json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            });
            namespace["metadata"]["uid"] = state.new_uid().into();
            namespace["metadata"]["creationTimestamp"] = state.clock.seconds().into();
            let key = Key {
                storage: Storage::Namespace,
                namespace: String::new(),
                name: (*name).to_owned(),
            };
            state.commit(key, Some(namespace));
        }
        state
    }

    /// The key of an object.
    #[must_use]
    pub fn key(kind: &Kind, namespace: &str, name: &str) -> Key {
        let namespace = if kind.namespaced {
            namespace.to_owned()
        } else {
            String::new()
        };
        Key {
            storage: kind.storage,
            namespace,
            name: name.to_owned(),
        }
    }

    /// The object with a key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// The objects at an earlier resourceVersion.
    ///
    /// # Errors
    ///
    /// If the version is older than the history.
    pub fn at(&self, revision: u64) -> Result<Objects, Compacted> {
        self.history.at(revision, &self.objects)
    }

    /// Restores the state at an earlier resourceVersion and drops all later changes. UIDs are not reused.
    ///
    /// # Errors
    ///
    /// If the version is older than the history.
    pub fn rewind(&mut self, revision: u64) -> Result<(), Compacted> {
        self.objects = self.at(revision)?;
        self.history.undo(revision);
        self.revision = self.revision.min(revision);
        self.garbage = true;
        Ok(())
    }

    /// Writes or removes an object and increments the resourceVersion. Returns the written object, or the removed one
    /// with the resourceVersion of its removal.
    pub fn commit(&mut self, key: Key, new: Option<Value>) -> Arc<Value> {
        self.revision += 1;
        let stamp = |mut object: Value| {
            object::set_meta(
                &mut object,
                "resourceVersion",
                Some(self.revision.to_string().into()),
            );
            Arc::new(object)
        };
        let new = new.map(stamp);
        let old = match &new {
            Some(new) => self.objects.insert(key.clone(), Arc::clone(new)),
            None => self.objects.remove(&key),
        };
        let last = old.as_deref().cloned().map(stamp);
        self.garbage |= new
            .as_deref()
            .is_none_or(|o| object::is_terminating(o) || !self.has_living_owners(&key.namespace, o));
        self.history.push(Change {
            revision: self.revision,
            key,
            old,
            new: new.clone(),
        });
        new.or(last).unwrap_or_default()
    }

    /// Whether all owners of an object exist and are not being deleted. A collection reads all objects, so it must not
    /// follow each write of an object that has owners.
    fn has_living_owners(&self, namespace: &str, object: &Value) -> bool {
        let owners = array(&object["metadata"]["ownerReferences"]);
        owners.iter().all(|reference| {
            let field = |name: &str| reference[name].as_str().unwrap_or_default();
            let kind = KINDS.iter().find(|kind| kind.kind == field("kind"));
            let owner = kind.and_then(|kind| {
                let namespace = if kind.namespaced { namespace } else { "" };
                self.objects.get(&Key {
                    storage: kind.storage,
                    namespace: namespace.to_owned(),
                    name: field("name").to_owned(),
                })
            });
            owner.is_some_and(|owner| object::uid(owner) == field("uid") && !object::is_terminating(owner))
        })
    }

    /// A new UID.
    pub fn new_uid(&mut self) -> String {
        let (a, b) = (self.random(), self.random());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xfff,
            0x8000 | ((b >> 48) & 0x3fff),
            b & 0xffff_ffff_ffff
        )
    }

    /// The five characters after a `generateName`, from the alphabet that Kubernetes uses, which has no vowels.
    pub fn name_suffix(&mut self) -> String {
        const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut number = self.random();
        let mut suffix = String::new();
        for _ in 0..5 {
            let at = usize::try_from(number % ALPHABET.len() as u64).unwrap_or(0);
            suffix.push(char::from(ALPHABET[at]));
            number /= ALPHABET.len() as u64;
        }
        suffix
    }

    /// A pseudorandom number (SplitMix64), which is reproducible from a seed.
    fn random(&mut self) -> u64 {
        self.ids = self.ids.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.ids;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The objects of one kind, in one namespace or in all namespaces.
pub fn select<'a>(
    objects: &'a Objects,
    storage: Storage,
    namespace: Option<&'a str>,
) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
    let first = Key {
        storage,
        namespace: namespace.unwrap_or_default().to_owned(),
        name: String::new(),
    };
    objects
        .range(first..)
        .take_while(move |(k, _)| k.storage == storage && namespace.is_none_or(|n| k.namespace == n))
}
