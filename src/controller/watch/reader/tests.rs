use std::convert::Infallible;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use futures::stream;
use http::StatusCode;
use http_body_util::{Either, Full, StreamBody};
use k8s_openapi::api::core::v1::Service;
use tokio::sync::mpsc;

use super::*;
use crate::config::ServerAddress;

/// Returns the response to a list or a watch. The watch is rejected, or shows nothing and never ends. The port of the
/// server is the number of the request.
fn answer(
    number: u16,
    watches: bool,
    refuses: bool,
) -> Response<impl http_body::Body<Data = Bytes, Error = BoxError>> {
    let text = match (watches, refuses) {
        (true, false) => None,
        (true, true) => Some(
            r#"{"apiVersion":"v1","kind":"Status","status":"Failure","code":429,"reason":"TooManyRequests"}"#,
        ),
        (false, _) => {
            Some(r#"{"apiVersion":"v1","kind":"ServiceList","metadata":{"resourceVersion":"1"},"items":[]}"#)
        }
    };
    let mut answer = Response::new(match text {
        Some(text) => Either::Right(Full::from(text)),
        None => Either::Left(StreamBody::new(stream::pending::<Result<_, Infallible>>())),
    });
    if watches && refuses {
        *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    }
    let server = Server(ServerAddress::new("server", number));
    answer.extensions_mut().insert(server);
    answer
}

/// A request: whether it is a watch, and the server that it avoids, with the reason.
type SentRequest = (bool, Option<(u16, &'static str)>);

fn reader(refuses_watches: bool) -> (Reader, mpsc::UnboundedReceiver<SentRequest>) {
    let (sender, requests) = mpsc::unbounded_channel();
    let count = Arc::<AtomicU16>::default();
    let service = service_fn(move |request: Request<Body>| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let watches = is_watch(&request);
        let avoid = request.extensions().get::<Avoid>();
        let avoid = avoid.map(|avoid| (avoid.server.0.port, avoid.why));
        sender.send((watches, avoid)).unwrap();
        std::future::ready(Ok::<_, Infallible>(answer(number, watches, refuses_watches)))
    });
    let reader = over(Client::new(service, "default"));
    (reader, requests)
}

fn over(client: Client) -> Reader {
    Reader {
        client,
        watch_health: WatchHealth::default(),
        metrics: Metrics::new("lease").unwrap(),
    }
}

async fn follow(reader: &Reader) {
    let services = WatchKind::Services;
    reader
        .follow::<Service>(services, Api::all, watcher::Config::default(), drop)
        .await;
}

async fn assert_not_alive(reader: &Reader) {
    let look = async {
        sleep(Duration::from_secs(91)).await;
        assert!(reader.watch_health.check(Duration::from_secs(90)).is_err());
    };
    tokio::select! {
        () = follow(reader) => {}
        () = look => {}
    }
}

/// A pause that an API server requests is not a failure of the replica.
/// Rule: 5.readyz
#[tokio::test(start_paused = true)]
async fn a_watch_that_honors_retry_after_counts_as_alive() {
    let busy = r#"{"apiVersion":"v1","kind":"Status","status":"Failure","code":429,"details":{"retryAfterSeconds":60}}"#;
    let service = service_fn(move |_: Request<Body>| {
        let mut answer = Response::new(Full::<Bytes>::from(busy));
        *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let reader = over(Client::new(service, "default"));
    let look = async {
        for _ in 0..100 {
            sleep(Duration::from_secs(9)).await;
            assert_eq!(reader.watch_health.check(Duration::from_secs(90)), Ok(()));
        }
        let last = reader.watch_health.last()[&WatchKind::Services];
        let silent = last.elapsed().expect("in the past");
        assert!(
            silent >= Duration::from_secs(900),
            "the pause hides the silence from alerts: {silent:?}"
        );
    };
    tokio::select! {
        () = follow(&reader) => {}
        () = look => {}
    }
}

fn report_as_behind(reader: &Reader) {
    reader.watch_health.restart(WatchKind::Services, Cause::Behind);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_behind_or_stuck_moves_to_another_server() {
    let (reader, mut requests) = reader(false);
    let look = async {
        assert_eq!(requests.recv().await, Some((false, None)));
        assert_eq!(requests.recv().await, Some((true, None)));
        let again = Some((true, Some((2, "it did not end a watch in time"))));
        assert_eq!(requests.recv().await, again);
        // After this time, the response and the name of its server have been read.
        sleep(Duration::from_secs(1)).await;
        report_as_behind(&reader);
        let again = Some((false, Some((3, "its watch is behind"))));
        assert_eq!(requests.recv().await, again);
    };
    tokio::select! {
        () = follow(&reader) => {}
        () = look => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_line_that_cannot_be_decoded_causes_a_list() {
    for line in [
        "nonsense\n",
        "{\"type\":\"LATER\",\"object\":{}}\n",
        "{\"type\":\"DELETED\"}\n",
        "{}\n",
        "[]\n",
    ] {
        let (sender, mut requests) = mpsc::unbounded_channel();
        let service = service_fn(move |request: Request<Body>| {
            let watches = is_watch(&request);
            sender.send(watches).unwrap();
            let list = r#"{"metadata":{"resourceVersion":"1"},"items":[]}"#;
            let text = Full::<Bytes>::from(if watches { line } else { list });
            std::future::ready(Ok::<_, Infallible>(Response::new(text)))
        });
        let reader = over(Client::new(service, "default"));
        let look = async {
            assert_eq!(requests.recv().await, Some(false));
            assert_eq!(requests.recv().await, Some(true));
            assert_eq!(requests.recv().await, Some(false), "{line}");
        };
        tokio::select! {
            () = follow(&reader) => {}
            () = look => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_always_ends_at_once_does_not_count_as_alive() {
    let service = service_fn(|request: Request<Body>| {
        let list = r#"{"metadata":{"resourceVersion":"1"},"items":[]}"#;
        let text = if is_watch(&request) { "" } else { list };
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text))))
    });
    let reader = over(Client::new(service, "default"));
    assert_not_alive(&reader).await;
}

#[tokio::test(start_paused = true)]
async fn unterminated_line_does_not_keep_a_watch_alive() {
    let service = service_fn(|request: Request<Body>| {
        let list = r#"{"metadata":{"resourceVersion":"1"},"items":[]}"#;
        let trickle = stream::unfold((), async |()| {
            sleep(Duration::from_millis(500)).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"A"))), ()))
        });
        let body = if is_watch(&request) {
            Either::Left(StreamBody::new(Box::pin(trickle)))
        } else {
            Either::Right(Full::<Bytes>::from(list))
        };
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    });
    let reader = over(Client::new(service, "default"));
    assert_not_alive(&reader).await;
}

const EXPIRED: &str = r#"{"kind":"Status","status":"Failure","code":410,"reason":"Expired"}"#;

/// Follows a watch for some time. `answer` returns the status code and the body of each watch response. Returns the
/// times of the lists, in seconds.
async fn lists_of(
    watched: WatchKind,
    time: Duration,
    answer: impl Fn(usize) -> (u16, String) + Clone + Send + 'static,
) -> Vec<f64> {
    let (start, lists) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let (seen, count) = (lists.clone(), Arc::new(AtomicUsize::new(0)));
    let service = service_fn(move |request: Request<Body>| {
        let (code, text) = if is_watch(&request) {
            answer(count.fetch_add(1, Ordering::SeqCst))
        } else {
            seen.lock().push(start.elapsed().as_secs_f64());
            let list = r#"{"metadata":{"resourceVersion":"1"},"items":[]}"#;
            (200, list.to_owned())
        };
        let mut response = Response::new(Full::<Bytes>::from(text));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let client = Client::new(service, "default");
    let reader = over(crate::apiserver::over(
        service_fn(move |request| {
            let client = client.clone();
            async move { client.send(request).await }
        }),
        "default",
        &Metrics::new("lease").unwrap(),
    ));
    let config = watcher::Config::default();
    let follow = reader.follow::<Service>(watched, Api::all, config, drop);
    _ = tokio::time::timeout(time, follow).await;
    let lists = lists.lock();
    lists.clone()
}

/// Rule: survive.relist-loop
#[tokio::test(start_paused = true)]
async fn watches_that_always_fail_cause_fewer_and_fewer_lists() {
    let event = format!(r#"{{"type":"ERROR","object":{EXPIRED}}}"#);
    for (code, text) in [(410, EXPIRED), (200, &*event), (400, ""), (200, "nonsense\n")] {
        let text = text.to_owned();
        let hour = Duration::from_secs(3600);
        let lists = lists_of(WatchKind::Services, hour, move |_| (code, text.clone())).await;
        assert!(
            lists[1] < 0.2 && lists[2] < 0.7,
            "the first pauses are too long: {lists:?}"
        );
        let later = lists.windows(2).skip(10).map(|pair| pair[1] - pair[0]);
        for pause in later {
            assert!((20.0..40.0).contains(&pause), "{code} {pause}");
        }
    }
}

/// Rule: survive.relist-loop
#[tokio::test(start_paused = true)]
async fn a_watch_event_resets_the_pause_before_a_relist() {
    let change =
        r#"{"type":"ADDED","object":{"metadata":{"name":"a","namespace":"b","resourceVersion":"2"}}}"#;
    let lists = lists_of(WatchKind::Services, Duration::from_secs(600), move |number| {
        if number % 8 == 7 {
            (200, format!("{change}\n"))
        } else {
            (410, EXPIRED.to_owned())
        }
    })
    .await;
    let longest = lists.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    assert!((4.0..12.0).contains(&longest), "{longest}");
    assert!(lists.len() > 250 && lists.len() < 600, "{}", lists.len());
}

/// Rule: survive.relist-loop
#[tokio::test(start_paused = true)]
async fn lease_whose_watch_expires_is_listed_again_within_a_second() {
    let lists = lists_of(WatchKind::Lease, Duration::from_secs(600), |_| {
        (410, EXPIRED.to_owned())
    })
    .await;
    let longest = lists.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    assert!(longest < 1.0, "{longest}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_with_an_undecodable_list_does_not_count_as_alive() {
    let service = service_fn(|_: Request<Body>| {
        let list = Full::<Bytes>::from(r#"{"metadata":{"resourceVersion":"1"},"items":{}}"#);
        std::future::ready(Ok::<_, Infallible>(Response::new(list)))
    });
    let reader = over(Client::new(service, "default"));
    assert_not_alive(&reader).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_behind_twice_avoids_its_server() {
    let (reader, mut requests) = reader(true);
    let look = async {
        sleep(Duration::from_secs(5)).await;
        while requests.try_recv().is_ok() {}
        report_as_behind(&reader);
        assert_eq!(requests.recv().await, Some((false, None)));
        sleep(Duration::from_secs(5)).await;
        while requests.try_recv().is_ok() {}
        report_as_behind(&reader);
        let (watches, avoid) = requests.recv().await.unwrap();
        assert!(!watches && avoid.is_some_and(|(_, why)| why == "its watch is behind"));
    };
    tokio::select! {
        () = follow(&reader) => {}
        () = look => {}
    }
}

const LIMIT: Duration = Duration::from_secs(30);

/// The response of an API server: the delay, the status code, and the body.
type Answer = (Duration, u16, String);

/// Returns a reader whose requests get the responses that `answer` returns for their queries.
fn reader_of(answer: impl Fn(&str) -> Answer + Clone + Send + 'static) -> Reader {
    let service = service_fn(move |request: Request<Body>| {
        let (delay, code, text) = answer(request.uri().query().unwrap_or_default());
        async move {
            sleep(delay).await;
            let mut response = Response::new(Full::<Bytes>::from(text));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    over(crate::apiserver::over(
        service,
        "default",
        &Metrics::new("lease").unwrap(),
    ))
}

/// Returns a page of a list. `next` is empty on the last page.
fn page(next: &str) -> String {
    let item = r#"{"metadata":{"name":"a","namespace":"b","resourceVersion":"1"}}"#;
    format!(r#"{{"metadata":{{"resourceVersion":"1","continue":"{next}"}},"items":[{item}]}}"#)
}

/// Follows a watch for this many seconds, and calls `look` every second with the time and the names of the failing
/// watches.
async fn observe(reader: &Reader, time: u64, mut look: impl FnMut(u64, Vec<&'static str>)) {
    let look = async {
        for second in 1..=time {
            sleep(Duration::from_secs(1)).await;
            look(second, reader.watch_health.failing(&[WatchKind::Services], LIMIT));
        }
    };
    tokio::select! {
        () = follow(reader) => {}
        () = look => {}
    }
}

/// Rule: 5.blind, 5.readyz
#[tokio::test(start_paused = true)]
async fn list_that_never_completes_fails_and_is_not_alive() {
    let never = Duration::from_secs(3600);
    for (delay, code, text, fails) in [
        (Duration::ZERO, 500, "", true),
        (Duration::ZERO, 200, "nonsense", true),
        (never, 200, "", true),
        // Every replica gets this response.
        (Duration::ZERO, 410, EXPIRED, false),
    ] {
        let reader = reader_of(move |query| {
            if query.contains("continue=") {
                (delay, code, text.to_owned())
            } else {
                (Duration::ZERO, 200, page("next"))
            }
        });
        observe(&reader, 120, |second, failing| {
            let is_alive = reader.watch_health.check(3 * LIMIT).is_ok();
            if second == 35 {
                assert_eq!(!failing.is_empty(), fails, "{code} {text}");
            }
            assert_eq!(is_alive, second <= 90, "{code} {text} after {second} s");
        })
        .await;
    }
}

/// Rule: 5.blind, 5.readyz
#[tokio::test(start_paused = true)]
async fn long_list_that_makes_progress_works_and_is_alive() {
    let pages = Arc::<AtomicUsize>::default();
    let reader = reader_of(move |query| {
        let is_first = !query.contains("continue=");
        let number = pages.fetch_add(1, Ordering::SeqCst);
        // The list fails once, and then gets further.
        if number == 1 {
            return (Duration::ZERO, 500, String::new());
        }
        (
            Duration::from_secs(10),
            200,
            page(if is_first { "a" } else { "b" }),
        )
    });
    observe(&reader, 600, |second, failing| {
        assert!(failing.is_empty(), "{second}");
        assert_eq!(reader.watch_health.check(3 * LIMIT), Ok(()));
    })
    .await;
}

/// Rule: 5.blind
#[tokio::test(start_paused = true)]
async fn lists_that_work_do_not_hide_that_watches_hang() {
    let reader = reader_of(|query| {
        if query.contains("watch=") {
            (Duration::from_secs(3600), 200, String::new())
        } else {
            (Duration::ZERO, 200, page(""))
        }
    });
    let mut has_failed = false;
    observe(&reader, 45, |_, failing| has_failed |= !failing.is_empty()).await;
    assert!(has_failed);
}

/// Rule: 5.blind
#[test]
fn only_client_errors_are_expected_on_every_replica() {
    for (code, for_all) in [
        (400, true),
        (401, true),
        (403, true),
        (404, true),
        (410, true),
        (413, true),
        (414, true),
        (429, true),
        (431, true),
        // An undecodable response.
        (0, false),
        (500, false),
        (503, false),
        (504, false),
    ] {
        let status = || {
            kube::core::Status {
                code,
                ..kube::core::Status::failure("", "")
            }
            .boxed()
        };
        for error in [
            watcher::Error::InitialListFailed(kube::Error::Api(status())),
            watcher::Error::WatchStartFailed(kube::Error::Api(status())),
            watcher::Error::WatchFailed(kube::Error::Api(status())),
            watcher::Error::WatchError(status()),
        ] {
            assert_eq!(is_for_all(&error), for_all, "{error}");
        }
    }
    assert!(!is_for_all(&watcher::Error::NoResourceVersion));
}
