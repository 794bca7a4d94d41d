//! The running watches by name, including replaced ones, which continue until other watches have listed the same names.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{AbortHandle, Abortable, Aborted, BoxFuture, FutureExt as _, pending};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::split::{SELECTOR_BYTES, selector_bytes, split};
use crate::controller::watch::{Watches, named_selector};
use endpoint_copier_core::index::Scope;
use endpoint_copier_core::model::{Restart, WatchKind};

/// If there are this many watches of new names, the next one replaces those whose needed names fit into its selector.
const NEW_SHARDS: usize = 8;

/// A watch of new names ends if its list is not complete after this time and none of its names is needed. A list
/// usually takes much less time.
const PATIENCE: Duration = Duration::from_secs(30);

/// The time from the start of one watch of a merge to the start of the next. Each watch begins with a list, and the old
/// watches continue until these lists are complete.
const BETWEEN_MERGED: Duration = Duration::from_secs(2);

type Names = BTreeSet<String>;

/// The role of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The names of the watch never change.
    Pinned,
    /// The watch is the first one, or one of those over which all needed names were spread at the last merge.
    Merged,
    /// The names of the watch were added since the last merge.
    New,
    /// The watch is being replaced. If its list is complete, it continues until others have listed its needed names, so
    /// that no update is missed.
    Replaced,
}

struct Shard {
    names: Arc<Names>,
    role: Role,
    began: Instant,
    is_listed: bool,
    abort: AbortHandle,
}

impl Shard {
    /// Whether the watch is not being replaced.
    fn is_active(&self) -> bool {
        self.role != Role::Replaced
    }
}

/// The running watches. No two active watches share a name.
pub(super) struct Shards {
    watches: Watches,
    running: Vec<Shard>,
    // These are not tasks, because a replaced watch must end immediately, not when its task is next scheduled.
    following: FuturesUnordered<Abortable<BoxFuture<'static, ()>>>,
    lists: FuturesUnordered<BoxFuture<'static, Option<Arc<Names>>>>,
}

impl Shards {
    pub(super) fn new(watches: Watches) -> Self {
        Self {
            watches,
            running: Vec::new(),
            following: FuturesUnordered::new(),
            lists: FuturesUnordered::new(),
        }
    }

    /// Returns the needed names without an active watch.
    pub(super) fn missing(&self, wanted: &Names) -> Names {
        let is_watched = |name: &String| {
            let mut active = self.running.iter().filter(|shard| shard.is_active());
            active.any(|shard| shard.names.contains(name))
        };
        wanted.iter().filter(|name| !is_watched(name)).cloned().collect()
    }

    /// Watches missing names, which must fit into one selector. If there are many watches of new names, the new watch
    /// also replaces those whose needed names fit.
    pub(super) fn add(&mut self, mut missing: Names, wanted: &Names) {
        let is_first = self.running.iter().all(|shard| shard.role == Role::Pinned);
        let new = self.running.iter_mut().filter(|shard| shard.role == Role::New);
        let mut new: Vec<_> = new.collect();
        if new.len() >= NEW_SHARDS {
            let mut room = SELECTOR_BYTES.saturating_sub(selector_bytes(&missing));
            for shard in &mut new {
                let bytes = selector_bytes(shard.names.intersection(wanted));
                if bytes <= room {
                    room -= bytes;
                    shard.role = Role::Replaced;
                    missing.extend(shard.names.intersection(wanted).cloned());
                }
            }
        }
        let role = if is_first { Role::Merged } else { Role::New };
        self.watch(missing, role, Duration::ZERO);
    }

    /// Spreads the needed names over a few watches, and drops the other names. Returns whether new watches begin.
    pub(super) fn merge(&mut self, wanted: &Names) -> bool {
        let mut sets = split(wanted, SELECTOR_BYTES);
        let merged = |shard: &&mut Shard| matches!(shard.role, Role::Merged | Role::New);
        for shard in self.running.iter_mut().filter(merged) {
            shard.role = match sets.iter().position(|names| *names == *shard.names) {
                Some(at) => {
                    sets.swap_remove(at);
                    Role::Merged
                }
                None => Role::Replaced,
            };
        }
        let begins = !sets.is_empty();
        let mut pause = Duration::ZERO;
        for names in sets {
            self.watch(names, Role::Merged, pause);
            pause += BETWEEN_MERGED;
        }
        begins
    }

    /// Starts a watch after a pause.
    pub(super) fn watch(&mut self, names: Names, role: Role, pause: Duration) {
        let names = Arc::new(names);
        let (listed, list) = oneshot::channel();
        let (watches, scope) = (self.watches.clone(), Scope::Named(names.clone()));
        let selector = named_selector(&names);
        let watch = async move {
            sleep(pause).await;
            watches
                .slices(WatchKind::Sources, &selector, &scope, Some(listed))
                .await;
        };
        let (abort, aborted) = AbortHandle::new_pair();
        self.following.push(Abortable::new(watch.boxed(), aborted));
        let shard = names.clone();
        self.lists
            .push(list.map(|listed| listed.ok().map(|()| shard)).boxed());
        self.running.push(Shard {
            names,
            role,
            began: Instant::now(),
            is_listed: false,
            abort,
        });
    }

    /// Ends the watches that are not needed: a replaced watch if others have listed its needed names or its own list is
    /// not complete, and a new watch if its list takes too long and none of its names is needed.
    pub(super) fn end_replaced(&mut self, wanted: &Names) {
        let active = self.running.iter().filter(|shard| shard.is_active());
        let listed: Vec<_> = active
            .filter(|shard| shard.is_listed)
            .map(|shard| shard.names.clone())
            .collect();
        let is_unlisted =
            |name: &String| wanted.contains(name) && !listed.iter().any(|names| names.contains(name));
        let is_needed = |shard: &Shard| match (shard.role, shard.is_listed) {
            (Role::Replaced, is_listed) => is_listed && shard.names.iter().any(is_unlisted),
            (Role::New, false) => shard.began.elapsed() < PATIENCE || !shard.names.is_disjoint(wanted),
            _ => true,
        };
        let before = self.running.len();
        self.running.retain(|shard| {
            let is_needed = is_needed(shard);
            if !is_needed {
                let metrics = &self.watches.reader.metrics;
                metrics.watch_restarted(WatchKind::Sources, Restart::Selector);
                shard.abort.abort();
            }
            is_needed
        });
        if self.running.len() < before {
            // Names are forgotten only now, because a watch that still runs could list them again.
            let names = self.running.iter().map(|shard| shard.names.clone()).collect();
            self.watches.index.lock().retain_names(&names);
        }
    }

    /// Runs the watches until one of them has completed its list, or was aborted before that. Returns `true` if a watch
    /// has ended by itself, which should not happen.
    pub(super) async fn progress(&mut self) -> bool {
        tokio::select! {
            biased;
            () = unexpected_end(&mut self.following) => true,
            Some(listed) = self.lists.next() => {
                let is_it = |shard: &&mut Shard| listed.as_ref().is_some_and(|names| Arc::ptr_eq(names, &shard.names));
                if let Some(shard) = self.running.iter_mut().find(is_it) {
                    shard.is_listed = true;
                }
                false
            }
        }
    }
}

/// Waits until a watch ends without being aborted.
async fn unexpected_end(following: &mut FuturesUnordered<Abortable<BoxFuture<'static, ()>>>) {
    loop {
        match following.next().await {
            Some(Err(Aborted)) => {}
            Some(Ok(())) => return,
            None => pending().await,
        }
    }
}
