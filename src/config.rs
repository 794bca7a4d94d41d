//! The checked settings of a run, as types. Nothing here knows flags or the environment.

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
    /// Where `/metrics` is served; `None`: nowhere.
    pub metrics_bind_address: Option<ServerAddress>,
    /// Where the health paths are served; `None`: nowhere.
    pub health_probe_bind_address: Option<ServerAddress>,
    /// Race for the Lease; without it this replica has the right to write without end.
    pub leader_elect: bool,
    /// Source and managed Service where annotations are silent.
    pub defaults: Defaults,
    /// How many Services may be managed.
    pub limits: ServiceLimits,
    /// How to race for the Lease.
    pub election: ElectionConfig,
    /// The addresses of this node, by `HOST_IPS` or `HOST_IP`; none: not known.
    pub node_addresses: BTreeSet<IpAddr>,
    /// A kubeconfig to use instead of the service account or the default kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// Where the API servers are.
    pub api_server: ApiServerConfig,
    /// Whether and how to probe the API servers that copies list.
    pub probe: ProbeConfig,
    /// The label selector of the Nodes on which API servers run; empty: all Nodes.
    pub nodes_selector: String,
    /// What to log, and how.
    pub log: LogConfig,
}

/// Where the API servers are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiServerConfig {
    /// Which addresses to use; `None`: [`ApiServerMode::Auto`] in a Pod, [`ApiServerMode::Cluster`] elsewhere.
    pub mode: Option<ApiServerMode>,
    /// More addresses, in any mode.
    pub addresses: Vec<ServerAddress>,
}

/// Which addresses of API servers to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiServerMode {
    /// Those that `default/kubernetes` lists, and behind them the configured address.
    Auto,
    /// The configured address alone.
    Cluster,
    /// This node's API server first, then as [`ApiServerMode::Auto`].
    Local(ServerAddress),
}

/// How to race for the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionConfig {
    /// How long a Lease holds after its last renewal; whole seconds, 2 to 60. The default is
    /// [`crate::timing::LEASE_DURATION`].
    pub lease_duration: Duration,
    /// How long after the last successful renewal the leader may write; shorter than `lease_duration`.
    pub renew_deadline: Duration,
    /// Pause before the next attempt after a failed one; 1.2 of it is shorter than `renew_deadline`.
    pub retry_period: Duration,
    /// Namespace of the Lease by flag or `POD_NAMESPACE`; `None`: the service account's or the context's.
    pub namespace: Option<String>,
    /// Name of the Lease.
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
    /// Pause between two renewals while they succeed: two fit into the deadline, whatever the flags say.
    #[must_use]
    pub fn renew_interval(&self) -> Duration {
        self.retry_period.saturating_mul(2).min(self.renew_deadline / 2)
    }
}

/// Whether and how to probe the API servers that copies list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    /// What the probes may change.
    pub mode: ProbeMode,
    /// Time between the beginnings of two attempts while they succeed; 500 ms to 2 s. The default is
    /// [`crate::timing::PROBE_PERIOD`].
    pub period: Duration,
    /// Time limit of an attempt, with its connection; 100 ms to 2 s. The default is [`crate::timing::PROBE_LIMIT`].
    pub limit: Duration,
    /// How many results decide.
    pub thresholds: Thresholds,
}

/// What the probes may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeMode {
    /// Endpoints that are down are taken out of the copies.
    Enforce,
    /// They are reported, and copied as the source has them.
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

/// What to log, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Which events: directives of a tracing filter, such as `info` or `info,kube=debug`; valid ones, each with a level.
    /// Libraries are quieter, see [`crate::telemetry::logs`].
    pub filter: String,
    /// In which form.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One flat JSON object a line, for collectors.
    Json,
}

/// Where an API server is, or where to listen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress {
    /// IP address, without brackets, or DNS name. Empty: every address of the host, of both families where it has them.
    pub host: String,
    /// TCP port; 0 lets the kernel choose where to listen.
    pub port: u16,
}

impl ServerAddress {
    /// An IP address may stand in brackets.
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
