//! Replicas that suspect and object, with in-memory API servers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use testbed::{ApiServer, Effect, Fault, Match, Request, Rule, Store};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::config::ProbeConfig;
use crate::controller::probe::tests::{Scene, ms, target};
use crate::controller::watch::Reader;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::testing::logged;
use crate::telemetry::watch_health::WatchHealth;
use endpoint_copier_core::verdicts::{Failure, Reply, objection_key};

const LEASE: &str = "lease-probes";

/// Real probes. A test decides how their attempts end.
struct Attempts(Scene);

impl Attempts {
    /// Creates probes of three healthy API servers.
    fn new(renewal_limit: Option<Duration>) -> Self {
        let attempts = Self(Scene::new(renewal_limit, ProbeConfig::default(), 0));
        attempts
            .0
            .probes
            .list(&[1, 2, 3].map(target).into(), BTreeSet::new());
        for n in [1, 2, 3] {
            attempts.succeed(n);
        }
        attempts
    }

    fn begin(&self, n: u8) -> Instant {
        let now = Instant::now();
        self.0.probes.begin(target(n), now);
        now
    }

    fn succeed(&self, n: u8) {
        self.0.probes.end(target(n), self.begin(n), Reply::Success);
    }

    fn fail(&self, n: u8) {
        let reply = Reply::Failure(Failure::Refused);
        self.0.probes.end(target(n), self.begin(n), reply);
    }

    /// Fails twice, so that a leader suspects the target.
    async fn fail_twice(&self, n: u8) {
        sleep(ms(1)).await;
        self.fail(n);
        sleep(ms(1)).await;
        self.fail(n);
    }

    /// Takes a target from down to well.
    async fn rise(&self, n: u8) {
        for _ in 0..20 {
            self.succeed(n);
            sleep(ms(1000)).await;
        }
    }

    fn had_time_to_object(&self, n: u8) -> bool {
        let probes = &self.0.probes;
        probes
            .hearing()
            .lock()
            .had_time_to_object(target(n), probes.now())
    }

    fn has_objection(&self, n: u8) -> bool {
        let probes = &self.0.probes;
        probes.hearing().lock().has_objection(target(n), probes.now())
    }
}

/// One replica with its own API server, so that a fault can affect only one replica.
struct Replica {
    name: &'static str,
    probes: Attempts,
    server: ApiServer,
    started: Instant,
    task: AbortOnDropHandle<()>,
}

impl Replica {
    fn start(store: &Store, name: &'static str) -> Self {
        Self::on_node(store, name, &[])
    }

    fn on_node(store: &Store, name: &'static str, addresses: &[IpAddr]) -> Self {
        let server = ApiServer::named(store, name);
        let metrics = Metrics::new("lease").unwrap();
        let client = crate::apiserver::over(server.as_user(name), "default", &metrics);
        let probes = Attempts::new(Some(ms(3_000)));
        let own_addresses = addresses.iter().copied().collect();
        let reader = Reader {
            client,
            watch_health: WatchHealth::default(),
            metrics,
        };
        let lease = ProbeLease::new(reader, "default", "lease");
        let objections = Objections::new(lease, probes.0.probes.clone(), name, own_addresses);
        let task = AbortOnDropHandle::new(tokio::spawn(objections.run()));
        Self {
            name,
            probes,
            server,
            started: Instant::now(),
            task,
        }
    }

    fn leader(store: &Store) -> Self {
        let leader = Self::start(store, "leader");
        leader.lead();
        leader
    }

    fn lead(&self) {
        let term = Term::for_tests(Duration::from_secs(3600));
        self.probes.0.terms.send_replace(Some(term));
    }

    fn resign(&self) {
        self.probes.0.terms.send_replace(None);
    }

    fn requests(&self, wanted: impl Fn(&Request) -> bool) -> Vec<Request> {
        let all = self.server.requests();
        all.into_iter().filter(|request| wanted(request)).collect()
    }

    fn writes(&self) -> usize {
        self.requests(Request::is_write).len()
    }

    fn patched_at(&self) -> Vec<u64> {
        let patches = self.requests(|request| request.verb == "patch");
        let since = |request: &Request| request.at.saturating_duration_since(self.started);
        patches
            .iter()
            .map(|request| u64::try_from(since(request).as_millis()).unwrap())
            .collect()
    }
}

fn annotations(store: &Store) -> BTreeMap<String, String> {
    let lease = store.get("leases", "default", LEASE).unwrap_or_default();
    serde_json::from_value(lease["metadata"]["annotations"].clone()).unwrap_or_default()
}

/// Returns the suspected targets; empty if nothing is suspected.
fn suspected(store: &Store) -> String {
    annotations(store).remove(SUSPECTED).unwrap_or_default()
}

/// Returns the objection of a replica; empty if there is none.
fn objection(store: &Store, name: &str) -> String {
    annotations(store)
        .remove(&objection_key(name))
        .unwrap_or_default()
}

/// Writes the Lease as another client would.
fn put(store: &Store, annotations: &Value) {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": LEASE, "namespace": "default", "annotations": annotations}, "spec": {},
    });
    store.put(lease).unwrap();
}

/// Rule: 7.suspicion
#[tokio::test(start_paused = true)]
async fn second_failure_is_written_as_a_suspicion() {
    let store = Store::new();
    let leader = Replica::leader(&store);
    sleep(ms(1000)).await;
    leader.probes.fail(1);
    sleep(ms(500)).await;
    assert_eq!(leader.writes(), 0, "a write after one failure");
    leader.probes.fail(1);
    sleep(OBJECTION_TICK).await;
    assert_eq!(suspected(&store), "192.0.2.1:6443=1");
    leader.probes.fail_twice(2).await;
    sleep(OBJECTION_TICK).await;
    assert_eq!(suspected(&store), "192.0.2.1:6443=1,192.0.2.2:6443=2");
}

/// Rule: 7.suspicion
#[tokio::test(start_paused = true)]
async fn term_that_begins_after_the_second_failure_asks_at_once() {
    let store = Store::new();
    let replica = Replica::start(&store, "leader");
    replica.probes.fail_twice(1).await;
    sleep(ms(5000)).await;
    assert_eq!(replica.writes(), 0, "a write without a term");
    replica.lead();
    sleep(OBJECTION_TICK).await;
    assert_eq!(suspected(&store), "192.0.2.1:6443=1");
}

/// Rule: 7.objection
#[tokio::test(start_paused = true)]
async fn objection_of_a_peer_that_reaches_the_target_comes_in_time() {
    let store = Store::new();
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    sleep(ms(1000)).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(100)).await;
    assert!(leader.probes.has_objection(1) && !leader.probes.had_time_to_object(1));
    assert_eq!(objection(&store, "peer"), "192.0.2.1:6443=1;1");
    assert_eq!(peer.writes(), 1);
}

/// Rule: 7.heard
#[tokio::test(start_paused = true)]
async fn silence_for_300_ms_is_no_objection() {
    let store = Store::new();
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    peer.probes.fail_twice(1).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(250)).await;
    assert!(!leader.probes.had_time_to_object(1));
    sleep(ms(150)).await;
    assert!(leader.probes.had_time_to_object(1) && !leader.probes.has_objection(1));
    assert_eq!(peer.writes(), 0);
}

/// Rule: 7.late-objection
#[tokio::test(start_paused = true)]
async fn late_objection_counts() {
    let store = Store::new();
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    sleep(ms(1)).await;
    peer.probes.fail(1);
    leader.probes.fail_twice(1).await;
    sleep(ms(20_000)).await;
    assert!(leader.probes.had_time_to_object(1) && !leader.probes.has_objection(1));
    peer.probes.succeed(1);
    sleep(ms(100)).await;
    assert!(leader.probes.has_objection(1));
}

/// Rule: 7.objection-lasts
#[tokio::test(start_paused = true)]
async fn objection_of_a_replica_that_died_counts_for_ten_seconds() {
    let store = Store::new();
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    sleep(ms(10)).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(100)).await;
    peer.task.abort();
    sleep(ms(9_700)).await;
    assert!(leader.probes.has_objection(1));
    sleep(ms(300)).await;
    assert!(!leader.probes.has_objection(1));
}

/// Rule: 7.repeated
#[tokio::test(start_paused = true)]
async fn objection_is_repeated_every_five_seconds() {
    let store = Store::new();
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    sleep(ms(10)).await;
    leader.probes.fail_twice(1).await;
    for _ in 0..300 {
        sleep(ms(100)).await;
        assert!(leader.probes.has_objection(1));
    }
    assert!((6..=7).contains(&peer.writes()), "{}", peer.writes());
    assert_eq!(leader.writes(), 2, "a PATCH and a POST");
}

/// Rule: 7.withdrawn
#[tokio::test(start_paused = true)]
async fn objection_is_withdrawn_at_once() {
    for hangs in [false, true] {
        let store = Store::new();
        let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
        sleep(ms(10)).await;
        leader.probes.fail_twice(1).await;
        sleep(ms(1000)).await;
        assert!(leader.probes.has_objection(1));
        if hangs {
            peer.probes.begin(1);
            sleep(ms(250)).await;
            assert!(
                leader.probes.has_objection(1),
                "the objection ended although the attempt may still get a response"
            );
        } else {
            peer.probes.fail(1);
        }
        sleep(ms(100)).await;
        assert!(!leader.probes.has_objection(1), "hangs: {hangs}");
        assert_eq!(objection(&store, "peer"), "");
    }
}

/// Rule: 7.round
#[tokio::test(start_paused = true)]
async fn suspicion_that_returns_has_a_new_round() {
    let store = Store::new();
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    sleep(ms(10)).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(1000)).await;
    leader.probes.succeed(1);
    sleep(ms(100)).await;
    assert_eq!(suspected(&store), "", "nothing is suspected anymore");
    assert_eq!(objection(&store, "peer"), "");
    leader.probes.fail_twice(1).await;
    sleep(ms(100)).await;
    assert_eq!(suspected(&store), "192.0.2.1:6443=2");
    assert_eq!(objection(&store, "peer"), "192.0.2.1:6443=2;2");
    drop(peer);
}

/// Rule: 7.own-node
#[tokio::test(start_paused = true)]
async fn replica_does_not_object_for_its_own_node() {
    let store = Store::new();
    let leader = Replica::leader(&store);
    let peer = Replica::on_node(&store, "peer", &[target(1).address()]);
    sleep(ms(10)).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(500)).await;
    assert!(leader.probes.had_time_to_object(1) && !leader.probes.has_objection(1));
    assert_eq!(peer.writes(), 0);
}

/// Rule: 7.no-writes
#[tokio::test(start_paused = true)]
async fn nothing_is_written_while_nothing_is_suspected() {
    let store = Store::new();
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    for n in 0..600 {
        sleep(ms(1000)).await;
        leader.probes.succeed(1);
        if n % 10 == 0 {
            leader.probes.fail(2);
            leader.probes.succeed(2);
        }
    }
    leader.resign();
    peer.lead();
    sleep(ms(10_000)).await;
    assert_eq!((leader.writes(), peer.writes()), (0, 0));
    let watches = leader.requests(|request| request.verb != "watch");
    assert_eq!(watches.len(), 1, "more than one list: {watches:?}");
}

/// Rule: 7.created
#[tokio::test(start_paused = true)]
async fn lease_that_is_missing_is_created() {
    let store = Store::new();
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    sleep(ms(10)).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(100)).await;
    let verbs: Vec<_> = leader
        .requests(Request::is_write)
        .iter()
        .map(|r| r.verb)
        .collect();
    assert_eq!(verbs, ["patch", "create"]);
    // Somebody deletes the Lease, and the leader and the peer repeat their annotations.
    store.delete("leases", "default", LEASE).unwrap();
    sleep(ms(200)).await;
    assert_eq!(suspected(&store), "192.0.2.1:6443=1");
    assert!(!objection(&store, "peer").is_empty() && leader.probes.has_objection(1));
    drop(peer);
}

/// Rule: 7.created
#[tokio::test(start_paused = true)]
async fn create_that_comes_second_becomes_a_patch() {
    let store = Store::new();
    let leader = Replica::leader(&store);
    let slow = Fault::new(Match::any().verb("create"), Effect::Latency(ms(100)));
    leader.server.faults().add(slow);
    leader.probes.fail_twice(1).await;
    sleep(ms(50)).await;
    put(&store, &json!({"example.com/note": "stays"}));
    sleep(ms(200)).await;
    assert_eq!(suspected(&store), "192.0.2.1:6443=1");
    assert_eq!(annotations(&store)["example.com/note"], "stays");
    assert_eq!(leader.patched_at().len(), 2);
}

/// Rule: 7.merge
#[tokio::test(start_paused = true)]
async fn write_touches_no_annotation_of_others() {
    let store = Store::new();
    put(&store, &json!({"example.com/note": "stays"}));
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    sleep(ms(10)).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(1000)).await;
    leader.probes.rise(1).await;
    assert_eq!(
        annotations(&store),
        [("example.com/note".into(), "stays".into())].into()
    );
    let writes = [
        leader.requests(Request::is_write),
        peer.requests(Request::is_write),
    ]
    .concat();
    for write in writes {
        let body = write.body.unwrap();
        assert!(body["metadata"].get("resourceVersion").is_none(), "{body}");
        assert_eq!(body["metadata"].as_object().unwrap().len(), 1, "{body}");
    }
}

/// Rule: 7.stale-suspicion
#[tokio::test(start_paused = true)]
async fn new_leader_removes_suspicions_of_the_previous_one() {
    let store = Store::new();
    let (leader, next) = (Replica::leader(&store), Replica::start(&store, "next"));
    sleep(ms(10)).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(100)).await;
    leader.task.abort();
    sleep(ms(6000)).await;
    assert_eq!(suspected(&store), "192.0.2.1:6443=1");
    assert!(!objection(&store, "next").is_empty());
    next.lead();
    sleep(ms(100)).await;
    assert_eq!(
        annotations(&store),
        BTreeMap::new(),
        "the new leader should also withdraw its own objection"
    );
}

/// Rule: 7.round
#[tokio::test(start_paused = true)]
async fn new_leader_asks_again_with_a_new_round() {
    let store = Store::new();
    let (leader, next) = (Replica::leader(&store), Replica::start(&store, "next"));
    sleep(ms(10)).await;
    leader.probes.fail_twice(1).await;
    next.probes.fail_twice(1).await;
    sleep(ms(500)).await;
    leader.resign();
    next.lead();
    assert!(!next.probes.had_time_to_object(1));
    sleep(ms(200)).await;
    assert_eq!(suspected(&store), "192.0.2.1:6443=2");
    assert!(
        !leader.probes.had_time_to_object(1),
        "suspicions should end with the term"
    );
    next.resign();
    leader.lead();
    sleep(ms(100)).await;
    assert!(!leader.probes.had_time_to_object(1), "the new term does not ask");
}

/// Rule: 7.stale-keys
#[tokio::test(start_paused = true)]
async fn leader_removes_keys_older_than_a_minute() {
    let store = Store::new();
    put(
        &store,
        &json!({"objection.endpoint-copier/gone": "192.0.2.1:6443=1;1", "example.com/note": "stays"}),
    );
    let leader = Replica::leader(&store);
    sleep(ms(59_000)).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(500)).await;
    assert!(annotations(&store).contains_key("objection.endpoint-copier/gone"));
    sleep(ms(2000)).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(500)).await;
    let keys: Vec<_> = annotations(&store).into_keys().collect();
    assert_eq!(keys, [SUSPECTED, "example.com/note"]);
}

/// Rule: 7.retry
#[tokio::test(start_paused = true)]
async fn failed_write_is_repeated_after_100_ms_to_2_s() {
    let store = Store::new();
    let leader = Replica::leader(&store);
    let fails = Fault::status(Match::any().verb("patch"), 500).times(8);
    leader.server.faults().add(fails);
    leader.probes.fail_twice(1).await;
    sleep(ms(20_000)).await;
    let pauses: Vec<_> = leader
        .patched_at()
        .windows(2)
        .map(|two| two[1] - two[0])
        .collect();
    for (pause, expected) in pauses.iter().zip([100, 200, 400, 800, 1600, 2000, 2000, 2000]) {
        assert!(pause.abs_diff(expected) <= expected * 3 / 10 + 5, "{pauses:?}");
    }
    assert_eq!(pauses.len(), 8);
    assert!(leader.probes.had_time_to_object(1));
}

/// Rule: 7.retry
#[tokio::test(start_paused = true)]
async fn suspicion_that_somebody_removes_is_repeated_with_pauses() {
    let store = Store::new();
    let leader = Replica::leader(&store);
    put(&store, &json!({}));
    leader.probes.fail_twice(1).await;
    let until = Instant::now() + ms(10_000);
    while Instant::now() < until {
        sleep(ms(1)).await;
        if !suspected(&store).is_empty() {
            put(&store, &json!({}));
        }
    }
    let writes = leader.writes();
    assert!((5..15).contains(&writes), "{writes}");
    assert!(!leader.probes.had_time_to_object(1));
}

/// Rule: 7.retry
#[tokio::test(start_paused = true)]
async fn overloaded_server_is_left_alone_as_long_as_it_asks() {
    let store = Store::new();
    put(&store, &json!({}));
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    sleep(ms(10)).await;
    for replica in [&leader, &peer] {
        let overload = Effect::Status {
            code: 429,
            retry_after: Some(7),
        };
        let fault = Fault::new(Match::any().verb("patch"), overload);
        replica.server.faults().add(fault.times(1));
    }
    leader.probes.fail_twice(1).await;
    sleep(ms(20_000)).await;
    for replica in [&leader, &peer] {
        let at = replica.patched_at();
        assert!(
            (7000..7100).contains(&(at[1] - at[0])),
            "{}: {at:?}",
            replica.name
        );
    }
}

/// Rule: 7.heard
#[tokio::test(start_paused = true)]
async fn watch_confirms_a_write_whose_answer_was_lost() {
    for effect in [Effect::LostReply, Effect::Unanswered] {
        let store = Store::new();
        put(&store, &json!({}));
        let leader = Replica::leader(&store);
        let lost = Fault::new(Match::any().verb("patch"), effect).times(1);
        leader.server.faults().add(lost);
        sleep(ms(10)).await;
        leader.probes.fail_twice(1).await;
        sleep(ms(400)).await;
        assert!(leader.probes.had_time_to_object(1));
        sleep(ms(5000)).await;
        assert_eq!(leader.writes(), 1, "the suspicion was written twice");
    }
}

/// Rule: 7.heard
#[tokio::test(start_paused = true)]
async fn suspicion_that_is_not_stored_is_not_heard() {
    let store = Store::new();
    let leader = Replica::leader(&store);
    leader
        .server
        .faults()
        .add(Fault::status(Match::any().verb("create"), 403));
    leader.probes.fail_twice(1).await;
    sleep(ms(60_000)).await;
    assert!(!leader.probes.had_time_to_object(1));
}

/// Rule: 7.silent-watch
#[tokio::test(start_paused = true)]
async fn leader_with_a_silent_watch_reads_the_lease() {
    let store = Store::new();
    put(&store, &json!({}));
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    sleep(ms(10)).await;
    leader.server.faults().silence_watches(Match::any());
    leader.probes.fail_twice(1).await;
    for _ in 0..200 {
        sleep(ms(100)).await;
        let probes = &leader.probes;
        assert!(
            !probes.had_time_to_object(1) || probes.has_objection(1),
            "the leader should receive the objection in time"
        );
    }
    assert!(leader.probes.has_objection(1));
    let reads = leader.requests(|request| request.verb == "get").len();
    assert!((8..=20).contains(&reads), "{reads}");
    drop(peer);
}

/// After a suspicion that is stored late, the leader waits for more failures.
/// Rule: 7.silent-watch
#[tokio::test(start_paused = true)]
async fn leader_with_a_silent_watch_sees_its_suspicion_after_50_ms() {
    let store = Store::new();
    put(&store, &json!({}));
    let leader = Replica::leader(&store);
    sleep(ms(10)).await;
    leader.server.faults().silence_watches(Match::any());
    leader.probes.fail_twice(1).await;
    sleep(ms(300)).await;
    assert!(!leader.probes.had_time_to_object(1));
    sleep(ms(100)).await;
    assert!(leader.probes.had_time_to_object(1));
}

/// Rule: 7.silent-watch
#[tokio::test(start_paused = true)]
async fn lease_deleted_during_a_silent_watch_is_created_again() {
    let store = Store::new();
    put(&store, &json!({}));
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    peer.probes.fail_twice(1).await;
    sleep(ms(10)).await;
    leader.server.faults().silence_watches(Match::any());
    leader.probes.fail_twice(1).await;
    sleep(ms(100)).await;
    store.delete("leases", "default", LEASE).unwrap();
    sleep(ms(400)).await;
    assert_eq!(
        suspected(&store),
        "192.0.2.1:6443=1",
        "the suspicion should be written again"
    );
    assert!(
        !leader.probes.had_time_to_object(1),
        "the time to object should begin again"
    );
    sleep(ms(1000)).await;
    assert!(leader.probes.had_time_to_object(1) && !leader.probes.has_objection(1));
    assert_eq!(leader.writes(), 3, "PATCH, PATCH and POST");
}

/// Rule: 7.rights
#[tokio::test(start_paused = true)]
async fn chart_rights_are_sufficient() {
    let store = Store::new();
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    for replica in [&leader, &peer] {
        let lease = |verbs: &[&str]| Rule::new(&["coordination.k8s.io"], &["leases"], verbs);
        let rules = vec![
            lease(&["create"]),
            lease(&["get", "list", "watch", "patch"]).names(&[LEASE]),
        ];
        store.restrict(replica.name, rules);
    }
    sleep(ms(100)).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(500)).await;
    assert!(leader.probes.has_objection(1));
    for replica in [&leader, &peer] {
        let refused = store.rbac_report(replica.name).refused;
        assert!(refused.is_empty(), "{refused:?}");
    }
}

/// Rule: 7.rights
#[tokio::test(start_paused = true)]
async fn watch_without_permission_logs_one_line_a_minute() {
    let store = Store::new();
    store.restrict("leader", Vec::new());
    let leader = Replica::leader(&store);
    let (log, _guard) = logged();
    sleep(Duration::from_secs(1800)).await;
    let lists = leader.requests(|_| true).len();
    assert!((60..=100).contains(&lists), "{lists}");
    let mut lines = log.lines();
    // A line of the `kube` crate, which the operator does not log by default.
    lines.retain(|line| !line.starts_with("WARN watch list error"));
    assert!(lines.len() <= 31, "{lines:#?}");
    assert!(
        lines[0].starts_with("WARN the watch of probe_lease failed; trying again"),
        "{lines:#?}"
    );
    leader.probes.fail_twice(1).await;
    sleep(Duration::from_secs(60)).await;
    assert!(
        !leader.probes.had_time_to_object(1),
        "an endpoint may be taken out without permission for the Lease"
    );
}

/// Rule: 7.watch
#[tokio::test(start_paused = true)]
async fn watch_works_within_a_second_after_the_api_server_returns() {
    let store = Store::new();
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    sleep(ms(10)).await;
    peer.server.faults().refuse(true);
    peer.server
        .faults()
        .end_watches(Match::any(), testbed::Ending::Abrupt);
    sleep(ms(60_000)).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(1000)).await;
    assert!(!leader.probes.has_objection(1));
    peer.server.faults().refuse(false);
    sleep(ms(1000)).await;
    assert!(leader.probes.has_objection(1));
}

#[tokio::test(start_paused = true)]
async fn unanswered_list_or_watch_is_repeated_after_two_seconds() {
    for verb in ["list", "watch"] {
        let store = Store::new();
        let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
        let hang = Fault::new(Match::any().verb(verb), Effect::Hang).times(1);
        peer.server.faults().add(hang);
        sleep(ms(3000)).await;
        leader.probes.fail_twice(1).await;
        sleep(ms(200)).await;
        assert!(leader.probes.has_objection(1), "{verb}");
    }
}

/// Rule: 7.forged
#[tokio::test(start_paused = true)]
async fn forged_annotations_do_no_harm() {
    let store = Store::new();
    // An API server accepts at most 256 KiB of annotations. These are slightly smaller.
    let mut forged = serde_json::Map::new();
    let long = "192.0.2.1:6443=1,".repeat(140);
    for n in 0..100 {
        forged.insert(format!("objection.endpoint-copier/{n}"), json!(long));
    }
    forged.insert(SUSPECTED.to_owned(), json!("192.0.2.1:6443=nonsense"));
    put(&store, &Value::Object(forged));
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    sleep(ms(10)).await;
    assert_eq!(suspected(&store), "", "a forged suspicion was not removed");
    leader.probes.fail_twice(1).await;
    peer.probes.fail_twice(1).await;
    sleep(ms(500)).await;
    assert_eq!(suspected(&store), "192.0.2.1:6443=1");
    assert!(leader.probes.had_time_to_object(1) && !leader.probes.has_objection(1));
    sleep(ms(61_000)).await;
    leader.probes.fail_twice(1).await;
    sleep(ms(500)).await;
    assert_eq!(
        annotations(&store).len(),
        1,
        "the forged annotations should be removed"
    );
}

/// Rule: 7.forged
#[tokio::test(start_paused = true)]
async fn suspicion_forged_by_another_is_answered_and_removed() {
    let store = Store::new();
    let (leader, peer) = (Replica::leader(&store), Replica::start(&store, "peer"));
    sleep(ms(10)).await;
    put(&store, &json!({SUSPECTED: "192.0.2.1:6443=17"}));
    sleep(ms(100)).await;
    assert_eq!(annotations(&store), BTreeMap::new());
    assert!(peer.writes() <= 2, "more than an objection and its withdrawal");
    assert!(leader.writes() <= 2);
}

/// Rule: 7.unopposed
#[tokio::test(start_paused = true)]
async fn without_election_every_suspicion_is_heard() {
    let probes = Attempts::new(None);
    probes.fail_twice(1).await;
    assert!(probes.had_time_to_object(1) && !probes.has_objection(1));
    assert!(!Attempts::new(Some(ms(3_000))).had_time_to_object(1));
}
