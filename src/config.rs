//! The validated settings of a run, as types. This file does not depend on flags or the environment.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use endpoint_copier_core::model::{Defaults, ServiceLimits};
use endpoint_copier_core::verdicts::Thresholds;

use crate::timing::{LEASE_DURATION, PROBE_LIMIT, PROBE_PERIOD, RENEW_DEADLINE, RETRY_PERIOD};

/// All settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The address of `/metrics`, or `None` if the page is not served.
    pub metrics_bind_address: Option<ServerAddress>,
    /// How to protect `/metrics`. `None` means plain HTTP without authentication.
    pub secure_metrics: Option<SecureMetrics>,
    /// The address of the health paths, or `None` if they are not served.
    pub health_probe_bind_address: Option<ServerAddress>,
    /// Whether to compete for the Lease. Without leader election, this replica is always allowed to write.
    pub leader_elect: bool,
    /// The settings that apply without annotations: the source, the managed Service, and consent.
    pub defaults: Defaults,
    /// The limits on the number of managed Services.
    pub limits: ServiceLimits,
    /// The settings of the leader election.
    pub election: ElectionConfig,
    /// The addresses of this node, from `HOST_IPS` or `HOST_IP`. Empty if they are not known.
    pub node_addresses: BTreeSet<IpAddr>,
    /// A kubeconfig to use instead of the ServiceAccount or the default kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// Where the API servers are.
    pub api_server: ApiServerConfig,
    /// Whether and how to probe the API servers that copies list.
    pub probe: ProbeConfig,
    /// The label selector of the Nodes on which API servers run. An empty one selects all Nodes.
    pub nodes_selector: String,
    /// Whether to write a condition into the status of managed Services.
    pub service_conditions: bool,
    /// The settings of the log.
    pub log: LogConfig,
}

/// The settings for serving `/metrics` over TLS, only to clients whose token allows them to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecureMetrics {
    /// A directory with `tls.crt` and `tls.key`. `None` means a self-signed certificate.
    pub cert_path: Option<PathBuf>,
}

/// Where the API servers are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiServerConfig {
    /// Which addresses to use. `None` means [`ApiServerMode::Auto`] in a Pod, and [`ApiServerMode::Cluster`] elsewhere.
    pub mode: Option<ApiServerMode>,
    /// Additional addresses, which are used in every mode.
    pub addresses: Vec<ServerAddress>,
}

/// Which addresses of API servers to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiServerMode {
    /// The addresses that `default/kubernetes` lists, then the address in the kubeconfig or, in a Pod, the cluster IP.
    Auto,
    /// The address in the kubeconfig or, in a Pod, the cluster IP, and none of the addresses that the cluster lists.
    Cluster,
    /// This node's API server first, then the addresses of [`ApiServerMode::Auto`].
    Local(ServerAddress),
}

/// The settings of the leader election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionConfig {
    /// How long a Lease is valid after its last renewal; whole seconds, 2 to 60. The default is
    /// [`crate::timing::LEASE_DURATION`].
    pub lease_duration: Duration,
    /// How long the leader may write after it sent its last successful renewal; shorter than `lease_duration`.
    pub renew_deadline: Duration,
    /// The time from the start of a failed renewal to the next attempt; 1.2 times this time must be shorter than
    /// `renew_deadline`. Apart from jitter, no pause of a candidate after the first one (100 ms) is longer than this.
    pub retry_period: Duration,
    /// The namespace of the Lease, from the flag or `POD_NAMESPACE`. `None` means the namespace of the ServiceAccount
    /// or of the current context.
    pub namespace: Option<String>,
    /// The name of the Lease.
    pub lease_name: String,
}

/// The defaults of the flags.
impl Default for ElectionConfig {
    fn default() -> Self {
        Self {
            lease_duration: LEASE_DURATION,
            renew_deadline: RENEW_DEADLINE,
            retry_period: RETRY_PERIOD,
            namespace: None,
            lease_name: "f668ae63.endpoint-copier-operator".to_owned(),
        }
    }
}

impl ElectionConfig {
    /// Returns the time from sending a successful renewal to the next renewal: at most half the renew deadline,
    /// whatever the flags say.
    #[must_use]
    pub fn renew_interval(&self) -> Duration {
        self.retry_period.saturating_mul(2).min(self.renew_deadline / 2)
    }
}

/// Whether and how to probe the API servers that copies list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    /// The effect of the probes on copies.
    pub mode: ProbeMode,
    /// The time from the start of one attempt to the start of the next while attempts succeed; 500 ms to 2 s. The
    /// default is [`crate::timing::PROBE_PERIOD`].
    pub period: Duration,
    /// The time limit of an attempt, including its connection; 100 ms to 2 s. The default is
    /// [`crate::timing::PROBE_LIMIT`].
    pub limit: Duration,
    /// How many results change a verdict, and how long successes must last.
    pub thresholds: Thresholds,
}

/// The effect of the probes on copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeMode {
    /// API servers that are down are marked as not ready in the copies, as far as [`endpoint_copier_core::verdicts`]
    /// permits.
    Enforce,
    /// API servers that are down are reported, but copied as in the source.
    Observe,
    /// There are no probes.
    Off,
}

/// The defaults of the flags.
impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            mode: ProbeMode::Enforce,
            period: PROBE_PERIOD,
            limit: PROBE_LIMIT,
            thresholds: Thresholds::default(),
        }
    }
}

/// The settings of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// What to log: valid directives of a tracing filter, such as `info` or `info,kube=debug`, each with a level. Some
    /// libraries log less than these directives say: see [`crate::telemetry::logs`].
    pub filter: String,
    /// The format of the lines.
    pub format: LogFormat,
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One flat JSON object per line, for log collectors.
    Json,
}

/// The address of an API server, or an address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress {
    /// An IP address without brackets, or a DNS name. If this is empty, the operator listens on every address of the
    /// machine, in both families if the machine has both.
    pub host: String,
    /// The TCP port. 0 lets the kernel choose a port to listen on.
    pub port: u16,
}

impl ServerAddress {
    /// Creates an address. An IP address may be in brackets.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Self { host, port }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}
