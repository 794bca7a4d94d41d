//! The watches by Service name: their selectors follow the Services that are managed.
//!
//! A list of many names is expensive for the API server, so a change of names never lists names that are
//! already watched. New names get their own watch, and names that are no longer needed stay watched. When
//! nothing has changed for a while, all names are spread over as few watches as possible.

use std::collections::BTreeSet;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep_until};

use self::shards::{Role, Shards};
use self::split::{SELECTOR_BYTES, split};
use super::Watches;

mod shards;
pub(super) mod split;

/// The pause after a watch of new names begins. The next new names wait until it ends.
const PAUSE: Duration = Duration::from_millis(250);

/// The factor by which pauses grow while names keep changing, so that new names cost at most three
/// lists in 5 s.
const GROWTH: u32 = 4;

/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// After this time without new names, the pauses start short again.
const CALM: Duration = Duration::from_secs(10);

/// After this time without a change, names are merged into few watches and unneeded names are dropped.
const SETTLED: Duration = Duration::from_secs(60);

/// Watches the slices of all names that it is given, until the sender of them is gone or a watch ends,
/// which none should.
pub async fn named_slices(watches: Watches, mut names: channel::Receiver<BTreeSet<String>>) {
    let pinned = watches.index.lock().pinned_names();
    let mut shards = Shards::new(watches);
    for names in split(&pinned, SELECTOR_BYTES) {
        shards.watch(names, Role::Pinned);
    }
    let (mut pace, mut wanted, mut settled) = (Pace::default(), BTreeSet::new(), None);
    loop {
        let mut missing = shards.missing(&wanted);
        if !missing.is_empty() && pace.is_due() {
            shards.add(std::mem::take(&mut missing), &wanted);
            pace.step();
        }
        if missing.is_empty() && settled.is_some_and(|at| at <= Instant::now()) {
            settled = None;
            shards.merge(&wanted);
            pace.step();
        }
        shards.end_replaced(&wanted);
        let next = if missing.is_empty() { settled } else { pace.due };
        tokio::select! {
            biased;
            has_ended = shards.watchdog() => {
                if has_ended {
                    return;
                }
            }
            changed = names.changed() => {
                if changed.is_err() {
                    return;
                }
                wanted = names.borrow_and_update().difference(&pinned).cloned().collect();
                settled = Some(Instant::now() + SETTLED);
            }
            () = at(next) => {}
        }
    }
}

/// When watches of new names may begin.
#[derive(Default)]
struct Pace {
    due: Option<Instant>,
    last: Option<Instant>,
    pause: Duration,
}

impl Pace {
    fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= Instant::now())
    }

    /// Records that watches begin now.
    fn step(&mut self) {
        let now = Instant::now();
        self.pause = match self.last {
            Some(last) if now < last + CALM => (self.pause * GROWTH).min(LONGEST_PAUSE),
            _ => PAUSE,
        };
        (self.last, self.due) = (Some(now), Some(now + self.pause));
    }
}

/// Waits until the given time, or forever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_while_names_change_and_are_short_again_when_all_is_calm() {
        let mut pace = Pace::default();
        let mut pauses = Vec::new();
        for _ in 0..5 {
            assert!(pace.is_due());
            pace.step();
            assert!(!pace.is_due());
            pauses.push(pace.pause.as_millis());
            advance(pace.pause).await;
        }
        assert_eq!(pauses, [250, 1000, 4000, 4000, 4000]);
        advance(CALM).await;
        pace.step();
        assert_eq!(pace.pause, PAUSE);
    }
}
