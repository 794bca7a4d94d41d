//! The past of a store as a test reads it: each write, with the object before and after.

use crate::{history::Change, kinds, store::Store};
use serde_json::Value;
use std::sync::Arc;

/// One write to a store, by any writer.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its resourceVersion.
    pub revision: u64,
    /// Plural of the resource; Events are `events`.
    pub resource: &'static str,
    /// Namespace, empty for a cluster-wide object.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The object before; none for a creation.
    pub old: Option<Arc<Value>>,
    /// The object after; none for a deletion.
    pub new: Option<Arc<Value>>,
}

impl Written {
    fn of(change: &Change) -> Self {
        Self {
            revision: change.revision,
            resource: kinds::plural_of(change.key.storage),
            namespace: change.key.namespace.clone(),
            name: change.key.name.clone(),
            old: change.old.clone(),
            new: change.new.clone(),
        }
    }
}

impl Store {
    /// What was written after a resourceVersion, oldest first; nothing if that is forgotten already.
    #[must_use]
    pub fn written_since(&self, revision: u64) -> Vec<Written> {
        self.read(|state| match state.history.since(revision) {
            Ok(changes) => changes.map(Written::of).collect(),
            Err(_) => Vec::new(),
        })
    }
}
