//! Renewals: the number of requests, and slow or lost responses.

use super::*;

/// Rule: 5.one-request
#[tokio::test(start_paused = true)]
async fn a_renewal_is_one_write_and_no_read() {
    let mut one = Runner::start(&Store::new(), "one");
    let term = one.leads().await;
    let (reads, writes) = (one.asked("get"), one.asked("patch"));
    sleep(seconds(60)).await;
    assert_eq!(one.asked("get"), reads);
    let writes = one.asked("patch") - writes;
    assert!((29..=31).contains(&writes), "{writes}");
    assert!(!term.is_over());
}

/// Rule: 5.one-request
#[tokio::test(start_paused = true)]
async fn an_edit_that_the_watch_shows_causes_no_read() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    let (reads, writes) = (one.asked("get"), one.asked("patch"));
    for edit in 0..10 {
        sleep(seconds(2)).await;
        let note = json!({"metadata": {"annotations": {"note": edit.to_string()}}});
        store.patch("leases", "default", LEASE, note).unwrap();
    }
    sleep(seconds(2)).await;
    assert_eq!(one.asked("get"), reads);
    let writes = one.asked("patch") - writes;
    assert!(
        (10..=12).contains(&writes),
        "{writes} writes; a rejected write would cause another one"
    );
    assert!(!term.is_over());
}

/// Rule: 5.one-request
#[tokio::test(start_paused = true)]
async fn an_edit_that_no_watch_shows_causes_one_read() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    one.server.lag();
    let reads = one.asked("get");
    sleep(Duration::from_millis(500)).await;
    let note = json!({"metadata": {"annotations": {"note": "edited"}}});
    store.patch("leases", "default", LEASE, note).unwrap();
    sleep(seconds(4)).await;
    assert_eq!(one.asked("get"), reads + 1);
    assert!(!term.is_over());
}

/// Rule: 5.one-request
#[tokio::test(start_paused = true)]
async fn renewal_with_a_lost_reply_causes_no_read() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    let reads = one.asked("get");
    for effect in [Effect::Unanswered, Effect::LostReply, Effect::Truncated] {
        let patch = Match::any().verb("patch");
        one.server
            .faults()
            .add(Fault::new(patch, effect.clone()).times(1));
        sleep(seconds(6)).await;
        assert_eq!(one.asked("get"), reads, "{effect:?}");
        assert!(!term.is_over(), "{effect:?}");
    }
}

/// Rule: 5.slow
#[tokio::test(start_paused = true)]
async fn one_term_lasts_although_every_request_is_slow() {
    // First a network that adds a delay of 0.6 s in each direction, then an API server that takes 1.5 s per request.
    for latency in [1200, 1500].map(Duration::from_millis) {
        let store = Store::new();
        let mut one = Runner::start(&store, "one");
        one.server
            .faults()
            .add(Fault::new(Match::any(), Effect::Latency(latency)));
        let term = one.leads().await;
        sleep(seconds(60)).await;
        assert!(!term.is_over(), "{latency:?}");
    }
}

/// The renewal whose reply is lost is sent 2 s before the deadline. Neither its repetition nor any other request gets a
/// response before the deadline, so only the watch can show in time that the renewal was applied.
/// Rule: 5.slow
#[tokio::test(start_paused = true)]
async fn lost_reply_among_slow_requests_does_not_end_the_term() {
    for (every, effect) in [
        (3, Effect::Unanswered),
        (3, Effect::LostReply),
        (3, Effect::Truncated),
        (1, Effect::Unanswered),
    ] {
        let mut one = Runner::start(&Store::new(), "one");
        let slow = Effect::Latency(Duration::from_millis(1500));
        // Watches are fast, because nothing would show a renewal in time while a slow watch starts.
        for verb in ["get", "create", "patch"] {
            one.server
                .faults()
                .add(Fault::new(Match::any().verb(verb), slow.clone()));
        }
        let term = one.leads().await;
        let (reads, start) = (one.asked("get"), Instant::now());
        while start.elapsed() < seconds(60) {
            let lost = Fault::new(Match::any().verb("patch"), effect.clone()).times(1);
            one.server.faults().add(lost);
            sleep(seconds(2 * every)).await;
            assert!(!term.is_over(), "{effect:?} after {:?}", start.elapsed());
        }
        assert_eq!(one.asked("get"), reads, "{effect:?}");
    }
}
