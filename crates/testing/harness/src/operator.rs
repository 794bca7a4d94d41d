//! A replica of the operator: the real binary as a process.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cluster::Cluster;
use crate::network::Network;
use crate::nodes::Nodes;
use crate::servers::USERS;
use crate::sockets;
use crate::wait::{until, within};

/// A replica. `Drop` kills it.
pub struct Operator {
    name: String,
    child: Child,
    log: PathBuf,
    metrics: SocketAddr,
    health: SocketAddr,
}

/// The place where a replica runs.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The API servers that the replica knows. The first one is in its kubeconfig, and the others are in its flags.
    pub servers: &'a [usize],
    /// The network namespace, or `None` for that of the test.
    pub network: Option<&'a Network>,
}

/// Flags for a lease that is short enough for a quick takeover and long enough to be renewed on a busy machine.
pub const SHORT_LEASE: [&str; 3] = [
    "--leader-election-lease-duration=3s",
    "--leader-election-renew-deadline=2s",
    "--leader-election-retry-period=500ms",
];

impl Operator {
    /// Starts a replica with a short lease. The replica's kubeconfig names this API server. `name` is also the name of
    /// its API user.
    pub fn start(cluster: &Cluster, name: &str, server: usize) -> Self {
        Self::start_with(cluster, name, server, &SHORT_LEASE)
    }

    /// Starts a replica with these flags.
    pub fn start_with(cluster: &Cluster, name: &str, server: usize, flags: &[&str]) -> Self {
        let place = Place {
            servers: &[server],
            network: None,
        };
        Self::start_at(cluster, name, place, flags)
    }

    /// Starts a replica in this place.
    pub fn start_at(cluster: &Cluster, name: &str, place: Place<'_>, flags: &[&str]) -> Self {
        let (metrics, health) = match place.network {
            None => (own_address(), own_address()),
            Some(network) => (network.listen_address(), network.listen_address()),
        };
        let mut command = match place.network {
            None => command(&cluster.program),
            Some(network) => network.enter(isolated(Command::new("ip")), &cluster.program),
        };
        let (first, others) = place.servers.split_first().expect("an API server");
        let others = others.iter().map(|server| cluster.address(*server));
        command
            .env("POD_NAME", name)
            .arg(format!(
                "--kubeconfig={}",
                cluster.kubeconfig(*first, name).display()
            ))
            .arg(format!("--metrics-bind-address={metrics}"))
            .arg(format!("--health-probe-bind-address={health}"))
            .args(others.map(|address| format!("--api-server-address={address}")))
            .args(flags);
        Self::spawn(cluster, name, command, metrics, health)
    }

    /// Starts a replica on a node, like a Pod that uses the node's host network. It uses the API server of that node
    /// first.
    pub fn start_on(cluster: &Cluster, nodes: &Nodes, node: usize, flags: &[&str]) -> Self {
        let name = USERS[node + 1];
        let ip = nodes.address(node);
        let (metrics, health) = ((ip, 8080).into(), (ip, 8081).into());
        let mut command = nodes.enter(node, isolated(Command::new("ip")), &cluster.program);
        command
            .env("POD_NAME", name)
            .env("HOST_IP", ip.to_string())
            .arg("--api-server-mode=auto")
            .arg(format!(
                "--kubeconfig={}",
                cluster.kubeconfig(node, name).display()
            ))
            .arg(format!("--metrics-bind-address={metrics}"))
            .arg(format!("--health-probe-bind-address={health}"))
            .args(flags);
        Self::spawn(cluster, name, command, metrics, health)
    }

    /// Starts a replica with this command. `metrics` and `health` are the addresses on which the command makes the
    /// replica listen.
    pub fn spawn(
        cluster: &Cluster,
        name: &str,
        mut command: Command,
        metrics: SocketAddr,
        health: SocketAddr,
    ) -> Self {
        let log = cluster.directory().join(format!("{name}.log"));
        let child = command
            .stderr(File::create(&log).expect("a log file"))
            .spawn()
            .expect("the operator starts");
        Self {
            name: name.to_owned(),
            child,
            log,
            metrics,
            health,
        }
    }

    /// The name of the replica and of its user.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of `/metrics`.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// The address of `/healthz`, `/livez` and `/readyz`.
    pub fn health_address(&self) -> SocketAddr {
        self.health
    }

    /// The memory of the process in bytes, including its binary.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The memory of the process in bytes, without mapped files such as its binary and libraries.
    pub fn anonymous_memory(&self) -> u64 {
        self.status("RssAnon:")
    }

    /// The peak memory of the process in bytes, including its binary.
    pub fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The CPU time of all threads that are still running.
    pub fn cpu_time(&self) -> Duration {
        let threads = format!("/proc/{}/task", self.child.id());
        let threads = std::fs::read_dir(threads).expect("a process");
        let times = threads.flatten().filter_map(|thread| {
            let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            times.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(times.sum())
    }

    /// The number of open file descriptors of the process.
    pub fn descriptors(&self) -> usize {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        descriptors.expect("a process").count()
    }

    /// The number of threads of the process.
    pub fn threads(&self) -> usize {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        threads.expect("a process").count()
    }

    /// The value of a line of `/proc/PID/status`, converted to bytes.
    fn status(&self, key: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("a process");
        let value = status.lines().find_map(|line| line.strip_prefix(key));
        let kibibytes = value
            .and_then(|value| value.trim().strip_suffix(" kB"))
            .expect(key);
        kibibytes.parse::<u64>().expect("a number") * 1024
    }

    /// Sends a signal: KILL, TERM, INT, STOP or CONT.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status();
        assert!(
            status.expect("kill").success(),
            "{} is not running, so it cannot receive {signal}",
            self.name
        );
    }

    /// The peers of the established IPv4 connections of the process, according to the kernel.
    pub fn peers(&self) -> Vec<SocketAddr> {
        sockets::peers(self.child.id())
    }

    /// The number of bytes that the process has written but its peers have not acknowledged yet.
    pub fn unsent_bytes(&self) -> u64 {
        sockets::unsent(self.child.id())
    }

    /// Waits until the process ends, for at most 20 s. Returns its exit status and the duration of the wait.
    pub async fn ended(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        let mut status = None;
        let ended = within(Duration::from_secs(20), async || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        assert!(ended.await, "{} has not ended", self.name);
        (status.expect("ended"), start.elapsed())
    }

    /// The number of requests that the replica has sent to API servers, according to its metrics.
    pub async fn sent_requests(&self) -> f64 {
        let (_, page) = self.get("/metrics").await;
        let series = page
            .lines()
            .filter(|line| line.starts_with("rest_client_requests_total{"));
        let counts = series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        let sum: f64 = counts.sum();
        assert!(sum > 0.0, "no requests are counted");
        sum
    }

    /// Whether the process is still running.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// The log so far. Lines are written in the background, so the line about an effect that a test has just seen might
    /// still be missing. See [`until_logged`](Self::until_logged).
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log contains `text`, and returns the first such line.
    pub async fn until_logged(&self, text: &str) -> String {
        let mut found = None;
        until(&format!("{} logs {text:?}", self.name), async || {
            let log = self.log();
            found = log.lines().find(|line| line.contains(text)).map(str::to_owned);
            found.is_some()
        })
        .await;
        found.expect("a line")
    }

    /// The status code and body of a health path or of `/metrics`. The code is 0 if the connection fails or no response
    /// arrives within 5 s.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let address = if path.starts_with("/metrics") {
            self.metrics
        } else {
            self.health
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), get(address, path)).await;
        answer.unwrap_or(Ok((0, String::new()))).unwrap_or_default()
    }

    /// The value of a gauge or counter with integer values. `series` is its name and labels exactly as `/metrics`
    /// prints them. `None` if the series does not exist.
    pub async fn metric(&self, series: &str) -> Option<u64> {
        let (_, text) = self.get("/metrics").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line?.parse().ok()
    }

    /// Whether the replica leads, according to its metrics.
    pub async fn leads(&self) -> bool {
        self.metric("leader_election_master_status{name=\"f668ae63.endpoint-copier-operator\"}")
            .await
            == Some(1)
    }

    /// Waits until the replica leads.
    pub async fn until_leads(&self) {
        until(&format!("{} leads", self.name), async || self.leads().await).await;
    }

    /// Waits until the replica is ready.
    pub async fn until_ready(&self) {
        until(&format!("{} is ready", self.name), async || {
            self.get("/readyz").await.0 == 200
        })
        .await;
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- log of {}\n{}", self.name, self.log());
        }
    }
}

/// A command that runs the binary, with an empty environment.
pub fn command(program: &Path) -> Command {
    isolated(Command::new(program))
}

fn isolated(mut command: Command) -> Command {
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Waits until exactly one replica leads, and returns its index.
pub async fn leader(replicas: &[Operator]) -> usize {
    let mut leaders = Vec::new();
    let found = within(Duration::from_secs(30), async || {
        leaders.clear();
        for (number, replica) in replicas.iter().enumerate() {
            if replica.leads().await {
                leaders.push(number);
            }
        }
        leaders.len() == 1
    });
    assert!(found.await, "leaders: {leaders:?}");
    leaders[0]
}

/// An address that no other process listens on or dials from. All addresses in 127.0.0.0/8 belong to this machine, and
/// connections to them come from 127.0.0.1.
pub fn own_address() -> SocketAddr {
    static PORT: AtomicU16 = AtomicU16::new(20_000);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 128 | high, middle, low);
    (ip, PORT.fetch_add(1, Ordering::Relaxed)).into()
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let code = answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default();
    Ok((code, body))
}
