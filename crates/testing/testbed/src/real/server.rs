//! A kube-apiserver that can be killed, stopped and started again.

use super::{USERS, process::Guard, token};
use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
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

/// The longest wait for a start, which takes 3 to 6 s on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// One kube-apiserver.
#[derive(Debug)]
pub struct RealServer {
    process: Option<Guard>,
    command: Vec<String>,
    log: PathBuf,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl RealServer {
    /// Starts a server, and returns when it is ready.
    pub(super) async fn start(
        command: Vec<String>,
        log: PathBuf,
        address: SocketAddr,
        tls: Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let mut server = Self {
            process: None,
            command,
            log,
            address,
            tls,
        };
        server.run().await?;
        Ok(server)
    }

    /// The address and port, which stay the same after a restart.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL: `https://<address>:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Kills the server. The kernel closes its connections.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the server with SIGSTOP: connections stay open, and no request is answered.
    ///
    /// # Errors
    /// If the server is not running, or the signal cannot be sent.
    pub fn stop(&self) -> io::Result<()> {
        let process = self.process.as_ref().ok_or(io::ErrorKind::NotFound)?;
        process.signal("STOP")?;
        process.wait_until_stopped();
        Ok(())
    }

    /// Resumes a stopped server.
    ///
    /// # Errors
    /// If the server is not running, or the signal cannot be sent.
    pub fn cont(&self) -> io::Result<()> {
        self.signal("CONT")
    }

    /// Kills the server if it is running, starts it on the same port, and returns when it is ready.
    ///
    /// # Errors
    /// If the server does not become ready.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.kill();
        self.run().await
    }

    fn signal(&self, name: &str) -> io::Result<()> {
        self.process.as_ref().ok_or(io::ErrorKind::NotFound)?.signal(name)
    }

    async fn run(&mut self) -> io::Result<()> {
        self.process = Some(Guard::start(&self.command, &self.log)?);
        wait_for_port(self.address, &self.log).await?;
        self.wait_until_ready().await
    }

    async fn is_ready(&self) -> io::Result<bool> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        // Every certificate contains this name, regardless of the server's address.
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
            // A process that is starting sends no signal to wait for.
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

/// Waits until a process listens on this address.
pub(super) async fn wait_for_port(address: SocketAddr, log: &Path) -> io::Result<()> {
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
