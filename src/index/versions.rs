//! How far the watches by name have come, and which of two of one name counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Index, Scope, bears_one_of};
use crate::model::{EndpointSlice, ObjectMeta, label, label_of};

/// The watches by name that run; those that began later come later.
#[derive(Debug, Default)]
pub(super) struct Versions(Vec<Progress>);

/// How far one of them has come.
#[derive(Debug)]
struct Progress {
    names: Arc<BTreeSet<String>>,
    /// The highest resourceVersion that it has shown since it last began to list. A list is the truth: versions of
    /// before say nothing, for after a restore of etcd from a backup they belong to another future.
    newest: u64,
    /// Half of a list has shown a version, and not all that is older.
    is_listing: bool,
    /// It was complete once.
    has_listed: bool,
}

impl Index {
    /// The watch of this scope lists.
    pub fn list_begins(&mut self, scope: &Scope) {
        if let Some(progress) = self.versions.entry(scope) {
            (progress.newest, progress.is_listing) = (0, true);
        }
    }

    /// Only slices of these names, each set in one watch, are watched from now on: the others are forgotten.
    pub fn retain_names(&mut self, shards: &BTreeSet<Arc<BTreeSet<String>>>) {
        let versions = &self.versions;
        let is_watched = |name: &String| shards.iter().any(|names| names.contains(name));
        self.names_listed
            .retain(|name| is_watched(name) && !versions.is_left_behind(name, shards));
        self.unreadable.retain_names(shards);
        self.versions
            .0
            .retain(|progress| shards.contains(&progress.names));
        let is_left = |slice: &EndpointSlice| !shards.iter().any(|names| bears_one_of(names, slice));
        for key in self.others.keys_where(is_left) {
            self.others.remove(&key);
        }
    }
}

impl Versions {
    /// The watch of this scope has come as far as this version, be it that of a deletion.
    pub fn saw(&mut self, scope: &Scope, version: Option<u64>) {
        if let Some(progress) = self.entry(scope) {
            progress.newest = version.unwrap_or(0).max(progress.newest);
        }
    }

    /// The list of the watch of this scope is complete.
    pub fn listed(&mut self, scope: &Scope) {
        if let Some(progress) = self.entry(scope) {
            (progress.is_listing, progress.has_listed) = (false, true);
        }
    }

    /// Everything up to this version has been shown of Services of this name. What other watches have shown
    /// proves nothing for them.
    pub fn seen_of(&self, name: &str) -> u64 {
        let last = self.last_listed(name);
        last.filter(|progress| !progress.is_listing)
            .map_or(0, |progress| progress.newest)
    }

    /// Whether the watch that shows Services of this name began to list again, and has not ended: what it has shown
    /// before may be gone.
    pub fn lists_again(&self, name: &str) -> bool {
        self.last_listed(name).is_some_and(|progress| progress.is_listing)
    }

    /// Whether a later watch has listed the Service of a slice. A watch that is being replaced may still show what
    /// was before that list.
    pub fn is_superseded(&self, scope: &Scope, slice: &ObjectMeta) -> bool {
        let (Scope::Named(names), Some(service)) = (scope, label_of(slice, label::SERVICE_NAME)) else {
            return false;
        };
        let last = self.last_listed(service);
        let later = last.filter(|progress| progress.names != *names);
        later.is_some_and(|later| {
            let mut after = self.0.iter().skip_while(|progress| progress.names != *names);
            after.any(|progress| Arc::ptr_eq(&progress.names, &later.names))
        })
    }

    /// Whether only these watches go on, and the one that has listed this name last is none of them: an older one has
    /// not been listened to since, and a newer one has not listed.
    fn is_left_behind(&self, name: &str, shards: &BTreeSet<Arc<BTreeSet<String>>>) -> bool {
        let goes_on = |progress: &Progress| shards.contains(&progress.names);
        let mut watches = self.0.iter().filter(|progress| progress.names.contains(name));
        !self.last_listed(name).is_some_and(goes_on) && watches.any(goes_on)
    }

    /// The last that began of the watches that have listed this name.
    fn last_listed(&self, name: &str) -> Option<&Progress> {
        let mut listed = self.0.iter().filter(|progress| progress.has_listed);
        listed.rfind(|progress| progress.names.contains(name))
    }

    fn entry(&mut self, scope: &Scope) -> Option<&mut Progress> {
        let Scope::Named(names) = scope else { return None };
        let found = self.0.iter().position(|progress| progress.names == *names);
        let at = found.unwrap_or_else(|| {
            self.0.push(Progress {
                names: names.clone(),
                newest: 0,
                is_listing: false,
                has_listed: false,
            });
            self.0.len() - 1
        });
        self.0.get_mut(at)
    }
}
