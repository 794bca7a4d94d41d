use http::StatusCode;
use k8s_openapi::api::coordination::v1;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use serde_json::json;
use tokio::sync::watch::channel;

use super::*;

mod server;

use server::Server;

const OURS: Duration = Duration::from_secs(6);

fn unknown() -> Record {
    Record::new(crate::metrics::Metrics::new("lease").unwrap())
}

fn lease(spec: Value) -> Value {
    lease_at("7", spec)
}

fn lease_at(version: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "lease", "namespace": "default", "resourceVersion": version, "uid": "u7"},
        "spec": spec,
    })
}

fn parsed(lease: Value) -> Lease {
    serde_json::from_value(lease).unwrap()
}

fn get() -> Request<Body> {
    Request::get("/").body(Body::empty()).unwrap()
}

fn held(holder: &str, renewed: &str) -> Value {
    json!({"holderIdentity": holder, "leaseDurationSeconds": 6, "renewTime": renewed, "acquireTime": renewed, "leaseTransitions": 3})
}

/// What a candidate knows that has seen this Lease.
fn seen(spec: Value) -> Record {
    let record = unknown();
    record.see(Some(&parsed(lease(spec))));
    record
}

/// The same, and it has not changed since its duration and a bit.
async fn seen_expired(spec: Value) -> Record {
    let record = seen(spec);
    tokio::time::advance(Duration::from_secs(7)).await;
    record
}

/// A lock behind a guard that knows what this record knows.
fn lock(server: &Server, record: Record) -> LeaseLock {
    lock_of(server, record, None)
}

/// The same for a leader.
fn leaders_lock(server: &Server, record: Record) -> LeaseLock {
    lock_of(server, record, Some(Term::endless()))
}

fn lock_of(server: &Server, record: Record, term: Option<Term>) -> LeaseLock {
    let guard = Guard::new("us", OURS, record, channel(term).1);
    LeaseLock::new(
        kube::Client::new(guard.layer(server.service()), "default"),
        "default",
        LeaseLockParams {
            holder_id: "us".to_owned(),
            lease_name: "lease".to_owned(),
            lease_ttl: OURS,
        },
    )
}

async fn attempt(lock: &LeaseLock) -> Result<bool, kube_leader_election::Error> {
    Ok(matches!(
        lock.try_acquire_or_renew().await?,
        LeaseLockResult::Acquired(_)
    ))
}

#[tokio::test(start_paused = true)]
async fn a_live_holder_whose_clock_is_an_hour_behind_is_not_robbed() {
    let server = Server::with(Some(lease(held("a", "2001-01-01T00:00:00.000000Z"))));
    assert!(!attempt(&lock(&server, unknown())).await.unwrap());
    assert_eq!(server.sent(), [Method::GET]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_whose_clock_was_an_hour_ahead_is_replaced() {
    let spec = held("a", "2999-01-01T00:00:00.000000Z");
    let server = Server::with(Some(lease(spec.clone())));
    assert!(attempt(&lock(&server, seen_expired(spec).await)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_changed_since_it_was_watched_is_not_taken() {
    let old = seen_expired(held("a", "2026-01-01T00:00:00.000000Z")).await;
    let renewed = held("a", "2026-01-01T00:00:00.000000Z");
    let server = Server::with(Some(lease_at("8", renewed)));
    assert!(!attempt(&lock(&server, old)).await.unwrap());
    assert_eq!(server.sent(), [Method::GET]);
}

#[tokio::test(start_paused = true)]
async fn every_patch_names_the_version_and_the_uid_that_were_read() {
    for spec in [
        held("us", "2026-01-01T00:00:00.000000Z"),
        held("a", "2026-01-01T00:00:00.000000Z"),
    ] {
        let server = Server::with(Some(lease(spec.clone())));
        assert!(attempt(&lock(&server, seen_expired(spec).await)).await.unwrap());
        let metadata = &server.patch()["metadata"];
        assert_eq!(
            (&metadata["resourceVersion"], &metadata["uid"]),
            (&json!("7"), &json!("u7"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_is_bound_to_what_was_read_too() {
    let spec = held("us", "2026-01-01T00:00:00.000000Z");
    let server = Server::with(Some(lease(spec.clone())));
    lock(&server, seen_expired(spec).await).step_down().await.unwrap();
    let patch = server.patch();
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
    assert_eq!(patch["spec"]["holderIdentity"], "");
}

#[tokio::test(start_paused = true)]
async fn leases_that_the_lock_alone_would_fail_on_for_ever_are_taken() {
    for spec in [
        json!({}),
        Value::Null,
        json!({"holderIdentity": ""}),
        json!({"holderIdentity": "", "leaseDurationSeconds": 1}),
        json!({"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": i32::MAX}),
        json!({"leaseTransitions": -5}),
    ] {
        let server = Server::with(Some(lease(spec.clone())));
        let taken = attempt(&lock(&server, unknown())).await;
        assert!(taken.as_ref().is_ok_and(|taken| *taken), "{spec}: {taken:?}");
        assert_eq!(server.patch()["spec"]["holderIdentity"], "us", "{spec}");
    }
}

/// A real API server stores such times, `managedFields` included, and answers with them.
#[tokio::test(start_paused = true)]
async fn the_lock_never_sees_a_time_that_it_cannot_read() {
    const BEYOND: &str = "9999-12-31T23:59:59.999999Z";
    for holder in ["us", "another"] {
        let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": 6, "renewTime": BEYOND, "acquireTime": BEYOND});
        let mut stored = lease(spec.clone());
        stored["metadata"]["creationTimestamp"] = json!("9999-12-31T23:59:59Z");
        stored["metadata"]["managedFields"] = json!([{"manager": "x", "time": "9999-12-31T23:59:59Z"}]);
        let server = Server::with(Some(stored));
        let taken = attempt(&lock(&server, seen_expired(spec).await)).await;
        assert!(taken.as_ref().is_ok_and(|taken| *taken), "{holder}: {taken:?}");
        assert_eq!(server.sent(), [Method::GET, Method::PATCH]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_version_is_no_lease_to_build_on() {
    for field in ["uid", "resourceVersion"] {
        let mut bare = lease(json!({}));
        bare["metadata"].as_object_mut().unwrap().remove(field);
        let server = Server::with(Some(bare));
        assert!(attempt(&lock(&server, unknown())).await.is_err(), "{field}");
        assert_eq!(
            server.sent(),
            [Method::GET],
            "{field}: a PATCH could not be bound to it"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_without_times_is_honoured_first_and_replaced_later() {
    let spec = json!({"holderIdentity": "a"});
    let server = Server::with(Some(lease(spec.clone())));
    assert!(!attempt(&lock(&server, unknown())).await.unwrap());
    assert!(attempt(&lock(&server, seen_expired(spec).await)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_lease_deleted_under_its_holder_is_not_made_by_another() {
    let record = seen(held("a", "2026-01-01T00:00:00.000000Z"));
    let server = Server::with(None);
    assert!(!attempt(&lock(&server, record)).await.unwrap());
    assert_eq!(server.sent(), [Method::GET]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_deleted_under_us_is_made_anew() {
    let record = seen(held("us", "2026-01-01T00:00:00.000000Z"));
    let server = Server::with(None);
    assert!(attempt(&leaders_lock(&server, record)).await.unwrap());
    assert_eq!(server.sent(), [Method::GET, Method::POST]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_deleted_after_our_term_is_not_made_anew_at_once() {
    let record = seen(held("us", "2026-01-01T00:00:00.000000Z"));
    let server = Server::with(None);
    assert!(!attempt(&lock(&server, record.clone())).await.unwrap());
    assert_eq!(server.sent(), [Method::GET]);
    for _ in 0..6 {
        tokio::time::advance(Duration::from_millis(900)).await;
        assert!(!attempt(&lock(&server, record.clone())).await.unwrap());
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(attempt(&lock(&server, record)).await.unwrap());
}

/// It was not looked at for a while, in which it may have been there again.
#[tokio::test(start_paused = true)]
async fn an_absence_with_a_gap_in_it_begins_anew() {
    let record = seen(held("another", "2026-01-01T00:00:00.000000Z"));
    let server = Server::with(None);
    assert!(!attempt(&lock(&server, record.clone())).await.unwrap());
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(!attempt(&lock(&server, record)).await.unwrap());
    assert_eq!(server.sent(), [Method::GET, Method::GET]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_emptied_under_us_is_written_anew() {
    let record = seen_expired(held("us", "2026-01-01T00:00:00.000000Z")).await;
    let emptied = json!({"holderIdentity": "", "leaseDurationSeconds": 6});
    let server = Server::with(Some(lease_at("8", emptied)));
    assert!(attempt(&leaders_lock(&server, record)).await.unwrap());
    assert_eq!(server.patch()["spec"]["holderIdentity"], "us");
}

#[tokio::test(start_paused = true)]
async fn a_patch_without_a_get_before_it_is_not_sent() {
    let server = Server::with(Some(lease(held("a", "2026-01-01T00:00:00.000000Z"))));
    let guard = Guard::new("us", OURS, unknown(), channel(None).1);
    assert_eq!(guard.bind(br#"{"metadata": {"name": "lease"}}"#), None);
    assert!(server.sent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_nonsense_is_an_error_and_no_lead() {
    let server = Server::with(Some(json!("nonsense")));
    assert!(attempt(&lock(&server, unknown())).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_not_made_by_who_has_seen_another_holder_since_its_get() {
    for (holder, made) in [("another", false), ("us", true)] {
        let (server, record) = (Server::default(), unknown());
        let guard = Guard::new("us", OURS, record.clone(), channel(Some(Term::endless())).1);
        let mut guarded = guard.layer(server.service());
        guarded.call(get()).await.unwrap();
        let shown = held(holder, "2001-01-01T00:00:00.000000Z");
        record.shown(Some(&parsed(lease(shown))));
        // And it is deleted again by now.
        let post = Request::post("/").body(Body::empty()).unwrap();
        assert_eq!(guarded.call(post).await.is_ok(), made, "{holder}");
        assert_eq!(server.sent().contains(&Method::POST), made, "{holder}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_get_whose_answer_is_late_says_nothing_of_a_lease_that_was_seen_since_it_was_sent() {
    let (server, record) = (Server::default(), unknown());
    let guard = Guard::new("us", OURS, record.clone(), channel(None).1);
    let mut guarded = guard.layer(server.late(move || {
        // Once: it is deleted again before the next GET, and no watch tells of that.
        if record.holder().is_none() {
            let shown = held("another", "2001-01-01T00:00:00.000000Z");
            record.shown(Some(&parsed(lease(shown))));
        }
    }));
    for _ in 0..7 {
        let answer = guarded.call(get()).await.unwrap();
        assert_eq!(
            answer.status(),
            StatusCode::OK,
            "shown as held: the lock must not make one"
        );
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // An absence that has lasted.
    assert_eq!(guarded.call(get()).await.unwrap().status(), StatusCode::NOT_FOUND);
}

/// The watch shows a release late: by the time of the GET another has taken the Lease, which the watch does not show yet.
#[tokio::test(start_paused = true)]
async fn a_lease_that_was_read_is_not_taken_for_a_release_that_was_seen_since() {
    let record = unknown();
    record.shown(Some(&parsed(lease(held("one", "2001-01-01T00:00:00.000000Z")))));
    let read = held("two", "2001-01-01T00:00:00.000000Z");
    let server = Server::with(Some(lease_at("9", read)));
    let guard = Guard::new("us", OURS, record.clone(), channel(None).1);
    let mut guarded = guard.layer(server.late(move || {
        let released = json!({"holderIdentity": "", "leaseDurationSeconds": 1});
        record.shown(Some(&parsed(lease_at("8", released))));
    }));
    let answer = guarded.call(get()).await.unwrap();
    let shown = answer.into_body().collect().await.unwrap().to_bytes();
    let shown: v1::Lease = serde_json::from_slice(&shown).unwrap();
    let spec = shown.spec.unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("two"));
    let renewed = spec.renew_time.unwrap().0;
    let age = Timestamp::now().duration_since(renewed);
    assert!(age < SignedDuration::from_secs(60), "it would be taken: {age}");
}

/// The Lease was deleted before the GET, and the watch shows our last renewal only now.
#[tokio::test(start_paused = true)]
async fn a_leader_that_reads_something_else_than_it_sees_reads_again_and_does_not_give_up() {
    let server = Server::with(None);
    let record = seen(held("us", "2026-01-01T00:00:00.000000Z"));
    let (_terms, leads) = channel(Some(Term::endless()));
    let guard = Guard::new("us", OURS, record.clone(), leads);
    let mut guarded = guard.layer(server.late(move || {
        let renewed = held("us", "2026-01-01T00:00:02.000000Z");
        record.shown(Some(&parsed(lease_at("8", renewed))));
    }));
    let first = guarded.call(get()).await;
    assert!(first.is_err(), "neither its own nor another's");
    let second = guarded.call(get()).await.unwrap();
    assert_eq!(second.status(), StatusCode::NOT_FOUND, "it makes it anew");
}
