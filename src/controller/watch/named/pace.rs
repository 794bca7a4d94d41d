//! Decides when watches of new names may begin.
//!
//! Each such watch begins with a list, for which the API server reads all slices of the cluster. Users can change names
//! as often as they like. So each namespace has its own pauses, which only its own new names prolong, and there is a
//! limit on the lists of all namespaces together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::split::{SELECTOR_BYTES, bytes_of, selector_bytes};
use endpoint_copier_core::index::{NamesByRequester, Requester};
use endpoint_copier_core::model::ServiceKey;

/// The first pause of a namespace after a watch of its new names begins. Its next new names wait until the pause ends.
const NAME_PAUSE: Duration = Duration::from_millis(250);

/// The factor by which pauses grow while names keep changing, so that one namespace causes at most three lists in 5 s.
const GROWTH: u32 = 4;

/// The longest of these pauses.
const MAX_NAME_PAUSE: Duration = Duration::from_secs(4);

/// After this time without new names, the next pause is [`NAME_PAUSE`] again.
const CALM: Duration = Duration::from_secs(10);

/// The number of lists of new names that all namespaces together may cause in a burst.
const LIST_BURST: u32 = 4;

/// The interval at which all namespaces together may cause one more list.
const LIST_REFILL: Duration = Duration::from_secs(1);

/// The pauses of all requesters, and the limit on all lists together.
#[derive(Default)]
pub(super) struct Paces {
    by_requester: BTreeMap<Requester, Pace>,
    total: Total,
}

impl Paces {
    /// Takes the missing names (needed, but not watched) whose watch may begin now, as many as fit into one selector.
    /// Counts the watch as begun. The name of the API source never waits, and the Service that the flags name waits for
    /// no other Service.
    pub fn take(&mut self, wanted: &NamesByRequester, missing: &BTreeSet<String>) -> BTreeSet<String> {
        let now = Instant::now();
        self.by_requester.retain(|_, pace| !pace.is_calm(now));
        let mut taken: BTreeSet<_> = missing
            .get(ServiceKey::api_source().name())
            .cloned()
            .into_iter()
            .collect();
        let mut room = SELECTOR_BYTES.saturating_sub(selector_bytes(&taken));
        for (requester, names) in wanted {
            if self.due(requester).is_some_and(|due| due > now) {
                continue;
            }
            let mut new = names.intersection(missing).peekable();
            let before = room;
            while let Some(name) = new.next_if(|name| bytes_of(name) <= room) {
                room -= bytes_of(name);
                taken.insert(name.clone());
            }
            if room < before {
                self.by_requester.entry(requester.clone()).or_default().step(now);
            }
        }
        if !taken.is_empty() {
            self.total.spend(now);
        }
        taken
    }

    /// Counts the merging of names into fewer watches as one list, although it may begin several watches.
    pub fn spend(&mut self) {
        self.total.spend(Instant::now());
    }

    /// Returns when the next missing name may be taken.
    pub fn next(&self, wanted: &NamesByRequester, missing: &BTreeSet<String>) -> Option<Instant> {
        let waiting = wanted.iter().filter(|(_, names)| !names.is_disjoint(missing));
        let due = waiting.map(|(requester, _)| self.due(requester).unwrap_or_else(Instant::now));
        due.min()
    }

    fn due(&self, requester: &Requester) -> Option<Instant> {
        let own = self.by_requester.get(requester).and_then(|pace| pace.due);
        match requester {
            Requester::Flagged => own,
            Requester::Namespace(_) => own.max(self.total.due()),
        }
    }
}

/// The pauses of one requester.
#[derive(Default)]
struct Pace {
    due: Option<Instant>,
    last: Option<Instant>,
    pause: Duration,
}

impl Pace {
    /// Records that a watch begins now.
    fn step(&mut self, now: Instant) {
        self.pause = if self.is_calm(now) {
            NAME_PAUSE
        } else {
            (self.pause * GROWTH).min(MAX_NAME_PAUSE)
        };
        (self.last, self.due) = (Some(now), Some(now + self.pause));
    }

    fn is_calm(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now >= last + CALM)
    }
}

/// The limit on all lists together: a burst of [`LIST_BURST`], then one per [`LIST_REFILL`].
#[derive(Default)]
struct Total {
    /// When the whole burst is available again.
    full: Option<Instant>,
}

impl Total {
    fn due(&self) -> Option<Instant> {
        self.full?.checked_sub(LIST_REFILL * (LIST_BURST - 1))
    }

    fn spend(&mut self, now: Instant) {
        self.full = Some(self.full.map_or(now, |full| full.max(now)) + LIST_REFILL);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep_until};

    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn by_namespace(wanted: &[(&str, &str)]) -> NamesByRequester {
        let requested = |&(namespace, name): &(&str, &str)| {
            let requester = match namespace {
                "" => Requester::Flagged,
                namespace => Requester::Namespace(namespace.to_owned()),
            };
            (requester, names(&[name]))
        };
        wanted.iter().map(requested).collect()
    }

    /// Rule: survive.selector-pace
    #[tokio::test(start_paused = true)]
    async fn pauses_grow_while_names_change_and_shrink_afterward() {
        let mut pace = Pace::default();
        let mut pauses = Vec::new();
        for _ in 0..5 {
            pace.step(Instant::now());
            pauses.push(pace.pause.as_millis());
            advance(pace.pause).await;
        }
        assert_eq!(pauses, [250, 1000, 4000, 4000, 4000]);
        advance(CALM).await;
        pace.step(Instant::now());
        assert_eq!(pace.pause, NAME_PAUSE);
    }

    /// Rule: survive.selector-fair
    #[tokio::test(start_paused = true)]
    async fn the_pause_of_one_namespace_does_not_delay_another() {
        let (mut paces, missing) = (Paces::default(), names(&["a", "b", "c"]));
        let blue = by_namespace(&[("blue", "a")]);
        assert_eq!(paces.take(&blue, &missing), names(&["a"]));
        let both = by_namespace(&[("blue", "b"), ("green", "c")]);
        assert_eq!(paces.take(&both, &missing), names(&["c"]));
        let due = paces.next(&both, &names(&["b"])).expect("a name should wait");
        assert_eq!(due, Instant::now() + NAME_PAUSE);
        sleep_until(due).await;
        assert_eq!(paces.take(&both, &names(&["b"])), names(&["b"]));
        assert_eq!(paces.next(&both, &names(&[])), None);
    }

    /// Rule: survive.selector-pace
    #[tokio::test(start_paused = true)]
    async fn many_names_of_one_namespace_cause_one_list_at_a_time() {
        let all: BTreeSet<_> = (0..3000).map(|n| format!("{n:0>63}")).collect();
        let wanted = NamesByRequester::from([(Requester::Namespace("blue".to_owned()), all.clone())]);
        let (mut paces, mut missing, start) = (Paces::default(), all, Instant::now());
        let mut lists = Vec::new();
        while let Some(due) = paces.next(&wanted, &missing) {
            sleep_until(due).await;
            let taken = paces.take(&wanted, &missing);
            assert!(selector_bytes(&taken) <= SELECTOR_BYTES);
            missing.retain(|name| !taken.contains(name));
            lists.push(start.elapsed().as_millis());
        }
        assert_eq!(lists, [0, 250, 1250, 5250, 9250]);
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_do_not_fit_are_next_and_delay_no_other() {
        let many = (0..744).map(|n| format!("{n:0>63}")).collect();
        let mut wanted = by_namespace(&[("", "front"), ("green", "g"), ("red", &"r".repeat(63))]);
        wanted.insert(Requester::Namespace("blue".to_owned()), many);
        let mut missing: BTreeSet<_> = wanted.values().flatten().cloned().collect();
        let mut paces = Paces::default();
        for _ in 0..2 {
            assert!(paces.next(&wanted, &missing) <= Some(Instant::now()));
            let taken = paces.take(&wanted, &missing);
            missing.retain(|name| !taken.contains(name));
        }
        assert!(missing.is_empty(), "{missing:?}");
    }

    /// Rule: survive.selector-total
    #[tokio::test(start_paused = true)]
    async fn many_namespaces_cause_four_lists_at_once_and_one_per_second() {
        let (mut paces, start, mut lists) = (Paces::default(), Instant::now(), Vec::new());
        for number in 0..8 {
            let namespace = format!("namespace-{number}");
            let (wanted, missing) = (by_namespace(&[(&namespace, "a")]), names(&["a"]));
            sleep_until(paces.next(&wanted, &missing).expect("a name should wait")).await;
            assert_eq!(paces.take(&wanted, &missing), missing);
            lists.push(start.elapsed().as_secs());
        }
        assert_eq!(lists, [0, 0, 0, 0, 1, 2, 3, 4]);
        let wanted = by_namespace(&[("", "front"), ("blue", "b")]);
        assert_eq!(
            paces.take(&wanted, &names(&["b", "front"])),
            names(&["front"]),
            "not only the name of the flagged Service"
        );
        let wanted = by_namespace(&[("blue", "kubernetes"), ("green", "b")]);
        assert_eq!(
            paces.take(&wanted, &names(&["b", "kubernetes"])),
            names(&["kubernetes"]),
            "not only the name of the API source"
        );
    }
}
