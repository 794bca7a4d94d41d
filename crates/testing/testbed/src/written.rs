//! The history of a store for tests: each write, with the object before and after.

use crate::{history::Change, kinds, store::Store};
use serde_json::Value;
use std::sync::Arc;

/// One write to a store, by any writer.
#[derive(Clone, Debug)]
pub struct Written {
    /// The resourceVersion of the write.
    pub revision: u64,
    /// The plural of the resource. For both kinds of Events, it is `events`.
    pub resource: &'static str,
    /// Namespace, or empty for a cluster-scoped object.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The object before the write, or `None` for a create.
    pub old: Option<Arc<Value>>,
    /// The object after the write, or `None` for a delete.
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
    /// The writes after a resourceVersion, oldest first. Empty if that version has been compacted.
    #[must_use]
    pub fn written_since(&self, revision: u64) -> Vec<Written> {
        self.read(|state| match state.history.since(revision) {
            Ok(changes) => changes.map(Written::of).collect(),
            Err(_) => Vec::new(),
        })
    }
}
