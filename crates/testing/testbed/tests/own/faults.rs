//! Each fault, on a server without a connection.

use crate::{LEASES, SLICES, Watch, call, event, get, lease, slice};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use testbed::{ApiServer, Effect, Ending, Fault, Match, Store};
use tokio::time::{Instant, timeout};

const LONG: Duration = Duration::from_secs(3600);

fn server() -> ApiServer {
    ApiServer::new(&Store::new())
}

async fn create(server: &ApiServer, name: &str) -> Result<(u16, Value), testbed::answer::BoxError> {
    call(server, Method::POST, LEASES, Some(&lease(name))).await
}

#[tokio::test(start_paused = true)]
async fn an_error_applies_to_its_requests_as_often_as_set() {
    let server = server();
    let creates = Match::any().verb("create").resource("leases").name("");
    server.faults().add(Fault::status(creates, 503).times(2));
    assert_eq!(get(&server, LEASES).await.0, 200);
    for code in [503, 503, 201] {
        assert_eq!(create(&server, "a").await.unwrap().0, code);
    }
    server.faults().add(Fault::status(Match::any().name("a"), 410));
    assert_eq!(get(&server, &format!("{LEASES}/a")).await.0, 410);
    assert_eq!(get(&server, LEASES).await.0, 200);
    server.faults().clear();
    assert_eq!(get(&server, &format!("{LEASES}/a")).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn every_code_but_429_is_a_status() {
    let server = server();
    for code in [403, 404, 409, 410, 422, 500, 503, 504] {
        server.faults().add(Fault::status(Match::any(), code).times(1));
        let (answered, status) = get(&server, LEASES).await;
        assert_eq!(answered, code);
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["code"], code);
        assert!(status["reason"].is_string());
    }
    // An overloaded API server answers in plain text.
    server.faults().add(Fault::status(Match::any(), 429).times(1));
    let (answered, text) = get(&server, LEASES).await;
    assert_eq!(
        (answered, &text["kind"]),
        (429, &serde_json::Value::Null),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rule_applies_to_a_user_and_can_be_removed() {
    let server = server();
    let id = server
        .faults()
        .add(Fault::status(Match::any().user("operator"), 500));
    assert_eq!(get(&server, LEASES).await.0, 200);
    assert_eq!(get(&server.as_user("operator"), LEASES).await.0, 500);
    server.faults().remove(id);
    assert_eq!(get(&server.as_user("operator"), LEASES).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn latencies_add_up() {
    let server = server();
    server
        .faults()
        .add(Fault::new(Match::any(), Effect::Latency(Duration::from_secs(2))));
    server.faults().add(Fault::new(
        Match::any().verb("list"),
        Effect::Latency(Duration::from_secs(1)),
    ));
    let started = Instant::now();
    get(&server, LEASES).await;
    assert_eq!(started.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_not_json_and_has_no_effect() {
    let server = server();
    server
        .faults()
        .add(Fault::new(Match::any(), Effect::Nonsense).times(1));
    let (code, body) = create(&server, "a").await.unwrap();
    assert_eq!(code, 200);
    assert!(body.is_string());
    assert!(server.store().get("leases", "default", "a").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_truncated_answer_is_not_json_but_the_write_is_applied() {
    let server = server();
    server
        .faults()
        .add(Fault::new(Match::any(), Effect::Truncated).times(1));
    let (code, body) = create(&server, "a").await.unwrap();
    assert_eq!(code, 201);
    assert!(body.is_string());
    assert!(server.store().get("leases", "default", "a").is_some());
}

#[tokio::test(start_paused = true)]
async fn an_undecodable_answer_has_fields_of_wrong_types() {
    let server = server();
    for labels in [false, true] {
        let effect = Effect::Undecodable { labels };
        server.faults().add(Fault::new(Match::any(), effect).times(1));
        let (code, body) = create(&server, if labels { "a" } else { "b" }).await.unwrap();
        assert_eq!((code, &body["endpoints"]), (201, &json!(0)));
        assert_eq!(body["metadata"]["labels"].is_number(), labels);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_with_a_lost_reply_is_applied() {
    let server = server();
    server
        .faults()
        .add(Fault::new(Match::any(), Effect::LostReply).times(1));
    assert!(create(&server, "a").await.is_err());
    assert_eq!(create(&server, "a").await.unwrap().0, 409);
    server
        .faults()
        .add(Fault::new(Match::any(), Effect::Unanswered).times(1));
    assert!(timeout(LONG, create(&server, "b")).await.is_err());
    assert_eq!(create(&server, "b").await.unwrap().0, 409);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_or_broken_request_has_no_effect() {
    let server = server();
    server
        .faults()
        .add(Fault::new(Match::any(), Effect::Hang).times(1));
    assert!(timeout(LONG, create(&server, "a")).await.is_err());
    server
        .faults()
        .add(Fault::new(Match::any(), Effect::Break).times(1));
    assert!(create(&server, "a").await.is_err());
    assert!(server.store().get("leases", "default", "a").is_none());
    let answered: Vec<bool> = server.requests().iter().map(|r| r.status.is_some()).collect();
    assert_eq!(answered, [false, false]);
}

#[tokio::test(start_paused = true)]
async fn a_refusing_server_accepts_no_request() {
    let server = server();
    server.faults().refuse(true);
    assert!(create(&server, "a").await.is_err());
    server.faults().refuse(false);
    assert_eq!(create(&server, "a").await.unwrap().0, 201);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_server_answers_when_it_thaws() {
    let server = server();
    let mut watch = Watch::open(&server, &format!("{SLICES}?watch=1&resourceVersion=4")).await;
    server.faults().freeze();
    server.store().put(slice("a")).unwrap();
    assert!(timeout(LONG, watch.next()).await.is_err());
    assert!(timeout(LONG, get(&server, LEASES)).await.is_err());
    let waiting = tokio::spawn({
        let server = server.clone();
        async move { get(&server, LEASES).await.0 }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.faults().thaw();
    assert_eq!(waiting.await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn watches_end_cleanly_or_abruptly_and_new_ones_work() {
    let server = server();
    let path = |resource: &str| format!("{resource}?watch=1&resourceVersion=4");
    let (mut slices, mut leases) = (
        Watch::open(&server, &path(SLICES)).await,
        Watch::open(&server, &path(LEASES)).await,
    );
    server
        .faults()
        .end_watches(Match::any().resource("endpointslices"), Ending::Clean);
    assert!(slices.next().await.is_none());
    create(&server, "a").await.unwrap();
    assert_eq!(leases.event().await, event("ADDED", "a"));
    server.faults().end_watches(Match::any(), Ending::Abrupt);
    assert!(leases.next().await.unwrap().is_err());
    let mut fresh = Watch::open(&server, &path(LEASES)).await;
    assert_eq!(fresh.event().await, event("ADDED", "a"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_sends_nothing_until_it_resumes() {
    let server = server();
    let path = format!("{LEASES}?watch=1&resourceVersion=4&timeoutSeconds=60&allowWatchBookmarks=true");
    let mut watch = Watch::open(&server, &path).await;
    server.faults().silence_watches(Match::any().resource("leases"));
    create(&server, "a").await.unwrap();
    assert!(timeout(LONG, watch.next()).await.is_err());
    let mut fresh = Watch::open(&server, &path).await;
    assert_eq!(fresh.event().await, event("ADDED", "a"));
    server.faults().resume_watches();
    assert_eq!(watch.event().await, event("ADDED", "a"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_can_be_ended() {
    let server = server();
    let mut watch = Watch::open(&server, &format!("{LEASES}?watch=1&resourceVersion=4")).await;
    server.faults().silence_watches(Match::any());
    server.faults().end_watches(Match::any(), Ending::Clean);
    assert!(watch.next().await.is_none());
}
