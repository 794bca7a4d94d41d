//! An API server for the tests of the lock's client.

use std::future::ready;

use http_body_util::Full;
use parking_lot::Mutex;
use serde_json::json;
use tower::{Service, service_fn};

use super::*;

/// An API server that has at most one Lease, and records the requests that it gets. Writes do not change the Lease.
#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<ServerState>>);

#[derive(Default)]
struct ServerState {
    lease: Option<Value>,
    sent: Vec<(Method, Value)>,
}

impl Server {
    pub fn with(lease: Option<Value>) -> Self {
        Self(Arc::new(Mutex::new(ServerState {
            lease,
            sent: Vec::new(),
        })))
    }

    fn answer(&self, method: Method, body: Value) -> (StatusCode, Value) {
        let mut state = self.0.lock();
        state.sent.push((method.clone(), body.clone()));
        match (method, &state.lease) {
            (Method::POST, _) => {
                let mut made = body;
                made["metadata"]["uid"] = json!("u8");
                made["metadata"]["resourceVersion"] = json!("8");
                (StatusCode::CREATED, made)
            }
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

    pub fn sent(&self) -> Vec<Method> {
        self.0
            .lock()
            .sent
            .iter()
            .map(|(method, _)| method.clone())
            .collect()
    }

    pub fn patch(&self) -> Value {
        let state = self.0.lock();
        state
            .sent
            .iter()
            .rfind(|(method, _)| *method == Method::PATCH)
            .unwrap()
            .1
            .clone()
    }

    pub fn service(&self) -> impl Upstream {
        self.service_after(|| ready(()))
    }

    /// Returns a service that calls `meanwhile` before it responds to a request.
    pub fn late(&self, meanwhile: impl Fn() + Clone + Send + 'static) -> impl Upstream {
        self.service_after(move || {
            let meanwhile = meanwhile.clone();
            async move {
                tokio::time::advance(Duration::from_millis(1)).await;
                meanwhile();
            }
        })
    }

    fn service_after<F>(&self, pause: impl Fn() -> F + Clone + Send + 'static) -> impl Upstream
    where
        F: Future<Output = ()> + Send,
    {
        let server = self.clone();
        service_fn(move |request: Request<Body>| {
            let (server, pause) = (server.clone(), pause());
            async move {
                pause.await;
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (status, answer) = server.answer(parts.method, body);
                let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
                *response.status_mut() = status;
                Ok::<_, BoxError>(response)
            }
        })
    }
}

/// A service that responds like an API server.
pub trait Upstream:
    Service<Request<Body>, Response = FullResponse, Error = BoxError, Future: Send> + Clone + Send + 'static
{
}

pub type FullResponse = Response<Full<Bytes>>;

impl<S> Upstream for S where
    S: Service<Request<Body>, Response = FullResponse, Error = BoxError, Future: Send>
        + Clone
        + Send
        + 'static
{
}
