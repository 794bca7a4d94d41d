//! Tests of how a candidate takes, keeps and loses the Lease.

use k8s_openapi::api::coordination::v1::Lease;

use super::super::lock_error::in_one_line;
use super::*;

/// Rule: 5.renewal
#[tokio::test(start_paused = true)]
async fn absent_lease_is_taken_at_once_and_renewed_every_2_s() {
    let store = Store::new();
    let start = Instant::now();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    assert!(start.elapsed() < seconds(1));
    assert_eq!(spec(&store)["holderIdentity"], "one");
    assert_eq!(spec(&store)["leaseDurationSeconds"], 6);
    let before = one.writes();
    sleep(seconds(60)).await;
    assert!(
        (29..=31).contains(&(one.writes() - before)),
        "{}",
        one.writes() - before
    );
    assert!(!term.is_over());
}

/// Rule: 5.standbys-watch
#[tokio::test(start_paused = true)]
async fn standbys_watch_and_do_not_poll() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    one.leads().await;
    let two = Runner::start(&store, "two");
    sleep(seconds(5)).await;
    let before = two.requests();
    sleep(seconds(300)).await;
    // The watch itself restarts every 25 s.
    assert!(two.requests() - before <= 13, "{}", two.requests() - before);
    assert_eq!(two.writes(), 0);
}

/// Rule: 5.durations
#[tokio::test(start_paused = true)]
async fn leader_without_api_server_stops_before_another_begins() {
    for cut in [
        Effect::Hang,
        Effect::Break,
        Effect::Status {
            code: 503,
            retry_after: Some(60),
        },
        Effect::Nonsense,
    ] {
        let store = Store::new();
        let mut one = Runner::start(&store, "one");
        let first = one.leads().await;
        let mut two = Runner::start(&store, "two");
        sleep(seconds(7)).await;
        let fault = one.server.faults().add(Fault::new(Match::any(), cut.clone()));
        let cut_at = Instant::now();
        first.over().await;
        let ended = Instant::now();
        assert!(ended - cut_at <= seconds(4), "{cut:?}: {:?}", ended - cut_at);
        let second = two.leads().await;
        assert!(
            Instant::now() > ended,
            "{cut:?}: the successor began before the end of the first term"
        );
        assert!(
            cut_at.elapsed() <= Duration::from_millis(6500),
            "{cut:?}: {:?}",
            cut_at.elapsed()
        );
        one.server.faults().remove(fault);
        sleep(seconds(30)).await;
        assert!(!second.is_over() && one.terms.borrow().is_none(), "{cut:?}");
    }
}

/// Rule: 5.durations
#[tokio::test(start_paused = true)]
async fn the_deadline_counts_from_when_the_renewal_was_sent() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    sleep(seconds(1)).await;
    let slow = Duration::from_millis(900);
    one.server
        .faults()
        .add(Fault::new(Match::any().verb("patch"), Effect::Latency(slow)).times(1));
    // Sent at 2 s, answered at 2.9 s.
    sleep(Duration::from_millis(1950)).await;
    let sent = Instant::now() - Duration::from_millis(950);
    let left = term.ends_at() - sent;
    assert!(
        left <= seconds(4) + Duration::from_millis(50) && left >= Duration::from_millis(3900),
        "{left:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_names_another_holder_ends_the_term_at_renewal() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    put(
        &store,
        json!({"holderIdentity": "kubectl", "leaseDurationSeconds": 10}),
    );
    let start = Instant::now();
    term.over().await;
    assert!(
        start.elapsed() <= Duration::from_millis(2100),
        "{:?}",
        start.elapsed()
    );
    assert!(term.is_revoked(), "writes in flight continue");
    let again = one.leads().await;
    assert!(start.elapsed() >= seconds(10), "{:?}", start.elapsed());
    assert!(!again.is_over());
}

#[tokio::test(start_paused = true)]
async fn a_standby_with_a_silent_watch_does_not_take_a_held_lease() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let first = one.leads().await;
    let two = Runner::start(&store, "two");
    sleep(seconds(3)).await;
    two.server.faults().silence_watches(Match::any());
    for _ in 0..60 {
        sleep(seconds(1)).await;
        assert!(two.terms.borrow().is_none());
    }
    assert!(!first.is_over());
}

/// Rule: 5.renewal
#[tokio::test(start_paused = true)]
async fn failed_attempts_are_repeated_until_one_succeeds() {
    for effect in [
        Effect::Nonsense,
        Effect::Truncated,
        Effect::Hang,
        Effect::Break,
        Effect::Status {
            code: 403,
            retry_after: None,
        },
        Effect::Status {
            code: 409,
            retry_after: None,
        },
        Effect::Status {
            code: 422,
            retry_after: None,
        },
        Effect::Status {
            code: 429,
            retry_after: Some(30),
        },
        Effect::Status {
            code: 500,
            retry_after: None,
        },
    ] {
        let store = Store::new();
        let mut one = Runner::start(&store, "one");
        let fault = one
            .server
            .faults()
            .add(Fault::new(Match::any().resource("leases"), effect.clone()));
        sleep(seconds(60)).await;
        assert!(
            one.requests() < 300,
            "{effect:?}: {} requests in a minute",
            one.requests()
        );
        one.server.faults().remove(fault);
        let start = Instant::now();
        one.leads().await;
        assert!(start.elapsed() < seconds(8), "{effect:?}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_to_the_first_write_does_not_prevent_a_term() {
    for effect in [Effect::LostReply, Effect::Unanswered] {
        let store = Store::new();
        let server_fault = |runner: &Runner| {
            runner
                .server
                .faults()
                .add(Fault::new(Match::any().verb("create"), effect.clone()).times(1));
        };
        let mut one = Runner::start(&store, "one");
        server_fault(&one);
        one.leads().await;
        let lease: Lease = serde_json::from_value(store.get("leases", "default", LEASE).unwrap()).unwrap();
        assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("one"));
    }
}

/// The holder's clock is far ahead or behind, or jumps.
#[tokio::test(start_paused = true)]
async fn times_that_a_holder_writes_have_no_effect() {
    for times in [
        ["2001-01-01T00:00:00.000000Z", "2001-01-01T00:00:00.000000Z"],
        ["2999-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"],
        ["2001-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"],
        ["2999-01-01T00:00:00.000000Z", "2001-01-01T00:00:00.000000Z"],
    ] {
        let store = Store::new();
        let lease = |time, transitions| json!({"holderIdentity": "other", "leaseDurationSeconds": 6, "renewTime": time, "leaseTransitions": transitions});
        put(&store, lease(times[0], 0));
        let mut one = Runner::start(&store, "one");
        for renewal in 0..10 {
            sleep(seconds(2)).await;
            put(&store, lease(times[renewal % 2], renewal + 1));
            assert!(one.terms.borrow().is_none(), "{times:?}");
        }
        let died = Instant::now();
        one.leads().await;
        let took = died.elapsed();
        assert!(took >= seconds(6) && took < seconds(7), "{times:?}: {took:?}");
        // While this candidate holds the Lease, the times in the Lease do not matter either.
        let term = one.leads().await;
        let stated = json!({"spec": {"renewTime": times[1], "acquireTime": times[0]}});
        store.patch("leases", "default", LEASE, stated).unwrap();
        sleep(seconds(30)).await;
        assert!(!term.is_over(), "{times:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_cause_of_failed_attempts_is_logged_once_a_minute() {
    let (log, _guard) = crate::telemetry::testing::logged();
    let mut one = Runner::start(&Store::new(), "one");
    one.leads().await;
    let before = log.lines().len();
    let faults = one.server.faults();
    // After a failed renewal, the candidate reads the Lease again.
    faults.add(Fault::status(Match::any().resource("leases").verb("patch"), 500).times(1));
    // The cause changes after every three attempts, so that both causes occur many times in a minute.
    for code in [500, 503].into_iter().cycle().take(100) {
        faults.add(Fault::status(Match::any().resource("leases").verb("get"), code).times(3));
    }
    one.terms
        .wait_for(Option::is_none)
        .await
        .expect("the candidate runs");
    sleep(seconds(60)).await;
    one.leads().await;
    let lines = log.lines().split_off(before);
    let count = |words| lines.iter().filter(|line| line.contains(words)).count();
    assert_eq!(count("the renewal of the Lease"), 2, "{lines:#?}");
    assert_eq!(count("lost the lead"), 1, "{lines:#?}");
    let attempts = count("the attempt to take the Lease");
    assert!((4..=7).contains(&attempts), "{lines:#?}");
    assert_eq!(count("works again"), 1, "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn failed_renewals_are_progress_and_a_stuck_loop_is_noticed() {
    let limit = seconds(26);
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    one.leads().await;
    // While connections break, the limit is shorter than the 4 s that a term lasts without renewals.
    for (effect, limit) in [(Effect::Hang, limit), (Effect::Break, seconds(3))] {
        let cut = one.server.faults().add(Fault::new(Match::any(), effect));
        for _ in 0..300 {
            sleep(seconds(1)).await;
            assert_eq!(one.watchdog.check(limit), Ok(()));
        }
        one.server.faults().remove(cut);
        one.leads().await;
    }
    // From now on, nothing renews the Lease.
    one.task.abort();
    sleep(seconds(40)).await;
    assert!(one.watchdog.check(limit).is_err());
}

#[test]
fn lock_error_is_one_line_without_debug_output() {
    let status = kube::core::Status {
        code: 403,
        ..kube::core::Status::failure("you may not", "Forbidden")
    };
    let error = kube_leader_election::Error::CreateLease(kube::Error::Api(status.boxed()));
    assert_eq!(
        in_one_line(&error),
        "could not create the Lease in Kubernetes: 403 Forbidden: you may not"
    );
}
