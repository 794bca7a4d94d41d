use http_body_util::Full;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch::channel;
use tower::service_fn;

use super::*;

const OURS: Duration = Duration::from_secs(6);

fn unknown() -> Record {
    Record::new(crate::metrics::Metrics::new("lease").unwrap())
}

/// An API server that knows one Lease, answers with canned text where told to, and keeps what it was sent.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Canned>>);

#[derive(Default)]
struct Canned {
    lease: Option<Value>,
    sent: Vec<(Method, Value)>,
}

impl Server {
    fn with(lease: Option<Value>) -> Self {
        Self(Arc::new(Mutex::new(Canned {
            lease,
            sent: Vec::new(),
        })))
    }

    fn answer(&self, method: Method, body: Value) -> (StatusCode, Value) {
        let mut canned = self.0.lock();
        canned.sent.push((method.clone(), body.clone()));
        match (method, &canned.lease) {
            (Method::POST, _) => (StatusCode::CREATED, body),
            (_, None) => (
                StatusCode::NOT_FOUND,
                json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"}),
            ),
            (Method::PATCH, Some(lease)) => {
                let mut lease = lease.clone();
                for (key, value) in body["spec"].as_object().unwrap() {
                    lease["spec"][key] = value.clone();
                }
                (StatusCode::OK, lease)
            }
            (_, Some(lease)) => (StatusCode::OK, lease.clone()),
        }
    }

    fn sent(&self) -> Vec<Method> {
        self.0
            .lock()
            .sent
            .iter()
            .map(|(method, _)| method.clone())
            .collect()
    }

    fn patch(&self) -> Value {
        let canned = self.0.lock();
        canned
            .sent
            .iter()
            .rfind(|(method, _)| *method == Method::PATCH)
            .unwrap()
            .1
            .clone()
    }

    /// A lock behind a guard that knows what this record knows.
    fn lock(&self, record: Record) -> LeaseLock {
        self.lock_of(record, None)
    }

    /// The same for a leader.
    fn leaders_lock(&self, record: Record) -> LeaseLock {
        self.lock_of(record, Some(Term::endless()))
    }

    fn lock_of(&self, record: Record, term: Option<Term>) -> LeaseLock {
        let guard = Guard::new("us", OURS, record, channel(term).1);
        LeaseLock::new(
            kube::Client::new(guard.layer(self.service()), "default"),
            "default",
            LeaseLockParams {
                holder_id: "us".to_owned(),
                lease_name: "lease".to_owned(),
                lease_ttl: OURS,
            },
        )
    }

    fn service(
        &self,
    ) -> impl Service<Request<Body>, Response = Response<Full<bytes::Bytes>>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + 'static {
        let server = self.clone();
        service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (status, answer) = server.answer(parts.method, body);
                let mut response = Response::new(Full::new(bytes::Bytes::from(answer.to_string())));
                *response.status_mut() = status;
                Ok::<_, BoxError>(response)
            }
        })
    }
}

fn lease(spec: Value) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "lease", "namespace": "default", "resourceVersion": "7", "uid": "u7"},
        "spec": spec,
    })
}

fn held(holder: &str, renewed: &str) -> Value {
    json!({"holderIdentity": holder, "leaseDurationSeconds": 6, "renewTime": renewed, "acquireTime": renewed, "leaseTransitions": 3})
}

/// What a candidate knows that has seen this Lease unchanged since its duration and a bit.
async fn seen_expired(spec: Value) -> Record {
    let record = unknown();
    record.see(Some(&serde_json::from_value(lease(spec)).unwrap()));
    tokio::time::advance(Duration::from_secs(7)).await;
    record
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
    assert!(!attempt(&server.lock(unknown())).await.unwrap());
    assert_eq!(server.sent(), [Method::GET]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_whose_clock_was_an_hour_ahead_is_replaced() {
    let spec = held("a", "2999-01-01T00:00:00.000000Z");
    let server = Server::with(Some(lease(spec.clone())));
    assert!(attempt(&server.lock(seen_expired(spec).await)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_changed_since_it_was_watched_is_not_taken() {
    let old = seen_expired(held("a", "2026-01-01T00:00:00.000000Z")).await;
    let mut renewed = lease(held("a", "2026-01-01T00:00:00.000000Z"));
    renewed["metadata"]["resourceVersion"] = json!("8");
    let server = Server::with(Some(renewed));
    assert!(!attempt(&server.lock(old)).await.unwrap());
    assert_eq!(server.sent(), [Method::GET]);
}

#[tokio::test(start_paused = true)]
async fn every_patch_names_the_version_and_the_uid_that_were_read() {
    for spec in [
        held("us", "2026-01-01T00:00:00.000000Z"),
        held("a", "2026-01-01T00:00:00.000000Z"),
    ] {
        let server = Server::with(Some(lease(spec.clone())));
        assert!(attempt(&server.lock(seen_expired(spec).await)).await.unwrap());
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
    server.lock(seen_expired(spec).await).step_down().await.unwrap();
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
        let taken = attempt(&server.lock(unknown())).await;
        assert!(taken.as_ref().is_ok_and(|taken| *taken), "{spec}: {taken:?}");
        assert_eq!(server.patch()["spec"]["holderIdentity"], "us", "{spec}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_without_times_is_honoured_first_and_replaced_later() {
    let spec = json!({"holderIdentity": "a"});
    let server = Server::with(Some(lease(spec.clone())));
    assert!(!attempt(&server.lock(unknown())).await.unwrap());
    assert!(attempt(&server.lock(seen_expired(spec).await)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_lease_deleted_under_its_holder_is_not_made_by_another() {
    let record = unknown();
    let was = lease(held("a", "2026-01-01T00:00:00.000000Z"));
    record.see(Some(&serde_json::from_value(was).unwrap()));
    let server = Server::with(None);
    assert!(!attempt(&server.lock(record)).await.unwrap());
    assert_eq!(server.sent(), [Method::GET]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_deleted_under_us_is_made_anew() {
    let record = unknown();
    let was = lease(held("us", "2026-01-01T00:00:00.000000Z"));
    record.see(Some(&serde_json::from_value(was).unwrap()));
    let server = Server::with(None);
    assert!(attempt(&server.leaders_lock(record)).await.unwrap());
    assert_eq!(server.sent(), [Method::GET, Method::POST]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_deleted_after_our_term_is_not_made_anew_at_once() {
    let record = unknown();
    let was = lease(held("us", "2026-01-01T00:00:00.000000Z"));
    record.see(Some(&serde_json::from_value(was).unwrap()));
    let server = Server::with(None);
    assert!(!attempt(&server.lock(record.clone())).await.unwrap());
    assert_eq!(server.sent(), [Method::GET]);
    for _ in 0..6 {
        tokio::time::advance(Duration::from_millis(900)).await;
        assert!(!attempt(&server.lock(record.clone())).await.unwrap());
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(attempt(&server.lock(record)).await.unwrap());
}

/// It was not looked at for a while, in which it may have been there again.
#[tokio::test(start_paused = true)]
async fn an_absence_with_a_gap_in_it_begins_anew() {
    let record = unknown();
    record.see(Some(
        &serde_json::from_value(lease(held("another", "2026-01-01T00:00:00.000000Z"))).unwrap(),
    ));
    let server = Server::with(None);
    assert!(!attempt(&server.lock(record.clone())).await.unwrap());
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(!attempt(&server.lock(record)).await.unwrap());
    assert_eq!(server.sent(), [Method::GET, Method::GET]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_emptied_under_us_is_written_anew() {
    let record = seen_expired(held("us", "2026-01-01T00:00:00.000000Z")).await;
    let mut emptied = lease(json!({"holderIdentity": "", "leaseDurationSeconds": 6}));
    emptied["metadata"]["resourceVersion"] = json!("8");
    let server = Server::with(Some(emptied));
    assert!(attempt(&server.leaders_lock(record)).await.unwrap());
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
    assert!(attempt(&server.lock(unknown())).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_not_made_by_who_has_seen_another_holder_since_its_get() {
    for (holder, made) in [("another", false), ("us", true)] {
        let (server, record) = (Server::default(), unknown());
        let guard = Guard::new("us", OURS, record.clone(), channel(Some(Term::endless())).1);
        let mut guarded = guard.layer(server.service());
        let request = |method: Method| {
            let request = Request::builder().method(method).uri("/").body(Body::empty());
            request.unwrap()
        };
        guarded.call(request(Method::GET)).await.unwrap();
        let seen = lease(held(holder, "2001-01-01T00:00:00.000000Z"));
        record.shown(Some(&serde_json::from_value(seen).unwrap()));
        // And it is deleted again by now.
        assert_eq!(
            guarded.call(request(Method::POST)).await.is_ok(),
            made,
            "{holder}"
        );
        assert_eq!(server.sent().contains(&Method::POST), made, "{holder}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_get_whose_answer_is_late_says_nothing_of_a_lease_that_was_seen_since_it_was_sent() {
    let (server, record) = (Server::default(), unknown());
    let guard = Guard::new("us", OURS, record.clone(), channel(None).1);
    let inner = server.service();
    let late = service_fn(move |request| {
        let (mut inner, record) = (inner.clone(), record.clone());
        async move {
            // Once: it is deleted again before the next GET, and no watch tells of that.
            tokio::time::advance(Duration::from_millis(1)).await;
            if record.holder().is_none() {
                let seen = lease(held("another", "2001-01-01T00:00:00.000000Z"));
                record.shown(Some(&serde_json::from_value(seen).unwrap()));
            }
            inner.call(request).await
        }
    });
    let mut guarded = guard.layer(late);
    let get = || Request::get("/").body(Body::empty()).unwrap();
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
    record.shown(Some(
        &serde_json::from_value(lease(held("one", "2001-01-01T00:00:00.000000Z"))).unwrap(),
    ));
    let mut read = lease(held("two", "2001-01-01T00:00:00.000000Z"));
    read["metadata"]["resourceVersion"] = json!("9");
    let server = Server::with(Some(read));
    let guard = Guard::new("us", OURS, record.clone(), channel(None).1);
    let inner = server.service();
    let late = service_fn(move |request| {
        let (mut inner, record) = (inner.clone(), record.clone());
        async move {
            tokio::time::advance(Duration::from_millis(1)).await;
            let mut released = lease(json!({"holderIdentity": "", "leaseDurationSeconds": 1}));
            released["metadata"]["resourceVersion"] = json!("8");
            record.shown(Some(&serde_json::from_value(released).unwrap()));
            inner.call(request).await
        }
    });
    let answer = guard
        .layer(late)
        .call(Request::get("/").body(Body::empty()).unwrap())
        .await
        .unwrap();
    let shown = answer.into_body().collect().await.unwrap().to_bytes();
    let shown: Lease = serde_json::from_slice(&shown).unwrap();
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
    let record = unknown();
    record.see(Some(
        &serde_json::from_value(lease(held("us", "2026-01-01T00:00:00.000000Z"))).unwrap(),
    ));
    let (_terms, leads) = channel(Some(Term::endless()));
    let guard = Guard::new("us", OURS, record.clone(), leads);
    let inner = server.service();
    let late = service_fn(move |request| {
        let (mut inner, record) = (inner.clone(), record.clone());
        async move {
            tokio::time::advance(Duration::from_millis(1)).await;
            let mut renewed = lease(held("us", "2026-01-01T00:00:02.000000Z"));
            renewed["metadata"]["resourceVersion"] = json!("8");
            record.shown(Some(&serde_json::from_value(renewed).unwrap()));
            inner.call(request).await
        }
    });
    let mut guarded = guard.layer(late);
    let mut get = || guarded.call(Request::get("/").body(Body::empty()).unwrap());
    assert!(get().await.is_err(), "neither its own nor another's");
    assert_eq!(
        get().await.unwrap().status(),
        StatusCode::NOT_FOUND,
        "it makes it anew"
    );
}
