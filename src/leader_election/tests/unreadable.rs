//! A Lease with times that our clients cannot decode.

use super::*;

/// A time that a user can write and an API server stores, but that our time type cannot represent.
const UNREADABLE: &str = "9999-12-31T23:59:59.999999Z";

/// Rule: 5.unreadable
#[tokio::test(start_paused = true)]
async fn lease_with_unreadable_times_is_taken_after_its_duration() {
    let store = Store::new();
    put(
        &store,
        json!({"holderIdentity": "gone", "leaseDurationSeconds": 6, "renewTime": UNREADABLE, "acquireTime": UNREADABLE}),
    );
    let start = Instant::now();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    let took = start.elapsed();
    assert!((seconds(6)..seconds(7)).contains(&took), "{took:?}");
    for time in ["renewTime", "acquireTime"] {
        assert_ne!(spec(&store)[time], UNREADABLE, "{time}");
    }
    sleep(seconds(10)).await;
    assert!(!term.is_over());
}

/// Rule: 5.unreadable
#[tokio::test(start_paused = true)]
async fn a_leader_keeps_a_lease_whose_times_become_unreadable() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    let two = Runner::start(&store, "two");
    sleep(seconds(3)).await;
    for _ in 0..10 {
        let times = json!({"spec": {"renewTime": UNREADABLE, "acquireTime": UNREADABLE}});
        store.patch("leases", "default", LEASE, times).unwrap();
        sleep(seconds(3)).await;
        assert!(!term.is_over() && two.terms.borrow().is_none());
    }
    assert_ne!(
        spec(&store)["renewTime"],
        UNREADABLE,
        "the leader did not replace the times"
    );
}

/// Rule: 5.unreadable
#[tokio::test(start_paused = true)]
async fn unreadable_lease_never_seen_held_is_taken_at_once() {
    let store = Store::new();
    put(&store, json!({"renewTime": UNREADABLE}));
    let start = Instant::now();
    let mut one = Runner::start(&store, "one");
    one.leads().await;
    assert!(start.elapsed() < seconds(1), "{:?}", start.elapsed());
}
