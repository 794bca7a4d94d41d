//! Real servers as child processes of the test: either one `etcd` with any number of `kube-apiserver`s, or several
//! hosts with one of each.
//!
//! As with envtest, `KUBEBUILDER_ASSETS` names the folder of the binaries. Dropping a [`RealCluster`] ends its child
//! processes by their handles, and no other process.

mod audit;
mod etcd;
mod process;
mod server;

use crate::{kubeconfig, pki::Pki};
use etcd::{Member, Place};
use process::{Folder, Guard};
use rcgen::KeyPair;
pub use server::RealServer;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// The longest wait for a renewal. It is longer than two renewal periods.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(30);
/// The user of the test, who may do everything, and three users for replicas, who may do only what the test permits.
/// Their names show which replica wrote an object.
pub const USERS: [&str; 4] = ["admin", "one", "two", "three"];

/// etcd and its API servers.
#[derive(Debug)]
pub struct RealCluster {
    servers: Vec<RealServer>,
    etcd: Vec<Member>,
    assets: PathBuf,
    pki: Pki,
    controllers: Option<Guard>,
    /// Removed last, because the servers write into it.
    folder: Folder,
}

/// A network namespace that serves as a separate machine, identified by its `ip netns` name, and an address in it.
#[derive(Clone, Debug)]
pub struct Host {
    /// The network namespace.
    pub namespace: String,
    /// The address, which the test can reach.
    pub address: Ipv4Addr,
}

/// The folder of the binaries. If it is `None`, a test prints that it is skipped.
#[must_use]
pub fn assets() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
    ["etcd", "kube-apiserver"]
        .iter()
        .all(|program| folder.join(program).is_file())
        .then_some(folder)
}

impl RealCluster {
    /// Starts etcd and `servers` API servers, and returns when all are ready.
    ///
    /// # Errors
    ///
    /// If a binary is missing or does not become ready. The error contains the end of its log.
    pub async fn start(servers: usize) -> io::Result<Self> {
        Self::start_with(servers, &[]).await
    }

    /// Starts a cluster with additional flags for the API servers.
    ///
    /// # Errors
    ///
    /// Same as [`RealCluster::start`].
    pub async fn start_with(servers: usize, flags: &[&str]) -> io::Result<Self> {
        let addresses = (1..=servers).map(|last| {
            let last = u8::try_from(last).map_err(io::Error::other)?;
            Ok(Ipv4Addr::new(127, 0, 0, last))
        });
        Self::start_at(&addresses.collect::<io::Result<Vec<_>>>()?, flags).await
    }

    /// Starts a cluster with an API server at each of these addresses of the local machine, all on one port.
    ///
    /// # Errors
    ///
    /// Same as [`RealCluster::start`].
    pub async fn start_at(addresses: &[Ipv4Addr], flags: &[&str]) -> io::Result<Self> {
        let place = Place {
            enter: Vec::new(),
            address: Ipv4Addr::LOCALHOST,
            ports: [free_port()?, free_port()?],
        };
        let mut cluster = Self::with_etcd(&[place]).await?;
        // All servers share one port, because default/kubernetes has a single port for all of its addresses.
        let port = free_port()?;
        for address in addresses {
            let address = SocketAddr::from((*address, port));
            cluster
                .add_server(&[], &cluster.etcd[0].url(), address, flags)
                .await?;
        }
        Ok(cluster)
    }

    /// Starts a member of etcd and an API server on each host, with additional flags for the API servers, and returns
    /// when all are ready.
    ///
    /// # Errors
    /// Same as [`RealCluster::start`].
    pub async fn start_on(hosts: &[Host], flags: &[&str]) -> io::Result<Self> {
        let place = |host: &Host| Place {
            enter: host.enter(),
            address: host.address,
            ports: [2379, 2380],
        };
        let mut cluster = Self::with_etcd(&hosts.iter().map(place).collect::<Vec<_>>()).await?;
        for (number, host) in hosts.iter().enumerate() {
            let address = SocketAddr::from((host.address, 6443));
            cluster
                .add_server(&host.enter(), &cluster.etcd[number].url(), address, flags)
                .await?;
        }
        Ok(cluster)
    }

    async fn with_etcd(places: &[Place]) -> io::Result<Self> {
        let assets = assets().ok_or_else(|| io::Error::other("needs KUBEBUILDER_ASSETS"))?;
        let folder = Folder::new()?;
        let etcd = etcd::start(&assets, &folder.0, places).await?;
        let cluster = Self {
            servers: Vec::new(),
            etcd,
            assets,
            pki: Pki::new(),
            controllers: None,
            folder,
        };
        cluster.write_files()?;
        Ok(cluster)
    }

    async fn add_server(
        &mut self,
        enter: &[String],
        etcd: &str,
        address: SocketAddr,
        flags: &[&str],
    ) -> io::Result<()> {
        let number = self.servers.len();
        let mut command = enter.to_vec();
        command.extend(self.command(etcd, address, number));
        command.extend(flags.iter().map(ToString::to_string));
        let log = self.folder.0.join(format!("kube-apiserver-{number}.log"));
        let server = RealServer::start(command, log, address, self.pki.client_config()).await?;
        self.servers.push(server);
        Ok(())
    }

    fn write_files(&self) -> io::Result<()> {
        let (certificate, key) = self.pki.server_pem();
        self.folder.write("server.crt", &certificate)?;
        self.folder.write("server.key", &key)?;
        let account = KeyPair::generate().map_err(io::Error::other)?;
        self.folder.write("account.key", &account.serialize_pem())?;
        self.folder.write("account.pub", &account.public_key_pem())?;
        let tokens = USERS.map(|user| {
            let groups = if user == USERS[0] {
                ",\"system:masters\""
            } else {
                ""
            };
            format!("{},{user},{user}{groups}\n", token(user))
        });
        self.folder.write("tokens.csv", &tokens.concat())?;
        self.folder.write("audit.yaml", audit::POLICY)?;
        Ok(())
    }

    fn command(&self, etcd: &str, address: SocketAddr, number: usize) -> Vec<String> {
        let file = |name: &str| self.folder.0.join(name).display().to_string();
        // Each server lists itself in default/kubernetes, so each server needs its own address. Loopback addresses are
        // rejected there, so other addresses are listed instead. Nothing connects to them.
        let listed = match address.ip() {
            ip if ip.is_loopback() => format!("192.0.2.{}", number + 1),
            ip => ip.to_string(),
        };
        vec![
            self.assets.join("kube-apiserver").display().to_string(),
            format!("--etcd-servers={etcd}"),
            format!("--bind-address={}", address.ip()),
            format!("--cert-dir={}", file("certificates")),
            format!("--secure-port={}", address.port()),
            format!("--advertise-address={listed}"),
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

    /// One API server, which the caller can kill or restart.
    ///
    /// # Panics
    /// If there is no such server.
    pub fn server(&mut self, number: usize) -> &mut RealServer {
        &mut self.servers[number]
    }

    /// The CA certificate of the cluster.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.pki.ca_pem()
    }

    /// A kubeconfig for one of the servers with this namespace and the first of [`USERS`].
    #[must_use]
    pub fn kubeconfig(&self, server: usize, namespace: &str) -> String {
        self.kubeconfig_of(USERS[0], server, namespace)
    }

    /// A kubeconfig for one of the servers with one of [`USERS`].
    #[must_use]
    pub fn kubeconfig_of(&self, user: &str, server: usize, namespace: &str) -> String {
        let url = self.servers[server].url();
        kubeconfig::render(&url, self.ca_pem(), &token(user), namespace)
    }

    /// Runs these controllers of Kubernetes until the cluster is dropped. Returns whether the folder of the binaries
    /// has `kube-controller-manager`; the folder of envtest does not.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn run_controllers(&mut self, controllers: &[&str]) -> io::Result<bool> {
        let program = self.assets.join("kube-controller-manager");
        if !program.is_file() {
            return Ok(false);
        }
        let kubeconfig = self.kubeconfig(0, "default");
        let kubeconfig = self.folder.write("controllers.kubeconfig", &kubeconfig)?;
        let command = [
            program.display().to_string(),
            format!("--kubeconfig={kubeconfig}"),
            format!("--controllers={}", controllers.join(",")),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        let log = self.folder.0.join("kube-controller-manager.log");
        self.controllers = Some(Guard::start(&command, &log)?);
        Ok(true)
    }

    /// The user of each write of an EndpointSlice that a server has accepted so far.
    #[must_use]
    pub fn writers(&self) -> Vec<String> {
        let logs = (0..self.servers.len()).map(|number| self.folder.0.join(audit::log(number)));
        logs.flat_map(|log| audit::writers(&log)).collect()
    }

    /// Stops etcd with SIGSTOP. API servers then answer with errors or hang.
    ///
    /// # Errors
    ///
    /// If the signal cannot be sent.
    pub fn stop_etcd(&self) -> io::Result<()> {
        for member in &self.etcd {
            member.signal("STOP")?;
            member.wait_until_stopped();
        }
        Ok(())
    }

    /// Resumes etcd.
    ///
    /// # Errors
    ///
    /// If the signal cannot be sent.
    pub fn continue_etcd(&self) -> io::Result<()> {
        self.etcd.iter().try_for_each(|member| member.signal("CONT"))
    }

    /// The number of the etcd member that leads, if there is one.
    ///
    /// # Errors
    /// If a member does not answer.
    pub async fn etcd_leader(&self) -> io::Result<Option<usize>> {
        for (number, member) in self.etcd.iter().enumerate() {
            if member.leads().await? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Waits until a server renews the lease in etcd that keeps it in `default/kubernetes`. A server renews its lease
    /// every 10 s.
    ///
    /// # Errors
    /// If etcd does not answer, or the server does not renew its lease within 30 s.
    pub async fn renewed(&self, server: usize) -> io::Result<()> {
        let key = format!("/registry/masterleases/{}", self.servers[server].address().ip());
        let before = self.etcd[0].revision_of(&key).await?;
        let renewed = async {
            while self.etcd[0].revision_of(&key).await? == before {
                sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        };
        timeout(RENEWAL_TIMEOUT, renewed).await?
    }
}

impl Host {
    /// The arguments that precede a program to run it on this host, in the same process.
    fn enter(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace]
            .map(str::to_owned)
            .to_vec()
    }
}

fn token(user: &str) -> String {
    format!("{user}-token")
}

/// A port that is free now. If another process takes it before the server does, the server fails to start.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
