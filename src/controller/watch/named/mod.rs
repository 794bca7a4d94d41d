//! The watches of slices by Service name. Their selectors follow the managed Services.
//!
//! A list of many names is expensive for the API server, so a change to the names usually causes a list of only the new
//! ones. New names get their own watch, and names that are no longer needed stay watched. When the names have not
//! changed for a while, the needed ones are spread over a few watches. How soon a watch of new names begins depends on
//! the namespace that requests them.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use self::pace::Paces;
use self::shards::{Role, Shards};
use self::split::{SELECTOR_BYTES, split};
use super::Watches;
use crate::controller::workqueue::Marks;
use endpoint_copier_core::index::{NamesByRequester, SharedIndex};

mod pace;
mod shards;
pub(super) mod split;

/// After this time without a change, names are merged into a few watches, and unneeded names are dropped.
const QUIET_PERIOD: Duration = Duration::from_secs(60);

/// The pause before the next read of the names is this many times as long as the last read. There may be thousands of
/// names, and one user may change some of them constantly.
const READ_PAUSE_FACTOR: u32 = 9;

/// Watches the slices of the Services with the pinned names, which never change, and with the names that managed
/// Services need. Returns only if a watch ends, which should not happen.
pub async fn named_slices(watches: Watches) {
    let (index, mut marks, mut known) = (watches.index.clone(), watches.dirty.marks(), 0);
    let pinned = index.lock().pinned_names();
    let (mut read, mut next_read) = (None::<Instant>, Instant::now());
    let mut shards = Shards::new(watches);
    for names in split(&pinned, SELECTOR_BYTES) {
        shards.watch(names, Role::Pinned, Duration::ZERO);
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
            if shards.merge(&wanted) {
                paces.spend();
            }
        }
        shards.end_replaced(&wanted);
        let next = if missing.is_empty() {
            settled
        } else {
            paces.next(&requested, &missing)
        };
        if let Some(began) = read.take() {
            next_read = Instant::now() + began.elapsed() * READ_PAUSE_FACTOR;
        }
        tokio::select! {
            biased;
            has_ended = shards.progress() => {
                if has_ended {
                    return;
                }
            }
            () = names_change(&index, &mut marks, known, next_read) => {
                read = Some(Instant::now());
                let index = index.lock();
                known = index.names_changed();
                requested = index.names_by_requester();
                drop(index);
                let mut now_wanted: BTreeSet<String> = requested.values().flatten().cloned().collect();
                now_wanted.retain(|name| !pinned.contains(name));
                // If a name is watched already, one more requester of this name changes no watch.
                if wanted != now_wanted {
                    wanted = now_wanted;
                    settled = Some(Instant::now() + QUIET_PERIOD);
                }
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

/// Waits until `not_before`, and until the names have changed since the index counted `known` changes. A change is not
/// lost if the wait is canceled.
async fn names_change(index: &SharedIndex, marks: &mut Marks, known: u64, not_before: Instant) {
    sleep_until(not_before).await;
    while index.lock().names_changed() == known {
        marks.next().await;
    }
}
