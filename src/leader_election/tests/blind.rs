//! Replicas that see too little of the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::telemetry::watch_health::Running;
use endpoint_copier_core::model::WatchKind;

/// Returns a view that counts as filled while `filled` is true, and its watch of Services, which the test controls.
fn view(filled: &Arc<AtomicBool>) -> (View, Running) {
    let (filled, watch_health) = (filled.clone(), WatchHealth::default());
    let running = watch_health.start(WatchKind::Services);
    running.state().record_list();
    running.state().set_open(true);
    (
        View::new(move || filled.load(Ordering::SeqCst), watch_health),
        running,
    )
}

/// Returns a configuration whose lease duration exceeds the time after which a replica with empty caches competes.
fn long() -> ElectionConfig {
    ElectionConfig {
        lease_duration: seconds(15),
        renew_deadline: seconds(10),
        retry_period: seconds(2),
        ..config()
    }
}

/// Rule: 5.caches-filled
#[tokio::test(start_paused = true)]
async fn replica_with_empty_caches_competes_after_10_s_without_leader() {
    for fills in [true, false] {
        let filled = Arc::new(AtomicBool::new(false));
        let (view, _running) = view(&filled);
        let start = Instant::now();
        let mut one = Runner::with_view(&Store::new(), "one", view);
        sleep(seconds(5)).await;
        assert!(
            one.terms.borrow().is_none() && one.requests() <= 2,
            "the replica tried to take the Lease: {} requests",
            one.requests()
        );
        filled.store(fills, Ordering::SeqCst);
        one.leads().await;
        let took = start.elapsed().as_secs();
        assert_eq!(took, if fills { 5 } else { 10 });
    }
}

/// Rule: 5.caches-filled
#[tokio::test(start_paused = true)]
async fn a_replica_with_empty_caches_leaves_a_free_lease_to_another() {
    let store = Store::new();
    let (view, _running) = view(&Arc::default());
    let mut one = Runner::with_view(&store, "one", view);
    sleep(seconds(9)).await;
    let mut two = Runner::start(&store, "two");
    let term = two.leads().await;
    sleep(seconds(60)).await;
    assert!(one.terms.borrow().is_none() && !term.is_over());
    // The holder dies, and only the replica with empty caches is left.
    two.task.abort();
    let died = Instant::now();
    one.leads().await;
    assert!(
        (8..=10).contains(&died.elapsed().as_secs()),
        "{:?}",
        died.elapsed()
    );
}

/// Rule: 5.caches-filled
#[tokio::test(start_paused = true)]
async fn replica_with_empty_caches_leaves_an_expired_lease_to_another() {
    let store = Store::new();
    let start = |name, filled| {
        let (view, running) = view(&Arc::new(AtomicBool::new(filled)));
        (Runner::with_config(&store, name, view, long()), running)
    };
    for _ in 0..10 {
        let (mut holder, _holds) = start("holder", true);
        holder.leads().await;
        let ((mut empty, _empty), (mut full, _full)) = (start("empty", false), start("full", true));
        sleep(seconds(10)).await;
        holder.task.abort();
        let died = Instant::now();
        full.leads().await;
        assert!(died.elapsed() < seconds(17), "{:?}", died.elapsed());
        full.task.abort();
        let died = Instant::now();
        empty.leads().await;
        assert!(died.elapsed() < seconds(20), "{:?}", died.elapsed());
        empty.stop.cancel();
        empty.task.await.expect("a release");
    }
}

/// Rule: 5.caches-filled
#[tokio::test(start_paused = true)]
async fn a_replica_with_empty_caches_honors_what_the_lease_says() {
    // (the holder's lease duration, the replica's lease duration, whether the holder releases the Lease, when the
    // replica leads)
    for (stated, own, releases, leads_after) in [
        (6, 6, false, 10),
        (6, 6, true, 10),
        (15, 6, false, 19),
        (15, 6, true, 10),
        (6, 15, true, 10),
        (15, 15, false, 19),
    ] {
        let store = Store::new();
        let holds = ElectionConfig {
            lease_duration: seconds(stated),
            ..config()
        };
        let (filled, _holds) = view(&Arc::new(AtomicBool::new(true)));
        let mut holder = Runner::with_config(&store, "holder", filled, holds);
        holder.leads().await;
        let (empty, _empty) = view(&Arc::default());
        let waits = ElectionConfig {
            lease_duration: seconds(own),
            ..config()
        };
        let mut one = Runner::with_config(&store, "one", empty, waits);
        sleep(seconds(10)).await;
        if releases {
            holder.stop.cancel();
            holder.task.await.expect("a release");
        } else {
            holder.task.abort();
        }
        let ended = Instant::now();
        one.leads().await;
        let took = ended.elapsed();
        // A holder that dies renewed the Lease at most 2 s earlier.
        let earliest = seconds(leads_after - if releases { 0 } else { 2 });
        assert!(
            took >= earliest && took <= seconds(leads_after),
            "{stated} s, own {own} s, released: {releases}: {took:?}"
        );
    }
}

/// Rule: 5.caches-filled
#[tokio::test(start_paused = true)]
async fn former_leader_with_stale_caches_leaves_its_lease_to_another() {
    let store = Store::new();
    let (fresh, running) = view(&Arc::new(AtomicBool::new(true)));
    let mut former = Runner::with_config(&store, "former", fresh, long());
    former.leads().await;
    let (full, _full) = view(&Arc::new(AtomicBool::new(true)));
    let mut other = Runner::with_config(&store, "other", full, long());
    sleep(seconds(5)).await;
    running.state().set_open(false);
    let renewals = Match::any().resource("leases").verb("patch");
    let fault = former.server.faults().add(Fault::status(renewals, 500));
    former
        .terms
        .wait_for(Option::is_none)
        .await
        .expect("the candidate runs");
    former.server.faults().remove(fault);
    other.leads().await;
    assert!(former.terms.borrow().is_none());
}

/// Rule: 5.caches-filled
#[tokio::test(start_paused = true)]
async fn a_replica_whose_watch_is_unanswered_does_not_compete() {
    let (view, running) = view(&Arc::new(AtomicBool::new(true)));
    running.state().set_open(false);
    let mut one = Runner::with_view(&Store::new(), "one", view);
    sleep(seconds(5)).await;
    assert!(one.terms.borrow().is_none());
    running.state().set_open(true);
    let answered = Instant::now();
    one.leads().await;
    assert!(answered.elapsed() < seconds(1));
}

/// Any user can start such a watch by naming a new source in a Service.
/// Rule: 5.caches-filled
#[tokio::test(start_paused = true)]
async fn watches_of_new_names_do_not_keep_a_replica_from_competing() {
    let watch_health = WatchHealth::default();
    let pinned = watch_health.start(WatchKind::Sources);
    pinned.state().record_list();
    pinned.state().set_open(true);
    let new = watch_health.start(WatchKind::Sources);
    new.state().list_begins();
    let mut one = Runner::with_view(&Store::new(), "one", View::new(|| true, watch_health));
    let start = Instant::now();
    one.leads().await;
    assert!(start.elapsed() < seconds(1), "{:?}", start.elapsed());
}

/// Rule: 5.caches-filled
#[tokio::test(start_paused = true)]
async fn a_replica_whose_watch_lists_again_does_not_compete() {
    let (view, running) = view(&Arc::new(AtomicBool::new(true)));
    running.state().set_open(false);
    running.state().list_begins();
    let one = Runner::with_view(&Store::new(), "one", view);
    sleep(seconds(5)).await;
    assert!(one.terms.borrow().is_none());
}

/// Rule: 5.blind
#[tokio::test(start_paused = true)]
async fn blind_leader_releases_after_30_s_and_stays_out_for_30_s() {
    let store = Store::new();
    let (view, running) = view(&Arc::new(AtomicBool::new(true)));
    let mut one = Runner::with_view(&store, "one", view);
    let first = one.leads().await;
    let mut two = Runner::start(&store, "two");
    sleep(seconds(3)).await;
    let start = Instant::now();
    running.state().set_open(false);
    running.state().record_failure(false);
    let second = two.leads().await;
    let took = start.elapsed().as_secs();
    assert!((30..=31).contains(&took), "{took}");
    assert!(
        first.is_over() && !first.is_revoked(),
        "the first replica did not release the Lease"
    );
    two.stop.cancel();
    second.over().await;
    sleep(seconds(20)).await;
    assert!(one.terms.borrow().is_none(), "the first replica competes");
    let again = one.leads().await;
    assert!(
        (60..=62).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
    // The first replica still sees too little, and no other replica takes the Lease, so the first one releases it once
    // a minute.
    again.over().await;
    assert!(
        (90..=92).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
}

/// Rule: 5.blind
#[tokio::test(start_paused = true)]
async fn leader_whose_watch_fails_for_every_replica_keeps_the_lease() {
    let (view, running) = view(&Arc::new(AtomicBool::new(true)));
    let mut one = Runner::with_view(&Store::new(), "one", view);
    let term = one.leads().await;
    running.state().set_open(false);
    for _ in 0..120 {
        running.state().record_failure(true);
        sleep(seconds(1)).await;
    }
    assert!(!term.is_over());
}

/// Rule: 5.blind
#[tokio::test(start_paused = true)]
async fn terms_last_30_s_while_no_replica_sees_anything() {
    let store = Store::new();
    let (views, running): (Vec<_>, Vec<_>) = [(); 2]
        .map(|()| view(&Arc::new(AtomicBool::new(true))))
        .into_iter()
        .unzip();
    let mut views = views.into_iter();
    let mut one = Runner::with_view(&store, "one", views.next().unwrap());
    one.leads().await;
    let two = Runner::with_view(&store, "two", views.next().unwrap());
    sleep(seconds(3)).await;
    for watch in &running {
        watch.state().set_open(false);
        watch.state().record_failure(false);
    }
    let mut led = 0;
    let (mut begun, mut shortest) = (None, Duration::MAX);
    for _ in 0..600 {
        sleep(seconds(1)).await;
        if [&one, &two].iter().any(|runner| runner.terms.borrow().is_some()) {
            led += 1;
            begun = begun.or_else(|| Some(Instant::now()));
        } else if let Some(begun) = begun.take() {
            shortest = shortest.min(begun.elapsed());
        }
    }
    // Between two terms, the Lease is free for 10 s, so that a replica that sees more can take it.
    assert!(shortest >= seconds(29), "{shortest:?}");
    assert!(led >= 420, "{led} of 600 s");
}

/// Rule: 5.blind
#[tokio::test(start_paused = true)]
async fn blind_replica_releases_lease_at_most_once_a_minute() {
    for replicas in 1..=3 {
        let (store, mut runners) = (Store::new(), Vec::new());
        for name in ["one", "two", "three"].into_iter().take(replicas) {
            let (view, running) = view(&Arc::default());
            running.state().set_open(false);
            running.state().record_failure(false);
            runners.push((Runner::with_view(&store, name, view), running));
        }
        let mut ended = vec![Vec::<Instant>::new(); replicas];
        let mut led = vec![false; replicas];
        for _ in 0..600 {
            sleep(seconds(1)).await;
            for (i, (runner, _)) in runners.iter().enumerate() {
                let leads = runner.terms.borrow().is_some();
                if std::mem::replace(&mut led[i], leads) && !leads {
                    ended[i].push(Instant::now());
                }
            }
        }
        for ends in ended {
            assert!(ends.len() > 3, "{replicas}: {} terms", ends.len());
            for pair in ends.windows(2) {
                let between = pair[1] - pair[0];
                assert!(between >= seconds(59), "{replicas}: {between:?}");
            }
        }
    }
}

/// The replica sends its first GET of the missing Lease only after 10 s without a leader. After such a gap, the wait
/// for the lease duration restarts.
/// Rule: 5.caches-filled
#[tokio::test(start_paused = true)]
async fn blind_replica_takes_deleted_lease_of_dead_holder() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    one.leads().await;
    let (view, _running) = view(&Arc::default());
    let mut two = Runner::with_view(&store, "two", view);
    sleep(seconds(3)).await;
    one.task.abort();
    store.delete("leases", "default", LEASE).unwrap();
    let deleted = Instant::now();
    two.leads().await;
    let took = deleted.elapsed();
    assert!((seconds(10)..seconds(18)).contains(&took), "{took:?}");
}
