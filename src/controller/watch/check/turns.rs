//! Chooses what a check lists: the sources of a few namespaces at a time, in turn, and less often where lists are slow.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::timing::CHECK_PERIOD;

/// The maximum number of lists in one check.
const LISTS: usize = 8;

/// A list that takes longer than this costs the API server too much to be requested in every check.
const SLOW_LIST: Duration = Duration::from_secs(1);

/// The longest pause of a part whose list is slow. After the pause, the part still waits for its turn.
const MAX_LIST_PAUSE: Duration = Duration::from_secs(160);

/// The sources of one namespace that fit into one selector: the namespace and the number of the part.
pub(super) type Part = (String, usize);

/// The state of the rotation.
#[derive(Default)]
pub(super) struct Turns {
    /// The part that was listed last.
    last: Option<Part>,
    /// The slow parts: the current pause, and its end.
    slow: BTreeMap<Part, (Duration, Instant)>,
}

impl Turns {
    /// Returns the parts to list in a check that begins now.
    pub(super) fn next(&mut self, parts: &BTreeMap<Part, BTreeSet<String>>, now: Instant) -> Vec<Part> {
        self.slow.retain(|part, _| parts.contains_key(part));
        let (done, left): (Vec<_>, Vec<_>) = parts.keys().partition(|part| Some(*part) <= self.last.as_ref());
        let is_due = |part: &&Part| self.slow.get(*part).is_none_or(|(_, due)| *due <= now);
        let turn: Vec<_> = left
            .into_iter()
            .chain(done)
            .filter(is_due)
            .take(LISTS)
            .cloned()
            .collect();
        if let Some(last) = turn.last() {
            self.last = Some(last.clone());
        }
        turn
    }

    /// Records how long a list took in a check that began at the given time.
    pub(super) fn took(&mut self, part: &Part, time: Duration, began: Instant) {
        if time <= SLOW_LIST {
            self.slow.remove(part);
            return;
        }
        let pause = self.slow.get(part).map_or(CHECK_PERIOD, |(pause, _)| *pause) * 2;
        let pause = pause.min(MAX_LIST_PAUSE);
        self.slow.insert(part.clone(), (pause, began + pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(count: usize) -> BTreeMap<Part, BTreeSet<String>> {
        (0..count)
            .map(|number| ((format!("team-{number:02}"), 0), BTreeSet::new()))
            .collect()
    }

    fn numbers(turn: &[Part]) -> Vec<&str> {
        turn.iter().map(|(namespace, _)| &namespace[5..]).collect()
    }

    /// Rule: survive.check-scope
    #[tokio::test(start_paused = true)]
    async fn eight_namespaces_are_checked_at_a_time_and_all_in_turn() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let mut next = |count| numbers(&turns.next(&parts(count), now)).join(" ");
        assert_eq!(next(20), "00 01 02 03 04 05 06 07");
        assert_eq!(next(20), "08 09 10 11 12 13 14 15");
        assert_eq!(next(20), "16 17 18 19 00 01 02 03");
        // Some namespaces are no longer in use.
        assert_eq!(next(3), "00 01 02");
        assert_eq!(next(0), "");
        assert_eq!(next(9), "03 04 05 06 07 08 00 01");
    }

    /// Rule: survive.check-slow
    #[tokio::test(start_paused = true)]
    async fn a_slow_list_is_requested_less_often_until_it_is_fast_again() {
        let (mut turns, two) = (Turns::default(), parts(2));
        let (mut now, start) = (Instant::now(), Instant::now());
        let slow = ("team-00".to_owned(), 0);
        let mut at = Vec::new();
        for check in 0..60 {
            let turn = turns.next(&two, now);
            assert!(turn.contains(&("team-01".to_owned(), 0)));
            if turn.contains(&slow) {
                at.push((now - start).as_secs());
                let time = if check < 40 { SLOW_LIST * 2 } else { SLOW_LIST };
                turns.took(&slow, time, now);
            }
            now += CHECK_PERIOD;
        }
        assert_eq!(
            at,
            [
                0, 20, 60, 140, 300, 460, 470, 480, 490, 500, 510, 520, 530, 540, 550, 560, 570, 580, 590
            ]
        );
    }
}
