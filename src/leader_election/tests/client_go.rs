//! How candidates interact with client-go and kubectl.

use super::*;

/// Rule: 5.go-operators, 5.stated-duration
#[tokio::test(start_paused = true)]
async fn a_leader_of_client_go_is_honored_for_its_own_duration() {
    let store = Store::new();
    put(
        &store,
        json!({
            "holderIdentity": "go", "leaseDurationSeconds": 15, "leaseTransitions": 4,
            "acquireTime": "2001-01-01T00:00:00.000000Z", "renewTime": "2001-01-01T00:00:00.000000Z",
        }),
    );
    let mut one = Runner::start(&store, "one");
    for renewal in 0..10 {
        sleep(seconds(2)).await;
        store
            .patch(
                "leases",
                "default",
                LEASE,
                json!({"spec": {"renewTime": format!("2001-01-01T00:00:{:02}.000000Z", renewal + 1)}}),
            )
            .unwrap();
        assert!(one.terms.borrow().is_none());
    }
    let died = Instant::now();
    one.leads().await;
    assert!(
        died.elapsed() >= seconds(15) && died.elapsed() < seconds(16),
        "{:?}",
        died.elapsed()
    );
    assert_eq!(spec(&store)["leaseTransitions"], 5);
}

/// Rule: 5.go-operators
#[tokio::test(start_paused = true)]
async fn a_lease_released_by_client_go_is_taken_at_once() {
    let store = Store::new();
    put(
        &store,
        json!({"holderIdentity": "go", "leaseDurationSeconds": 15}),
    );
    let mut one = Runner::start(&store, "one");
    sleep(seconds(3)).await;
    put(
        &store,
        json!({"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": "2001-01-01T00:00:00.000000Z", "acquireTime": "2001-01-01T00:00:00.000000Z", "leaseTransitions": 1}),
    );
    let start = Instant::now();
    one.leads().await;
    assert!(
        start.elapsed() < Duration::from_millis(300),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn lease_of_an_unknown_holder_is_left_alone_for_its_duration() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let first = one.leads().await;
    let mut two = Runner::start(&store, "two");
    sleep(seconds(3)).await;
    let patch = json!({"spec": {"holderIdentity": "nobody"}});
    store.patch("leases", "default", LEASE, patch).unwrap();
    let given = Instant::now();
    first.over().await;
    assert!(
        given.elapsed() <= Duration::from_millis(2100),
        "{:?}",
        given.elapsed()
    );
    let (one, two) = (one.leads(), two.leads());
    tokio::pin!(one, two);
    futures::future::select(one, two).await;
    let took = given.elapsed();
    assert!(took >= seconds(6) && took < seconds(7), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn client_go_takes_a_released_lease_and_returns_it() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    one.leads().await;
    one.stop.cancel();
    one.task.await.unwrap();
    // client-go releases a Lease in the same way, so it would take this one immediately.
    let released = spec(&store);
    assert_eq!(
        (&released["holderIdentity"], &released["leaseDurationSeconds"]),
        (&json!(""), &json!(1))
    );
    assert!(released["renewTime"].is_string() && released["acquireTime"].is_string());
    let now = "2026-01-01T00:00:00.000000Z";
    put(
        &store,
        json!({"holderIdentity": "go", "leaseDurationSeconds": 15, "leaseTransitions": 1, "acquireTime": now, "renewTime": now}),
    );
    let mut two = Runner::start(&store, "two");
    sleep(seconds(10)).await;
    assert!(two.terms.borrow().is_none());
    put(
        &store,
        json!({"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": 1, "acquireTime": now, "renewTime": now}),
    );
    let released = Instant::now();
    two.leads().await;
    assert!(
        released.elapsed() < Duration::from_millis(300),
        "{:?}",
        released.elapsed()
    );
    assert_eq!(spec(&store)["leaseTransitions"], 2);
}
