//! The flags, with one field for each. The doc comment of a field is the help of its flag.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Command, CommandFactory, FromArgMatches, Parser};

use super::address::{bind, host, server};
use super::checks::check;
use super::migration::{GoOperatorFlags, WITHOUT_EFFECT};
use super::refusal::{exit, origin};
use super::secure_metrics::SecureMetricsFlags;
use super::values::{
    ModeName, allowed_source, api_server_mode, by_source, count, cross_namespace, label, label_or_empty,
    log_filter, log_format, node_addresses, not_empty, port, port_or_none, probe_mode, selector, subdomain,
    threshold,
};
use super::{Exit, Invocation, Task, go, task};
use crate::config::{
    ApiServerConfig, ApiServerMode, Config, ElectionConfig, LogConfig, LogFormat, ProbeConfig, ProbeMode,
    ServerAddress,
};
use endpoint_copier_core::model::{
    AllowFrom, ConsentPolicy, CrossNamespace, Defaults, ServiceKey, ServiceLimits,
};
use endpoint_copier_core::verdicts::Thresholds;

/// The command line, as clap fills it. For clap, a field of type `Option` is a flag that may be absent. A value that
/// may itself be `None` therefore has the type `std::option::Option`.
#[derive(Parser)]
#[command(
    name = env!("CARGO_PKG_NAME"),
    version,
    about = "Keeps the EndpointSlices of managed Services in sync with those of their sources",
    args_override_self = true,
    after_help = "Each flag that takes a value and has an effect can also be set in the environment: --log-level is \
                  ENDPOINT_COPIER_LOG_LEVEL. A flag takes precedence over its variable."
)]
pub(super) struct Flags {
    /// Where /metrics is served; 0 disables it
    #[arg(long, value_name = "ADDRESS", default_value = ":8080", value_parser = bind)]
    metrics_bind_address: std::option::Option<ServerAddress>,

    #[command(flatten)]
    secure_metrics: SecureMetricsFlags,

    /// Where /healthz, /livez and /readyz are served; 0 disables them
    #[arg(long, value_name = "ADDRESS", default_value = ":8081", value_parser = bind)]
    health_probe_bind_address: std::option::Option<ServerAddress>,

    /// Kubeconfig to use [default: in a Pod, its ServiceAccount; otherwise, the current context]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,

    /// Name of the default source, for managed Services that name no source
    #[arg(long, value_name = "NAME", help_heading = "Copying", default_value = "kubernetes", value_parser = label)]
    default_endpoint_name: String,

    /// Namespace of the default source
    #[arg(long, value_name = "NAME", help_heading = "Copying", default_value = "default", value_parser = label)]
    default_endpoint_namespace: String,

    /// Name of the Service that is managed without an annotation; empty: none
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Copying",
        default_value = "kubernetes-vip",
        value_parser = label_or_empty
    )]
    managed_endpoint_name: String,

    /// Namespace of the Service that is managed without an annotation
    #[arg(long, value_name = "NAME", help_heading = "Copying", default_value = "default", value_parser = label)]
    managed_endpoint_namespace: String,

    /// Write the condition endpoint-copier/InSync into the status of managed Services, for kubectl wait
    #[arg(
        long,
        value_name = "BOOL",
        help_heading = "Copying",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_parser = go::boolean
    )]
    service_conditions: bool,

    /// Maximum number of managed Services that get copies, in one namespace; those that have copies come first, then
    /// the oldest
    #[arg(long, value_name = "COUNT", help_heading = "Limits", default_value = "1000", value_parser = count)]
    max_services_per_namespace: usize,

    /// Maximum number of managed Services that get copies, in the whole cluster
    #[arg(long, value_name = "COUNT", help_heading = "Limits", default_value = "10000", value_parser = count)]
    max_services: usize,

    /// Which sources in other namespaces to copy, besides the default source. consent: those that --allow-source, a
    /// ReferenceGrant or the source's endpoint-copier/allow-from allows; allow: all; deny: those in --allow-source
    #[arg(
        long,
        value_name = "MODE",
        help_heading = "Consent",
        default_value = "consent",
        value_parser = cross_namespace
    )]
    cross_namespace: CrossNamespace,

    /// A source, and the namespaces that may copy it, or * for all; repeat the flag, or separate values with semicolons
    /// [default: none]
    #[arg(
        long,
        value_name = "NAMESPACE/NAME=NAMESPACE,...",
        help_heading = "Consent",
        value_delimiter = ';',
        value_parser = allowed_source
    )]
    allow_source: Vec<(ServiceKey, AllowFrom)>,

    /// TCP port that copies of the default source in other namespaces may have, in addition to the ports of its slices;
    /// repeat the flag, or separate values with commas; 0: none
    #[arg(
        long,
        value_name = "PORT",
        help_heading = "Consent",
        default_value = "9345",
        value_delimiter = ',',
        value_parser = port_or_none
    )]
    allow_port: Vec<u16>,

    /// Use leader election; false: write without a Lease, for a single replica
    #[arg(
        long,
        value_name = "BOOL",
        help_heading = "Election",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        value_parser = go::boolean
    )]
    leader_elect: bool,

    /// How long the Lease is valid after a renewal; whole seconds, 2s to 60s
    #[arg(long, value_name = "DURATION", help_heading = "Election", default_value = "6s", value_parser = go::duration)]
    leader_election_lease_duration: Duration,

    /// How long the leader may write after it sent its last successful renewal
    #[arg(long, value_name = "DURATION", help_heading = "Election", default_value = "4s", value_parser = go::duration)]
    leader_election_renew_deadline: Duration,

    /// Time from the start of a failed renewal of the Lease to the next attempt
    #[arg(long, value_name = "DURATION", help_heading = "Election", default_value = "1s", value_parser = go::duration)]
    leader_election_retry_period: Duration,

    /// Namespace of the Lease [default: the Pod's namespace, else that of the kubeconfig's context]
    #[arg(long, value_name = "NAME", help_heading = "Election", value_parser = label_or_empty)]
    leader_election_namespace: Option<String>,

    /// Name of the Lease
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Election",
        default_value = "f668ae63.endpoint-copier-operator",
        value_parser = subdomain
    )]
    leader_election_id: String,

    /// Which API servers to dial, before those in --api-server-address. auto: those that default/kubernetes lists, then
    /// the one that mode cluster uses; cluster: the cluster IP or the kubeconfig's server; local: this node's, then
    /// those of mode auto [default: auto in a Pod, else cluster]
    #[arg(long, value_name = "MODE", help_heading = "API servers", value_parser = api_server_mode)]
    api_server_mode: Option<ModeName>,

    /// This node's address, required in mode local; the chart sets it to status.hostIP [default: none]
    #[arg(long, value_name = "HOST", help_heading = "API servers", value_parser = host)]
    api_server_host: Option<String>,

    /// Port of this node's API server, for mode local
    #[arg(long, value_name = "PORT", help_heading = "API servers", default_value = "6443", value_parser = port)]
    api_server_port: u16,

    /// Address of another API server, in any mode; repeat the flag, or separate values with commas [default: none]
    #[arg(long, value_name = "HOST:PORT", help_heading = "API servers", value_delimiter = ',', value_parser = server)]
    api_server_address: Vec<ServerAddress>,

    /// enforce: API servers that fail probes are shown as not ready in copies of default/kubernetes; observe: the
    /// operator only reports these servers; off: no probes
    #[arg(long, value_name = "MODE", help_heading = "Probes", default_value = "enforce", value_parser = probe_mode)]
    probe: ProbeMode,

    /// Time between the starts of two probes of an address and port, except after the first failures; 500ms to 2s
    #[arg(long, value_name = "DURATION", help_heading = "Probes", default_value = "1s", value_parser = go::duration)]
    probe_period: Duration,

    /// Time limit of a probe; 100ms to 2s
    #[arg(long, value_name = "DURATION", help_heading = "Probes", default_value = "1s", value_parser = go::duration)]
    probe_timeout: Duration,

    /// Consecutive failed probes after which a healthy API server counts as down; 2 to 10
    #[arg(long, value_name = "COUNT", help_heading = "Probes", default_value = "3", value_parser = threshold)]
    probe_failures: u32,

    /// Consecutive successful probes, over at least 3s, after which a down API server counts as healthy; 2 to 10
    #[arg(long, value_name = "COUNT", help_heading = "Probes", default_value = "3", value_parser = threshold)]
    probe_successes: u32,

    /// Label selector of the Nodes on which API servers run, for a second IP family and for node names; empty: all
    #[arg(
        long,
        value_name = "SELECTOR",
        help_heading = "Nodes",
        default_value = "node-role.kubernetes.io/control-plane",
        value_parser = selector
    )]
    nodes_selector: String,

    /// off, error, warn, info, debug, trace, or tracing directives such as info,kube=debug [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Logs", value_parser = log_filter)]
    log_level: Option<String>,

    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Logs", value_parser = log_format)]
    log_format: Option<LogFormat>,

    #[command(flatten)]
    go_operator: GoOperatorFlags,
}

/// Returns the command line with its subcommands, as `--help` shows it.
#[must_use]
pub fn command() -> Command {
    let mut command = task::with_subcommands(Flags::command());
    command.build();
    command
}

/// Parses the command line, where `args` begins with the program name, and the variables that `env` returns.
///
/// The environment variable of a flag counts as set even if it is empty.
///
/// # Errors
/// Returns an [`Exit`] if help or the version was requested, or if the arguments are wrong.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Invocation, Exit> {
    let mut command = command();
    let mut args = args.into_iter().skip(1).peekable();
    let subcommand = args
        .peek()
        .and_then(|word| command.find_subcommand(word))
        .cloned();
    let mut words = vec![env!("CARGO_PKG_NAME").to_owned()];
    if let Some(subcommand) = &subcommand {
        args.next();
        words.push(subcommand.get_name().to_owned());
    }
    let chosen = subcommand.unwrap_or_else(|| command.clone());
    let (mut given, named) = go::split_args(&chosen, args).map_err(Exit::refused)?;

    let mut warnings = Vec::new();
    let mut from_env = HashMap::new();
    for arg in chosen
        .get_arguments()
        .filter(|arg| arg.get_action().takes_values())
    {
        let Some(name) = arg.get_long() else { continue };
        let is_given = given.iter().any(|(flag, _)| flag == name);
        if arg.get_help_heading() == Some(WITHOUT_EFFECT) {
            warnings.extend(is_given.then(|| format!("flag --{name} has no effect in this operator")));
        } else if !is_given && let Some(value) = env(&variable(name)) {
            given.push((name.to_owned(), Some(value)));
            from_env.insert(name.to_owned(), variable(name));
        }
    }

    words.extend(given.into_iter().map(|(flag, value)| match value {
        Some(value) => format!("--{flag}={value}"),
        None => format!("--{flag}"),
    }));
    words.extend(named);
    let (task, flags) = command
        .try_get_matches_from_mut(words)
        .and_then(|matches| {
            let (task, matches) = Task::of(&matches);
            Ok((task, Flags::from_arg_matches(matches)?))
        })
        .map_err(|error| exit(&error, &from_env))?;
    let node = not_empty(env("HOST_IPS")).or_else(|| not_empty(env("HOST_IP")));
    let node_addresses = node_addresses(&node.unwrap_or_default(), &mut warnings);
    let config = flags.check(env("POD_NAMESPACE"), node_addresses, &from_env, task.log_level());
    Ok(Invocation {
        task,
        config: config.map_err(Exit::refused)?,
        warnings,
    })
}

/// Returns the environment variable of a flag. `flag` is the name without the leading dashes.
#[must_use]
pub fn variable(flag: &str) -> String {
    format!("ENDPOINT_COPIER_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

impl Flags {
    fn check(
        self,
        pod_namespace: Option<String>,
        node_addresses: BTreeSet<IpAddr>,
        from_env: &HashMap<String, String>,
        level: &str,
    ) -> Result<Config, String> {
        let election = ElectionConfig {
            lease_duration: self.leader_election_lease_duration,
            renew_deadline: self.leader_election_renew_deadline,
            retry_period: self.leader_election_retry_period,
            namespace: not_empty(self.leader_election_namespace).or_else(|| not_empty(pod_namespace)),
            lease_name: self.leader_election_id,
        };
        let probe = ProbeConfig {
            mode: self.probe,
            period: self.probe_period,
            limit: self.probe_timeout,
            thresholds: Thresholds {
                failures: self.probe_failures,
                successes: self.probe_successes,
                ..Thresholds::default()
            },
        };
        check(&election, &probe, |flag| origin(flag, from_env))?;
        let secure_metrics = self.secure_metrics.check(|flag| origin(flag, from_env))?;
        let mode = with_host(self.api_server_mode, self.api_server_host, self.api_server_port)
            .map_err(|error| format!("{} {error}", origin("api-server-mode", from_env)))?;
        let log = LogConfig {
            filter: self
                .log_level
                .or(self.go_operator.zap_log_level)
                .unwrap_or_else(|| level.to_owned()),
            format: self
                .log_format
                .or(self.go_operator.zap_encoder)
                .unwrap_or(LogFormat::Text),
        };
        let managed = not_empty(Some(self.managed_endpoint_name));
        Ok(Config {
            metrics_bind_address: self.metrics_bind_address,
            secure_metrics,
            health_probe_bind_address: self.health_probe_bind_address,
            leader_elect: self.leader_elect,
            defaults: Defaults {
                source: ServiceKey::new(self.default_endpoint_namespace, self.default_endpoint_name),
                managed: managed.map(|name| ServiceKey::new(self.managed_endpoint_namespace, name)),
                consent: ConsentPolicy {
                    cross_namespace: self.cross_namespace,
                    allowed_sources: by_source(self.allow_source),
                    allowed_ports: self.allow_port.into_iter().filter(|port| *port != 0).collect(),
                },
            },
            limits: ServiceLimits {
                per_namespace: self.max_services_per_namespace,
                total: self.max_services,
            },
            election,
            node_addresses,
            kubeconfig: not_empty(self.kubeconfig).map(PathBuf::from),
            api_server: ApiServerConfig {
                mode,
                addresses: self.api_server_address,
            },
            probe,
            nodes_selector: self.nodes_selector,
            service_conditions: self.service_conditions,
            log,
        })
    }
}

/// Completes a mode with the host and the port that `local` requires.
fn with_host(
    mode: Option<ModeName>,
    host: Option<String>,
    port: u16,
) -> Result<Option<ApiServerMode>, &'static str> {
    Ok(match (mode, not_empty(host)) {
        (None, _) => None,
        (Some(ModeName::Auto), _) => Some(ApiServerMode::Auto),
        (Some(ModeName::Cluster), _) => Some(ApiServerMode::Cluster),
        (Some(ModeName::Local), Some(host)) => Some(ApiServerMode::Local(ServerAddress::new(&host, port))),
        (Some(ModeName::Local), None) => return Err("\"local\": needs --api-server-host"),
    })
}
