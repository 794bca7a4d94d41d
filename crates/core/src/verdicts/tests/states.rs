//! The state of one target.

use std::collections::BTreeMap;

use super::*;

fn timeout() -> Reply {
    Reply::Failure(Failure::TimedOut)
}

/// Rule: 7.states
#[test]
fn target_changes_phase_with_its_results() {
    let mut probes = Probes::new(1);
    let seen_now = |probes: &Probes| (probes.phase(1), probes.facts(1, 0).failures);
    let mut seen = vec![seen_now(&probes)];
    for (begun, reply) in [
        (0, Reply::Success),
        (1_000, timeout()),
        (1_500, timeout()),
        (2_000, timeout()),
        (3_000, timeout()),
        (4_000, Reply::Success),
        (5_000, Reply::Success),
        (6_000, Reply::Success),
        (7_000, Reply::Success),
    ] {
        probes.attempt(1, begun, begun + 10, reply);
        seen.push(seen_now(&probes));
    }
    assert_eq!(
        seen,
        [
            (Phase::New, 0),
            (Phase::Well, 0),
            (Phase::Failing, 1),
            (Phase::Failing, 2),
            (Phase::Down, 3),
            (Phase::Down, 3),
            (Phase::Rising, 3),
            (Phase::Rising, 3),
            (Phase::Rising, 3),
            (Phase::Well, 0),
        ]
    );
}

/// Rule: 7.new
#[test]
fn target_that_was_never_well_never_becomes_down() {
    let mut probes = Probes::new(1);
    for n in 0..100 {
        probes.refused(1, n * 1_000);
    }
    assert_eq!(probes.phase(1), Phase::New);
}

/// Rule: 7.thresholds
#[test]
fn thresholds_decide_when_a_target_is_down_or_well() {
    let mut probes = Probes::new(0);
    probes.targets = Targets::new(Thresholds {
        failures: 1,
        successes: 2,
        rise: Duration::from_secs(1),
    });
    probes.targets.list(&[target(1)].into(), at(0));
    probes.well(1, 0);
    probes.refused(1, 1_000);
    assert_eq!(probes.phase(1), Phase::Down);
    probes.well(1, 2_000);
    probes.well(1, 3_000);
    assert_eq!(probes.phase(1), Phase::Well);
}

/// Rule: 7.own-connections
#[test]
fn target_is_unhealthy_from_its_second_failure_until_it_is_well() {
    let mut probes = Probes::new(2);
    probes.well(1, 0);
    probes.well(2, 0);
    let (suspected, down) = (Some(Unhealthy::Suspected), Some(Unhealthy::Down));
    for (begun, is_well, expected) in [
        (1_000, false, None),
        (1_500, true, None),
        (2_000, false, None),
        (2_500, false, suspected),
        (3_000, true, None),
        (4_000, false, None),
        (4_200, false, suspected),
        (4_400, false, down),
        (5_000, true, suspected),
        (6_000, true, suspected),
        (7_000, true, suspected),
        (8_000, true, None),
    ] {
        if is_well {
            probes.well(1, begun);
        } else {
            probes.refused(1, begun);
        }
        let seen = probes.targets.unhealthy().get(&target(1)).copied();
        assert_eq!(seen, expected, "at {begun} ms");
    }
}

/// Rule: 7.own-connections
#[test]
fn no_target_is_unhealthy_if_no_api_server_is_well() {
    let mut probes = Probes::new(2);
    let supervisor = Target::new(address(2), SUPERVISOR);
    probes
        .targets
        .list(&[target(1), target(2), supervisor].into(), at(0));
    probes.well(2, 0);
    probes.targets.begin(supervisor, at(0));
    probes.targets.end(supervisor, at(0), at(10), Reply::Success);
    for begun in [1_000, 1_200] {
        probes.targets.begin(supervisor, at(begun));
        probes
            .targets
            .end(supervisor, at(begun), at(begun + 10), timeout());
    }
    assert_eq!(
        probes.targets.unhealthy(),
        BTreeMap::new(),
        "a supervisor counts as an unhealthy API server"
    );
    probes.down(1);
    assert_eq!(probes.targets.unhealthy(), [(target(1), Unhealthy::Down)].into());
    probes.refused(2, 2_000);
    assert_eq!(probes.targets.unhealthy(), BTreeMap::new());
}

/// Rule: 7.memory
#[test]
fn new_target_recorded_as_taken_out_is_suspected() {
    let mut probes = Probes::new(2);
    probes.targets.set_taken_out([address(1)].into());
    for begun in [0, 200] {
        assert!(probes.targets.suspects().is_empty(), "it has not failed twice");
        probes.refused(1, begun);
        probes.refused(2, begun);
    }
    assert_eq!(probes.phase(1), Phase::New);
    // The second target was not taken out, and was never well here.
    assert_eq!(probes.targets.suspects(), [target(1)].into());
    probes.well(1, 1_000);
    assert!(probes.targets.suspects().is_empty());
}

/// Rule: 7.forgotten
#[test]
fn target_listed_again_is_new() {
    let mut probes = Probes::new(1);
    probes.down(1);
    probes.targets.begin(target(1), at(1_900));
    probes.targets.list(&[].into(), at(2_000));
    assert!(probes.targets.get(target(1)).is_none());
    probes.targets.list(&[target(1)].into(), at(2_100));
    assert_eq!(probes.phase(1), Phase::New);
    // An attempt that began before the target was listed again is ignored.
    assert!(
        !probes
            .targets
            .end(target(1), at(1_900), at(2_200), Reply::Success)
    );
    assert_eq!(probes.phase(1), Phase::New);
}

/// Rule: 7.forgotten
#[test]
fn target_still_listed_keeps_its_state() {
    let mut probes = Probes::new(1);
    probes.down(1);
    probes.targets.list(&[target(1), target(2)].into(), at(2_000));
    assert_eq!(probes.phase(1), Phase::Down);
    assert_eq!(probes.phase(2), Phase::New);
}

/// Rule: 7.first-failure
#[test]
fn first_failure_of_each_run_is_reported() {
    let mut probes = Probes::new(1);
    for (begun, is_first) in [
        (0, Some(true)),
        (100, Some(false)),
        (200, None),
        (300, Some(true)),
        (400, Some(false)),
        (500, Some(false)),
        (600, Some(false)),
        (700, None),
        (800, Some(true)),
    ] {
        if let Some(is_first) = is_first {
            assert_eq!(probes.refused(1, begun), is_first, "begun at {begun}");
        } else {
            probes.well(1, begun);
        }
    }
}

/// Rule: 7.older-failure
#[test]
fn failure_older_than_the_last_success_is_ignored() {
    let mut probes = Probes::new(1);
    probes.well(1, 0);
    for (begun, phase) in [(900, Phase::Well), (1_500, Phase::Well), (1_501, Phase::Failing)] {
        probes.targets.begin(target(1), at(begun));
        probes.well(1, 1_500);
        probes
            .targets
            .end(target(1), at(begun), at(begun + 1_000), timeout());
        assert_eq!(probes.phase(1), phase, "begun at {begun}");
    }
}

/// Rule: 7.late
#[test]
fn discarded_attempt_changes_nothing() {
    let mut probes = Probes::new(1);
    probes.well(1, 0);
    probes.targets.begin(target(1), at(1_000));
    assert!(!probes.targets.is_clearly_well(target(1), at(2_000)));
    probes.targets.discard(target(1), at(1_000));
    assert!(probes.targets.is_clearly_well(target(1), at(2_000)));
    assert!(!probes.targets.end(target(1), at(1_000), at(2_000), timeout()));
    assert_eq!(probes.phase(1), Phase::Well);
}

/// Rule: 7.alive
#[test]
fn alive_reply_ends_a_run_of_failures() {
    for status in [401, 403, 429] {
        let mut probes = Probes::new(2);
        probes.attempt(1, 0, 10, Reply::Alive(status));
        assert_eq!(probes.phase(1), Phase::Well, "new target, {status}");
        probes.refused(1, 1_000);
        probes.refused(1, 1_200);
        probes.attempt(1, 1_400, 1_410, Reply::Alive(status));
        assert_eq!(probes.phase(1), Phase::Well, "failing target, {status}");
        assert!(!probes.facts(1, 1_500).answers, "{status}");
    }
}

/// Rule: 7.alive-rise
#[test]
fn alive_reply_counts_for_the_rise_only_without_another_2xx() {
    for (another_answers, phase) in [(false, Phase::Well), (true, Phase::Rising)] {
        let mut probes = Probes::new(2);
        probes.down(1);
        if another_answers {
            probes.well(2, 1_900);
        }
        for begun in [2_000, 3_000, 4_000, 5_000] {
            probes.attempt(1, begun, begun + 10, Reply::Alive(429));
        }
        assert_eq!(probes.phase(1), phase, "another answers 2xx: {another_answers}");
    }
}

/// Rule: 7.alive-rise
#[test]
fn alive_reply_counts_despite_2xx_on_another_port_or_family() {
    let others = [
        Target::new(address(2), SUPERVISOR),
        Target::new("2001:db8::1".parse().unwrap(), API),
    ];
    let mut probes = Probes::new(1);
    let listed = others.into_iter().chain([target(1)]).collect();
    probes.targets.list(&listed, at(0));
    for other in others {
        probes.targets.begin(other, at(0));
        probes.targets.end(other, at(0), at(10), Reply::Success);
    }
    probes.down(1);
    for begun in [2_000, 3_000, 4_000, 5_000] {
        probes.attempt(1, begun, begun + 10, Reply::Alive(429));
    }
    assert_eq!(probes.phase(1), Phase::Well);
}

/// Rule: 7.rise
#[test]
fn rise_takes_three_successes_and_three_seconds() {
    for (successes, is_well) in [
        (&[2_000, 3_000, 4_000][..], false),
        (&[2_000, 2_100, 2_200, 4_999], false),
        (&[2_000, 5_000], false),
        (&[2_000, 3_000, 5_000], true),
        (&[2_000, 3_000, 4_000, 5_000], true),
    ] {
        let mut probes = Probes::new(1);
        probes.down(1);
        for begun in successes {
            probes.well(1, *begun);
        }
        assert_eq!(probes.phase(1) == Phase::Well, is_well, "{successes:?}");
    }
}

/// Rule: 7.rise
#[test]
fn failure_during_a_rise_restarts_it() {
    let mut probes = Probes::new(1);
    probes.down(1);
    probes.well(1, 2_000);
    probes.well(1, 3_000);
    probes.refused(1, 4_000);
    assert_eq!(probes.phase(1), Phase::Down);
    for begun in [5_000, 6_000, 7_000] {
        probes.well(1, begun);
        assert_ne!(probes.phase(1), Phase::Well);
    }
    // The target was not well before it failed, so this was not a relapse.
    probes.well(1, 8_000);
    assert_eq!(probes.phase(1), Phase::Well);
}

/// The duration, in seconds, of the rise after a fall at 5,000 s, if the target also became down at these earlier
/// times, in seconds.
fn rise_after(falls: &[u64]) -> u64 {
    let mut probes = Probes::new(1);
    probes.well(1, 0);
    for fall in falls {
        for begun in [0, 200, 400] {
            probes.refused(1, fall * 1_000 + begun);
        }
        assert_eq!(probes.phase(1), Phase::Down);
        for second in 1.. {
            probes.well(1, (fall + second) * 1_000);
            if probes.phase(1) == Phase::Well {
                break;
            }
        }
    }
    for begun in [0, 200, 400] {
        probes.refused(1, 5_000_000 + begun);
    }
    let seconds = (1..100).find(|second| {
        probes.well(1, (5_000 + second) * 1_000);
        probes.phase(1) == Phase::Well
    });
    seconds.unwrap() - 1
}

/// Rule: 7.relapse
#[test]
fn relapse_within_ten_minutes_doubles_the_rise() {
    for (falls, seconds) in [
        (&[][..], 3),
        (&[4_395], 3),
        (&[4_470], 6),
        (&[4_470, 4_520], 12),
        (&[4_470, 4_520, 4_560], 24),
        (&[4_470, 4_520, 4_560, 4_600], 48),
        (&[4_470, 4_520, 4_560, 4_600, 4_650], 60),
        (&[4_470, 4_520, 4_560, 4_600, 4_650, 4_800], 60),
    ] {
        assert_eq!(rise_after(falls), seconds, "after falls at {falls:?}");
    }
}

/// Rule: 7.relapse
#[test]
fn relapses_still_count_after_the_target_is_relisted() {
    for (listed, seconds) in [(1_000, 6), (700_000, 3)] {
        let mut probes = Probes::new(1);
        probes.down(1);
        probes.targets.list(&[].into(), at(2_000));
        probes.targets.list(&[target(1)].into(), at(listed));
        let second = |second: u64| listed + 2_000 + second * 1_000;
        probes.well(1, second(0));
        for begun in [100, 300, 500] {
            probes.refused(1, second(0) + begun);
        }
        let rise = (1..100).find(|n| {
            probes.well(1, second(*n));
            probes.phase(1) == Phase::Well
        });
        assert_eq!(rise.unwrap() - 1, seconds, "listed again after {listed} ms");
    }
}

/// Rule: 7.clearly-well
#[test]
fn target_is_clearly_well_while_no_attempt_hangs() {
    let mut probes = Probes::new(2);
    assert!(!probes.targets.is_clearly_well(target(1), at(0)), "new");
    assert!(!probes.targets.is_clearly_well(target(9), at(0)), "not listed");
    probes.well(1, 0);
    probes.targets.begin(target(1), at(1_000));
    // Its response took 10 ms.
    assert!(probes.targets.is_clearly_well(target(1), at(1_260)));
    assert!(!probes.targets.is_clearly_well(target(1), at(1_261)));
    probes.refused(1, 1_300);
    assert!(!probes.targets.is_clearly_well(target(1), at(1_300)), "failing");
}

/// The maximum time, in milliseconds, that an attempt can be unanswered without putting the target in doubt, after
/// responses that took `answers` milliseconds each.
fn patience(answers: &[u64]) -> u64 {
    let mut probes = Probes::new(1);
    for (n, took) in (1..).zip(answers) {
        probes.attempt(1, n * 1_000, n * 1_000 + took, Reply::Success);
    }
    probes.targets.begin(target(1), at(900_000));
    let is_well = |time: &u64| probes.targets.is_clearly_well(target(1), at(900_000 + time));
    (0..2_000).take_while(is_well).last().unwrap()
}

/// Rule: 7.clearly-well
#[test]
fn slow_attempt_does_not_hang_if_responses_are_usually_slow() {
    for (answers, expected) in [
        (&[0][..], 250),
        (&[900], 1_150),
        (&[5, 900, 5], 1_037),
        (&[900, 700, 900, 800], 1_050),
        (
            &[900, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5],
            321,
        ),
    ] {
        assert_eq!(patience(answers), expected, "{answers:?}");
    }
}

/// Rule: 7.suspicion
#[test]
fn suspicion_begins_at_the_second_failure() {
    let mut probes = Probes::new(1);
    let mut suspected = Vec::new();
    probes.well(1, 0);
    for begun in [1_000, 1_200, 1_400] {
        probes.refused(1, begun);
        suspected.push(!probes.targets.suspects().is_empty());
    }
    probes.well(1, 2_000);
    suspected.push(!probes.targets.suspects().is_empty());
    assert_eq!(suspected, [false, true, true, false]);
}

/// Rule: 7.contrast
#[test]
fn contrast_needs_an_answer_between_two_failures() {
    // The first failure ends at 1,010.
    for (answer, last_failure, contrast) in [
        ((900, 1_020), 2_000, false),
        ((1_010, 1_020), 2_000, false),
        ((1_011, 1_020), 1_300, false),
        ((1_011, 1_020), 1_309, false),
        ((1_011, 1_020), 1_310, true),
        ((1_011, 1_500), 1_700, false),
        ((1_011, 1_500), 1_790, true),
    ] {
        let mut probes = Probes::new(2);
        probes.well(1, 0);
        probes.refused(1, 1_000);
        probes.attempt(2, answer.0, answer.1, Reply::Success);
        probes.refused(1, last_failure);
        let contrasts = probes.facts(1, 3_000).contrasts;
        assert_eq!(
            contrasts.contains(&address(2)),
            contrast,
            "{answer:?} {last_failure}"
        );
    }
}

/// Rule: 7.contrast
#[test]
fn contrast_lasts_as_long_as_the_run_of_failures() {
    let mut probes = Probes::new(2);
    probes.down(1);
    probes.well(2, 1_500);
    probes.refused(1, 2_000);
    probes.well(2, 2_100);
    assert_eq!(probes.facts(1, 2_200).contrasts, [address(2)].into());
    probes.well(1, 2_300);
    probes.refused(1, 2_400);
    assert_eq!(probes.phase(1), Phase::Down);
    assert_eq!(probes.facts(1, 3_000).contrasts, [].into(), "a new run");
}

/// Rule: 7.contrast
#[test]
fn contrast_is_2xx_on_the_same_port_and_family() {
    let mut probes = Probes::new(2);
    let others = [
        Target::new(address(2), SUPERVISOR),
        Target::new("2001:db8::1".parse().unwrap(), API),
        target(3),
    ];
    let listed = others.into_iter().chain([target(1), target(2)]).collect();
    probes.targets.list(&listed, at(0));
    probes.down(1);
    for other in others {
        probes.targets.begin(other, at(1_500));
        probes.targets.end(other, at(1_500), at(1_510), Reply::Success);
    }
    probes.attempt(2, 1_500, 1_510, Reply::Alive(429));
    probes.refused(1, 2_000);
    assert_eq!(probes.facts(1, 2_100).contrasts, [address(3)].into());
}

/// Rule: 7.contrast
#[test]
fn contrast_ends_when_the_other_server_fails() {
    let mut probes = Probes::new(3);
    probes.down(1);
    probes.well(2, 1_500);
    probes.well(3, 1_500);
    probes.refused(1, 2_000);
    assert_eq!(probes.facts(1, 2_100).contrasts, [address(2), address(3)].into());
    probes.refused(2, 2_100);
    assert_eq!(probes.facts(1, 2_200).contrasts, [address(3)].into());
    probes.well(2, 2_300);
    probes.refused(1, 2_400);
    assert_eq!(probes.facts(1, 2_500).contrasts, [address(3)].into(), "too soon");
    probes.refused(1, 2_700);
    assert_eq!(probes.facts(1, 2_800).contrasts, [address(2), address(3)].into());
}

/// Rule: 7.stall
#[test]
fn late_suspicion_needs_another_failure_or_a_long_contrast() {
    let store = |probes: &mut Probes, stored: u64| {
        let value = probes.hearing.suspect(&[target(1)].into()).unwrap();
        probes.hearing.stored(&value, at(stored));
    };
    // The second failure, at 1,210 ms, makes the target suspected, and the third arrives at 1,410 ms.
    let stored_at = |stored: u64| {
        let mut probes = Probes::new(2);
        probes.down(1);
        probes.well(2, 1_020);
        store(&mut probes, stored);
        probes
    };
    let has_contrast = |probes: &Probes, now| !probes.facts(1, now).contrasts.is_empty();
    assert!(has_contrast(&stored_at(1_360), 1_700), "stored after 150 ms");
    let mut probes = stored_at(1_361);
    assert!(!has_contrast(&probes, 1_700), "stored after 151 ms");
    probes.refused(1, 1_661);
    assert!(
        !has_contrast(&probes, 1_700),
        "begun before the others were heard"
    );
    probes.refused(1, 1_662);
    assert!(has_contrast(&probes, 1_700));

    let mut probes = stored_at(5_000);
    probes.refused(1, 4_019);
    assert!(
        !has_contrast(&probes, 5_400),
        "2,999 ms after the answer of the other server"
    );
    let mut probes = stored_at(5_000);
    probes.refused(1, 4_020);
    assert!(has_contrast(&probes, 5_400));

    let mut probes = stored_at(1_300);
    probes.well(1, 2_000);
    probes.refused(1, 3_000);
    probes.well(2, 3_020);
    probes.refused(1, 6_019);
    assert!(!has_contrast(&probes, 6_100), "stored for an earlier run");
    probes.refused(1, 6_020);
    assert!(has_contrast(&probes, 6_100));

    let mut probes = Probes::new(2);
    probes.well(1, 0);
    probes.refused(1, 1_000);
    probes.well(2, 1_020);
    probes.refused(1, 1_890);
    probes.refused(1, 1_940);
    store(&mut probes, 2_000);
    assert!(!has_contrast(&probes, 2_400), "no failure since then");
    probes.refused(1, 2_100);
    assert!(has_contrast(&probes, 2_400));
}

/// Rule: 7.blind
#[test]
fn success_is_recent_for_three_seconds() {
    let mut probes = Probes::new(1);
    assert!(!probes.facts(1, 0).is_recent);
    probes.well(1, 0);
    probes.attempt(1, 1_000, 1_010, Reply::Alive(429));
    assert!(probes.facts(1, 3_009).is_recent);
    assert!(!probes.facts(1, 3_010).is_recent, "the last answer is 429");
}

/// Rule: 7.blind
#[test]
fn success_is_recent_until_an_attempt_fails() {
    let mut probes = Probes::new(1);
    probes.well(1, 0);
    probes.targets.begin(target(1), at(1_000));
    assert!(
        probes.facts(1, 4_000).is_recent,
        "this replica may have been suspended"
    );
    probes.targets.discard(target(1), at(1_000));
    assert!(probes.facts(1, 4_000).is_recent, "the timer fired late");
    probes.attempt(1, 4_000, 5_000, timeout());
    assert!(!probes.facts(1, 5_000).is_recent);
}

/// Rule: 7.report
#[test]
fn report_stays_the_same_while_nothing_changes() {
    let mut probes = Probes::new(3);
    probes.down(1);
    probes.well(2, 1_500);
    probes.refused(1, 2_000);
    probes.refused(3, 0);
    let report = |probes: &Probes, now| {
        let Probes { targets, hearing } = probes;
        targets.report(at(now), hearing, Leadership::default())
    };
    probes.attempt(1, 3_000, 4_000, timeout());
    probes.well(2, 3_000);
    probes.refused(3, 3_400);
    let before = report(&probes, 4_000);
    for second in 4..50 {
        probes.well(2, second * 1_000);
        probes.refused(1, second * 1_000);
        probes.attempt(3, second * 1_000, second * 1_000 + 900, timeout());
        assert_eq!(report(&probes, second * 1_000 + 950), before, "second {second}");
    }
    assert_eq!(before.targets[&target(1)].what, Some(Failure::Refused));
    assert_eq!(before.targets[&target(1)].since, Some(at(1_010)));
    assert_eq!(before.targets[&target(1)].last_success, Some(at(10)));
}
