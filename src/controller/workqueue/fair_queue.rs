//! The ready keys of a lane. Namespaces take turns.

use std::collections::{HashMap, VecDeque};

use endpoint_copier_core::model::ServiceKey;

/// A queue that serves namespaces in round-robin order, and the keys of a namespace in the order in which they were
/// added. Thousands of keys of one namespace delay the first key of another namespace by at most one turn.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    /// The keys of each namespace. No list is empty.
    keys: HashMap<Box<str>, VecDeque<ServiceKey>>,
    /// The namespaces with keys, the next one first.
    turns: VecDeque<Box<str>>,
}

impl FairQueue {
    /// Adds a key behind those of its namespace. A namespace without keys joins behind the others.
    pub fn push(&mut self, key: ServiceKey) {
        if let Some(keys) = self.keys.get_mut(key.namespace()) {
            keys.push_back(key);
        } else {
            self.turns.push_back(key.namespace().into());
            self.keys.insert(key.namespace().into(), [key].into());
        }
    }

    /// Takes the first key of the next namespace that has room. The namespaces that are skipped keep their turn.
    pub fn pop(&mut self, has_room: impl Fn(&str) -> bool) -> Option<ServiceKey> {
        let turn = self.turns.iter().position(|namespace| has_room(namespace))?;
        let namespace = self.turns.remove(turn)?;
        let keys = self.keys.get_mut(&namespace)?;
        let key = keys.pop_front();
        if keys.is_empty() {
            self.keys.remove(&namespace);
        } else {
            self.turns.push_back(namespace);
        }
        key
    }
}
