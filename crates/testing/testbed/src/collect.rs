//! The work of the controller manager: garbage collection by ownerReferences, and emptying namespaces that are being
//! deleted. A kube-apiserver alone does neither.

use crate::{
    history::Key,
    kinds::{KINDS, Kind, Storage},
    object::{self, array},
    state::State,
    writes::DeleteOptions,
};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

impl State {
    /// Deletes objects whose owners no longer exist, finishes deletions that wait for dependents, and empties
    /// namespaces that are being deleted, until nothing changes.
    pub fn collect(&mut self) {
        // Each round removes or frees at least one object, so the loop ends even if two owners own each other.
        for _ in 0..=self.objects.len() {
            let before = self.revision;
            self.collect_dependents();
            self.finish_owners();
            self.empty_namespaces();
            if self.revision == before {
                break;
            }
        }
        self.garbage = false;
    }

    fn everything(&self) -> Vec<(Key, Arc<Value>)> {
        self.objects
            .iter()
            .map(|(k, o)| (k.clone(), Arc::clone(o)))
            .collect()
    }

    fn collect_dependents(&mut self) {
        let all = self.everything();
        // An owner must exist in the namespace of the dependent, or be cluster-scoped.
        let owners: HashMap<&str, (&str, bool)> = all
            .iter()
            .map(|(k, o)| (object::uid(o), (k.namespace.as_str(), waits_for_dependents(o))))
            .collect();
        let orphaned: HashSet<&str> = all
            .iter()
            .filter(|(_, o)| orphans(o))
            .map(|(_, o)| object::uid(o))
            .collect();
        for (key, dependent) in &all {
            let references = array(&dependent["metadata"]["ownerReferences"]);
            if references.is_empty() {
                continue;
            }
            let alive = |reference: &Value| {
                let uid = reference["uid"].as_str().unwrap_or_default();
                owners
                    .get(uid)
                    .filter(|(ns, _)| ns.is_empty() || *ns == key.namespace)
                    .map(|(_, waits)| *waits)
            };
            let (solid, other): (Vec<&Value>, Vec<&Value>) =
                references.iter().partition(|r| alive(r) == Some(false));
            let is_orphaned = |r: &Value| r["uid"].as_str().is_some_and(|uid| orphaned.contains(uid));
            if solid.is_empty() {
                self.remove(key);
            } else if !other.is_empty() || solid.iter().any(|r| is_orphaned(r)) {
                let kept: Vec<&Value> = solid.into_iter().filter(|r| !is_orphaned(r)).collect();
                let mut freed = (**dependent).clone();
                let kept = (!kept.is_empty()).then(|| json!(kept));
                object::set_meta(&mut freed, "ownerReferences", kept);
                self.commit(key.clone(), Some(freed));
            }
        }
    }

    /// Removes the garbage collector's finalizers from owners that are being deleted and that no object refers to. An
    /// owner without other finalizers is removed too, except a Namespace.
    fn finish_owners(&mut self) {
        let all = self.everything();
        let owned: HashSet<&str> = all.iter().flat_map(|(_, o)| object::owners(o)).collect();
        for (key, owner) in &all {
            if (waits_for_dependents(owner) || orphans(owner)) && !owned.contains(object::uid(owner)) {
                let left: Vec<&str> = object::finalizers(owner)
                    .into_iter()
                    .filter(|f| *f != "foregroundDeletion" && *f != "orphan")
                    .collect();
                let mut freed = (**owner).clone();
                let gone = left.is_empty() && key.storage != Storage::Namespace;
                object::set_meta(&mut freed, "finalizers", (!left.is_empty()).then(|| json!(left)));
                self.commit(key.clone(), (!gone).then_some(freed));
            }
        }
    }

    fn empty_namespaces(&mut self) {
        for (key, namespace) in self.everything() {
            if key.storage != Storage::Namespace || !object::is_terminating(&namespace) {
                continue;
            }
            let content: Vec<Key> = self
                .objects
                .keys()
                .filter(|k| k.namespace == key.name)
                .cloned()
                .collect();
            for key in &content {
                self.remove(key);
            }
            let empty = !self.objects.keys().any(|k| k.namespace == key.name);
            if empty && object::finalizers(&namespace).is_empty() {
                self.commit(key, None);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        let terminating = self.get(key).is_some_and(|o| object::is_terminating(o));
        if let Some(kind) = kind_of(key).filter(|_| !terminating) {
            // The only possible error is that the object is already gone.
            let _ = self.delete(kind, &key.namespace, &key.name, &DeleteOptions::default());
        }
    }
}

fn kind_of(key: &Key) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.storage == key.storage)
}

fn waits_for_dependents(owner: &Value) -> bool {
    object::is_terminating(owner) && object::finalizers(owner).contains(&"foregroundDeletion")
}

fn orphans(owner: &Value) -> bool {
    object::is_terminating(owner) && object::finalizers(owner).contains(&"orphan")
}
