//! A watch of the Lease that shows too little.

use super::*;

/// Returns the number of restarts of watches that showed too little.
fn restarts(runner: &Runner) -> f64 {
    let page = runner.metrics.render();
    let stale =
        |line: &&str| line.starts_with("endpoint_copier_watch_restarts_total") && line.contains("stale");
    let values = page
        .lines()
        .filter(stale)
        .filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().unwrap()).sum::<f64>()
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_does_not_show_our_own_renewals_is_restarted() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    sleep(seconds(60)).await;
    assert!(
        restarts(&one) < 1.0,
        "a watch that shows the renewals was restarted"
    );
    one.server.faults().silence_watches(Match::any());
    sleep(seconds(8)).await;
    assert!((restarts(&one) - 1.0).abs() < 0.1, "{}", restarts(&one));
    sleep(seconds(60)).await;
    assert!(restarts(&one) < 3.0 && !term.is_over(), "{}", restarts(&one));
}

#[tokio::test(start_paused = true)]
async fn a_refused_lease_watch_does_not_count_as_stale() {
    for code in [403, 429] {
        let store = Store::new();
        let mut one = Runner::start(&store, "one");
        let term = one.leads().await;
        let watches = Match::any().verb("watch").resource("leases");
        let refused = one.server.faults().add(Fault::status(watches.clone(), code));
        one.server.faults().end_watches(watches, testbed::Ending::Abrupt);
        sleep(seconds(60)).await;
        one.server.faults().remove(refused);
        sleep(seconds(60)).await;
        assert!(
            restarts(&one) < 1.0 && !term.is_over(),
            "{code}: {}",
            restarts(&one)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn restore_of_etcd_keeps_the_leader() {
    for restarted in [false, true] {
        let store = Store::new();
        let mut one = Runner::start(&store, "one");
        let term = one.leads().await;
        let two = Runner::start(&store, "two");
        sleep(seconds(7)).await;
        let backup = store.revision();
        sleep(seconds(120)).await;
        store.rewind(backup).expect("the revision is remembered");
        if restarted {
            for runner in [&one, &two] {
                runner
                    .server
                    .faults()
                    .end_watches(Match::any(), testbed::Ending::Abrupt);
            }
        }
        for _ in 0..600 {
            sleep(Duration::from_millis(100)).await;
            assert!(!term.is_over(), "{restarted}: the term has ended");
            assert!(two.terms.borrow().is_none(), "{restarted}: two terms");
        }
        for runner in [&one, &two] {
            assert!(restarts(runner) < 1.0, "{restarted}: a watch counts as stale");
        }
        one.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn own_write_that_the_watch_shows_first_is_not_overdue() {
    let limit = seconds(5);
    let observer = LeaseObserver::new("one", seconds(6), Metrics::new(LEASE).unwrap());
    let lease = |version: u64| -> Lease {
        serde_json::from_value(json!({
            "metadata": {"uid": "u", "resourceVersion": version.to_string()},
            "spec": {"holderIdentity": "one"},
        }))
        .unwrap()
    };
    observer.watched(Some(&lease(7)));
    observer.wrote(&lease(7));
    let overdue = timeout(seconds(60), observer.wait_until_overdue(limit)).await;
    assert!(overdue.is_err(), "{overdue:?}");
    // A write that the watch does not show is overdue, even one with a lower version, as after a restore of etcd.
    for version in [8, 3] {
        observer.wrote(&lease(version));
        let overdue = timeout(seconds(60), observer.wait_until_overdue(limit)).await;
        assert_eq!(overdue, Ok(version));
    }
}
