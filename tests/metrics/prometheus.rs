//! Prometheus as a process that scrapes replicas, and the queries that Grafana sends it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::{Operator, own_address, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A running Prometheus. `Drop` kills it.
pub struct Prometheus {
    address: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts Prometheus, which scrapes these replicas every `every` seconds. Each target has the labels that it would
    /// have in a cluster.
    pub async fn start(program: &Path, replicas: &[Operator], every: u64) -> Self {
        let of = |replica: &Operator| json!({"namespace": NAMESPACE, "pod": pod(replica)});
        let scrape = json!({
            "job_name": "endpoint-copier-operator",
            "scrape_interval": format!("{every}s"),
            "static_configs": targets(replicas, of),
        });
        Self::scraping(program, scrape, replicas.len()).await
    }

    /// Starts Prometheus with this scrape configuration, and waits until it has this many targets. The default scrape
    /// interval is 1 s.
    pub async fn scraping(program: &Path, scrape: Value, targets: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [scrape],
        });
        let file = folder.path().join("prometheus.yaml");
        std::fs::write(&file, config.to_string()).expect("written");
        let address = own_address();
        let child = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Prometheus starts");
        let prometheus = Self {
            address,
            child,
            _folder: folder,
        };
        let known = format!("count(up) == {targets}");
        prometheus.until(&known).await;
        prometheus
    }

    /// Waits until a query has a result.
    pub async fn until(&self, query: &str) {
        until(query, async || {
            let answer = self.ask("query", &[("query", query)]).await;
            answer.is_some_and(|result| !result.is_empty())
        })
        .await;
    }

    /// The series of a query since a given time, with a point every `step` seconds.
    pub async fn range(&self, query: &str, since: Duration, step: u64) -> Vec<Value> {
        // The start is aligned as in Grafana's queries, so that repeated queries have the same points.
        let start = (since.as_secs() / step * step).to_string();
        let (end, step) = (now().as_secs().to_string(), step.to_string());
        let fields = [
            ("query", query),
            ("start", &start),
            ("end", &end),
            ("step", &step),
        ];
        let answer = self.ask("query_range", &fields).await;
        answer.unwrap_or_else(|| panic!("no response to {query}"))
    }

    /// The result of a query, or `None` if Prometheus does not respond.
    async fn ask(&self, path: &str, fields: &[(&str, &str)]) -> Option<Vec<Value>> {
        let answer = post(self.address, path, fields).await.ok()?;
        let mut answer: Value = serde_json::from_str(&answer).ok()?;
        match answer["data"]["result"].take() {
            Value::Array(result) => Some(result),
            _ => panic!("{fields:?}: {answer}"),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The namespace in which the replicas appear to run.
pub const NAMESPACE: &str = "endpoint-copier-operator";

/// The name of a replica's Pod.
pub fn pod(replica: &Operator) -> String {
    format!("replica-{}", replica.name())
}

/// The scrape targets for replicas, with their labels.
pub fn targets(replicas: &[Operator], labels: impl Fn(&Operator) -> Value) -> Value {
    let target = |replica| {
        let at = Operator::metrics_address(replica).to_string();
        json!({"targets": [at], "labels": labels(replica)})
    };
    replicas.iter().map(target).collect()
}

/// The time since 1970.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

/// Sends a form, and returns the body of the response. The request uses HTTP/1.0, so that the body of the response is
/// not chunked.
async fn post(address: SocketAddr, path: &str, fields: &[(&str, &str)]) -> std::io::Result<String> {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    let body = fields.join("&");
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST /api/v1/{path} HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(body.to_owned())
}

fn encoded(text: &str) -> String {
    let bytes: Vec<_> = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    bytes.concat()
}
