//! The changes so far, newest last. They allow watches to continue from a resourceVersion, and lists to read an earlier
//! state.

use crate::kinds::Storage;
use serde_json::Value;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// The key of a stored object. The keys of one kind sort in the order of a LIST: by namespace, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The kind of object.
    pub storage: Storage,
    /// The namespace, or empty for a cluster-scoped object.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// All objects at one resourceVersion. Objects are shared, so a copy of the map is cheap.
pub type Objects = BTreeMap<Key, Arc<Value>>;

/// One write.
#[derive(Clone, Debug)]
pub struct Change {
    /// The resourceVersion of the write.
    pub revision: u64,
    /// The key of the object.
    pub key: Key,
    /// The object before the write, or `None` for a create.
    pub old: Option<Arc<Value>>,
    /// The object after the write, or `None` for a delete.
    pub new: Option<Arc<Value>>,
}

/// A bounded log of changes.
#[derive(Debug)]
pub struct History {
    changes: VecDeque<Change>,
    capacity: usize,
    compacted: u64,
}

/// The error for a resourceVersion that is older than the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The oldest resourceVersion that is available.
    pub oldest: u64,
}

impl History {
    /// A log of at most `capacity` changes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            changes: VecDeque::new(),
            capacity,
            compacted: 0,
        }
    }

    /// Adds a change. If the log is full, the oldest change is dropped.
    pub fn push(&mut self, change: Change) {
        self.changes.push_back(change);
        self.trim();
    }

    /// Sets the capacity.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.trim();
    }

    fn trim(&mut self) {
        while self.changes.len() > self.capacity {
            if let Some(gone) = self.changes.pop_front() {
                self.compacted = gone.revision;
            }
        }
    }

    /// Drops all changes up to a resourceVersion, as the compaction of etcd does.
    pub fn compact(&mut self, revision: u64) {
        self.compacted = self.compacted.max(revision);
        self.changes.retain(|c| c.revision > revision);
    }

    /// Drops all changes after a resourceVersion.
    pub fn undo(&mut self, revision: u64) {
        self.changes.retain(|c| c.revision <= revision);
    }

    /// The changes after a resourceVersion, oldest first.
    ///
    /// # Errors
    /// If the resourceVersion is older than the log.
    pub fn since(&self, revision: u64) -> Result<impl DoubleEndedIterator<Item = &Change>, Compacted> {
        if revision < self.compacted {
            return Err(Compacted {
                oldest: self.compacted,
            });
        }
        let start = self.changes.partition_point(|c| c.revision <= revision);
        Ok(self.changes.range(start..))
    }

    /// The state at an earlier resourceVersion, computed from `present` by undoing the changes since then, newest
    /// first.
    ///
    /// # Errors
    ///
    /// If the resourceVersion is older than the log.
    pub fn at(&self, revision: u64, present: &Objects) -> Result<Objects, Compacted> {
        let mut objects = present.clone();
        for change in self.since(revision)?.rev() {
            match &change.old {
                Some(old) => objects.insert(change.key.clone(), Arc::clone(old)),
                None => objects.remove(&change.key),
            };
        }
        Ok(objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(name: &str) -> Key {
        Key {
            storage: Storage::Lease,
            namespace: "d".into(),
            name: name.into(),
        }
    }

    #[test]
    fn an_earlier_state_is_the_present_with_changes_undone() {
        let (one, two) = (Arc::new(json!(1)), Arc::new(json!(2)));
        let mut history = History::new(10);
        let change = |revision, name: &str, old: Option<&Arc<Value>>, new: Option<&Arc<Value>>| Change {
            revision,
            key: key(name),
            old: old.cloned(),
            new: new.cloned(),
        };
        history.push(change(1, "a", None, Some(&one)));
        history.push(change(2, "a", Some(&one), Some(&two)));
        history.push(change(3, "b", None, Some(&one)));
        history.push(change(4, "a", Some(&two), None));
        let present = Objects::from([(key("b"), Arc::clone(&one))]);
        let names = |revision| -> Vec<String> {
            history
                .at(revision, &present)
                .unwrap()
                .iter()
                .map(|(k, v)| format!("{}{v}", k.name))
                .collect()
        };
        assert_eq!(names(4), ["b1"]);
        assert_eq!(names(3), ["a2", "b1"]);
        assert_eq!(names(1), ["a1"]);
        assert_eq!(names(0), [""; 0]);
        history.compact(2);
        assert_eq!(history.since(1).err(), Some(Compacted { oldest: 2 }));
        assert_eq!(history.since(2).unwrap().count(), 2);
    }
}
