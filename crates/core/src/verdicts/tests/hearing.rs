//! Suspicions and objections.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn suspects(ns: &[u8]) -> BTreeSet<Target> {
    ns.iter().map(|n| target(*n)).collect()
}

fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// A leader that suspects the first target in round 1, confirmed at 0 ms.
fn hearing() -> Hearing {
    let mut hearing = Hearing::default();
    hearing.suspect(&suspects(&[1]));
    hearing.stored("192.0.2.1:6443=1", at(0));
    hearing
}

const THEIRS: &str = "objection.endpoint-copier/aaaaaaaaaa";

/// Rule: 7.suspicion
#[test]
fn suspicion_is_written_until_the_lease_has_it() {
    let mut hearing = Hearing::default();
    assert_eq!(hearing.suspect(&suspects(&[])), None, "nothing is suspected");
    let value = Some("192.0.2.1:6443=1".to_owned());
    assert_eq!(hearing.suspect(&suspects(&[1])), value);
    assert_eq!(hearing.suspect(&suspects(&[1])), value, "not confirmed yet");
    hearing.stored("192.0.2.1:6443=1", at(0));
    assert_eq!(hearing.suspect(&suspects(&[1])), None);
    let both = Some("192.0.2.1:6443=1,192.0.2.2:6443=2".to_owned());
    assert_eq!(hearing.suspect(&suspects(&[1, 2])), both);
    assert_eq!(hearing.suspect(&suspects(&[])), Some(String::new()));
}

/// Rule: 7.heard
#[test]
fn suspicion_that_is_gone_from_the_lease_is_not_heard() {
    let mut hearing = hearing();
    assert!(hearing.had_time_to_object(target(1), at(300)));
    hearing.see(&annotations(&[]), at(400));
    assert!(!hearing.had_time_to_object(target(1), at(5000)));
    let value = "192.0.2.1:6443=1";
    assert_eq!(hearing.suspect(&suspects(&[1])), Some(value.to_owned()));
    hearing.see(&annotations(&[(SUSPECTED, value)]), at(6000));
    assert!(
        !hearing.had_time_to_object(target(1), at(6299)) && hearing.had_time_to_object(target(1), at(6300))
    );
}

/// Rule: 7.round
#[test]
fn new_suspicion_gets_the_next_round() {
    let mut hearing = hearing();
    hearing.suspect(&suspects(&[]));
    assert_eq!(
        hearing.suspect(&suspects(&[1])),
        Some("192.0.2.1:6443=2".to_owned())
    );
    let shown = annotations(&[(SUSPECTED, "192.0.2.7:6443=40")]);
    hearing.see(&shown, at(0));
    hearing.start_term();
    assert_eq!(
        hearing.suspect(&suspects(&[1])),
        Some("192.0.2.1:6443=41".to_owned())
    );
}

/// Rule: 7.stale-suspicion
#[test]
fn suspicion_of_an_earlier_leader_is_cleared() {
    let mut hearing = Hearing::default();
    hearing.see(&annotations(&[(SUSPECTED, "192.0.2.1:6443=40")]), at(0));
    assert_eq!(hearing.suspect(&suspects(&[])), Some(String::new()));
    hearing.see(&annotations(&[]), at(100));
    assert_eq!(hearing.suspect(&suspects(&[])), None);
}

/// Rule: 7.heard
#[test]
fn suspicion_is_heard_300_ms_after_it_was_stored() {
    let mut hearing = Hearing::default();
    hearing.suspect(&suspects(&[1]));
    assert!(!hearing.had_time_to_object(target(1), at(10_000)), "not stored");
    hearing.stored("192.0.2.1:6443=9", at(10_000));
    assert!(
        !hearing.had_time_to_object(target(1), at(20_000)),
        "another round"
    );
    hearing.stored("192.0.2.1:6443=1", at(20_000));
    hearing.stored("192.0.2.1:6443=1", at(20_200));
    assert!(!hearing.had_time_to_object(target(1), at(20_299)));
    assert!(hearing.had_time_to_object(target(1), at(20_300)));
    assert!(
        !hearing.had_time_to_object(target(2), at(20_300)),
        "not suspected"
    );
}

/// Rule: 7.heard
#[test]
fn watch_confirms_a_suspicion_whose_response_was_lost() {
    let mut hearing = Hearing::default();
    hearing.suspect(&suspects(&[1]));
    hearing.see(&annotations(&[(SUSPECTED, "192.0.2.1:6443=1")]), at(1_000));
    assert!(hearing.had_time_to_object(target(1), at(1_300)));
    assert_eq!(hearing.suspect(&suspects(&[1])), None);
}

/// Rule: 7.round
#[test]
fn objection_counts_only_for_the_current_round() {
    for (key, text, has_objection) in [
        (THEIRS, "192.0.2.1:6443=1;1", true),
        (THEIRS, "192.0.2.2:6443=1,192.0.2.1:6443=1;7", true),
        (THEIRS, "192.0.2.1:6443=2;1", false),
        (THEIRS, "192.0.2.1:6443=0;1", false),
        (THEIRS, "192.0.2.1:9345=1;1", false),
        (THEIRS, "192.0.2.1:6443=1", false),
        (THEIRS, "192.0.2.1:6443=1,;1", false),
        (THEIRS, "192.0.2.1:6443=1,nonsense;1", false),
        (THEIRS, "", false),
        ("objection.example.com/aaaaaaaaaa", "192.0.2.1:6443=1;1", false),
        (SUSPECTED, "192.0.2.1:6443=1;1", false),
    ] {
        let mut hearing = hearing();
        hearing.see(&annotations(&[(key, text)]), at(0));
        assert_eq!(
            hearing.has_objection(target(1), at(0)),
            has_objection,
            "{key}: {text:?}"
        );
    }
}

/// Rule: 7.objection-lasts
#[test]
fn objection_counts_for_ten_seconds_from_a_change() {
    let mut hearing = hearing();
    let shown = annotations(&[(THEIRS, "192.0.2.1:6443=1;1")]);
    hearing.see(&shown, at(1_000));
    hearing.see(&shown, at(6_000));
    assert!(hearing.has_objection(target(1), at(10_999)));
    assert!(
        !hearing.has_objection(target(1), at(11_000)),
        "the same text, shown twice"
    );
    hearing.see(&annotations(&[(THEIRS, "192.0.2.1:6443=1;2")]), at(12_000));
    assert!(hearing.has_objection(target(1), at(21_999)), "a repetition");
}

/// Rule: 7.withdrawn
#[test]
fn withdrawn_objection_no_longer_counts() {
    let mut hearing = hearing();
    hearing.see(&annotations(&[(THEIRS, "192.0.2.1:6443=1;1")]), at(1_000));
    hearing.see(&annotations(&[]), at(1_100));
    assert!(!hearing.has_objection(target(1), at(1_100)));
}

/// Rule: 7.round
#[test]
fn objection_to_an_old_round_does_not_count_for_the_new_one() {
    let mut hearing = hearing();
    hearing.see(&annotations(&[(THEIRS, "192.0.2.1:6443=1;1")]), at(1_000));
    hearing.suspect(&suspects(&[]));
    hearing.suspect(&suspects(&[1]));
    assert!(!hearing.has_objection(target(1), at(1_100)));
}

/// Rule: 7.round
#[test]
fn round_that_an_objection_names_is_not_used_again() {
    let mut hearing = Hearing::default();
    // All replicas have restarted, and nothing is suspected, but an objection remains.
    hearing.see(&annotations(&[(THEIRS, "192.0.2.1:6443=3;1")]), at(0));
    let round = hearing.suspect(&suspects(&[1]));
    assert_eq!(round, Some("192.0.2.1:6443=4".to_owned()));
    assert!(!hearing.has_objection(target(1), at(0)));
}

/// Rule: 7.stale-keys
#[test]
fn objection_unchanged_for_a_minute_is_stale() {
    let mut hearing = hearing();
    let shown = annotations(&[(THEIRS, "anything"), ("example.com/note", "stays")]);
    hearing.see(&shown, at(1_000));
    hearing.see(&shown, at(30_000));
    assert_eq!(hearing.stale(at(61_000)), Vec::<String>::new());
    assert_eq!(hearing.stale(at(61_001)), [THEIRS]);
}

/// Rule: 7.forged
#[test]
fn at_most_64_entries_of_a_text_are_read() {
    let entries = |n: u16| -> Vec<_> { (0..n).map(|n| format!("192.0.2.1:{n}=1")).collect() };
    assert_eq!(suspicions(&entries(64).join(",")).len(), 64);
    assert_eq!(suspicions(&entries(5_000).join(",")).len(), 64);
    assert_eq!(suspicions("192.0.2.1:6443=-1").len(), 0);
    assert_eq!(suspicions("192.0.2.1:6443=18446744073709551616").len(), 0);
}

/// Rule: 7.forged
#[test]
fn forged_high_round_does_not_use_up_the_rounds() {
    for forged in [u64::MAX, u64::MAX - 1, 1 << 53] {
        let mut hearing = Hearing::default();
        let text = format!("192.0.2.1:6443={forged}");
        hearing.see(&annotations(&[(SUSPECTED, &text)]), at(0));
        for round in 1..=3 {
            hearing.start_term();
            let text = format!("192.0.2.1:6443={round}");
            assert_eq!(hearing.suspect(&suspects(&[1])), Some(text.clone()), "{forged}");
            hearing.stored(&text, at(round * 1000));
            assert!(hearing.had_time_to_object(target(1), at(round * 1000 + 300)));
        }
    }
}

/// Rule: 7.key
#[test]
fn key_of_an_objection_is_a_hash_of_the_identity() {
    let key = objection_key("operator-0_4c0ad7cb-6a0f-4ad0-9d5d-3e1d8d0d7a15");
    let hash = key.strip_prefix("objection.endpoint-copier/").unwrap();
    assert_eq!(hash.len(), 10);
    assert!(hash.bytes().all(|c| matches!(c, b'a'..=b'z' | b'2'..=b'7')));
    assert_ne!(
        key,
        objection_key("operator-1_4c0ad7cb-6a0f-4ad0-9d5d-3e1d8d0d7a15")
    );
    assert_eq!(Peer::new("a").key(), objection_key("a"));
}

fn set(text: &str) -> (String, Option<String>) {
    (objection_key("operator-1"), Some(text.to_owned()))
}

fn removal() -> (String, Option<String>) {
    (objection_key("operator-1"), None)
}

/// Rule: 7.objection, 7.repeated, 7.withdrawn
#[test]
fn peer_repeats_its_objection_and_withdraws_it() {
    let mut peer = Peer::new("operator-1");
    let both = "192.0.2.1:6443=1,192.0.2.2:6443=2";
    let mut answer = |suspected: &str, well: &[u8], now| {
        peer.answer(
            suspected,
            |target| suspects(well).contains(&target),
            &[].into(),
            at(now),
        )
    };
    assert_eq!(answer("", &[1, 2], 0), None, "nothing is suspected");
    assert_eq!(answer(both, &[], 0), None, "nothing is well");
    assert_eq!(answer(both, &[1, 3], 100), Some(set("192.0.2.1:6443=1;1")));
    assert_eq!(answer(both, &[1], 5_099), None, "objected already");
    assert_eq!(answer(both, &[1], 5_100), Some(set("192.0.2.1:6443=1;2")));
    assert_eq!(
        answer(both, &[1, 2], 5_200),
        Some(set("192.0.2.1:6443=1,192.0.2.2:6443=2;3"))
    );
    assert_eq!(answer(both, &[2], 5_300), Some(set("192.0.2.2:6443=2;4")));
    assert_eq!(
        answer("192.0.2.2:6443=3", &[2], 5_400),
        Some(set("192.0.2.2:6443=3;5")),
        "a new round"
    );
    assert_eq!(answer("192.0.2.2:6443=3", &[], 5_500), Some(removal()));
    assert_eq!(answer("192.0.2.2:6443=3", &[], 5_600), None);
    assert_eq!(
        answer("192.0.2.2:6443=3", &[2], 5_700),
        Some(set("192.0.2.2:6443=3;6"))
    );
    assert_eq!(answer("", &[2], 5_800), Some(removal()));
    assert_eq!(answer("nonsense", &[2], 5_900), None);
}

/// Rule: 7.own-node
#[test]
fn peer_does_not_object_for_targets_on_its_own_node() {
    let mut peer = Peer::new("operator-1");
    let both = "192.0.2.1:6443=1,192.0.2.2:6443=2";
    let write = peer.answer(both, |_| true, &[address(1)].into(), at(0));
    assert_eq!(write, Some(set("192.0.2.2:6443=2;1")));
}

/// Rule: 7.retry
#[test]
fn peer_repeats_a_write_that_failed() {
    let mut peer = Peer::new("operator-1");
    let one = "192.0.2.1:6443=1";
    assert_eq!(
        peer.answer(one, |_| true, &[].into(), at(0)),
        Some(set("192.0.2.1:6443=1;1"))
    );
    peer.failed();
    assert_eq!(
        peer.answer(one, |_| true, &[].into(), at(100)),
        Some(set("192.0.2.1:6443=1;2"))
    );
    peer.failed();
    assert_eq!(peer.answer(one, |_| false, &[].into(), at(200)), Some(removal()));
    peer.failed();
    assert_eq!(peer.answer("", |_| true, &[].into(), at(300)), Some(removal()));
    assert_eq!(peer.answer("", |_| true, &[].into(), at(400)), None);
}

/// Rule: 7.objection
#[test]
fn leader_understands_the_objection_of_a_peer() {
    let mut leader = Hearing::default();
    let mut peer = Peer::new("operator-1");
    let suspected = leader.suspect(&suspects(&[1, 2])).unwrap();
    let Some((_, Some(text))) =
        peer.answer(&suspected, |suspected| suspected == target(2), &[].into(), at(0))
    else {
        panic!("the peer does not object");
    };
    leader.see(
        &annotations(&[(SUSPECTED, &suspected), (peer.key(), &text)]),
        at(100),
    );
    assert!(!leader.has_objection(target(1), at(100)));
    assert!(leader.has_objection(target(2), at(100)));
    assert!(leader.had_time_to_object(target(2), at(400)));
}
