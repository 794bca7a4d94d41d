//! The release of the Lease.

use super::*;

/// Rule: 5.released
#[tokio::test(start_paused = true)]
async fn stopping_leader_releases_lease_and_next_leads_at_once() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let first = one.leads().await;
    let mut two = Runner::start(&store, "two");
    sleep(seconds(1)).await;
    let start = Instant::now();
    one.stop.cancel();
    two.leads().await;
    assert!(
        start.elapsed() < Duration::from_millis(300),
        "{:?}",
        start.elapsed()
    );
    assert!(first.is_over() && !first.is_revoked());
    one.task.await.unwrap();
}

/// Rule: 5.release
#[tokio::test(start_paused = true)]
async fn a_release_waits_for_the_writes_in_flight() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    let write = term.begin_write().unwrap();
    one.stop.cancel();
    sleep(Duration::from_millis(600)).await;
    assert_eq!(
        spec(&store)["holderIdentity"],
        "one",
        "released with a write in flight"
    );
    assert!(term.begin_write().is_err(), "a new write began");
    write.answered();
    one.task.await.unwrap();
    assert_eq!(spec(&store)["holderIdentity"], "");
}

/// Rule: 5.release
#[tokio::test(start_paused = true)]
async fn a_write_that_does_not_end_prevents_the_release() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    let _write = term.begin_write().unwrap();
    let start = Instant::now();
    one.stop.cancel();
    one.task.await.unwrap();
    assert!(
        start.elapsed() < Duration::from_millis(1100),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(spec(&store)["holderIdentity"], "one");
}

#[tokio::test(start_paused = true)]
async fn unanswered_write_forbids_release_for_a_minute() {
    for (later, holder) in [(50, "one"), (70, "")] {
        let store = Store::new();
        let mut one = Runner::start(&store, "one");
        one.leads().await.begin_write().map(drop).unwrap();
        sleep(seconds(later)).await;
        one.stop.cancel();
        one.task.await.unwrap();
        assert_eq!(spec(&store)["holderIdentity"], holder, "after {later} s");
    }
}

/// Rule: 5.release
#[tokio::test(start_paused = true)]
async fn write_of_an_earlier_term_forbids_release_too() {
    for is_in_flight in [false, true] {
        let store = Store::new();
        let mut one = Runner::start(&store, "one");
        let write = one.leads().await.begin_write().unwrap();
        let write = is_in_flight.then_some(write);
        let renewals = Match::any().resource("leases").verb("patch");
        let fault = one.server.faults().add(Fault::status(renewals, 500));
        one.terms
            .wait_for(Option::is_none)
            .await
            .expect("the candidate runs");
        one.server.faults().remove(fault);
        one.leads().await;
        one.stop.cancel();
        one.task.await.unwrap();
        assert_eq!(spec(&store)["holderIdentity"], "one", "in flight: {is_in_flight}");
        drop(write);
    }
}

/// Rule: 5.release
#[tokio::test(start_paused = true)]
async fn a_release_that_takes_1200_ms_succeeds() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    one.leads().await;
    let mut two = Runner::start(&store, "two");
    sleep(seconds(1)).await;
    let slow = Duration::from_millis(1200);
    one.server
        .faults()
        .add(Fault::new(Match::any(), Effect::Latency(slow)));
    let start = Instant::now();
    one.stop.cancel();
    two.leads().await;
    let took = start.elapsed();
    assert!(took < Duration::from_millis(1500), "{took:?}");
}

/// Rule: 5.release
#[tokio::test(start_paused = true)]
async fn release_succeeds_while_a_slow_renewal_is_in_flight() {
    let late = Effect::Latency(Duration::from_millis(1500));
    let late = Fault::new(Match::any(), late);
    let hangs = Fault::new(Match::any(), Effect::Hang).times(2);
    for slow in [late, hangs] {
        let store = Store::new();
        let mut one = Runner::start(&store, "one");
        one.leads().await;
        let mut two = Runner::start(&store, "two");
        sleep(seconds(1)).await;
        one.server.faults().add(slow);
        // The renewal is sent 2 s after the term began.
        sleep(Duration::from_millis(1300)).await;
        let start = Instant::now();
        one.stop.cancel();
        two.leads().await;
        let took = start.elapsed();
        assert!(took < seconds(3), "{took:?}");
    }
}

/// A renewal that was in flight at the stop can be applied between the read and the write of the release.
/// Rule: 5.release
#[tokio::test(start_paused = true)]
async fn a_release_that_conflicts_is_sent_again() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    one.leads().await;
    let late = Effect::Latency(Duration::from_millis(200));
    let faults = one.server.faults();
    faults.add(Fault::new(Match::any().resource("leases").verb("patch"), late).times(1));
    one.stop.cancel();
    sleep(Duration::from_millis(100)).await;
    let renewal = json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
    store.patch("leases", "default", LEASE, renewal).unwrap();
    one.task.await.unwrap();
    assert_eq!(spec(&store)["holderIdentity"], "");
}
