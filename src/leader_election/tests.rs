use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};
use testbed::{ApiServer, Effect, Fault, Match, Store};
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep, timeout};

use super::*;
use crate::controller::watch::{self, Reader};
use crate::telemetry::watch_health::{Running, WatchHealth};

const LEASE: &str = "lease";

/// A candidate that runs against an API server in memory, under paused time.
struct Runner {
    name: &'static str,
    server: ApiServer,
    terms: Receiver<Option<Term>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    metrics: Metrics,
    watchdog: Watchdog,
    observer: LeaseObserver,
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn config() -> ElectionConfig {
    ElectionConfig {
        lease_duration: seconds(6),
        renew_deadline: seconds(4),
        retry_period: seconds(1),
        namespace: None,
        lease_name: LEASE.to_owned(),
    }
}

impl Runner {
    /// Each has an API server of its own, so that faults can befall one alone.
    fn start(store: &Store, name: &'static str) -> Self {
        Self::with_view(store, name, View::default())
    }

    fn with_view(store: &Store, name: &'static str, view: View) -> Self {
        let server = ApiServer::named(store, name);
        let metrics = Metrics::new(LEASE).unwrap();
        let client = crate::apiserver::over(server.as_user(name), "default", &metrics);
        let observer = LeaseObserver::new(metrics.clone());
        let (candidate, terms) = Candidate::new(
            client.clone(),
            "default",
            name.to_owned(),
            config(),
            observer.clone(),
            view,
            metrics.clone(),
        );
        let stop = CancellationToken::new();
        let watchdog = candidate.watchdog();
        let task = tokio::spawn(candidate.run(stop.clone()));
        let reader = Reader {
            client,
            watch_health: WatchHealth::default(),
            metrics: metrics.clone(),
        };
        let watched = observer.clone();
        tokio::spawn(async move { watch::lease(reader, "default", LEASE, watched).await });
        Self {
            name,
            server,
            terms,
            stop,
            task,
            metrics,
            watchdog,
            observer,
        }
    }

    async fn leads(&mut self) -> Term {
        let term = timeout(seconds(120), self.terms.wait_for(Option::is_some)).await;
        term.unwrap_or_else(|_| panic!("{} never leads", self.name))
            .unwrap()
            .clone()
            .unwrap()
    }

    fn requests(&self) -> usize {
        let name = self.name;
        self.server
            .store()
            .requests()
            .matching(|request| request.user == name)
            .len()
    }

    /// The number of requests with this verb for the Lease.
    fn asked(&self, verb: &str) -> usize {
        let mine = |request: &testbed::Request| request.user == self.name && request.is(verb, "leases");
        self.server.store().requests().matching(mine).len()
    }

    fn writes(&self) -> usize {
        let name = self.name;
        self.server
            .store()
            .requests()
            .matching(|request| request.user == name && request.is_write())
            .len()
    }
}

fn spec(store: &Store) -> Value {
    store
        .get("leases", "default", LEASE)
        .map(|lease| lease["spec"].clone())
        .unwrap_or_default()
}

/// A Lease as another writes it.
fn put(store: &Store, spec: Value) {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": LEASE, "namespace": "default"}, "spec": spec,
    });
    store.put(lease).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_absent_lease_is_taken_at_once_and_renewed_every_two_seconds() {
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

#[tokio::test(start_paused = true)]
async fn standbys_watch_and_do_not_poll() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    one.leads().await;
    let two = Runner::start(&store, "two");
    sleep(seconds(5)).await;
    let before = two.requests();
    sleep(seconds(300)).await;
    // The watch itself is renewed every 25 s.
    assert!(two.requests() - before <= 13, "{}", two.requests() - before);
    assert_eq!(two.writes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_its_api_server_stops_at_its_deadline_and_before_another_begins() {
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
            "{cut:?}: the successor began before the end"
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

#[tokio::test(start_paused = true)]
async fn the_deadline_is_counted_from_the_moment_the_renewal_was_sent() {
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
async fn a_lease_that_names_another_ends_the_term_at_the_next_renewal() {
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
    assert!(term.is_revoked(), "what is in flight must be dropped");
    let again = one.leads().await;
    assert!(start.elapsed() >= seconds(10), "{:?}", start.elapsed());
    assert!(!again.is_over());
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_client_go_is_honoured_for_its_own_duration() {
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
async fn a_standby_with_a_silent_watch_does_not_rob_a_living_leader() {
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

#[tokio::test(start_paused = true)]
async fn a_stopping_leader_releases_the_lease_and_the_next_one_begins_at_once() {
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
    assert!(term.begin_write().is_err(), "no new write begins");
    write.answered();
    one.task.await.unwrap();
    assert_eq!(spec(&store)["holderIdentity"], "");
}

#[tokio::test(start_paused = true)]
async fn with_a_write_that_does_not_end_there_is_no_release() {
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
async fn after_a_write_without_an_answer_there_is_no_release_for_a_minute() {
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

#[tokio::test(start_paused = true)]
async fn a_lease_deleted_or_emptied_is_written_anew_by_its_leader_and_left_alone_by_the_others() {
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

#[tokio::test(start_paused = true)]
async fn refused_and_garbled_answers_are_tried_again_with_pauses_and_end_in_a_lead() {
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
async fn a_lost_reply_to_the_first_write_ends_in_a_lead_all_the_same() {
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

/// As clients of all kinds write it: the holder's clock is an hour ahead or behind, or jumps.
#[tokio::test(start_paused = true)]
async fn the_times_that_a_holder_states_change_nothing() {
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
        // And nobody minds what is stated about our own.
        let term = one.leads().await;
        let stated = json!({"spec": {"renewTime": times[1], "acquireTime": times[0]}});
        store.patch("leases", "default", LEASE, stated).unwrap();
        sleep(seconds(30)).await;
        assert!(!term.is_over(), "{times:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_kubectl_gives_to_nobody_who_lives_is_left_for_its_duration() {
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
async fn the_lead_goes_to_client_go_and_back() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    one.leads().await;
    one.stop.cancel();
    one.task.await.unwrap();
    // Released as client-go does it, so that it takes it at once.
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

/// Its API server was away while another led; then the Lease is deleted or emptied under that other.
#[tokio::test(start_paused = true)]
async fn a_former_leader_does_not_write_a_deleted_lease_anew() {
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
        // Whichever of them: both have seen how long it is away.
        tokio::select! {
            _ = one.leads() => {}
            _ = two.leads() => {}
        }
    }
}

/// A store from which the Lease has just been deleted, the term of its holder, and a standby.
async fn deleted_under_a_leader() -> (Store, Term, Runner) {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    let two = Runner::start(&store, "two");
    sleep(seconds(3)).await;
    store.delete("leases", "default", LEASE).unwrap();
    (store, term, two)
}

/// For four seconds no term begins beside this one, which does not end.
async fn goes_on(first: &Term, standby: &Runner) {
    for _ in 0..40 {
        sleep(Duration::from_millis(100)).await;
        assert!(standby.terms.borrow().is_none(), "two terms");
    }
    assert!(!first.is_over());
}

/// Its watch goes on showing that there is none, after the leader has written it anew.
#[tokio::test(start_paused = true)]
async fn a_standby_whose_watch_lags_does_not_take_a_lease_that_is_deleted_twice() {
    let (store, first, two) = deleted_under_a_leader().await;
    two.server.lag();
    store.until(|store| spec(store)["holderIdentity"] == "one").await;
    let held = two.observer.clone();
    assert!(held.since().is_some_and(|since| since.elapsed() < seconds(3)));
    // Just before two would think that there has been none for the lease duration.
    sleep_until(held.since().unwrap() + Duration::from_millis(5_970)).await;
    store.delete("leases", "default", LEASE).unwrap();
    goes_on(&first, &two).await;
}

/// The same, but it was cut off meanwhile, and could not look for itself.
#[tokio::test(start_paused = true)]
async fn a_standby_that_was_cut_off_does_not_take_a_lease_that_is_deleted_twice() {
    let (store, first, two) = deleted_under_a_leader().await;
    sleep(Duration::from_millis(10)).await;
    two.server.lag();
    let cut = two.server.faults().add(Fault::new(Match::any(), Effect::Break));
    sleep(seconds(7)).await;
    store.until(|store| spec(store)["holderIdentity"] == "one").await;
    store.delete("leases", "default", LEASE).unwrap();
    two.server.faults().remove(cut);
    goes_on(&first, &two).await;
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
    // A look that fails now and then is no gap.
    sleep(Duration::from_millis(2500)).await;
    let reads = Match::any().resource("leases").verb("get");
    two.server.faults().add(Fault::status(reads, 500).times(1));
    two.leads().await;
    let took = deleted.elapsed();
    assert!((seconds(6)..seconds(7)).contains(&took), "{took:?}");
}

/// How often watches began anew because they showed too little.
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
async fn a_watch_that_does_not_show_our_own_renewals_begins_anew() {
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    let term = one.leads().await;
    sleep(seconds(60)).await;
    assert!(restarts(&one) < 1.0, "a watch that shows them goes on");
    one.server.faults().silence_watches(Match::any());
    sleep(seconds(8)).await;
    assert!((restarts(&one) - 1.0).abs() < 0.1, "{}", restarts(&one));
    sleep(seconds(60)).await;
    assert!(restarts(&one) < 3.0 && !term.is_over(), "{}", restarts(&one));
}

#[tokio::test(start_paused = true)]
async fn a_lease_watch_that_is_refused_is_an_outage_and_no_stale_view() {
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
async fn after_a_restore_of_etcd_the_leader_keeps_the_lead_and_the_others_follow() {
    for restarted in [false, true] {
        let store = Store::new();
        let mut one = Runner::start(&store, "one");
        let term = one.leads().await;
        let two = Runner::start(&store, "two");
        sleep(seconds(7)).await;
        let backup = store.revision();
        sleep(seconds(120)).await;
        store.rewind(backup).expect("it is remembered");
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
            assert!(!term.is_over(), "{restarted}: it renews");
            assert!(two.terms.borrow().is_none(), "{restarted}: two terms");
        }
        for runner in [&one, &two] {
            assert!(restarts(runner) < 1.0, "{restarted}: nobody is to blame");
        }
        one.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn each_cause_of_failed_attempts_is_one_line_a_minute() {
    let (log, _guard) = crate::telemetry::testing::logged();
    let mut one = Runner::start(&Store::new(), "one");
    one.leads().await;
    let before = log.lines().len();
    // In turn, so that each attempt fails for a different cause than the one before.
    let faults = one.server.faults();
    // After a renewal that failed the Lease is read again.
    faults.add(Fault::status(Match::any().resource("leases").verb("patch"), 500).times(1));
    for code in [500, 503].into_iter().cycle().take(100) {
        faults.add(Fault::status(Match::any().resource("leases").verb("get"), code).times(3));
    }
    one.terms.wait_for(Option::is_none).await.expect("it runs");
    sleep(seconds(60)).await;
    one.leads().await;
    let lines = log.lines().split_off(before);
    let told = |words| lines.iter().filter(|line| line.contains(words)).count();
    assert_eq!(told("the renewal of the Lease"), 2, "{lines:#?}");
    assert_eq!(told("lost the lead"), 1, "{lines:#?}");
    let attempts = told("the attempt to take the Lease");
    assert!((4..=7).contains(&attempts), "{lines:#?}");
    assert_eq!(told("works again"), 1, "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn renewals_that_fail_are_steps_and_a_loop_that_is_stuck_is_told_of() {
    let limit = seconds(26);
    let store = Store::new();
    let mut one = Runner::start(&store, "one");
    one.leads().await;
    for effect in [Effect::Hang, Effect::Break] {
        let cut = one.server.faults().add(Fault::new(Match::any(), effect));
        for _ in 0..300 {
            sleep(seconds(1)).await;
            assert_eq!(one.watchdog.check(limit), Ok(()));
        }
        one.server.faults().remove(cut);
        one.leads().await;
    }
    // Nothing polls it any more.
    one.task.abort();
    sleep(seconds(40)).await;
    assert!(one.watchdog.check(limit).is_err());
}

#[test]
fn an_error_of_the_lock_is_one_line_without_what_rust_calls_its_fields() {
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

#[tokio::test(start_paused = true)]
async fn an_edit_that_the_watch_shows_costs_a_renewal_no_read() {
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
    assert!((10..=12).contains(&writes), "{writes}: none is refused");
    assert!(!term.is_over());
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_no_watch_shows_costs_a_renewal_one_read() {
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

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_reply_is_lost_is_followed_by_another_without_a_read() {
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

#[tokio::test(start_paused = true)]
async fn where_every_request_is_slow_one_term_lasts() {
    // 0.6 s in each direction, and an API server that is slow itself.
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

/// The renewal is sent 2 s before the deadline. Neither its repetition nor another request is answered by then.
#[tokio::test(start_paused = true)]
async fn where_every_request_is_slow_a_lost_reply_does_not_end_the_term() {
    for (every, effect) in [
        (3, Effect::Unanswered),
        (3, Effect::LostReply),
        (3, Effect::Truncated),
        (1, Effect::Unanswered),
    ] {
        let mut one = Runner::start(&Store::new(), "one");
        let slow = Effect::Latency(Duration::from_millis(1500));
        // The watch begins at once. While it begins, nothing shows a renewal in time.
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

/// A time that a user may write and an API server stores, but that our time type cannot hold.
const UNREADABLE: &str = "9999-12-31T23:59:59.999999Z";

#[tokio::test(start_paused = true)]
async fn a_lease_with_times_that_cannot_be_read_is_taken_after_its_duration_and_repaired() {
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
    assert_ne!(spec(&store)["renewTime"], UNREADABLE, "it is repaired");
}

#[tokio::test(start_paused = true)]
async fn a_lease_never_seen_held_whose_times_cannot_be_read_is_taken_at_once() {
    let store = Store::new();
    put(&store, json!({"renewTime": UNREADABLE}));
    let start = Instant::now();
    let mut one = Runner::start(&store, "one");
    one.leads().await;
    assert!(start.elapsed() < seconds(1), "{:?}", start.elapsed());
}

/// A view that counts as filled when this returns true, with a watch of Services that the test controls.
fn view(filled: &Arc<AtomicBool>) -> (View, Running) {
    let (filled, watch_health) = (filled.clone(), WatchHealth::default());
    let running = watch_health.start("services", None);
    running.pulse().open(true);
    (
        View::new(move || filled.load(Ordering::SeqCst), watch_health),
        running,
    )
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_caches_are_empty_races_when_they_are_filled_or_nobody_has_led_for_ten_seconds() {
    for fills in [true, false] {
        let filled = Arc::new(AtomicBool::new(false));
        let (view, _running) = view(&filled);
        let start = Instant::now();
        let mut one = Runner::with_view(&Store::new(), "one", view);
        sleep(seconds(5)).await;
        assert!(
            one.terms.borrow().is_none() && one.requests() <= 2,
            "it watches, and tries nothing"
        );
        filled.store(fills, Ordering::SeqCst);
        one.leads().await;
        let took = start.elapsed().as_secs();
        assert_eq!(took, if fills { 5 } else { 10 });
    }
}

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
    // Its holder dies, and no other replica runs.
    two.task.abort();
    let died = Instant::now();
    one.leads().await;
    assert!(
        (8..=10).contains(&died.elapsed().as_secs()),
        "{:?}",
        died.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_watch_is_not_answered_does_not_race() {
    let (view, running) = view(&Arc::new(AtomicBool::new(true)));
    running.pulse().open(false);
    let mut one = Runner::with_view(&Store::new(), "one", view);
    sleep(seconds(5)).await;
    assert!(one.terms.borrow().is_none());
    running.pulse().open(true);
    let answered = Instant::now();
    one.leads().await;
    assert!(answered.elapsed() < seconds(1));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_has_seen_nothing_for_30_s_gives_the_lease_to_another_and_stays_out_for_30_s() {
    let store = Store::new();
    let (view, running) = view(&Arc::new(AtomicBool::new(true)));
    let mut one = Runner::with_view(&store, "one", view);
    let first = one.leads().await;
    let mut two = Runner::start(&store, "two");
    sleep(seconds(3)).await;
    let start = Instant::now();
    running.pulse().open(false);
    running.pulse().failed(false);
    let second = two.leads().await;
    let took = start.elapsed().as_secs();
    assert!((30..=31).contains(&took), "{took}");
    assert!(first.is_over() && !first.is_revoked(), "it was released");
    two.stop.cancel();
    second.over().await;
    sleep(seconds(20)).await;
    assert!(one.terms.borrow().is_none(), "it stays out");
    let again = one.leads().await;
    assert!(
        (60..=62).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
    // It still sees nothing and no other replica takes the Lease: it releases once a minute.
    again.over().await;
    assert!(
        (90..=92).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_refused_what_all_are_refused_keeps_the_lease() {
    let (view, running) = view(&Arc::new(AtomicBool::new(true)));
    let mut one = Runner::with_view(&Store::new(), "one", view);
    let term = one.leads().await;
    running.pulse().open(false);
    for _ in 0..120 {
        running.pulse().failed(true);
        sleep(seconds(1)).await;
    }
    assert!(!term.is_over());
}

#[tokio::test(start_paused = true)]
async fn where_no_replica_sees_anything_each_term_lasts_30_s() {
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
        watch.pulse().open(false);
        watch.pulse().failed(false);
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
    // Between two terms the Lease is free for 10 s, in case another replica sees more.
    assert!(shortest >= seconds(29), "{shortest:?}");
    assert!(led >= 420, "{led} of 600 s");
}

#[tokio::test(start_paused = true)]
async fn a_replica_releases_the_lease_for_its_view_once_a_minute_at_most() {
    for replicas in 1..=3 {
        let (store, mut runners) = (Store::new(), Vec::new());
        for name in ["one", "two", "three"].into_iter().take(replicas) {
            let (view, running) = view(&Arc::default());
            running.pulse().open(false);
            running.pulse().failed(false);
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

/// Its first look finds no Lease only after it has waited for 10 s, which is too late to count as a look without gaps.
#[tokio::test(start_paused = true)]
async fn a_replica_that_sees_nothing_takes_a_deleted_lease_of_a_dead_holder() {
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

#[tokio::test(start_paused = true)]
async fn a_release_may_take_1200_ms() {
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
