use std::convert::Infallible;

use http_body::Body as _;
use http_body_util::Full;
use tower::{ServiceExt as _, service_fn};

use super::super::response_size::Incoming;
use super::*;
use crate::telemetry::metrics::Metrics;

/// The limit and the time of each request that the API server got.
type Requests = Arc<Mutex<Vec<(u32, Instant)>>>;

/// Serves a list of `total` objects of this size in bytes. A page holds as many objects as the limit allows.
fn server(
    object: usize,
    total: u32,
    requests: &Requests,
) -> impl Service<Request<Body>, Response = Response<Full<Bytes>>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ 'static
+ use<> {
    let requests = requests.clone();
    service_fn(move |request: Request<Body>| {
        let limit: u32 = parameter(request.uri(), "limit").unwrap().parse().unwrap();
        requests.lock().push((limit, Instant::now()));
        let bytes = vec![b' '; object * usize::try_from(limit.min(total)).unwrap()];
        std::future::ready(Ok(Response::new(Full::from(bytes))))
    })
}

fn request(query: &str) -> Request<Body> {
    Request::get(format!("/api/v1/services?{query}"))
        .body(Body::empty())
        .unwrap()
}

fn paged<S>(server: S) -> Paged<S>
where
    S: Service<Request<Body>, Response = Response<Full<Bytes>>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    let metrics = Metrics::new("lease").unwrap();
    let incoming = Incoming::default();
    Paged::new(CallLimits::new(
        server,
        &metrics,
        "host",
        Arc::default(),
        incoming,
    ))
}

async fn list<S>(paged: &Paged<S>, query: &str) -> Result<Answer<Full<Bytes>>, BoxError>
where
    S: Service<Request<Body>, Response = Response<Full<Bytes>>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    paged.clone().send(request(query)).await
}

fn limits(requests: &Requests) -> Vec<u32> {
    requests.lock().iter().map(|(limit, _)| *limit).collect()
}

#[tokio::test]
async fn a_page_that_is_too_large_is_requested_with_fewer_objects() {
    let requests = Requests::default();
    let paged = paged(server(250 * 1024, u32::MAX, &requests));
    let answer = list(&paged, "limit=500").await.unwrap();
    assert_eq!(answer.body().size_hint().exact(), Some(6 * 250 * 1024));
    list(&paged, "limit=500&continue=x").await.unwrap();
    assert_eq!(limits(&requests), [100, 25, 6, 3]);
}

#[tokio::test]
async fn an_object_that_is_larger_than_a_page_is_listed_alone() {
    let requests = Requests::default();
    let paged = paged(server(LARGEST_PAGE + 1, u32::MAX, &requests));
    list(&paged, "limit=500").await.unwrap();
    assert_eq!(limits(&requests), [100, 25, 6, 1]);
}

#[tokio::test]
async fn pages_of_small_objects_grow_to_the_requested_limit() {
    let requests = Requests::default();
    let paged = paged(server(50, u32::MAX, &requests));
    for query in ["a=b&limit=500&c=d"]
        .into_iter()
        .chain(["limit=500&continue=x"; 3])
    {
        list(&paged, query).await.unwrap();
    }
    assert_eq!(limits(&requests), [100, 200, 400, 500]);
}

/// Rule: survive.memory
#[tokio::test(start_paused = true)]
async fn pages_grow_if_they_arrive_slowly() {
    for (took, expected) in [(40, [100, 50, 50]), (60, [100, 200, 200])] {
        let requests = Requests::default();
        let server = server(TARGET / 50, u32::MAX, &requests);
        let slow = service_fn(move |request: Request<Body>| {
            let answer = server.clone().oneshot(request);
            async move {
                sleep(Duration::from_millis(took)).await;
                answer.await
            }
        });
        let paged = paged(slow);
        for _ in 0..3 {
            list(&paged, "limit=500&continue=x").await.unwrap();
        }
        assert_eq!(limits(&requests), expected, "{took} ms");
    }
}

/// Rule: survive.memory
#[tokio::test]
async fn the_last_page_of_a_list_does_not_enlarge_those_of_the_next() {
    let requests = Requests::default();
    // A full page has the right size. The last page is short.
    let paged = paged(server(TARGET / 100, 10, &requests));
    for _ in 0..4 {
        list(&paged, "limit=500").await.unwrap();
    }
    assert_eq!(limits(&requests), [100; 4]);
}

#[tokio::test]
async fn each_resource_has_its_page_size_and_lower_limits_are_kept() {
    let requests = Requests::default();
    let paged = paged(server(100, u32::MAX, &requests));
    for path in [
        "/api/v1/services?limit=500",
        "/api/v1/services?limit=500&continue=x",
        "/api/v1/events?limit=500",
        "/api/v1/pods?limit=7",
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        paged.clone().send(request).await.unwrap();
    }
    assert_eq!(limits(&requests), [100, 200, 100, 7]);
}

#[tokio::test(start_paused = true)]
async fn overload_in_the_middle_of_a_list_does_not_restart_the_list() {
    let requests = Requests::default();
    let busy = requests.clone();
    let server = service_fn(move |_: Request<Body>| {
        let mut requests = busy.lock();
        requests.push((0, Instant::now()));
        let parts = Response::builder()
            .status(429)
            .header("retry-after", "3")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        let answer = if requests.len() < 3 {
            Err(BoxError::from(super::super::http_status::error(&parts, b"busy")))
        } else {
            Ok(Response::new(Full::<Bytes>::default()))
        };
        std::future::ready(answer)
    });
    let paged = paged(server);
    let first = list(&paged, "limit=500").await;
    assert!(first.is_err(), "the first page was requested again");
    list(&paged, "limit=500&continue=x").await.unwrap();
    let requests = requests.lock();
    assert_eq!(requests.len(), 3);
    assert_eq!((requests[2].1 - requests[1].1).as_secs(), 3, "Retry-After");
}

/// Rule: 5.readyz
#[tokio::test(start_paused = true)]
async fn an_overload_that_lasts_longer_than_a_minute_ends_the_list() {
    for (retry_after, pauses) in [(60, 60), (40, 40), (25, 50), (0, 31)] {
        let server = service_fn(move |_: Request<Body>| {
            let answer = Response::builder()
                .status(429)
                .header("retry-after", retry_after)
                .body(())
                .unwrap();
            let busy = super::super::http_status::error(&answer.into_parts().0, b"busy");
            std::future::ready(Err::<Response<Full<Bytes>>, _>(BoxError::from(busy)))
        });
        let start = Instant::now();
        let answer = list(&paged(server), "limit=500&continue=x").await;
        assert!(answer.is_err());
        assert_eq!(start.elapsed().as_secs(), pauses, "Retry-After: {retry_after}");
    }
}

#[tokio::test]
async fn after_a_late_page_the_next_list_asks_for_fewer_objects() {
    let requests = Requests::default();
    let seen = requests.clone();
    let server = service_fn(move |request: Request<Body>| {
        let limit = parameter(request.uri(), "limit").unwrap().parse().unwrap();
        seen.lock().push((limit, Instant::now()));
        std::future::ready(Err::<Response<Full<Bytes>>, _>(BoxError::from(TimedOut(
            Duration::ZERO,
        ))))
    });
    let paged = paged(server);
    for _ in 0..4 {
        let answer = list(&paged, "limit=500").await;
        assert!(answer.is_err());
    }
    assert_eq!(limits(&requests), [100, 25, 6, 1]);
}

#[tokio::test]
async fn only_lists_with_a_limit_are_changed() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let server = {
        let seen = seen.clone();
        service_fn(move |request: Request<Body>| {
            seen.lock().push(request.uri().to_string());
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
        })
    };
    let paged = paged(server);
    for path in ["/a?watch=true&limit=500", "/a", "/a?limit=0"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        paged.clone().send(request).await.unwrap();
    }
    assert_eq!(*seen.lock(), ["/a?watch=true&limit=500", "/a", "/a?limit=0"]);
}
