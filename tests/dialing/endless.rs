//! Responses that never end, from a broken API server or a proxy in front of it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use endpoint_copier_operator::config::ApiServerConfig;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use harness::Listening;
use http::Response;
use http_body::Frame;
use http_body_util::StreamBody;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::WatchParams;
use tokio::time::timeout;
use tower::service_fn;

use crate::servers::{PATIENCE, Servers, TestClient, address, plain};

const MIB: usize = 1024 * 1024;

/// The number of bytes of an endless response: more than a client may read, but few enough for the test to end if a
/// client reads all of them.
const ENDLESS: usize = 128 * MIB;

/// A client of two servers. The first one responds to each request with [`ENDLESS`] bytes, and the second one works.
struct Scene {
    servers: Servers,
    client: TestClient,
    /// The number of bytes that the first server has sent.
    sent: Arc<AtomicUsize>,
    _listening: [Listening; 2],
}

impl Scene {
    /// The first server responds with this status code.
    async fn new(code: u16) -> Self {
        let servers = Servers::start(1).await;
        let sent = Arc::<AtomicUsize>::default();
        let count = sent.clone();
        let endless = service_fn(move |_| {
            let count = count.clone();
            let chunks = stream::iter(0..ENDLESS / 16384).map(move |_| {
                count.fetch_add(16384, Ordering::Relaxed);
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'A'; 16384])))
            });
            let answer = Response::builder().status(code).body(StreamBody::new(chunks));
            std::future::ready(Ok::<_, Infallible>(answer.expect("an answer")))
        });
        let endless = plain(endless).await;
        let works = plain(servers.server(0).server().clone()).await;
        let config = ApiServerConfig {
            mode: None,
            addresses: vec![address(works.address())],
        };
        Self {
            client: servers.client_at(&endless.url("http"), config).await,
            servers,
            sent,
            _listening: [endless, works],
        }
    }

    /// The number of MiB that the first server has sent, including those in flight.
    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed) / MIB
    }

    async fn check_other_server(&self) {
        self.client.get().await.expect("the other server answers");
        assert_eq!(self.servers.asked(), "a");
    }
}

/// Rule: survive.endless-answer
#[tokio::test]
async fn endless_error_is_truncated_and_keeps_its_status_code() {
    for code in [403, 502] {
        let scene = Scene::new(code).await;
        let error = scene.client.get().await.expect_err("an error");
        let kube::Error::Api(status) = error else {
            panic!("{error}")
        };
        assert_eq!(status.code, code);
        assert!(status.message.len() < 1000, "{}", status.message.len());
        assert!(scene.sent() < 16, "{} MiB", scene.sent());
    }
}

/// Rule: survive.endless-answer
#[tokio::test]
async fn endless_answer_fails_and_another_server_is_tried() {
    let scene = Scene::new(200).await;
    let error = scene.client.get().await.expect_err("an error");
    // The limit for one response applies, not the limit for all responses together.
    assert!(
        error.to_string().contains("the response has more than"),
        "{error}"
    );
    assert!(scene.sent() < 64, "{} MiB", scene.sent());
    scene.check_other_server().await;
}

/// Rule: survive.endless-answer
#[tokio::test]
async fn endless_watch_line_fails_and_another_server_is_tried() {
    let scene = Scene::new(200).await;
    let services: Api<Service> = Api::default_namespaced(scene.client.kube.clone());
    let params = WatchParams::default();
    let events = services.watch(&params, "0").await.expect("a watch");
    let end = timeout(PATIENCE, events.try_collect::<Vec<_>>()).await;
    end.expect("no timeout").expect_err("an error");
    assert!(scene.sent() < 64, "{} MiB", scene.sent());
    scene.check_other_server().await;
}
