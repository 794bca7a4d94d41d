//! Values that contradict each other or the chart. The templates refuse them and say what to do instead.

use crate::helm::helms;

/// The values given with `--set`, and the words that the error must contain.
const CONTRADICTIONS: &[(&str, &[&str])] = &[
    // Flags for which the chart has a value.
    (
        "extraArgs[0]=--leader-election-id=mine",
        &["--leader-election-id", "set leaderElection.id"],
    ),
    (
        "extraArgs[0]=-leader-election-lease-duration=9s",
        &["set leaderElection.leaseDuration"],
    ),
    ("extraArgs[0]=--api-server-mode=cluster", &["set apiServer.mode"]),
    (
        "extraArgs[0]=--api-server-host=192.0.2.1",
        &["set apiServer.host"],
    ),
    ("extraArgs[0]=--api-server-port=6444", &["set apiServer.port"]),
    (
        "extraArgs[0]=--managed-endpoint-name=",
        &["set managedEndpoint.name"],
    ),
    (
        "extraArgs[0]=--default-endpoint-namespace=a",
        &["set defaultEndpoint.namespace"],
    ),
    ("extraArgs[0]=--log-level=debug", &["set logLevel"]),
    ("extraArgs[0]=--zap-encoder=json", &["set logFormat"]),
    (
        "extraArgs[0]=--api-server-address=192.0.2.1:6443,extraArgs[1]=--log-format=json",
        &["set logFormat"],
    ),
    // Flags that the chart depends on.
    (
        "extraArgs[0]=--health-probe-bind-address=:9090",
        &[
            "--health-probe-bind-address",
            "the kubelet's probes use port 8081",
        ],
    ),
    (
        "extraArgs[0]=--metrics-bind-address=:9090",
        &["--metrics-bind-address", "metrics.service.port"],
    ),
    (
        "extraArgs[0]=--metrics-secure",
        &["--metrics-secure", "set metrics.secure.enabled"],
    ),
    (
        "extraArgs[0]=--metrics-cert-path=/certificate",
        &["--metrics-cert-path", "set metrics.secure.secretName"],
    ),
    (
        "extraArgs[0]=--metrics-bind-address",
        &["--metrics-bind-address", "disabled with 0"],
    ),
    (
        "extraArgs[0]=--leader-elect=false",
        &["--leader-elect", "needs leader election"],
    ),
    (
        "extraArgs[0]=-leader-elect=f,replicaCount=1",
        &["--leader-elect", "even a single replica"],
    ),
    // The same flags, given as environment variables.
    (
        "extraEnv[0].name=ENDPOINT_COPIER_LEADER_ELECTION_NAMESPACE,extraEnv[0].value=a",
        &["set leaderElection.namespace"],
    ),
    (
        "extraEnv[0].name=ENDPOINT_COPIER_LOG_LEVEL,extraEnv[0].value=debug",
        &["ENDPOINT_COPIER_LOG_LEVEL", "set logLevel"],
    ),
    (
        "extraEnv[0].name=ENDPOINT_COPIER_LEADER_ELECT,extraEnv[0].value=F",
        &["ENDPOINT_COPIER_LEADER_ELECT", "needs leader election"],
    ),
    (
        "extraEnv[0].name=ENDPOINT_COPIER_METRICS_BIND_ADDRESS,extraEnv[0].valueFrom.fieldRef.fieldPath=status.podIP",
        &["ENDPOINT_COPIER_METRICS_BIND_ADDRESS", "disabled with 0"],
    ),
    (
        "extraEnv[0].name=ENDPOINT_COPIER_HEALTH_PROBE_BIND_ADDRESS,extraEnv[0].value=:0",
        &["the kubelet's probes use port 8081"],
    ),
    // Variables that the chart sets already: server-side apply rejects a second one with the same name.
    (
        "extraEnv[0].name=POD_NAME,extraEnv[0].value=a",
        &["POD_NAME is already set"],
    ),
    (
        "extraEnv[0].name=POD_NAMESPACE,extraEnv[0].value=a",
        &["POD_NAMESPACE is already set"],
    ),
    (
        "extraEnv[0].name=HOST_IPS,extraEnv[0].value=192.0.2.1",
        &["HOST_IPS is already set"],
    ),
    // More flags for which the chart has a value, and values that need another value.
    ("extraArgs[0]=--probe=off", &["set probe.mode"]),
    ("extraArgs[0]=--nodes-selector=", &["set nodes.selector"]),
    ("extraArgs[0]=--max-services=1", &["set managedServices.max"]),
    (
        "vip.create=true,vip.externalTrafficPolicy=Local,nodes.enabled=false",
        &["vip.externalTrafficPolicy", "needs nodes.enabled"],
    ),
    (
        "vip.create=true,rbac.namespaces={blue}",
        &[
            "the VIP Service is in the namespace default",
            "add it to rbac.namespaces",
        ],
    ),
    (
        "extraEnv[0].name=ENDPOINT_COPIER_PROBE_PERIOD,extraEnv[0].value=2s",
        &["set probe.period"],
    ),
    // The same variable twice.
    ("extraEnv[0].name=A,extraEnv[1].name=A", &["A is already set"]),
    // Fields of a Deployment and of a Service: the API server would reject the object without naming the Helm value.
    (
        "updateStrategy.type=Recreate,updateStrategy.rollingUpdate.maxSurge=1",
        &["updateStrategy.rollingUpdate is for the type RollingUpdate"],
    ),
    (
        "updateStrategy.rollingUpdate.maxSurge=0,updateStrategy.rollingUpdate.maxUnavailable=0",
        &["maxSurge 0 and maxUnavailable 0"],
    ),
    (
        "updateStrategy.rollingUpdate.maxSurge=0%,updateStrategy.rollingUpdate.maxUnavailable=0",
        &["maxSurge 0 and maxUnavailable 0"],
    ),
    (
        "vip.ports[0].port=6443,vip.ports[1].port=9345",
        &["vip.ports", "each needs a unique name"],
    ),
    (
        "vip.ports[0].port=6443,vip.ports[0].name=a,vip.ports[1].port=9345,vip.ports[1].name=a",
        &["vip.ports", "each needs a unique name"],
    ),
    // MetalLB would refuse the Service and report that only in an Event.
    (
        r"vip.loadBalancerIP=192.0.2.1,vip.annotations.metallb\.io/loadBalancerIPs=192.0.2.1",
        &["vip.loadBalancerIP", "metallb.io/loadBalancerIPs", "keep one"],
    ),
    (
        r"vip.loadBalancerIP=192.0.2.1,vip.annotations.metallb\.universe\.tf/loadBalancerIPs=192.0.2.1",
        &["metallb.universe.tf/loadBalancerIPs", "keep one"],
    ),
    (
        r"vip.loadBalancerIP=192.0.2.1,commonAnnotations.metallb\.io/loadBalancerIPs=192.0.2.1",
        &["metallb.io/loadBalancerIPs", "keep one"],
    ),
    (
        "nameOverride=Copier_1,fullnameOverride=",
        &["copier-Copier_1", "set fullnameOverride"],
    ),
];

#[test]
fn a_contradiction_is_refused_with_the_value_to_use() {
    for helm in helms() {
        for (set, words) in CONTRADICTIONS {
            let error = helm.refusal(&["--set", set]);
            for word in *words {
                assert!(error.contains(word), "{set}: {error}");
            }
        }
    }
}

#[test]
fn an_apparent_contradiction_is_accepted() {
    for helm in helms() {
        for set in [
            // SECURITY.md mentions the first one.
            "extraArgs[0]=--metrics-bind-address=0",
            "extraArgs[0]=-metrics-bind-address=0",
            "extraArgs[0]=--api-server-address=192.0.2.1:6443\\,192.0.2.2:6443",
            "extraArgs[0]=--kubeconfig=/etc/kubeconfig",
            "updateStrategy.type=Recreate",
            "updateStrategy.rollingUpdate.maxSurge=0",
            "updateStrategy.rollingUpdate.maxSurge=200%,updateStrategy.rollingUpdate.maxUnavailable=100%",
            "updateStrategy.rollingUpdate.maxUnavailable=0",
            "vip.create=true,vip.ports[0].port=6443,vip.ports[0].name=a,vip.ports[1].port=9345,vip.ports[1].name=b",
            "vip.create=true,vip.ports[0].port=6443",
            r"vip.create=true,vip.annotations.metallb\.io/loadBalancerIPs=192.0.2.1\,2001:db8::1",
            r"vip.create=true,vip.loadBalancerIP=192.0.2.1,vip.annotations.metallb\.io/address-pool=a",
            "extraEnv[0].name=ENDPOINT_COPIER_API_SERVER_ADDRESS,extraEnv[1].name=TZ",
            "vip.create=true,rbac.namespaces={blue,default}",
            "vip.create=true,rbac.namespaces={blue},rbac.create=false",
            "nameOverride=Copier_1",
            "nameOverride=copier.1,fullnameOverride=",
        ] {
            helm.render(&["--set", set]);
        }
        let off = "extraEnv[0].name=ENDPOINT_COPIER_METRICS_BIND_ADDRESS,extraEnv[0].value=0";
        helm.render(&["--set-string", off]);
    }
}

/// The chart has a value for each flag that it sets, and refuses that flag in `extraArgs`. This test shows that the
/// chart's table of such flags is complete.
#[test]
fn every_variable_that_the_chart_sets_is_refused_as_a_flag() {
    let Some(helm) = crate::helm::helm() else { return };
    let rendered = helm.render(&["--set", "apiServer.mode=local,leaderElection.namespace=a"]);
    let env = crate::helm::container(&rendered)["env"].as_array().expect("env");
    let names = env.iter().filter_map(|variable| variable["name"].as_str());
    let mut count = 0;
    for name in names.filter_map(|name| name.strip_prefix("ENDPOINT_COPIER_")) {
        let flag = name.to_lowercase().replace('_', "-");
        let error = helm.refusal(&["--set", &format!("extraArgs[0]=--{flag}=a")]);
        assert!(error.contains("the chart has a value for it"), "{error}");
        count += 1;
    }
    assert_eq!(count, 20);
    for arg in crate::helm::args(&rendered) {
        helm.refusal(&["--set", &format!("extraArgs[0]={arg}")]);
    }
}
