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

use crate::servers::{PATIENCE, Servers, Way, address, plain};

const MIB: usize = 1024 * 1024;

/// More than a client may read, and little enough for a client that reads all of it.
const ENDLESS: usize = 128 * MIB;

/// A server that answers each request with this code and far too many bytes, and one that works.
struct Scene {
    servers: Servers,
    way: Way,
    /// The number of bytes that were sent.
    sent: Arc<AtomicUsize>,
    _listening: [Listening; 2],
}

impl Scene {
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
            way: servers.access_at(&endless.url("http"), config).await,
            servers,
            sent,
            _listening: [endless, works],
        }
    }

    /// The number of MiB that were sent, including what is still in flight.
    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed) / MIB
    }

    async fn other_server_is_tried(&self) {
        self.way.get().await.expect("the other answers");
        assert_eq!(self.servers.asked(), "a");
    }
}

/// Rule: survive.endless-answer
#[tokio::test]
async fn endless_error_is_cut_and_is_its_status_code() {
    for code in [403, 502] {
        let scene = Scene::new(code).await;
        let error = scene.way.get().await.expect_err("an error");
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
    let error = scene.way.get().await.expect_err("an error");
    // And not because of what all clients receive together.
    assert!(
        error.to_string().contains("the response has more than"),
        "{error}"
    );
    assert!(scene.sent() < 64, "{} MiB", scene.sent());
    scene.other_server_is_tried().await;
}

/// Rule: survive.endless-answer
#[tokio::test]
async fn endless_watch_line_fails_and_another_server_is_tried() {
    let scene = Scene::new(200).await;
    let services: Api<Service> = Api::default_namespaced(scene.way.client.clone());
    let params = WatchParams::default();
    let events = services.watch(&params, "0").await.expect("a watch");
    let end = timeout(PATIENCE, events.try_collect::<Vec<_>>()).await;
    end.expect("an end").expect_err("an error");
    assert!(scene.sent() < 64, "{} MiB", scene.sent());
    scene.other_server_is_tried().await;
}
