use std::time::Duration;

use http::StatusCode;
use k8s_openapi::api::coordination::v1;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use serde_json::json;
use tokio::sync::watch::channel;

use super::*;
use crate::apiserver::Hedging;

mod server;

use server::Server;

const OUR_DURATION: Duration = Duration::from_secs(6);

fn unknown() -> LeaseObserver {
    let metrics = crate::telemetry::metrics::Metrics::new("lease").unwrap();
    LeaseObserver::new("us", OUR_DURATION, metrics)
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

/// Returns an observer that has seen this Lease.
fn seen(spec: Value) -> LeaseObserver {
    let observer = unknown();
    observer.watched(Some(&parsed(lease(spec))));
    observer
}

/// Returns an observer that has seen this Lease, and then no change for longer than the duration of the Lease.
async fn seen_expired(spec: Value) -> LeaseObserver {
    let observer = seen(spec);
    tokio::time::advance(Duration::from_secs(7)).await;
    observer
}

fn upstream(service: impl server::Upstream) -> Client {
    let metrics = crate::telemetry::metrics::Metrics::new("lease").unwrap();
    crate::apiserver::over(service, "default", &metrics)
}

/// Returns the status of a response, even if the client has turned it into an error.
fn status(answer: Result<Response<Full<Bytes>>, BoxError>) -> Result<StatusCode, BoxError> {
    match answer {
        Ok(answer) => Ok(answer.status()),
        Err(error) => match error.downcast_ref().and_then(status_of) {
            Some(status) => Ok(StatusCode::from_u16(status.code)?),
            None => Err(error),
        },
    }
}

/// Returns a lock whose client knows what this observer knows.
fn lock(server: &Server, observer: LeaseObserver) -> LeaseLock {
    lock_of(server, observer, None)
}

/// Returns the lock of a leader whose client knows what this observer knows.
fn leaders_lock(server: &Server, observer: LeaseObserver) -> LeaseLock {
    lock_of(server, observer, Some(Term::endless()))
}

fn lock_of(server: &Server, observer: LeaseObserver, term: Option<Term>) -> LeaseLock {
    let cas = LeaseCas::new(upstream(server.service()), observer, channel(term).1);
    LeaseLock::new(
        cas.client("default"),
        "default",
        LeaseLockParams {
            holder_id: "us".to_owned(),
            lease_name: "lease".to_owned(),
            lease_ttl: OUR_DURATION,
        },
    )
}

async fn attempt(lock: &LeaseLock) -> Result<bool, kube_leader_election::Error> {
    Ok(matches!(
        lock.try_acquire_or_renew().await?,
        LeaseLockResult::Acquired(_)
    ))
}

/// Rule: 5.deleted-or-emptied
#[tokio::test(start_paused = true)]
async fn a_live_holder_whose_clock_is_far_behind_is_not_replaced() {
    let server = Server::with(Some(lease(held("a", "2001-01-01T00:00:00.000000Z"))));
    assert!(!attempt(&lock(&server, unknown())).await.unwrap());
    assert_eq!(server.sent(), [Method::GET]);
}

/// Rule: 5.deleted-or-emptied
#[tokio::test(start_paused = true)]
async fn a_dead_holder_whose_clock_was_far_ahead_is_replaced() {
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
async fn a_release_is_bound_to_the_version_that_was_read() {
    let spec = held("us", "2026-01-01T00:00:00.000000Z");
    let server = Server::with(Some(lease(spec.clone())));
    lock(&server, seen_expired(spec).await).step_down().await.unwrap();
    let patch = server.patch();
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
    assert_eq!(patch["spec"]["holderIdentity"], "");
}

/// Rule: 5.never-held
#[tokio::test(start_paused = true)]
async fn a_lease_that_the_lock_alone_could_never_take_is_taken() {
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

/// A real API server stores such times, even in `managedFields`, and returns them.
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
async fn a_lease_without_a_version_is_not_patched() {
    for field in ["uid", "resourceVersion"] {
        let mut bare = lease(json!({}));
        bare["metadata"].as_object_mut().unwrap().remove(field);
        let server = Server::with(Some(bare));
        assert!(attempt(&lock(&server, unknown())).await.is_err(), "{field}");
        assert_eq!(
            server.sent(),
            [Method::GET],
            "{field}: a PATCH that is bound to no version was sent"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_without_times_is_honored_first_and_replaced_later() {
    let spec = json!({"holderIdentity": "a"});
    let server = Server::with(Some(lease(spec.clone())));
    assert!(!attempt(&lock(&server, unknown())).await.unwrap());
    assert!(attempt(&lock(&server, seen_expired(spec).await)).await.unwrap());
}

/// Rule: 5.deleted-or-emptied
#[tokio::test(start_paused = true)]
async fn a_lease_deleted_while_held_is_not_created_by_another() {
    let observer = seen(held("a", "2026-01-01T00:00:00.000000Z"));
    let server = Server::with(None);
    assert!(!attempt(&lock(&server, observer)).await.unwrap());
    assert_eq!(server.sent(), [Method::GET]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_is_recreated_by_its_leader() {
    let observer = seen(held("us", "2026-01-01T00:00:00.000000Z"));
    let server = Server::with(None);
    assert!(attempt(&leaders_lock(&server, observer)).await.unwrap());
    assert_eq!(server.sent(), [Method::GET, Method::POST]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_deleted_after_our_term_is_not_recreated_at_once() {
    let observer = seen(held("us", "2026-01-01T00:00:00.000000Z"));
    let server = Server::with(None);
    assert!(!attempt(&lock(&server, observer.clone())).await.unwrap());
    assert_eq!(server.sent(), [Method::GET]);
    for _ in 0..6 {
        tokio::time::advance(Duration::from_millis(900)).await;
        assert!(!attempt(&lock(&server, observer.clone())).await.unwrap());
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(attempt(&lock(&server, observer)).await.unwrap());
}

/// The candidate has not read the Lease for some time, during which the Lease may have been created and deleted again.
#[tokio::test(start_paused = true)]
async fn the_wait_for_a_missing_lease_restarts_after_a_gap() {
    let observer = seen(held("another", "2026-01-01T00:00:00.000000Z"));
    let server = Server::with(None);
    assert!(!attempt(&lock(&server, observer.clone())).await.unwrap());
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(!attempt(&lock(&server, observer)).await.unwrap());
    assert_eq!(server.sent(), [Method::GET, Method::GET]);
}

#[tokio::test(start_paused = true)]
async fn an_emptied_lease_is_written_again_by_its_leader() {
    let observer = seen_expired(held("us", "2026-01-01T00:00:00.000000Z")).await;
    let emptied = json!({"holderIdentity": "", "leaseDurationSeconds": 6});
    let server = Server::with(Some(lease_at("8", emptied)));
    assert!(attempt(&leaders_lock(&server, observer)).await.unwrap());
    assert_eq!(server.patch()["spec"]["holderIdentity"], "us");
}

#[tokio::test(start_paused = true)]
async fn a_patch_without_a_get_before_it_is_not_sent() {
    let server = Server::with(Some(lease(held("a", "2026-01-01T00:00:00.000000Z"))));
    let cas = LeaseCas::new(upstream(server.service()), unknown(), channel(None).1);
    assert!(cas.bind(br#"{"metadata": {"name": "lease"}}"#).is_none());
    assert!(server.sent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_no_lease_is_an_error() {
    let server = Server::with(Some(json!("nonsense")));
    assert!(attempt(&lock(&server, unknown())).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn lease_is_not_created_after_another_holder_was_seen() {
    for (holder, made) in [("another", false), ("us", true)] {
        let (server, observer) = (Server::default(), unknown());
        let cas = LeaseCas::new(
            upstream(server.service()),
            observer.clone(),
            channel(Some(Term::endless())).1,
        );
        status(cas.answer(get()).await).unwrap();
        let shown = held(holder, "2001-01-01T00:00:00.000000Z");
        observer.watched(Some(&parsed(lease(shown))));
        // In the meantime, the Lease was deleted again.
        let post = Request::post("/").body(Body::empty()).unwrap();
        assert_eq!(cas.answer(post).await.is_ok(), made, "{holder}");
        assert_eq!(server.sent().contains(&Method::POST), made, "{holder}");
    }
}

#[tokio::test(start_paused = true)]
async fn late_get_does_not_override_lease_seen_since() {
    let (server, observer) = (Server::default(), unknown());
    let watch = observer.clone();
    let late = server.late(move || {
        // This happens once: the Lease is deleted again before the next GET, and no watch shows that.
        if watch.holder().is_none() {
            let shown = held("another", "2001-01-01T00:00:00.000000Z");
            watch.watched(Some(&parsed(lease(shown))));
        }
    });
    let cas = LeaseCas::new(upstream(late), observer, channel(None).1);
    for _ in 0..7 {
        let answer = cas.answer(get()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "the lock would create a Lease");
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // By now, the Lease has been missing for long enough.
    assert_eq!(status(cas.answer(get()).await).unwrap(), StatusCode::NOT_FOUND);
}

/// The watch shows a release late. By the time of the GET, another candidate has taken the Lease, which the watch does
/// not show yet.
#[tokio::test(start_paused = true)]
async fn lease_read_earlier_does_not_override_a_release_seen_since() {
    let observer = unknown();
    observer.watched(Some(&parsed(lease(held("one", "2001-01-01T00:00:00.000000Z")))));
    let read = held("two", "2001-01-01T00:00:00.000000Z");
    let server = Server::with(Some(lease_at("9", read)));
    let watch = observer.clone();
    let late = server.late(move || {
        let released = json!({"holderIdentity": "", "leaseDurationSeconds": 1});
        watch.watched(Some(&parsed(lease_at("8", released))));
    });
    let cas = LeaseCas::new(upstream(late), observer, channel(None).1);
    let answer = cas.answer(get()).await.unwrap();
    let shown = answer.into_body().collect().await.unwrap().to_bytes();
    let shown: v1::Lease = serde_json::from_slice(&shown).unwrap();
    let spec = shown.spec.unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("two"));
    let renewed = spec.renew_time.unwrap().0;
    let age = Timestamp::now().duration_since(renewed);
    assert!(
        age < SignedDuration::from_secs(60),
        "the lock would take the Lease: {age}"
    );
}

/// The Lease was deleted before the GET, and the watch shows our last renewal only now.
#[tokio::test(start_paused = true)]
async fn leader_rereads_when_get_and_watch_disagree() {
    let server = Server::with(None);
    let observer = seen(held("us", "2026-01-01T00:00:00.000000Z"));
    let (_terms, leads) = channel(Some(Term::endless()));
    let watch = observer.clone();
    let late = server.late(move || {
        let renewed = held("us", "2026-01-01T00:00:02.000000Z");
        watch.watched(Some(&parsed(lease_at("8", renewed))));
    });
    let cas = LeaseCas::new(upstream(late), observer, leads);
    let first = cas.answer(get()).await;
    assert!(first.is_err(), "the lock got a Lease that may not be ours");
    let second = status(cas.answer(get()).await);
    assert_eq!(
        second.unwrap(),
        StatusCode::NOT_FOUND,
        "the leader would not recreate the Lease"
    );
}

/// The renewal time that a renewal sets.
const RENEWED: &str = "2026-01-01T00:00:02.000000Z";

/// Each PATCH that the server got: the resourceVersion that it is bound to, and whether it is a repetition.
type Log = Arc<Mutex<Vec<(String, bool)>>>;

/// Returns a server that responds to the n-th PATCH with the n-th code, after the n-th delay in milliseconds, or never
/// (`None`). The server responds to a GET immediately.
fn in_turn<const N: usize>(answers: [(Option<u64>, u16); N]) -> (Log, impl server::Upstream) {
    let log = Log::default();
    let patches = log.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let log = log.clone();
        async move {
            let (parts, body) = request.into_parts();
            if parts.method == Method::GET {
                let lease = lease(held("us", "2026-01-01T00:00:00.000000Z"));
                return Ok(Response::new(Bytes::from(lease.to_string()).into()));
            }
            let body: Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
            let version = body["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let (time, code) = {
                let mut log = log.lock();
                log.push((version.to_owned(), parts.extensions.get::<Hedging>().is_some()));
                answers[log.len() - 1]
            };
            match time {
                Some(time) => tokio::time::sleep(Duration::from_millis(time)).await,
                None => std::future::pending().await,
            }
            let renewed = lease_at("8", held("us", RENEWED));
            let mut response = Response::new(Full::new(Bytes::from(renewed.to_string())));
            *response.status_mut() = StatusCode::from_u16(code)?;
            Ok::<_, BoxError>(response)
        }
    });
    (patches, service)
}

/// The result of a renewal, followed by its duration and the time from which the term counts, both in milliseconds.
type Renewed = (Result<StatusCode, BoxError>, u128, Option<u128>);

/// Renews the Lease as a replica that knows version 7. If the replica leads, its deadline is in four seconds.
async fn renewal(service: impl server::Upstream, leads: bool) -> Renewed {
    let term = leads.then(|| Term::for_tests(Duration::from_secs(4)));
    renewal_of(service, term, unknown()).await
}

/// Renews the Lease as a replica with this term that knows version 7 and what this observer knows.
async fn renewal_of(service: impl server::Upstream, term: Option<Term>, observer: LeaseObserver) -> Renewed {
    observer.wrote(&parsed(lease(held("us", "2026-01-01T00:00:00.000000Z"))));
    renewal_by(service, term, observer).await
}

/// Renews the Lease as a replica with this term. The replica reads the Lease first, unless this observer knows the
/// version.
async fn renewal_by(service: impl server::Upstream, term: Option<Term>, observer: LeaseObserver) -> Renewed {
    let (_terms, receiver) = channel(term);
    let cas = LeaseCas::new(upstream(service), observer, receiver);
    let start = Instant::now();
    cas.answer(get()).await.unwrap();
    // The lock writes times in this format.
    let spec = json!({"leaseDurationSeconds": 6, "renewTime": RENEWED.replace('Z', "+00:00")});
    let patch = json!({"metadata": {"name": "lease"}, "spec": spec});
    let patch = Request::patch("/")
        .body(Body::from(patch.to_string().into_bytes()))
        .unwrap();
    let answer = status(cas.answer(patch).await);
    let sent = cas.sent().map(|sent| (sent - start).as_millis());
    (answer, start.elapsed().as_millis(), sent)
}

/// Rule: 5.slow
#[tokio::test(start_paused = true)]
async fn unanswered_renewal_is_repeated_with_the_same_version() {
    let (log, service) = in_turn([(None, 200), (Some(10), 200)]);
    let (answer, took, sent) = renewal(service, true).await;
    assert_eq!(answer.unwrap(), StatusCode::OK);
    assert_eq!(
        (took, sent),
        (1010, Some(1000)),
        "the term does not count from when the successful try was sent"
    );
    assert_eq!(*log.lock(), [("7".to_owned(), false), ("7".to_owned(), true)]);
}

/// Rule: 5.slow
#[tokio::test(start_paused = true)]
async fn renewal_succeeds_if_only_one_of_two_equal_tries_is_rejected() {
    for (second, took) in [(Some(100), 1900), (Some(2000), 1900), (None, 1900)] {
        let (_, service) = in_turn([(Some(1900), 200), (second, 409)]);
        let (answer, after, sent) = renewal(service, true).await;
        assert_eq!(answer.unwrap(), StatusCode::OK);
        assert_eq!((after, sent), (took, Some(0)));
    }
    let (_, service) = in_turn([(Some(1100), 409), (Some(300), 200)]);
    let (answer, after, sent) = renewal(service, true).await;
    assert_eq!((answer.unwrap(), after, sent), (StatusCode::OK, 1300, Some(1000)));
}

#[tokio::test(start_paused = true)]
async fn rejection_of_a_repetition_leaves_time_to_renew_again() {
    let (_, service) = in_turn([(None, 200), (Some(10), 409)]);
    let (answer, after, sent) = renewal(service, true).await;
    assert_eq!((answer.unwrap(), sent), (StatusCode::CONFLICT, None));
    assert!((1010..3500).contains(&after), "{after} of 4000 ms");
}

/// Rule: 5.slow
#[tokio::test(start_paused = true)]
async fn a_failed_repetition_is_repeated_while_the_first_try_hangs() {
    for code in [403, 429, 500, 503] {
        let (log, service) = in_turn([(None, 200), (Some(50), code), (Some(50), code), (Some(10), 200)]);
        let (answer, took, sent) = renewal(service, true).await;
        assert_eq!(answer.unwrap(), StatusCode::OK, "{code}");
        assert_eq!((took, sent), (3010, Some(3000)), "{code}");
        assert!(log.lock().iter().all(|(version, _)| version == "7"));
    }
    // A first try that fails late does not postpone the next repetition.
    let (_, service) = in_turn([(Some(1500), 503), (None, 200), (Some(10), 200)]);
    let (answer, took, _) = renewal(service, true).await;
    assert_eq!((answer.unwrap(), took), (StatusCode::OK, 2010));
}

/// Rule: 5.slow
#[tokio::test(start_paused = true)]
async fn a_renewal_is_repeated_again_while_all_tries_hang() {
    // A renewal is sent 2 s before the deadline.
    for (left, sent_at) in [(4, 2000), (2, 1500)] {
        let (log, service) = in_turn([(None, 200), (None, 200), (Some(10), 200)]);
        let term = Term::for_tests(Duration::from_secs(left));
        let (answer, took, sent) = renewal_of(service, Some(term), unknown()).await;
        assert_eq!(answer.unwrap(), StatusCode::OK, "{left}");
        assert_eq!((took, sent), (sent_at + 10, Some(sent_at)), "{left}");
        assert!(log.lock().iter().all(|(version, _)| version == "7"));
    }
}

/// Rule: 5.slow
#[tokio::test(start_paused = true)]
async fn late_success_of_older_attempt_renews_the_lease() {
    let (log, service) = in_turn([(Some(1900), 200), (None, 200), (Some(300), 409), (None, 409)]);
    let term = Term::for_tests(Duration::from_secs(2));
    let (answer, took, sent) = renewal_of(service, Some(term), unknown()).await;
    assert_eq!((answer.unwrap(), took, sent), (StatusCode::OK, 1900, Some(0)));
    assert_eq!(log.lock().len(), 4);
}

/// Rule: 5.slow
#[tokio::test(start_paused = true)]
async fn renewal_with_lost_reply_succeeds_when_watch_shows_it() {
    for (holder, renewed, succeeds) in [
        ("us", RENEWED, true),
        // Somebody has edited the Lease, or taken it.
        ("us", "2026-01-01T00:00:00.000000Z", false),
        ("another", RENEWED, false),
    ] {
        let observer = unknown();
        let watch = observer.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1800)).await;
            watch.watched(Some(&parsed(lease_at("8", held(holder, renewed)))));
        });
        let (_, service) = in_turn([(None, 200), (Some(1500), 409), (None, 409), (None, 409)]);
        let term = Term::for_tests(Duration::from_secs(2));
        let (answer, took, sent) = renewal_of(service, Some(term.clone()), observer).await;
        assert_eq!(answer.is_ok(), succeeds, "{holder} {renewed}");
        assert_eq!(
            sent,
            succeeds.then_some(0),
            "{holder} {renewed}: the term does not count from when the first try was sent"
        );
        assert!(!succeeds || took < 2000 && !term.is_over(), "{took}");
    }
}

/// `after` milliseconds from now, the watch shows this observer that version 7 was renewed.
fn shows_renewal(observer: &LeaseObserver, after: u64) {
    let observer = observer.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(after)).await;
        observer.watched(Some(&parsed(lease_at("8", held("us", RENEWED)))));
    });
}

#[tokio::test(start_paused = true)]
async fn a_renewal_after_a_read_succeeds_when_the_watch_shows_it() {
    let observer = unknown();
    shows_renewal(&observer, 1800);
    let (_, service) = in_turn([(None, 200), (Some(1500), 409), (None, 409), (None, 409)]);
    let term = Term::for_tests(Duration::from_secs(2));
    let (answer, took, sent) = renewal_by(service, Some(term.clone()), observer).await;
    assert_eq!(answer.unwrap(), StatusCode::OK);
    assert_eq!(
        sent,
        Some(0),
        "the term does not count from when the first try was sent"
    );
    assert!(took < 2000 && !term.is_over(), "{took}");
}

/// The client would avoid a server whose late response no caller awaits.
#[tokio::test(start_paused = true)]
async fn a_late_answer_to_a_renewal_that_the_watch_shows_is_read() {
    let observer = unknown();
    shows_renewal(&observer, 500);
    let (_, service) = in_turn([(Some(1600), 200)]);
    let answered = Arc::new(Mutex::new(0));
    let counter = answered.clone();
    let service = tower::service_fn(move |request| {
        let (answer, counter) = (
            tower::Service::call(&mut service.clone(), request),
            counter.clone(),
        );
        async move {
            let answer = answer.await;
            *counter.lock() += 1;
            answer
        }
    });
    let term = Term::for_tests(Duration::from_secs(2));
    let (answer, took, sent) = renewal_of(service, Some(term), observer).await;
    assert_eq!((answer.unwrap(), sent), (StatusCode::OK, Some(0)));
    assert!(took < 1200, "the renewal waited for the answer: {took}");
    assert_eq!(*answered.lock(), 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*answered.lock(), 1);
}

/// Rule: 5.slow
#[tokio::test(start_paused = true)]
async fn only_a_renewal_is_repeated() {
    let (log, service) = in_turn([(Some(3000), 200), (Some(10), 200)]);
    let (answer, after, _) = renewal(service, false).await;
    assert_eq!((answer.unwrap(), after), (StatusCode::OK, 3000));
    assert_eq!(log.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn renewal_that_was_not_processed_is_retried_without_a_read() {
    for (code, reads) in [(401, 0), (403, 0), (429, 0), (409, 1), (500, 1)] {
        let (_, service) = in_turn([(Some(1), code), (Some(1), 200)]);
        let observer = unknown();
        observer.wrote(&parsed(lease(held("us", "2026-01-01T00:00:00.000000Z"))));
        let cas = LeaseCas::new(upstream(service), observer, channel(Some(Term::endless())).1);
        cas.answer(get()).await.unwrap();
        let patch = Request::patch("/")
            .body(Body::from(br#"{"metadata": {}}"#.to_vec()))
            .unwrap();
        assert_eq!(status(cas.answer(patch).await).unwrap().as_u16(), code);
        assert_eq!(usize::from(cas.remembered().is_none()), reads, "{code}");
    }
}

/// The failed renewal may have been applied, so the version that both tries are based on may be outdated.
#[tokio::test(start_paused = true)]
async fn an_unknown_result_takes_precedence_over_a_rejection() {
    for (first, second, refused) in [(503, 429, false), (429, 503, false), (429, 403, true)] {
        let (_, service) = in_turn([(Some(1200), first), (Some(300), second)]);
        let (answer, ..) = renewal(service, true).await;
        let code = answer.unwrap().as_u16();
        assert_eq!(code < 500, refused, "{first} and {second}: {code}");
    }
}
