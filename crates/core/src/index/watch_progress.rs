//! The progress of the watches that select slices by Service name, and which watch is used if several cover the same
//! name.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Index, Scope, service_name};
use crate::model::{ObjectMeta, label, label_of};

/// The running watches that select slices by Service name, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct WatchProgress(Vec<Progress>);

/// The progress of one watch.
#[derive(Debug)]
struct Progress {
    names: Arc<BTreeSet<String>>,
    /// The highest resourceVersion that it has shown since its last list began. Older values are ignored: after etcd
    /// was restored from a backup, they belong to a different history.
    newest: u64,
    /// Whether its list is incomplete: the watch might have shown a version, but not everything older.
    is_listing: bool,
    /// Whether its list has been complete at least once.
    has_listed: bool,
}

impl Index {
    /// Records that the watch of this scope begins to list. The request is sent now, so the list is newer than all
    /// earlier GETs.
    pub fn list_begins(&mut self, scope: &Scope) {
        self.slices_mut(scope)
            .retain_gone(|_, service| !scope.covers(service));
        if let Some(progress) = self.versions.entry(scope) {
            (progress.newest, progress.is_listing) = (0, true);
        }
    }

    /// Records that from now on only slices of Services with these names are watched, with one watch for each set of
    /// names. Forgets the other watches, and their slices.
    pub fn retain_names(&mut self, shards: &BTreeSet<Arc<BTreeSet<String>>>) {
        let versions = &self.versions;
        // Equal sets are compared name by name, so this is not repeated for each name.
        let continuing = versions
            .0
            .iter()
            .filter(|progress| shards.contains(&progress.names));
        let continuing: Vec<_> = continuing.map(|progress| &progress.names).collect();
        let continues =
            |progress: &Progress| continuing.iter().any(|names| Arc::ptr_eq(names, &progress.names));
        let is_watched = |name: &str| shards.iter().any(|names| names.contains(name));
        self.names_listed
            .retain(|name| is_watched(name) && !versions.is_left_behind(name, continues));
        self.unreadable.retain_names(is_watched);
        self.versions
            .0
            .retain(|progress| shards.contains(&progress.names));
        let is_left = |service: Option<&str>| !service.is_some_and(is_watched);
        for key in self.others.keys_where(|_, slice| is_left(service_name(slice))) {
            self.others.remove(&key);
        }
        self.others.retain_gone(|_, service| !is_left(service));
    }
}

impl WatchProgress {
    /// Records that the watch of this scope has reached this version. The version can come from a deletion.
    pub fn saw(&mut self, scope: &Scope, version: Option<u64>) {
        if let Some(progress) = self.entry(scope) {
            progress.newest = version.unwrap_or(0).max(progress.newest);
        }
    }

    /// Records that the list of the watch of this scope is complete.
    pub fn listed(&mut self, scope: &Scope) {
        if let Some(progress) = self.entry(scope) {
            (progress.is_listing, progress.has_listed) = (false, true);
        }
    }

    /// The version up to which all slices of Services with this name have been shown. Zero while the watch for this
    /// name is relisting. The versions of other watches prove nothing about these slices.
    pub fn seen_of(&self, name: &str) -> u64 {
        let last = self.last_listed(name);
        last.filter(|progress| !progress.is_listing)
            .map_or(0, |progress| progress.newest)
    }

    /// Whether the watch for this name is relisting. Slices that it showed before might no longer exist.
    pub fn is_relisting(&self, name: &str) -> bool {
        self.last_listed(name).is_some_and(|progress| progress.is_listing)
    }

    /// Whether a later watch has listed the Service of a slice. A watch that is being replaced can still show a state
    /// from before that list.
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

    /// Whether the watch that last listed this name ends, but another watch of this name `continues`. Events of older
    /// watches have been ignored since that list, and a newer watch has not listed yet.
    fn is_left_behind(&self, name: &str, continues: impl Fn(&Progress) -> bool) -> bool {
        let mut watches = self.0.iter().filter(|progress| progress.names.contains(name));
        !self.last_listed(name).is_some_and(&continues) && watches.any(&continues)
    }

    /// The most recent watch that has listed this name.
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
