//! The target of the rules: an API server that is reached over HTTP, with a namespace for each test.

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::{
    Client,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use std::time::Duration;
use testbed::{ApiServer, Serving, Store, real::RealCluster};

/// The longest time for a response, on either kind of server.
const PATIENCE: Duration = Duration::from_secs(30);

/// The minor version of Kubernetes on which the testbed is modeled.
const MINOR: u32 = 36;

/// An API server and a namespace in it.
pub struct Target {
    pub namespace: String,
    client: Client,
    kubeconfig: String,
    /// Keeps the server alive. Dropping the handle ends the server.
    _serving: Option<Serving>,
}

/// A response.
#[derive(Debug)]
pub struct Reply {
    pub code: u16,
    pub body: Value,
}

impl Reply {
    /// The body of a response with this expected code.
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{:#}", self.body);
        self.body
    }

    /// The Status of an error with this expected code and reason.
    #[track_caller]
    pub fn fails(self, code: u16, reason: &str) -> Value {
        assert_eq!(self.code, code, "{:#}", self.body);
        assert_eq!(self.body["kind"], "Status", "{:#}", self.body);
        assert_eq!(self.body["status"], "Failure");
        assert_eq!(self.body["code"], code);
        assert_eq!(
            self.body["reason"].as_str().unwrap_or_default(),
            reason,
            "{:#}",
            self.body
        );
        self.body
    }

    /// The message of a 422 that must name each of these fields.
    #[track_caller]
    pub fn invalid(self, fields: &[&str]) -> String {
        let status = self.fails(422, "Invalid");
        let named: Vec<&str> = status["details"]["causes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["field"].as_str().unwrap())
            .collect();
        for field in fields {
            assert!(
                named.contains(field),
                "{field} is not among {named:?}: {}",
                status["message"]
            );
        }
        status["message"].as_str().unwrap().to_owned()
    }
}

/// A client that trusts the server of a kubeconfig.
async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    // The rules need the response without retries.
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

impl Target {
    /// A new testbed, reached over TCP like a real server.
    pub async fn testbed() -> Self {
        let serving = ApiServer::new(&Store::new())
            .serve(([127, 0, 0, 1], 0).into())
            .await
            .unwrap();
        let kubeconfig = serving.kubeconfig("admin", "default");
        let client = client(&kubeconfig).await;
        let target = Self {
            namespace: "rule".to_owned(),
            client,
            kubeconfig,
            _serving: Some(serving),
        };
        target.make_namespace().await;
        target
    }

    /// A new namespace on a real server.
    pub async fn real(cluster: &RealCluster, number: usize) -> Self {
        let kubeconfig = cluster.kubeconfig(0, "default");
        let client = client(&kubeconfig).await;
        let target = Self {
            namespace: format!("rule-{number}"),
            client,
            kubeconfig,
            _serving: None,
        };
        target.make_namespace().await;
        target
    }

    async fn make_namespace(&self) {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}});
        self.post("/api/v1/namespaces", &namespace).await.expect(201);
    }

    /// Whether the target is a real server of an older version than the testbed. Some of its responses differ.
    pub async fn is_older(&self) -> bool {
        let version = self.get("/version").await.expect(200);
        // Some distributions add a plus sign.
        let minor = version["minor"].as_str().unwrap().trim_end_matches('+');
        minor.parse::<u32>().unwrap() < MINOR
    }

    /// The same target with another token, or without a token.
    pub async fn with_token(&self, token: Option<&str>) -> Self {
        let mut kubeconfig: Value = serde_json::from_str(&self.kubeconfig).unwrap();
        kubeconfig["users"][0]["user"] = token.map_or(json!({}), |token| json!({"token": token}));
        let kubeconfig = kubeconfig.to_string();
        let client = client(&kubeconfig).await;
        Self {
            namespace: self.namespace.clone(),
            client,
            kubeconfig,
            _serving: None,
        }
    }

    /// The token of the requests.
    pub fn token(&self) -> String {
        let kubeconfig: Value = serde_json::from_str(&self.kubeconfig).unwrap();
        kubeconfig["users"][0]["user"]["token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The path of a collection in the test's namespace.
    pub fn all(&self, resource: &str) -> String {
        let root = match resource {
            "endpointslices" => "/apis/discovery.k8s.io/v1",
            "leases" => "/apis/coordination.k8s.io/v1",
            "events.events.k8s.io" => "/apis/events.k8s.io/v1",
            _ => "/api/v1",
        };
        let plural = resource.split('.').next().unwrap();
        format!("{root}/namespaces/{}/{plural}", self.namespace)
    }

    /// The path of an object in the test's namespace.
    pub fn one(&self, resource: &str, name: &str) -> String {
        format!("{}/{name}", self.all(resource))
    }

    /// Sends a request unchanged.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sent = self.client.send(request.body(Body::from(body)).unwrap());
        tokio::time::timeout(PATIENCE, sent)
            .await
            .expect("a response in time")
            .unwrap()
    }

    async fn reply(&self, method: Method, path: &str, content_type: &str, body: Vec<u8>) -> Reply {
        let response = self
            .send(method, path, &[("content-type", content_type)], body)
            .await;
        read(response).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        read(self.send(Method::GET, path, &[], Vec::new()).await).await
    }

    pub async fn post(&self, path: &str, object: &Value) -> Reply {
        self.reply(Method::POST, path, "application/json", object.to_string().into())
            .await
    }

    pub async fn put(&self, path: &str, object: &Value) -> Reply {
        self.reply(Method::PUT, path, "application/json", object.to_string().into())
            .await
    }

    /// Sends a merge patch.
    pub async fn merge(&self, path: &str, patch: &Value) -> Reply {
        self.patch(path, "application/merge-patch+json", patch).await
    }

    pub async fn patch(&self, path: &str, content_type: &str, patch: &Value) -> Reply {
        self.reply(Method::PATCH, path, content_type, patch.to_string().into())
            .await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        read(self.send(Method::DELETE, path, &[], Vec::new()).await).await
    }

    pub async fn delete_with(&self, path: &str, options: &Value) -> Reply {
        self.reply(
            Method::DELETE,
            path,
            "application/json",
            options.to_string().into(),
        )
        .await
    }

    /// Creates an object, which must succeed, and returns it as stored.
    pub async fn made(&self, resource: &str, object: &Value) -> Value {
        self.post(&self.all(resource), object).await.expect(201)
    }

    /// Opens a watch, which must succeed.
    pub async fn watch(&self, path: &str, query: &str) -> Watch {
        let path = format!("{path}?watch=true&{query}");
        let response = self.send(Method::GET, &path, &[], Vec::new()).await;
        assert_eq!(response.status(), 200, "{path}");
        let stream = response
            .into_body()
            .into_data_stream()
            .map_err(std::io::Error::other);
        let lines = stream.into_async_read().lines();
        Watch {
            lines: Box::pin(lines),
        }
    }
}

async fn read(response: Response<Body>) -> Reply {
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Reply {
        code,
        body: serde_json::from_slice(&bytes).unwrap_or(Value::String(text)),
    }
}

/// An open watch.
pub struct Watch {
    lines: std::pin::Pin<Box<dyn futures::Stream<Item = std::io::Result<String>> + Send>>,
}

impl Watch {
    /// The next event, or `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next())
            .await
            .expect("an event in time");
        line.map(|line| serde_json::from_str(&line.unwrap()).unwrap())
    }

    /// The next event, which must have this type and name.
    pub async fn expect(&mut self, event: &str, name: &str) -> Value {
        let next = self.next().await.expect("an event");
        assert_eq!(next["type"], event, "{next:#}");
        assert_eq!(next["object"]["metadata"]["name"], name, "{next:#}");
        next["object"].clone()
    }
}

/// An EndpointSlice with one address.
pub fn slice(name: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": name},
        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    })
}

/// A Lease with a holder.
pub fn lease(name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": "me", "leaseDurationSeconds": 6, "renewTime": "2026-01-01T00:00:00.000000Z"},
    })
}

/// A Service with one port.
pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 6443}]},
    })
}

/// The resourceVersion of an object.
pub fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// A copy of an object whose only annotation has this value.
pub fn annotated(object: &Value, value: &str) -> Value {
    let mut object = object.clone();
    object["metadata"]["annotations"] = json!({"a": value});
    object
}
