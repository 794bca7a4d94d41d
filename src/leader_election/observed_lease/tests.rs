use endpoint_copier_core::model::ObjectMeta;

use super::*;

const OUR_DURATION: Duration = Duration::from_secs(6);

fn lease(version: u64, holder: Option<&str>, seconds: Option<i64>) -> Lease {
    Lease {
        metadata: ObjectMeta {
            uid: Some("u1".to_owned()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        },
        spec: LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        },
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Shows these states, one per second. Returns the result of `race` in seconds after the last state: `Ok(None)` means
/// immediately, and `Err` means never.
fn race_after(states: &[Option<Lease>]) -> Result<Option<u64>, ()> {
    let start = Instant::now();
    let mut observed = ObservedLease::default();
    let mut now = start;
    for state in states {
        now += seconds(1);
        observed.see_in_watch(state.as_ref(), now);
    }
    match observed.race("us", OUR_DURATION, false) {
        None => Err(()),
        Some(moment) if moment <= now => Ok(None),
        Some(moment) => Ok(Some((moment - now).as_secs())),
    }
}

/// The name of the case, the states of the Lease, and when a candidate may try.
type Case = (&'static str, Vec<Option<Lease>>, Result<Option<u64>, ()>);

/// Rule: 5.released, 5.deleted-or-emptied, 5.never-held, 5.stated-duration
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn the_state_of_a_lease_decides_when_a_candidate_may_try() {
    let table: &[Case] = &[
        ("nothing seen yet: never", vec![], Err(())),
        ("no Lease and never one: at once", vec![None], Ok(None)),
        (
            "held: after its duration",
            vec![Some(lease(1, Some("a"), Some(15)))],
            Ok(Some(15)),
        ),
        (
            "held by us: at once",
            vec![Some(lease(1, Some("us"), Some(15)))],
            Ok(None),
        ),
        (
            "released: at once",
            vec![
                Some(lease(1, Some("a"), Some(15))),
                Some(lease(2, Some(""), Some(1))),
            ],
            Ok(None),
        ),
        (
            "released without a holder field: at once",
            vec![Some(lease(1, None, Some(1)))],
            Ok(None),
        ),
        (
            "deleted while it was held: after the holder's duration",
            vec![Some(lease(1, Some("a"), Some(15))), None],
            Ok(Some(15)),
        ),
        (
            "emptied by hand: after the last holder's duration",
            vec![
                Some(lease(1, Some("a"), Some(15))),
                Some(lease(2, Some(""), Some(15))),
            ],
            Ok(Some(15)),
        ),
        (
            "holder removed by hand: after the last holder's duration",
            vec![Some(lease(1, Some("a"), Some(15))), Some(lease(2, None, None))],
            Ok(Some(15)),
        ),
        (
            "empty and never held: at once",
            vec![Some(lease(1, Some(""), Some(15)))],
            Ok(None),
        ),
        (
            "a holder without a duration: after our own duration",
            vec![Some(lease(1, Some("a"), None))],
            Ok(Some(6)),
        ),
        (
            "a holder with a negative duration: after our own duration",
            vec![Some(lease(1, Some("a"), Some(-3)))],
            Ok(Some(6)),
        ),
        (
            "an absurd duration: after a minute",
            vec![Some(lease(1, Some("a"), Some(i64::MAX)))],
            Ok(Some(60)),
        ),
        (
            "a renewal restarts the time",
            vec![
                Some(lease(1, Some("a"), Some(15))),
                Some(lease(2, Some("a"), Some(15))),
            ],
            Ok(Some(15)),
        ),
        (
            "the same state again does not restart the time",
            vec![
                Some(lease(1, Some("a"), Some(15))),
                Some(lease(1, Some("a"), Some(15))),
            ],
            Ok(Some(14)),
        ),
        (
            "an older state, from a watch that lags behind a GET, does not restart the time",
            vec![
                Some(lease(2, Some("a"), Some(15))),
                Some(lease(1, Some("b"), Some(1))),
            ],
            Ok(Some(14)),
        ),
        (
            "deleted after we held it: after our duration, because another may have held it since",
            vec![Some(lease(1, Some("us"), Some(6))), None],
            Ok(Some(6)),
        ),
        (
            "released and then deleted: after the last holder's duration",
            vec![
                Some(lease(1, Some("a"), Some(6))),
                Some(lease(2, Some(""), Some(1))),
                None,
            ],
            Ok(Some(6)),
        ),
    ];
    for (name, states, expected) in table {
        assert_eq!(race_after(states), *expected, "{name}");
    }
}

/// Rule: 5.written-again
#[test]
fn deleted_or_emptied_lease_is_rewritten_by_its_holder() {
    let start = Instant::now();
    for now in [
        None,
        Some(lease(2, Some(""), Some(6))),
        Some(lease(2, None, None)),
    ] {
        for (holder, leads, expected) in [
            ("us", true, start),
            ("us", false, start + OUR_DURATION),
            ("a", true, start + OUR_DURATION),
        ] {
            let mut observed = ObservedLease::default();
            observed.see(Some(&lease(1, Some(holder), Some(6))), start);
            observed.see(now.as_ref(), start);
            assert_eq!(
                observed.race("us", OUR_DURATION, leads),
                Some(expected),
                "{now:?}, {holder}, {leads}"
            );
        }
    }
}

#[test]
fn a_recreated_lease_is_a_change_whatever_its_version() {
    let start = Instant::now();
    let mut observed = ObservedLease::default();
    observed.see(Some(&lease(9, Some("a"), Some(15))), start);
    let mut recreated = lease(3, Some("b"), Some(15));
    recreated.metadata.uid = Some("u2".to_owned());
    assert!(observed.see(Some(&recreated), start + seconds(1)));
    assert_eq!(observed.holder(), Some("b"));
}

#[test]
fn a_get_or_write_counts_even_if_versions_restart() {
    let start = Instant::now();
    let mut observed = ObservedLease::default();
    observed.see_in_watch(Some(&lease(1000, Some("a"), Some(6))), start);
    let restored = lease(500, Some("a"), Some(6));
    assert!(
        !observed.see_in_watch(Some(&restored), start + seconds(5)),
        "a lower version in the watch counts, although a watch may lag"
    );
    assert!(observed.see(Some(&restored), start + seconds(6)));
    assert!(
        !observed.may_race("us", OUR_DURATION, false, start + seconds(6)),
        "free although it has just been renewed"
    );
    // From here on, the watch counts again.
    assert!(observed.see_in_watch(Some(&lease(501, Some("a"), Some(6))), start + seconds(8)));
    assert_eq!(
        observed.race("us", OUR_DURATION, false),
        Some(start + seconds(14))
    );
}

#[test]
fn a_renewal_with_a_reused_version_is_a_change() {
    let start = Instant::now();
    let mut observed = ObservedLease::default();
    let renewed = |second: u8| {
        let mut lease = lease(7, Some("a"), Some(6));
        lease.spec.renew_time = Some(format!("2026-01-01T00:00:{second:02}.000000Z"));
        lease
    };
    observed.see_in_watch(Some(&renewed(50)), start);
    assert!(observed.see_in_watch(Some(&renewed(40)), start + seconds(5)));
    assert_eq!(
        observed.race("us", OUR_DURATION, false),
        Some(start + seconds(11))
    );
}

#[test]
fn the_times_that_a_lease_states_are_not_read() {
    for time in [
        "1970-01-01T00:00:00.000000Z",
        "9999-12-31T23:59:59.999999Z",
        "yesterday",
    ] {
        let mut stale = lease(1, Some("a"), Some(15));
        stale.spec.renew_time = Some(time.to_owned());
        assert_eq!(race_after(&[Some(stale)]), Ok(Some(15)), "{time}");
    }
}

#[test]
fn may_race_agrees_with_race() {
    let start = Instant::now();
    let mut observed = ObservedLease::default();
    assert!(!observed.may_race("us", OUR_DURATION, false, start));
    observed.see(Some(&lease(1, Some("a"), Some(2))), start);
    assert!(!observed.may_race("us", OUR_DURATION, false, start + Duration::from_millis(1999)));
    assert!(observed.may_race("us", OUR_DURATION, false, start + seconds(2)));
}

#[test]
fn the_history_of_a_lease_decides_why_it_may_be_taken() {
    for (states, why) in [
        (vec![None], "there was none"),
        (vec![Some(lease(1, None, Some(6)))], "it had no holder"),
        (
            vec![Some(lease(1, Some("us"), Some(6)))],
            "it was held by this replica",
        ),
        (
            vec![Some(lease(1, Some("a"), Some(6)))],
            "its holder has not renewed it in time",
        ),
        (
            vec![Some(lease(1, Some("a"), Some(6))), Some(lease(2, None, Some(1)))],
            "it was released",
        ),
        (
            vec![Some(lease(1, Some("a"), Some(6))), Some(lease(2, None, Some(6)))],
            "its holder has not written it again in time",
        ),
        (
            vec![Some(lease(1, Some("a"), Some(6))), None],
            "its holder has not written it again in time",
        ),
    ] {
        let mut observed = ObservedLease::default();
        for state in &states {
            observed.see_in_watch(state.as_ref(), Instant::now());
        }
        assert_eq!(observed.why_free("us"), why, "{states:?}");
    }
}
