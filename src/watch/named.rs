//! The watches by Service name: their selectors follow the Services that are managed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{AbortHandle, Abortable, Aborted, FutureExt as _, pending, ready};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{oneshot, watch as channel};
use tokio::time::{Instant, sleep_until};

use super::{Watches, named_selector};
use crate::index::Scope;
use crate::metrics::{self, Restart};

/// Selectors are made anew at most this often.
const PAUSE: Duration = Duration::from_millis(250);

/// New watches that have not listed by then are not waited for when other names are wanted: longer than a list may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Length of the names in one selector. The rest of the URL is short, and `http::Uri` takes 64 KiB;
/// a comma is three bytes long there.
pub(super) const SELECTOR_BYTES: usize = 48 * 1024;

/// Watches the slices of all names that it is told, until the sender of them is gone or a watch ends,
/// which none should.
pub async fn named_slices(watches: Watches, mut names: channel::Receiver<BTreeSet<String>>) {
    let mut running: BTreeMap<Arc<BTreeSet<String>>, AbortHandle> = BTreeMap::new();
    // No tasks: a watch that is replaced has ended at once, and not when a task of it next looks up.
    let mut following = FuturesUnordered::new();
    loop {
        let wanted = names.borrow_and_update().clone();
        let made = Instant::now();
        let shards: BTreeSet<_> = split(&wanted, SELECTOR_BYTES).into_iter().map(Arc::new).collect();
        let lists = FuturesUnordered::new();
        let mut unlisted = BTreeSet::new();
        for shard in &shards {
            if running.contains_key(shard) {
                continue;
            }
            let (listed, list) = oneshot::channel();
            let (watches, scope) = (watches.clone(), Scope::Named(shard.clone()));
            let selector = named_selector(shard);
            let (handle, aborted) = AbortHandle::new_pair();
            let watch = async move {
                watches
                    .slices(metrics::Watch::Sources, &selector, &scope, Some(listed))
                    .await;
            };
            following.push(Abortable::new(Box::pin(watch), aborted));
            running.insert(shard.clone(), handle);
            unlisted.insert(shard.clone());
            let shard = shard.clone();
            lists.push(list.map(|_| shard));
        }
        let is_new = !lists.is_empty();
        // Until the new watches have listed, the old ones go on: no change of names makes us blind.
        tokio::select! {
            biased;
            () = unexpected_end(&mut following) => return,
            () = lists.for_each(|shard| ready(_ = unlisted.remove(&shard))) => {}
            () = superseded(&mut names, made + PATIENCE) => {
                running.retain(|shard, watch| {
                    let keep = !unlisted.contains(shard);
                    if !keep {
                        watch.abort();
                    }
                    keep
                });
                continue;
            }
        }
        running.retain(|shard, watch| {
            let keep = shards.contains(shard);
            if !keep {
                watches
                    .reader
                    .metrics
                    .watch_restarted(metrics::Watch::Sources, Restart::Selector);
                watch.abort();
            }
            keep
        });
        // Only now: a watch that still ran could list a name that is forgotten here.
        watches.index.lock().retain_names(&shards);
        tokio::select! {
            biased;
            () = unexpected_end(&mut following) => return,
            changed = names.changed() => if changed.is_err() { return },
        }
        if is_new {
            tokio::select! {
                biased;
                () = unexpected_end(&mut following) => return,
                () = sleep_until(made + PAUSE) => {}
            }
        }
    }
}

/// Waits until a moment, and then for other names: lists that cannot be had are given up for them.
async fn superseded(names: &mut channel::Receiver<BTreeSet<String>>, moment: Instant) {
    sleep_until(moment).await;
    if names.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// Waits until a watch ends that was not aborted.
async fn unexpected_end(following: &mut FuturesUnordered<impl Future<Output = Result<(), Aborted>>>) {
    loop {
        match following.next().await {
            Some(Err(Aborted)) => {}
            Some(Ok(())) => return,
            None => pending().await,
        }
    }
}

/// Names in as few sets as fit into selectors.
pub(super) fn split(names: &BTreeSet<String>, longest: usize) -> Vec<BTreeSet<String>> {
    let mut shards: Vec<BTreeSet<String>> = Vec::new();
    let mut length = 0;
    for name in names {
        let more = name.len() + "%2C".len();
        if shards.is_empty() || length + more > longest {
            shards.push(BTreeSet::new());
            length = 0;
        }
        length += more;
        if let Some(shard) = shards.last_mut() {
            shard.insert(name.clone());
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> BTreeSet<String> {
        (0..count).map(|n| format!("{n:0>63}")).collect()
    }

    #[test]
    fn names_are_split_where_a_selector_would_get_too_long() {
        assert!(split(&names(0), SELECTOR_BYTES).is_empty());
        assert_eq!(split(&names(500), SELECTOR_BYTES).len(), 1);
        let shards = split(&names(2000), SELECTOR_BYTES);
        assert_eq!(shards.len(), 3);
        assert_eq!(shards.iter().map(BTreeSet::len).sum::<usize>(), 2000);
        for shard in shards {
            let selector = named_selector(&shard);
            let encoded: usize = selector
                .bytes()
                .map(|c| if c.is_ascii_alphanumeric() { 1 } else { 3 })
                .sum();
            assert!(encoded < 60 * 1024, "{encoded}");
        }
    }
}
