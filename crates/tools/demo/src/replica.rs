//! One replica of the operator: the real program in its own process.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// The namespace of the Lease, as if the replicas were Pods in it.
pub const NAMESPACE: &str = "endpoint-copier-operator";

/// The time within which a replica must end after it is asked to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The time limit of one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// The pause between two polls of a replica that is not ready.
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// A replica, running or not. Dropping it kills its process.
pub struct Replica {
    pub name: String,
    pub metrics: u16,
    pub health: u16,
    pub log: PathBuf,
    program: PathBuf,
    kubeconfig: PathBuf,
    child: Option<Child>,
}

impl Replica {
    /// A replica with its own ports, not yet started. Its log is in `folder`.
    pub fn new(name: &str, program: &Path, kubeconfig: &Path, folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            metrics: free_port()?,
            health: free_port()?,
            log: folder.join(format!("{name}.log")),
            program: program.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            child: None,
        })
    }

    /// Starts the replica with all flags at their defaults except the kubeconfig and the addresses on which it listens.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let failed = || format!("cannot start {}", self.program.display());
        let log = File::options().create(true).append(true).open(&self.log);
        let child = Command::new(&self.program)
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--metrics-bind-address=127.0.0.1:{}", self.metrics))
            .arg(format!("--health-probe-bind-address=127.0.0.1:{}", self.health))
            .env_clear()
            .env("POD_NAME", &self.name)
            .env("POD_NAMESPACE", NAMESPACE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.with_context(failed)?)
            // Ctrl-C must reach only the demo, which then stops its replicas.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(failed)?;
        self.child = Some(child);
        Ok(())
    }

    /// The ID of the process, if the replica runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Kills the process without warning, as a power cut does.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        child.kill().await.with_context(|| self.name.clone())
    }

    /// Sends TERM, and does not wait until the process ends.
    pub fn terminate(&self) -> anyhow::Result<()> {
        let Some(pid) = self.pid() else {
            return Ok(());
        };
        // The shell has a built-in kill even if the program of that name is missing.
        let sent = std::process::Command::new("sh")
            .args(["-c", "kill -TERM \"$0\"", &pid.to_string()])
            .status();
        let status = sent.with_context(|| format!("cannot stop {}", self.name))?;
        ensure!(status.success(), "cannot stop {}: kill: {status}", self.name);
        Ok(())
    }

    /// Waits until the process ends. Returns an error if the process fails, or if it has to be killed because it does
    /// not end in time. A replica that is not running has already stopped.
    pub async fn until_stopped(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let name = &self.name;
        let Ok(ended) = timeout(STOP_LIMIT, child.wait()).await else {
            bail!("{name} was asked to stop and did not end");
        };
        let status = ended.with_context(|| name.clone())?;
        ensure!(
            status.success(),
            "{name} was asked to stop and ended with {status}"
        );
        Ok(())
    }

    /// The exit status, if the process has ended and neither `kill` nor `until_stopped` has waited for its end.
    pub fn unexpected_exit(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    /// Waits until the replica is ready, which means that its lists are complete.
    pub async fn until_ready(&self, limit: Duration) -> anyhow::Result<()> {
        let is_ready = async || {
            let answer = get(self.health, "/readyz").await;
            answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200 "))
        };
        let polling = async {
            while !is_ready().await {
                sleep(POLL_PAUSE).await;
            }
        };
        let ready = timeout(limit, polling).await;
        ready.with_context(|| format!("{} was not ready within {} s", self.name, limit.as_secs()))
    }

    /// The value of a metric, or `None` without a response or a value.
    pub async fn metric(&self, series: &str) -> Option<String> {
        let text = get(self.metrics, "/metrics").await?;
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned);
        text.lines().find_map(value)
    }

    /// The last lines of the log.
    pub fn last_lines(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

/// The complete response to a GET, head and body.
async fn get(port: u16, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n");
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    timeout(REQUEST_LIMIT, exchange).await.ok()?.ok()
}

fn free_port() -> anyhow::Result<u16> {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).context("no free port")
}
