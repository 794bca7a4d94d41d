//! A Lease that is deleted or emptied while it has a holder.

use tokio::time::advance;

use tokio::time::sleep_until;

use super::*;

/// Rule: 5.written-again
#[tokio::test(start_paused = true)]
async fn deleted_or_emptied_lease_is_rewritten_only_by_leader() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let first = one.leads().await;
    let two = Runner::start(&store, "two");
    sleep(seconds(3)).await;
    for round in 0..20 {
        advance(Duration::from_millis(137)).await;
        if round % 2 == 0 {
            store.delete("leases", "default", LEASE).unwrap();
        } else {
            put(&store, json!({"holderIdentity": ""}));
        }
        store.until(|store| spec(store)["holderIdentity"] == "one").await;
        assert!(two.terms.borrow().is_none() && !first.is_over());
    }
}

/// The API server of a former leader is down while another replica leads. Then the Lease of the other replica is
/// deleted or emptied.
#[tokio::test(start_paused = true)]
async fn a_former_leader_does_not_recreate_a_deleted_lease() {
    for empties in [false, true] {
        let store = Store::new();
        let mut one = Runner::start(&store, "one");
        one.leads().await;
        let mut two = Runner::start(&store, "two");
        sleep(seconds(1)).await;
        let cut = one.server.faults().add(Fault::new(Match::any(), Effect::Hang));
        let second = two.leads().await;
        let cut_two = two.server.faults().add(Fault::new(Match::any(), Effect::Hang));
        if empties {
            put(&store, json!({"holderIdentity": ""}));
        } else {
            store.delete("leases", "default", LEASE).unwrap();
        }
        one.server.faults().remove(cut);
        while !second.is_over() {
            assert!(one.terms.borrow().is_none(), "two terms");
            sleep(Duration::from_millis(50)).await;
        }
        two.server.faults().remove(cut_two);
        // Either replica may win, because both have seen how long the Lease has been missing.
        tokio::select! {
            _ = one.leads() => {}
            _ = two.leads() => {}
        }
    }
}

/// Deletes the Lease while a replica leads. Returns the store, the term of that replica, and a standby.
async fn deleted_under_a_leader() -> (Store, Term, Runner) {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    let two = Runner::start(&store, "two");
    sleep(seconds(3)).await;
    store.delete("leases", "default", LEASE).unwrap();
    (store, term, two)
}

/// Checks that for four seconds, no other term begins and this one does not end.
async fn assert_that_term_continues(first: &Term, standby: &Runner) {
    for _ in 0..40 {
        sleep(Duration::from_millis(100)).await;
        assert!(standby.terms.borrow().is_none(), "two terms");
    }
    assert!(!first.is_over());
}

/// The watch of the standby still shows no Lease after the leader has written it again.
#[tokio::test(start_paused = true)]
async fn standby_with_late_watch_takes_no_lease_deleted_twice() {
    let (store, first, two) = deleted_under_a_leader().await;
    two.server.lag();
    store.until(|store| spec(store)["holderIdentity"] == "one").await;
    let held = two.observer.clone();
    assert!(held.since().is_some_and(|since| since.elapsed() < seconds(3)));
    // This is just before replica two would assume that the Lease has been missing for the lease duration.
    sleep_until(held.since().unwrap() + Duration::from_millis(5_970)).await;
    store.delete("leases", "default", LEASE).unwrap();
    assert_that_term_continues(&first, &two).await;
}

/// After the first deletion, the standby is cut off and cannot read the Lease.
#[tokio::test(start_paused = true)]
async fn standby_after_a_cut_takes_no_lease_deleted_twice() {
    let (store, first, two) = deleted_under_a_leader().await;
    sleep(Duration::from_millis(10)).await;
    two.server.lag();
    let cut = two.server.faults().add(Fault::new(Match::any(), Effect::Break));
    sleep(seconds(7)).await;
    store.until(|store| spec(store)["holderIdentity"] == "one").await;
    store.delete("leases", "default", LEASE).unwrap();
    two.server.faults().remove(cut);
    assert_that_term_continues(&first, &two).await;
}

/// The holder dies, and somebody deletes its Lease.
#[tokio::test(start_paused = true)]
async fn a_deleted_lease_of_a_dead_holder_is_taken_after_its_duration() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    one.leads().await;
    let mut two = Runner::start(&store, "two");
    sleep(seconds(3)).await;
    one.task.abort();
    store.delete("leases", "default", LEASE).unwrap();
    let deleted = Instant::now();
    // A single failed read is not a gap.
    sleep(Duration::from_millis(2500)).await;
    let reads = Match::any().resource("leases").verb("get");
    two.server.faults().add(Fault::status(reads, 500).times(1));
    two.leads().await;
    let took = deleted.elapsed();
    assert!((seconds(6)..seconds(7)).contains(&took), "{took:?}");
}
