//! Real servers: `etcd` and any number of `kube-apiserver`s on it, on loopback, as children of the test.
//!
//! As with envtest, `KUBEBUILDER_ASSETS` names the folder of the binaries. Processes of others are never touched: the
//! [`RealCluster`] ends its children by their own handles when it is dropped.

mod audit;
mod process;

use crate::{kubeconfig, pki::Pki};
use process::{Folder, Guard};
use rcgen::KeyPair;
use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

/// A start takes 3 to 6 seconds on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// Users that may do everything: one for the test, and others whose names show in the log who wrote.
pub const USERS: [&str; 4] = ["admin", "one", "two", "three"];

/// One etcd and its API servers.
#[derive(Debug)]
pub struct RealCluster {
    /// Dropped last, because the servers write into it.
    servers: Vec<RealServer>,
    etcd: Guard,
    pki: Pki,
    folder: Folder,
}

/// One kube-apiserver.
#[derive(Debug)]
pub struct RealServer {
    process: Option<Guard>,
    command: Vec<String>,
    log: PathBuf,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// The folder of the binaries. Without it, a test prints that it is skipped.
#[must_use]
pub fn assets() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
    ["etcd", "kube-apiserver"]
        .iter()
        .all(|program| folder.join(program).is_file())
        .then_some(folder)
}

impl RealCluster {
    /// Starts etcd and this many API servers, and returns when all are ready.
    ///
    /// # Errors
    ///
    /// A binary is missing or does not become ready. The error contains the end of its log.
    pub async fn start(servers: usize) -> io::Result<Self> {
        Self::start_with(servers, &[]).await
    }

    /// Starts a cluster with further flags for the API servers.
    ///
    /// # Errors
    ///
    /// As [`RealCluster::start`].
    pub async fn start_with(servers: usize, flags: &[&str]) -> io::Result<Self> {
        let addresses = (1..=servers).map(|last| {
            let last = u8::try_from(last).map_err(io::Error::other)?;
            Ok(Ipv4Addr::new(127, 0, 0, last))
        });
        Self::start_at(&addresses.collect::<io::Result<Vec<_>>>()?, flags).await
    }

    /// Starts a cluster with an API server at each of these addresses of this machine, all on one port.
    ///
    /// # Errors
    ///
    /// As [`RealCluster::start`].
    pub async fn start_at(addresses: &[Ipv4Addr], flags: &[&str]) -> io::Result<Self> {
        let assets = assets().ok_or_else(|| io::Error::other("needs KUBEBUILDER_ASSETS"))?;
        let folder = Folder::new()?;
        let pki = Pki::new();
        let [client, peer] = [free_port()?, free_port()?];
        let etcd_url = format!("http://127.0.0.1:{client}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let etcd_log = folder.0.join("etcd.log");
        let etcd = Guard::start(
            &[
                assets.join("etcd").display().to_string(),
                format!("--data-dir={}", folder.0.join("etcd").display()),
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster=default={peer_url}"),
                // The data is not needed after the test.
                "--unsafe-no-fsync".to_owned(),
            ],
            &etcd_log,
        )?;
        wait_for_port(SocketAddr::from((Ipv4Addr::LOCALHOST, client)), &etcd_log).await?;
        let mut cluster = Self {
            servers: Vec::new(),
            etcd,
            pki,
            folder,
        };
        cluster.write_files()?;
        // All servers use one port, because default/kubernetes has one port for all of its addresses.
        let port = free_port()?;
        for (number, address) in addresses.iter().enumerate() {
            let address = SocketAddr::from((*address, port));
            let mut command = cluster.command(&assets, &etcd_url, address, number);
            command.extend(flags.iter().map(ToString::to_string));
            let log = cluster.folder.0.join(format!("kube-apiserver-{number}.log"));
            let tls = cluster.pki.client_config();
            let mut server = RealServer {
                process: None,
                command,
                log,
                address,
                tls,
            };
            server.start().await?;
            cluster.servers.push(server);
        }
        Ok(cluster)
    }

    fn write_files(&self) -> io::Result<()> {
        let (certificate, key) = self.pki.server_pem();
        self.folder.write("server.crt", &certificate)?;
        self.folder.write("server.key", &key)?;
        let account = KeyPair::generate().map_err(io::Error::other)?;
        self.folder.write("account.key", &account.serialize_pem())?;
        self.folder.write("account.pub", &account.public_key_pem())?;
        let tokens = USERS.map(|user| format!("{},{user},{user},\"system:masters\"\n", token(user)));
        self.folder.write("tokens.csv", &tokens.concat())?;
        self.folder.write("audit.yaml", audit::POLICY)?;
        Ok(())
    }

    fn command(&self, assets: &Path, etcd: &str, address: SocketAddr, number: usize) -> Vec<String> {
        let file = |name: &str| self.folder.0.join(name).display().to_string();
        vec![
            assets.join("kube-apiserver").display().to_string(),
            format!("--etcd-servers={etcd}"),
            format!("--bind-address={}", address.ip()),
            format!("--cert-dir={}", file("certificates")),
            format!("--secure-port={}", address.port()),
            // Each server lists itself in default/kubernetes, so each needs its own address. The API refuses loopback
            // addresses. No client connects to this one.
            format!("--advertise-address=192.0.2.{}", number + 1),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--token-auth-file={}", file("tokens.csv")),
            format!("--audit-policy-file={}", file("audit.yaml")),
            format!("--audit-log-path={}", file(&audit::log(number))),
            "--authorization-mode=RBAC".to_owned(),
            "--anonymous-auth=false".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("account.pub")),
            format!("--service-account-signing-key-file={}", file("account.key")),
            // Dual-stack, with IPv4 first.
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ]
    }

    /// The API servers.
    #[must_use]
    pub fn servers(&self) -> &[RealServer] {
        &self.servers
    }

    /// One API server, to stop or restart it.
    ///
    /// # Panics
    /// There is no such server.
    pub fn server(&mut self, number: usize) -> &mut RealServer {
        &mut self.servers[number]
    }

    /// The certificate of the authority of the cluster.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.pki.ca_pem()
    }

    /// A kubeconfig for one of the servers with this namespace and the first of the [`USERS`].
    #[must_use]
    pub fn kubeconfig(&self, server: usize, namespace: &str) -> String {
        self.kubeconfig_of(USERS[0], server, namespace)
    }

    /// A kubeconfig for one of the servers with one of the [`USERS`].
    #[must_use]
    pub fn kubeconfig_of(&self, user: &str, server: usize, namespace: &str) -> String {
        let url = self.servers[server].url();
        kubeconfig::render(&url, self.ca_pem(), &token(user), namespace)
    }

    /// The users whose writes of EndpointSlices were accepted, by all servers so far.
    #[must_use]
    pub fn writers(&self) -> Vec<String> {
        let logs = (0..self.servers.len()).map(|number| self.folder.0.join(audit::log(number)));
        logs.flat_map(|log| audit::writers(&log)).collect()
    }

    /// Stops etcd as SIGSTOP does. API servers then answer with errors or hang.
    ///
    /// # Errors
    ///
    /// The signal cannot be sent.
    pub fn stop_etcd(&self) -> io::Result<()> {
        self.etcd.signal("STOP")?;
        self.etcd.wait_until_stopped();
        Ok(())
    }

    /// Resumes etcd.
    ///
    /// # Errors
    ///
    /// The signal cannot be sent.
    pub fn continue_etcd(&self) -> io::Result<()> {
        self.etcd.signal("CONT")
    }
}

impl RealServer {
    /// The address of the server. A restart does not change it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://127.0.0.<number>:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Kills the server. The kernel closes its connections.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the server as SIGSTOP does: connections stay open, and nothing is answered.
    ///
    /// # Errors
    ///
    /// The server does not run, or the signal cannot be sent.
    pub fn stop(&self) -> io::Result<()> {
        let process = self.process.as_ref().ok_or(io::ErrorKind::NotFound)?;
        process.signal("STOP")?;
        process.wait_until_stopped();
        Ok(())
    }

    /// Resumes the server.
    ///
    /// # Errors
    ///
    /// The server does not run, or the signal cannot be sent.
    pub fn cont(&self) -> io::Result<()> {
        self.signal("CONT")
    }

    /// Starts the server again on the same port, and returns when it is ready.
    ///
    /// # Errors
    ///
    /// The server does not become ready.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.kill();
        self.start().await
    }

    fn signal(&self, name: &str) -> io::Result<()> {
        self.process.as_ref().ok_or(io::ErrorKind::NotFound)?.signal(name)
    }

    async fn start(&mut self) -> io::Result<()> {
        self.process = Some(Guard::start(&self.command, &self.log)?);
        wait_for_port(self.address, &self.log).await?;
        self.wait_until_ready().await
    }

    async fn is_ready(&self) -> io::Result<bool> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        // Every certificate contains this name, whatever the address.
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let mut stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await?;
        let request = format!(
            "GET /readyz HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            self.address,
            token(USERS[0])
        );
        stream.write_all(request.as_bytes()).await?;
        let mut status = [0; b"HTTP/1.1 200".len()];
        stream.read_exact(&mut status).await?;
        Ok(status.ends_with(b" 200"))
    }

    async fn wait_until_ready(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !matches!(self.is_ready().await, Ok(true)) {
            let ended = self
                .process
                .as_mut()
                .is_none_or(|p| !matches!(p.0.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                return Err(not_ready(&self.log));
            }
            // A process that is starting offers nothing to wait for.
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

fn token(user: &str) -> String {
    format!("{user}-token")
}

/// A port that is free now. If another process takes it before the server does, the server fails to start.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

async fn wait_for_port(address: SocketAddr, log: &Path) -> io::Result<()> {
    let open = async {
        while TcpStream::connect(address).is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(START_TIMEOUT, open).await.map_err(|_| not_ready(log))
}

fn not_ready(log: &Path) -> io::Error {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(15)..].join("\n");
    io::Error::other(format!("not ready: {}\n{end}", log.display()))
}
