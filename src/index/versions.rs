//! How far the watches by name have come.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Index, Scope};

/// The highest resourceVersion that each watch by name has shown since it last began to list. A list is the truth:
/// versions of before say nothing, for after a restore of etcd from a backup they belong to another future.
#[derive(Debug, Default)]
pub(super) struct Versions(Vec<(Arc<BTreeSet<String>>, u64)>);

impl Index {
    /// The watch of this scope lists.
    pub fn list_begins(&mut self, scope: &Scope) {
        if let Some(newest) = self.versions.entry(scope) {
            *newest = 0;
        }
    }
}

impl Versions {
    /// The watch of this scope has come as far as this version, be it that of a deletion.
    pub fn saw(&mut self, scope: &Scope, version: Option<u64>) {
        if let Some(newest) = self.entry(scope) {
            *newest = version.unwrap_or(0).max(*newest);
        }
    }

    /// All other watches have ended.
    pub fn retain(&mut self, shards: &BTreeSet<Arc<BTreeSet<String>>>) {
        self.0.retain(|(names, _)| shards.contains(names));
    }

    /// Everything up to this version has been shown of Services of this name. What other watches have shown
    /// proves nothing for them.
    pub fn seen_of(&self, name: &str) -> u64 {
        let watches = self.0.iter().filter(|(names, _)| names.contains(name));
        watches.map(|(_, newest)| *newest).max().unwrap_or(0)
    }

    fn entry(&mut self, scope: &Scope) -> Option<&mut u64> {
        let Scope::Named(names) = scope else { return None };
        let found = self.0.iter().position(|(others, _)| others == names);
        let at = found.unwrap_or_else(|| {
            self.0.push((names.clone(), 0));
            self.0.len() - 1
        });
        self.0.get_mut(at).map(|(_, newest)| newest)
    }
}
