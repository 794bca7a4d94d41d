//! The watches by Service name: their selectors follow the Services that are managed.
//!
//! A list of many names is expensive for the API server, so a change of names never lists names that are
//! already watched. New names get their own watch, and names that are no longer needed stay watched. When
//! nothing has changed for a while, all names are spread over as few watches as possible. How soon a watch of
//! new names begins depends on the namespace that asks for them.

use std::collections::BTreeSet;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep_until};

use self::pace::Paces;
use self::shards::{Role, Shards};
use self::split::{SELECTOR_BYTES, split};
use super::Watches;
use endpoint_copier_core::index::NamesByRequester;

mod pace;
mod shards;
pub(super) mod split;

/// After this time without a change, names are merged into few watches and unneeded names are dropped.
const SETTLED: Duration = Duration::from_secs(60);

/// Watches the slices of all names that it is given, until the sender of them is gone or a watch ends,
/// which none should.
pub async fn named_slices(watches: Watches, mut names: channel::Receiver<NamesByRequester>) {
    let pinned = watches.index.lock().pinned_names();
    let mut shards = Shards::new(watches);
    for names in split(&pinned, SELECTOR_BYTES) {
        shards.watch(names, Role::Pinned);
    }
    let (mut paces, mut settled) = (Paces::default(), None);
    let (mut requested, mut wanted) = (NamesByRequester::new(), BTreeSet::new());
    loop {
        let mut missing = shards.missing(&wanted);
        let new = paces.take(&requested, &missing);
        if !new.is_empty() {
            missing.retain(|name| !new.contains(name));
            shards.add(new, &wanted);
        }
        if missing.is_empty() && settled.is_some_and(|at| at <= Instant::now()) {
            settled = None;
            shards.merge(&wanted);
            paces.spend();
        }
        shards.end_replaced(&wanted);
        let next = if missing.is_empty() {
            settled
        } else {
            paces.next(&requested, &missing)
        };
        tokio::select! {
            biased;
            has_ended = shards.progress() => {
                if has_ended {
                    return;
                }
            }
            changed = names.changed() => {
                if changed.is_err() {
                    return;
                }
                requested.clone_from(&names.borrow_and_update());
                let mut now_wanted: BTreeSet<String> = requested.values().flatten().cloned().collect();
                now_wanted.retain(|name| !pinned.contains(name));
                // Another requester of a watched name changes no watch.
                if wanted != now_wanted {
                    wanted = now_wanted;
                    settled = Some(Instant::now() + SETTLED);
                }
            }
            () = at(next) => {}
        }
    }
}

/// Waits until the given time, or forever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
