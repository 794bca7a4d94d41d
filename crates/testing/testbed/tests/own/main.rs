//! Features of the testbed that a real API server does not have: faults, controllable time, a request log, the work of
//! controllers, and the launcher of real servers.

mod cache;
mod collect;
mod faults;
mod rbac;
mod real;
mod rewind;
mod serving;
mod simulation;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use testbed::{ApiServer, answer::BoxError};
use tower::ServiceExt;

/// Sends a request without a connection. Returns the code and the body.
async fn call(
    server: &ApiServer,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(u16, Value), BoxError> {
    let body = body.map_or_else(String::new, Value::to_string);
    let content_type = if method == Method::PATCH {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(Full::<Bytes>::from(body))
        .unwrap();
    let response = server.clone().oneshot(request).await?;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok((
        code,
        serde_json::from_slice(&bytes).unwrap_or(Value::String(text)),
    ))
}

async fn get(server: &ApiServer, path: &str) -> (u16, Value) {
    call(server, Method::GET, path, None).await.unwrap()
}

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

fn slice(name: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": name},
        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}],
    })
}

fn lease(name: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}})
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 1}]}})
}

fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["metadata"]["name"].as_str().unwrap())
        .collect()
}

/// An open watch of the tower service.
struct Watch(testbed::answer::Body);

impl Watch {
    async fn open(server: &ApiServer, path: &str) -> Self {
        let request = Request::get(path).body(Full::<Bytes>::default()).unwrap();
        let response = server.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Self(response.into_body())
    }

    /// The next event, `None` at the end, or an error if the stream breaks.
    async fn next(&mut self) -> Option<Result<Value, BoxError>> {
        let frame = self.0.frame().await?;
        Some(frame.map(|frame| serde_json::from_slice(frame.data_ref().unwrap()).unwrap()))
    }

    /// The type and name of the next event.
    async fn event(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event").unwrap();
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        (event["type"].as_str().unwrap().to_owned(), name.to_owned())
    }
}

fn event(of: &str, name: &str) -> (String, String) {
    (of.to_owned(), name.to_owned())
}
