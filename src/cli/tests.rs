use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::time::Duration;

use super::*;
use crate::config::{
    ApiServerConfig, ApiServerMode, ElectionConfig, LogConfig, LogFormat, ProbeConfig, ProbeMode,
    SecureMetrics, ServerAddress,
};
use crate::inspect::{Inspect, OutputFormat};
use endpoint_copier_core::model::{
    AllowFrom, ConsentPolicy, CrossNamespace, Defaults, ServiceKey, ServiceLimits,
};
use endpoint_copier_core::verdicts::Thresholds;

const PROGRAM: &str = "endpoint-copier-operator";

fn parsed(args: &str, env: &[(&str, &str)]) -> Result<Invocation, Exit> {
    let args = std::iter::once(PROGRAM)
        .chain(args.split_whitespace())
        .map(OsString::from);
    parse(args, |name| {
        env.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

#[track_caller]
fn run(args: &str, env: &[(&str, &str)]) -> (Config, Vec<String>) {
    match parsed(args, env) {
        Ok(Invocation {
            task: Task::Run,
            config,
            warnings,
        }) => (config, warnings),
        other => panic!("{args}: {other:?}"),
    }
}

#[track_caller]
fn config(args: &str) -> Config {
    run(args, &[]).0
}

/// Returns the error line, without the name of the program.
#[track_caller]
fn refused(args: &str, env: &[(&str, &str)]) -> String {
    match parsed(args, env) {
        Err(Exit { code: 2, text }) => {
            let line = text
                .strip_prefix("endpoint-copier-operator: ")
                .expect("the program's name is missing");
            let line = line.strip_suffix('\n').expect("no newline").to_owned();
            assert!(!line.contains('\n'), "more than one line: {text}");
            line
        }
        other => panic!("{args}: {other:?}"),
    }
}

fn service(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey::new(namespace, name)
}

/// Rule: 4.defaults, 5.lease-name
#[test]
fn defaults_apply_without_flags() {
    let (config, warnings) = run("", &[]);
    assert_eq!(
        config,
        Config {
            metrics_bind_address: Some(ServerAddress::new("", 8080)),
            secure_metrics: None,
            health_probe_bind_address: Some(ServerAddress::new("", 8081)),
            leader_elect: true,
            defaults: Defaults {
                source: service("default", "kubernetes"),
                managed: Some(service("default", "kubernetes-vip")),
                consent: ConsentPolicy {
                    cross_namespace: CrossNamespace::Consent,
                    allowed_sources: BTreeMap::new(),
                    allowed_ports: [9345].into(),
                },
            },
            limits: ServiceLimits {
                per_namespace: 1_000,
                total: 10_000,
            },
            election: ElectionConfig {
                lease_duration: Duration::from_secs(6),
                renew_deadline: Duration::from_secs(4),
                retry_period: Duration::from_secs(1),
                namespace: None,
                lease_name: "f668ae63.endpoint-copier-operator".to_owned(),
            },
            node_addresses: BTreeSet::new(),
            kubeconfig: None,
            api_server: ApiServerConfig {
                mode: None,
                addresses: Vec::new(),
            },
            probe: ProbeConfig {
                mode: ProbeMode::Enforce,
                period: Duration::from_secs(1),
                limit: Duration::from_secs(1),
                thresholds: Thresholds {
                    failures: 3,
                    successes: 3,
                    rise: Duration::from_secs(3),
                },
            },
            nodes_selector: "node-role.kubernetes.io/control-plane".to_owned(),
            service_conditions: false,
            log: LogConfig {
                filter: "info".to_owned(),
                format: LogFormat::Text
            },
        }
    );
    assert_eq!(config.election, ElectionConfig::default());
    assert_eq!(config.probe, ProbeConfig::default());
    assert_eq!(warnings, Vec::<String>::new());
}

/// Rule: 4.go-syntax
#[test]
fn the_go_operators_command_line_is_understood() {
    let (config, warnings) = run(
        "-leader-elect --health-probe-bind-address=:9081 -metrics-bind-address 127.0.0.1:9080 \
         --default-endpoint-name=apiserver -default-endpoint-namespace ns1 \
         -managed-endpoint-name=vip --managed-endpoint-namespace ns2",
        &[],
    );
    assert!(config.leader_elect);
    assert_eq!(
        config.health_probe_bind_address,
        Some(ServerAddress::new("", 9081))
    );
    assert_eq!(config.metrics_bind_address.unwrap().to_string(), "127.0.0.1:9080");
    assert_eq!(config.defaults.source, service("ns1", "apiserver"));
    assert_eq!(config.defaults.managed, Some(service("ns2", "vip")));
    assert_eq!(warnings, Vec::<String>::new());
}

/// Rule: 4.go-syntax
#[test]
fn a_boolean_flag_has_the_syntax_of_go() {
    for (args, expected) in [
        ("-leader-elect", true),
        ("--leader-elect", true),
        ("--leader-elect=true", true),
        ("-leader-elect=1", true),
        ("--leader-elect=false", false),
        ("-leader-elect=F", false),
        ("--leader-elect=0", false),
    ] {
        assert_eq!(config(args).leader_elect, expected, "{args}");
    }
}

#[test]
fn last_occurrence_of_a_flag_wins() {
    assert!(!config("--leader-elect --leader-elect=false").leader_elect);
    assert_eq!(
        config("-leader-election-id a -leader-election-id b")
            .election
            .lease_name,
        "b"
    );
}

#[test]
fn a_value_may_begin_with_a_dash() {
    assert!(refused("--log-level -1", &[]).starts_with("--log-level \"-1\": must be "));
}

#[test]
fn unexpected_arguments_and_unknown_flags_are_refused() {
    for (args, expected) in [
        (
            "--leader-elect false",
            "unexpected argument \"false\": flags take the form --name=value, and a command (status, plan, wait or doctor), if any, must come first",
        ),
        (
            "serve",
            "unexpected argument \"serve\": flags take the form --name=value, and a command (status, plan, wait or doctor), if any, must come first",
        ),
        (
            "--",
            "unexpected argument \"--\": flags take the form --name=value, and a command (status, plan, wait or doctor), if any, must come first",
        ),
        (
            "-",
            "unexpected argument \"-\": flags take the form --name=value, and a command (status, plan, wait or doctor), if any, must come first",
        ),
        ("--nonsense=1", "unknown flag \"--nonsense\": see --help"),
        ("---leader-elect", "unknown flag \"---leader-elect\": see --help"),
        ("--=1", "unknown flag \"--\": see --help"),
        ("--log-level", "--log-level needs a value"),
    ] {
        assert_eq!(refused(args, &[]), expected, "{args}");
    }
}

#[cfg(unix)]
#[test]
fn argument_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let args = [OsString::from(PROGRAM), OsString::from_vec(vec![b'-', 0xff])];
    assert!(matches!(parse(args, |_| None), Err(Exit { code: 2, .. })));
}

/// Rule: 4.bad-values
#[test]
fn bad_value_is_refused_with_the_name_of_the_flag() {
    for (args, expected) in [
        (
            "--leader-elect=maybe",
            "--leader-elect \"maybe\": must be true or false",
        ),
        ("--leader-elect=", "--leader-elect \"\": must be true or false"),
        (
            "-metrics-bind-address 8080",
            "--metrics-bind-address \"8080\": must be host:port, :port for all addresses, or 0 for none",
        ),
        (
            "--leader-election-lease-duration=6",
            "--leader-election-lease-duration \"6\": must be a duration such as 6s, 1m30s or 500ms",
        ),
        ("--log-format=xml", "--log-format \"xml\": must be text or json"),
        (
            "--zap-encoder=xml",
            "--zap-encoder \"xml\": must be console or json",
        ),
        (
            "--zap-log-level=0",
            "--zap-log-level \"0\": must be debug, info, warn, error, panic, or an integer from 1 to 127",
        ),
        (
            "--default-endpoint-name=",
            "--default-endpoint-name \"\": must be a DNS label: at most 63 characters from a-z, 0-9 and '-', \
             beginning and ending with a letter or digit",
        ),
        (
            "--leader-election-id=A",
            "--leader-election-id \"A\": must be a DNS name: labels of a-z, 0-9 and '-', \
             joined by '.', at most 253 characters",
        ),
    ] {
        assert_eq!(refused(args, &[]), expected, "{args}");
    }
}

#[test]
fn error_about_a_value_with_a_newline_is_one_line() {
    let env = [("ENDPOINT_COPIER_LOG_LEVEL", "in\nfo")];
    assert!(refused("", &env).starts_with("ENDPOINT_COPIER_LOG_LEVEL \"in\\nfo\": must be "));
}

/// Rule: 4.source-flags
#[test]
fn names_are_dns_labels() {
    let label = "a".repeat(63);
    for name in ["a", "0", "kubernetes-vip", "a--b", &label] {
        assert_eq!(
            config(&format!("--managed-endpoint-name={name}"))
                .defaults
                .managed
                .unwrap()
                .name(),
            name
        );
    }
    for name in ["A", "-a", "a-", "a.b", "a_b", "a/b", "é", &format!("{label}a")] {
        for flag in [
            "default-endpoint-name",
            "default-endpoint-namespace",
            "managed-endpoint-name",
            "managed-endpoint-namespace",
            "leader-election-namespace",
        ] {
            assert!(
                refused(&format!("--{flag}={name}"), &[]).starts_with(&format!("--{flag} ")),
                "{name}"
            );
        }
    }
}

/// Rule: 1.flags-service-off
#[test]
fn empty_name_of_the_managed_service_disables_it() {
    assert_eq!(config("--managed-endpoint-name=").defaults.managed, None);
    assert_eq!(
        run("", &[("ENDPOINT_COPIER_MANAGED_ENDPOINT_NAME", "")])
            .0
            .defaults
            .managed,
        None
    );
}

/// Rule: 4.health-address
#[test]
fn zero_disables_a_listener() {
    let config = config("--metrics-bind-address=0 --health-probe-bind-address 0");
    assert_eq!(
        (config.metrics_bind_address, config.health_probe_bind_address),
        (None, None)
    );
}

/// Rule: 4.environment
#[test]
fn each_flag_is_also_read_from_the_environment() {
    let (config, warnings) = run(
        "",
        &[
            ("ENDPOINT_COPIER_METRICS_BIND_ADDRESS", "0"),
            ("ENDPOINT_COPIER_HEALTH_PROBE_BIND_ADDRESS", ":1"),
            ("ENDPOINT_COPIER_LEADER_ELECT", "F"),
            ("ENDPOINT_COPIER_DEFAULT_ENDPOINT_NAME", "a"),
            ("ENDPOINT_COPIER_DEFAULT_ENDPOINT_NAMESPACE", "b"),
            ("ENDPOINT_COPIER_MANAGED_ENDPOINT_NAME", "c"),
            ("ENDPOINT_COPIER_MANAGED_ENDPOINT_NAMESPACE", "d"),
            ("ENDPOINT_COPIER_LEADER_ELECTION_LEASE_DURATION", "1m"),
            ("ENDPOINT_COPIER_LEADER_ELECTION_RENEW_DEADLINE", "40s"),
            ("ENDPOINT_COPIER_LEADER_ELECTION_RETRY_PERIOD", "10s"),
            ("ENDPOINT_COPIER_LEADER_ELECTION_NAMESPACE", "e"),
            ("ENDPOINT_COPIER_LEADER_ELECTION_ID", "f"),
            ("ENDPOINT_COPIER_KUBECONFIG", "/g"),
            ("ENDPOINT_COPIER_API_SERVER_MODE", "local"),
            ("ENDPOINT_COPIER_API_SERVER_HOST", "h"),
            ("ENDPOINT_COPIER_API_SERVER_PORT", "2"),
            ("ENDPOINT_COPIER_API_SERVER_ADDRESS", "i:3"),
            ("ENDPOINT_COPIER_PROBE", "observe"),
            ("ENDPOINT_COPIER_PROBE_PERIOD", "2s"),
            ("ENDPOINT_COPIER_PROBE_TIMEOUT", "700ms"),
            ("ENDPOINT_COPIER_PROBE_FAILURES", "4"),
            ("ENDPOINT_COPIER_PROBE_SUCCESSES", "5"),
            ("ENDPOINT_COPIER_CROSS_NAMESPACE", "deny"),
            ("ENDPOINT_COPIER_ALLOW_SOURCE", "web/app=x,y;web/db=*"),
            ("ENDPOINT_COPIER_ALLOW_PORT", "1,2"),
            ("ENDPOINT_COPIER_MAX_SERVICES_PER_NAMESPACE", "7"),
            ("ENDPOINT_COPIER_MAX_SERVICES", "70"),
            ("ENDPOINT_COPIER_NODES_SELECTOR", "role in (a,b)"),
            ("ENDPOINT_COPIER_SERVICE_CONDITIONS", "true"),
            ("ENDPOINT_COPIER_LOG_LEVEL", "warn"),
            ("ENDPOINT_COPIER_LOG_FORMAT", "json"),
            ("ENDPOINT_COPIER_ZAP_DEVEL", "true"),
        ],
    );
    assert_eq!(
        config,
        Config {
            metrics_bind_address: None,
            secure_metrics: None,
            health_probe_bind_address: Some(ServerAddress::new("", 1)),
            leader_elect: false,
            defaults: Defaults {
                source: service("b", "a"),
                managed: Some(service("d", "c")),
                consent: ConsentPolicy {
                    cross_namespace: CrossNamespace::Deny,
                    allowed_sources: [
                        (service("web", "app"), AllowFrom::new("x,y")),
                        (service("web", "db"), AllowFrom::new("*")),
                    ]
                    .into(),
                    allowed_ports: [1, 2].into(),
                },
            },
            limits: ServiceLimits {
                per_namespace: 7,
                total: 70,
            },
            election: ElectionConfig {
                lease_duration: Duration::from_secs(60),
                renew_deadline: Duration::from_secs(40),
                retry_period: Duration::from_secs(10),
                namespace: Some("e".to_owned()),
                lease_name: "f".to_owned(),
            },
            node_addresses: BTreeSet::new(),
            kubeconfig: Some("/g".into()),
            api_server: ApiServerConfig {
                mode: Some(ApiServerMode::Local(ServerAddress::new("h", 2))),
                addresses: vec![ServerAddress::new("i", 3)],
            },
            probe: ProbeConfig {
                mode: ProbeMode::Observe,
                period: Duration::from_secs(2),
                limit: Duration::from_millis(700),
                thresholds: Thresholds {
                    failures: 4,
                    successes: 5,
                    ..Thresholds::default()
                },
            },
            nodes_selector: "role in (a,b)".to_owned(),
            service_conditions: true,
            log: LogConfig {
                filter: "warn".to_owned(),
                format: LogFormat::Json
            },
        }
    );
    assert_eq!(
        warnings,
        Vec::<String>::new(),
        "a flag without effect was read from the environment"
    );
}

/// Rule: 4.environment
#[test]
fn flag_overrides_even_a_bad_environment_value() {
    for value in ["true", "nonsense"] {
        let env = [("ENDPOINT_COPIER_LEADER_ELECT", value)];
        assert!(!run("--leader-elect=false", &env).0.leader_elect);
    }
}

/// Rule: 4.bad-values
#[test]
fn bad_value_is_refused_with_the_name_of_the_variable() {
    assert_eq!(
        refused("", &[("ENDPOINT_COPIER_LEADER_ELECT", "")]),
        "ENDPOINT_COPIER_LEADER_ELECT \"\": must be true or false"
    );
    assert_eq!(
        refused("", &[("ENDPOINT_COPIER_LEADER_ELECTION_RETRY_PERIOD", "0")]),
        "ENDPOINT_COPIER_LEADER_ELECTION_RETRY_PERIOD 0ns: must be greater than zero"
    );
}

/// Rule: 4.election-flags, 5.lease-namespace
#[test]
fn namespace_of_the_lease_comes_from_the_flag_or_the_pod() {
    let pod = [("POD_NAMESPACE", "pod")];
    for (args, env, expected) in [
        ("", &pod[..], Some("pod")),
        ("--leader-election-namespace=flag", &pod, Some("flag")),
        ("--leader-election-namespace=", &pod, Some("pod")),
        ("", &[("POD_NAMESPACE", "")], None),
    ] {
        assert_eq!(run(args, env).0.election.namespace.as_deref(), expected, "{args}");
    }
}

#[test]
fn node_addresses_are_those_of_host_ips_or_else_of_host_ip() {
    for (env, expected) in [
        (&[][..], &[][..]),
        (&[("HOST_IP", "192.0.2.1")], &["192.0.2.1"]),
        (&[("HOST_IPS", ""), ("HOST_IP", "192.0.2.1")], &["192.0.2.1"]),
        (
            &[("HOST_IPS", "192.0.2.2, 2001:db8::2"), ("HOST_IP", "192.0.2.1")],
            &["192.0.2.2", "2001:db8::2"],
        ),
        (&[("HOST_IPS", "::ffff:192.0.2.2,")], &["192.0.2.2"]),
    ] {
        let (config, warnings) = run("", env);
        let addresses: Vec<_> = config.node_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, expected, "{env:?}");
        assert_eq!(warnings, Vec::<String>::new());
    }
    let (config, warnings) = run("", &[("HOST_IPS", "node-1,192.0.2.1")]);
    assert_eq!(config.node_addresses.len(), 1);
    let warning = "an address of this node is ignored: \"node-1\" is not an IP address";
    assert_eq!(warnings, [warning]);
}

/// Rule: 4.election-flags, 4.durations
#[test]
fn invalid_election_times_are_refused() {
    let (lease, deadline) = (
        "--leader-election-lease-duration",
        "--leader-election-renew-deadline",
    );
    let retry = "--leader-election-retry-period";
    for (times, expected) in [
        (["2s", "1.5s", "1s"], Ok(())),
        (["15s", "10s", "2s"], Ok(())),
        (["60s", "59.999s", "1ns"], Ok(())),
        (["6s", "1.2000001s", "1s"], Ok(())),
        (
            ["1s", "500ms", "100ms"],
            Err(format!(
                "{lease} 1s: must be a whole number of seconds between 2s and 60s"
            )),
        ),
        (
            ["2500ms", "2s", "1s"],
            Err(format!(
                "{lease} 2.5s: must be a whole number of seconds between 2s and 60s"
            )),
        ),
        (
            ["61s", "40s", "10s"],
            Err(format!(
                "{lease} 61s: must be a whole number of seconds between 2s and 60s"
            )),
        ),
        (
            ["6s", "6s", "1s"],
            Err(format!(
                "{deadline} 6s: must be shorter than the lease duration, 6s"
            )),
        ),
        (
            ["6s", "500000h", "1s"],
            Err(format!(
                "{deadline} 1800000000s: must be shorter than the lease duration, 6s"
            )),
        ),
        (
            ["6s", "1.2s", "1s"],
            Err(format!(
                "{deadline} 1.2s: must be longer than 1.2 times the retry period, 1s"
            )),
        ),
        (
            ["6s", "4s", "500000h"],
            Err(format!(
                "{deadline} 4s: must be longer than 1.2 times the retry period, 1800000000s"
            )),
        ),
        (
            ["6s", "4s", "0s"],
            Err(format!("{retry} 0ns: must be greater than zero")),
        ),
    ] {
        let args = format!(
            "{lease}={} {deadline}={} {retry}={}",
            times[0], times[1], times[2]
        );
        match expected {
            Ok(()) => drop(config(&args)),
            Err(line) => assert_eq!(refused(&args, &[]), line),
        }
    }
}

#[test]
fn two_renewals_fit_into_the_deadline() {
    let interval = |args| config(args).election.renew_interval();
    assert_eq!(interval(""), Duration::from_secs(2));
    assert_eq!(
        interval("--leader-election-retry-period=500ms"),
        Duration::from_secs(1)
    );
    assert_eq!(
        interval("--leader-election-retry-period=3s"),
        Duration::from_secs(2)
    );
}

/// Rule: 4.log-flags
#[test]
fn a_log_level_is_a_level_or_directives_with_levels() {
    for (text, is_valid) in [
        ("off", true),
        ("error", true),
        ("INFO", true),
        ("debug", true),
        ("trace", true),
        ("info,kube=debug", true),
        ("h2=trace", true),
        ("3", false),
        ("inof", false),
        ("info,kube", false),
        ("info,kube=", false),
        ("info,kube=loud", false),
        ("info,", false),
        ("", false),
        ("verbose", false),
    ] {
        let args = format!("--log-level={text}");
        if is_valid {
            assert_eq!(config(&args).log.filter, text);
        } else {
            assert!(refused(&args, &[]).starts_with("--log-level "), "{text}");
        }
    }
}

/// Rule: 4.zap-mapped
#[test]
fn the_go_operators_log_flags_are_mapped() {
    for (text, level) in [
        ("debug", "debug"),
        ("1", "debug"),
        ("5", "debug"),
        ("Info", "info"),
        ("warn", "warn"),
        ("error", "error"),
        ("panic", "error"),
    ] {
        let (config, warnings) = run(&format!("-zap-log-level={text} --zap-encoder json"), &[]);
        assert_eq!(
            config.log,
            LogConfig {
                filter: level.to_owned(),
                format: LogFormat::Json
            }
        );
        assert_eq!(warnings, Vec::<String>::new());
    }
    assert_eq!(config("--zap-encoder=console").log.format, LogFormat::Text);
}

/// Rule: 4.zap-mapped
#[test]
fn our_log_flags_override_those_of_the_go_operator() {
    let config = config("--log-level=warn --zap-log-level=debug --log-format=text --zap-encoder=json");
    assert_eq!(
        config.log,
        LogConfig {
            filter: "warn".to_owned(),
            format: LogFormat::Text
        }
    );
}

/// Rule: 4.accepted-with-warning
#[test]
fn flags_without_effect_are_accepted_with_one_warning_each() {
    for flag in [
        "zap-devel",
        "zap-stacktrace-level",
        "zap-time-encoding",
        "apiserver-port",
        "apiserver-protocol",
    ] {
        for args in [
            format!("--{flag}"),
            format!("-{flag}=1"),
            format!("--{flag}=1 -{flag}=2 --leader-elect=false"),
        ] {
            let (_, warnings) = run(&args, &[]);
            assert_eq!(
                warnings,
                [format!("flag --{flag} has no effect in this operator")],
                "{args}"
            );
        }
    }
    let (config, warnings) = run(
        "--apiserver-port 6443 --apiserver-protocol --leader-elect=false --zap-devel -zap-time-encoding iso8601",
        &[],
    );
    assert!(
        !config.leader_elect,
        "the flag after a flag without a value was not read"
    );
    assert_eq!(warnings.len(), 4);
}

#[test]
fn help_and_version_exit_with_code_zero() {
    for args in ["--help", "-help", "-h", "--leader-elect -h"] {
        match parsed(args, &[]) {
            Err(Exit { code: 0, text }) => {
                for part in [
                    "--leader-elect",
                    "--zap-devel",
                    "ENDPOINT_COPIER_LOG_LEVEL",
                    "[default: :8080]",
                ] {
                    assert!(text.contains(part), "{part} in {text}");
                }
                assert!(text.ends_with('\n') && !text.contains('\u{1b}'));
            }
            other => panic!("{other:?}"),
        }
    }
    for args in ["--version", "-version", "-V"] {
        match parsed(args, &[]) {
            Err(Exit { code: 0, text }) => {
                assert_eq!(
                    text,
                    format!("endpoint-copier-operator {}\n", env!("CARGO_PKG_VERSION"))
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn service_variables_of_kubernetes_are_not_flags() {
    // For a Service named "endpoint-copier-operator", every Pod in its namespace gets environment variables with names
    // like these.
    let env = [
        ("ENDPOINT_COPIER_OPERATOR_SERVICE_HOST", "10.0.0.1"),
        ("ENDPOINT_COPIER_OPERATOR_PORT", "tcp://10.0.0.1:8080"),
    ];
    assert_eq!(run("", &env).0, config(""));
}

#[test]
fn definitions_of_the_flags_are_consistent() {
    use clap::CommandFactory;
    flags::Flags::command().debug_assert();
}

#[test]
fn api_server_addresses_may_be_repeated_or_comma_separated() {
    let addresses = |config: Config| -> Vec<String> {
        let addresses = config.api_server.addresses.iter();
        addresses.map(ToString::to_string).collect()
    };
    let flags = "--api-server-address=192.0.2.1:6443 -api-server-address 192.0.2.2:6443,host:1";
    assert_eq!(
        addresses(config(flags)),
        ["192.0.2.1:6443", "192.0.2.2:6443", "host:1"]
    );
    let env = [("ENDPOINT_COPIER_API_SERVER_ADDRESS", "192.0.2.1:1,192.0.2.2:2")];
    assert_eq!(addresses(run("", &env).0), ["192.0.2.1:1", "192.0.2.2:2"]);
    assert_eq!(addresses(run("--api-server-address=host:3", &env).0), ["host:3"]);
    assert_eq!(
        refused("--api-server-address=host", &[]),
        "--api-server-address \"host\": must be host:port, such as 192.0.2.1:6443 or [2001:db8::1]:6443"
    );
}

#[test]
fn the_mode_says_which_api_servers_to_use() {
    let mode = |args: &str| config(args).api_server.mode;
    assert_eq!(mode("--api-server-mode=auto"), Some(ApiServerMode::Auto));
    assert_eq!(mode("--api-server-mode=cluster"), Some(ApiServerMode::Cluster));
    let local = |host: &str, port| Some(ApiServerMode::Local(ServerAddress::new(host, port)));
    assert_eq!(
        mode("--api-server-mode=local --api-server-host=192.0.2.7"),
        local("192.0.2.7", 6443)
    );
    let env = [("ENDPOINT_COPIER_API_SERVER_HOST", "2001:db8::7")];
    let (config, _) = run("--api-server-mode=local --api-server-port=443", &env);
    assert_eq!(config.api_server.mode, local("2001:db8::7", 443));
}

/// Rule: 4.environment, 4.metrics-secure
#[test]
fn metrics_are_secure_only_on_request() {
    let secure = |args: &str| config(args).secure_metrics.map(|secure| secure.cert_path);
    assert_eq!(secure("--metrics-secure=false"), None);
    assert_eq!(secure("--metrics-secure"), Some(None));
    assert_eq!(secure("--metrics-secure --metrics-cert-path="), Some(None));
    let path = secure("-metrics-secure=1 --metrics-cert-path /certificate");
    assert_eq!(path, Some(Some("/certificate".into())));
    assert_eq!(
        refused("--metrics-cert-path=/certificate", &[]),
        "--metrics-cert-path \"/certificate\": needs --metrics-secure"
    );
    let env = [
        ("ENDPOINT_COPIER_METRICS_CERT_PATH", "/certificate"),
        ("ENDPOINT_COPIER_METRICS_SECURE", "true"),
    ];
    let cert_path = Some("/certificate".into());
    assert_eq!(run("", &env).0.secure_metrics, Some(SecureMetrics { cert_path }));
    assert_eq!(
        refused("", &env[..1]),
        "ENDPOINT_COPIER_METRICS_CERT_PATH \"/certificate\": needs --metrics-secure"
    );
}

#[test]
fn mode_local_needs_the_address_of_this_node() {
    assert_eq!(
        refused("--api-server-mode=local", &[]),
        "--api-server-mode \"local\": needs --api-server-host"
    );
    let env = [
        ("ENDPOINT_COPIER_API_SERVER_MODE", "local"),
        ("ENDPOINT_COPIER_API_SERVER_HOST", ""),
    ];
    assert_eq!(
        refused("", &env),
        "ENDPOINT_COPIER_API_SERVER_MODE \"local\": needs --api-server-host"
    );
    for (args, line) in [
        (
            "--api-server-mode=near",
            "--api-server-mode \"near\": must be auto, cluster or local",
        ),
        (
            "--api-server-port=0",
            "--api-server-port \"0\": must be a port, 1 to 65535",
        ),
        (
            "--api-server-host=192.0.2.1:6443",
            "--api-server-host \"192.0.2.1:6443\": must be an IP address or a DNS name, without a port",
        ),
    ] {
        assert_eq!(refused(args, &[]), line);
    }
}

#[test]
fn word_before_the_flags_names_a_command() {
    let status = |format| Task::Inspect {
        what: Inspect::Status,
        format,
    };
    for (args, expected) in [
        ("status", status(OutputFormat::Text)),
        ("status -o json", status(OutputFormat::Json)),
        ("status --output=json", status(OutputFormat::Json)),
        ("status -output text", status(OutputFormat::Text)),
        (
            "doctor -o json",
            Task::Doctor {
                format: OutputFormat::Json,
            },
        ),
        (
            "plan --kubeconfig x",
            Task::Inspect {
                what: Inspect::Plan,
                format: OutputFormat::Text,
            },
        ),
    ] {
        match parsed(args, &[]) {
            Ok(Invocation { task, .. }) => assert_eq!(task, expected, "{args}"),
            other => panic!("{args}: {other:?}"),
        }
    }
    assert_eq!(
        refused("status -o yaml", &[]),
        "error: invalid value 'yaml' for '--output <FORMAT>'"
    );
    assert_eq!(refused("-o json", &[]), "unknown flag \"-o\": see --help");
    assert!(refused("--leader-elect=true status", &[]).starts_with("unexpected argument \"status\""));
}

#[test]
fn wait_takes_a_service_and_a_timeout() {
    let wait = |seconds| Task::Wait {
        service: service("default", "kubernetes-vip"),
        limit: Duration::from_secs(seconds),
    };
    for (args, expected) in [
        ("wait default/kubernetes-vip", wait(60)),
        ("wait default/kubernetes-vip --timeout 5s", wait(5)),
        (
            "wait --timeout=1m30s -kubeconfig x default/kubernetes-vip",
            wait(90),
        ),
    ] {
        match parsed(args, &[]) {
            Ok(Invocation { task, config, .. }) => {
                assert_eq!(task, expected, "{args}");
                assert_eq!(config.log.filter, "error", "{args}");
            }
            other => panic!("{args}: {other:?}"),
        }
    }
    assert_eq!(
        refused("wait", &[]),
        "missing argument <NAMESPACE/NAME>: see --help"
    );
    assert_eq!(
        refused("wait kubernetes-vip", &[]),
        "error: invalid value 'kubernetes-vip' for '<NAMESPACE/NAME>': must be namespace/name, such as default/kubernetes-vip"
    );
    assert_eq!(
        refused("wait default/a --timeout 5", &[]),
        "--timeout \"5\": must be a duration such as 6s, 1m30s or 500ms"
    );
    assert!(refused("wait default/a default/b", &[]).starts_with("unexpected argument \"default/b\""));
    match parsed("wait --help", &[]) {
        Err(Exit { code: 0, text }) => {
            assert!(text.contains("wait [OPTIONS] <NAMESPACE/NAME>"), "{text}");
            assert!(
                text.contains("Exit code: 0 if the Service is in sync, 1 if it is still not in sync when the timeout expires"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn read_only_commands_log_only_errors_by_default() {
    let level = |args: &str| match parsed(args, &[]) {
        Ok(Invocation { config, .. }) => config.log.filter,
        other => panic!("{args}: {other:?}"),
    };
    assert_eq!(level("status"), "error");
    assert_eq!(level("status --log-level=info"), "info");
}

#[test]
fn help_of_a_read_only_command_shows_only_its_flags() {
    let help = |args: &str| match parsed(args, &[]) {
        Err(Exit { code: 0, text }) => text,
        other => panic!("{args}: {other:?}"),
    };
    let text = help("status --help");
    for flag in [
        "--output",
        "--kubeconfig",
        "--managed-endpoint-name",
        "--leader-election-namespace",
        "--nodes-selector",
    ] {
        assert!(text.contains(flag), "{flag}: {text}");
    }
    for flag in [
        "--metrics-bind-address",
        "--leader-elect ",
        "--zap-devel",
        "--leader-election-retry-period",
    ] {
        assert!(!text.contains(flag), "{flag}: {text}");
    }
    assert!(text.contains("endpoint-copier-operator status"), "{text}");
    assert!(help("--help").contains("Commands:\n  status"));
}

/// Rule: 7.flags
#[test]
fn probes_are_set_by_flag_within_their_limits() {
    let probe = |args: &str| config(args).probe;
    for (name, mode) in [
        ("enforce", ProbeMode::Enforce),
        ("observe", ProbeMode::Observe),
        ("off", ProbeMode::Off),
    ] {
        assert_eq!(probe(&format!("--probe={name}")).mode, mode);
    }
    assert_eq!(probe("--probe-period=500ms").period, Duration::from_millis(500));
    assert_eq!(probe("--probe-timeout=2s").limit, Duration::from_secs(2));
    for (args, expected) in [
        ("--probe=on", "--probe \"on\": must be enforce, observe or off"),
        (
            "--probe-period=499ms",
            "--probe-period 499ms: must be between 500ms and 2s",
        ),
        (
            "--probe-period=2001ms",
            "--probe-period 2.001s: must be between 500ms and 2s",
        ),
        (
            "--probe-timeout=99ms",
            "--probe-timeout 99ms: must be between 100ms and 2s",
        ),
        (
            "--probe-timeout=3s",
            "--probe-timeout 3s: must be between 100ms and 2s",
        ),
        (
            "--probe-failures=1",
            "--probe-failures \"1\": must be a number, 2 to 10",
        ),
        (
            "--probe-successes=11",
            "--probe-successes \"11\": must be a number, 2 to 10",
        ),
    ] {
        assert_eq!(refused(args, &[]), expected);
    }
    let env = [("ENDPOINT_COPIER_PROBE_TIMEOUT", "0")];
    assert_eq!(
        refused("", &env),
        "ENDPOINT_COPIER_PROBE_TIMEOUT 0ns: must be between 100ms and 2s"
    );
}

/// Rule: 9.allow-source
#[test]
fn source_given_twice_allows_the_namespaces_of_both_flags() {
    let flags = "--allow-source=web/app=a,b -allow-source web/app=c;web/db=d --allow-source=web/db=*";
    let (config, _) = run(flags, &[]);
    let allowed = config.defaults.consent.allowed_sources;
    let expected = [
        (service("web", "app"), AllowFrom::new("a,b,c")),
        (service("web", "db"), AllowFrom::new("*")),
    ];
    assert_eq!(allowed, expected.into());
}

/// Rule: 9.allow-source, 9.ports, 9.modes
#[test]
fn invalid_consent_flag_is_refused() {
    let source = "must be namespace/name=namespace,... or namespace/name=*, such as web/app=team-a,team-b";
    for (flag, rule) in [
        ("--allow-source=web/app", source),
        ("--allow-source=web/app=", source),
        ("--allow-source=app=a", source),
        ("--allow-source=web/*=a", source),
        ("--allow-source=web/app=a*", source),
        ("--allow-source=web/app=a,*", source),
        ("--allow-port=70000", "must be a port, 0 to 65535"),
        ("--cross-namespace=no", "must be consent, allow or deny"),
    ] {
        let (name, value) = flag.split_once('=').unwrap();
        assert_eq!(refused(flag, &[]), format!("{name} {value:?}: {rule}"));
    }
}

/// Rule: 10.limits
#[test]
fn a_limit_on_services_is_a_number_above_zero() {
    let (config, _) = run("--max-services=20000 --max-services-per-namespace=5000", &[]);
    let limits = ServiceLimits {
        per_namespace: 5_000,
        total: 20_000,
    };
    assert_eq!(config.limits, limits);
    for value in ["0", "-1", "many", ""] {
        let text = refused(&format!("--max-services={value}"), &[]);
        assert_eq!(
            text,
            format!("--max-services {value:?}: must be a number, at least 1")
        );
    }
}

/// Rule: 9.ports
#[test]
fn port_zero_allows_no_ports_other_than_those_of_the_source() {
    let (config, _) = run("--allow-port=0", &[]);
    assert!(config.defaults.consent.allowed_ports.is_empty());
}

/// Rule: 8.selector
#[test]
fn nodes_selector_is_a_label_selector_or_empty_for_all() {
    assert_eq!(config("--nodes-selector=").nodes_selector, "");
    let selector = "node-role.kubernetes.io/master=true";
    assert_eq!(
        config(&format!("--nodes-selector={selector}")).nodes_selector,
        selector
    );
    let env = [("ENDPOINT_COPIER_NODES_SELECTOR", "role in (a")];
    assert_eq!(
        refused("", &env),
        "ENDPOINT_COPIER_NODES_SELECTOR \"role in (a\": must be a label selector, such as \
         node-role.kubernetes.io/control-plane, a=b,c!=d or 'a in (b,c)', or empty to select all Nodes"
    );
}
