//! Tests which values the chart accepts, which ones its schema or a template rejects, and what the errors say.

use crate::helm::helms;

/// The values given with `--set`, the key that the error must name, and the error in the words of Helm 4 and of Helm 3.
/// An empty string means that both use the same words.
const INVALID: &[(&str, &str, &str, &str)] = &[
    // Unknown keys, at every depth.
    (
        "replicas=3",
        "replicas",
        "additional properties 'replicas' not allowed",
        "Additional property replicas is not allowed",
    ),
    (
        "image.repo=a",
        "image",
        "additional properties 'repo' not allowed",
        "Additional property repo is not allowed",
    ),
    (
        "metrics.service.ports=1",
        "service",
        "additional properties 'ports' not allowed",
        "Additional property ports is not allowed",
    ),
    (
        "updateStrategy.rollingUpdate.surge=1",
        "rollingUpdate",
        "additional properties 'surge' not allowed",
        "Additional property surge is not allowed",
    ),
    (
        "affinity.antiAffinity.a=1",
        "affinity",
        "additional properties 'antiAffinity' not allowed",
        "Additional property antiAffinity is not allowed",
    ),
    (
        "tolerations[0].name=a",
        "tolerations",
        "additional properties 'name' not allowed",
        "Additional property name is not allowed",
    ),
    (
        "resources.limit.cpu=1",
        "resources",
        "additional properties 'limit' not allowed",
        "Additional property limit is not allowed",
    ),
    (
        "livenessProbe.path=/",
        "livenessProbe",
        "additional properties 'path' not allowed",
        "Additional property path is not allowed",
    ),
    (
        "imagePullSecrets[0].secret=a",
        "imagePullSecrets",
        "additional properties 'secret' not allowed",
        "Additional property secret is not allowed",
    ),
    (
        "topologySpreadConstraints[0].topologyKeys=a",
        "topologySpreadConstraints",
        "additional properties 'topologyKeys' not allowed",
        "Additional property topologyKeys is not allowed",
    ),
    (
        "vip.ports[0].port=1,vip.ports[0].targetport=1",
        "ports",
        "additional properties 'targetport' not allowed",
        "Additional property targetport is not allowed",
    ),
    (
        "podSecurityContext.runAsuser=1",
        "podSecurityContext",
        "additional properties 'runAsuser' not allowed",
        "Additional property runAsuser is not allowed",
    ),
    (
        "securityContext.readonlyRootFilesystem=true",
        "securityContext",
        "additional properties 'readonlyRootFilesystem' not allowed",
        "Additional property readonlyRootFilesystem is not allowed",
    ),
    // Wrong types.
    (
        "replicaCount=two",
        "replicaCount",
        "got string, want",
        "given: string",
    ),
    (
        "podAnnotations.a=1",
        "podAnnotations",
        "got number, want null or string",
        "given: integer",
    ),
    ("vip=true", "vip", "got boolean, want", "given: boolean"),
    ("extraArgs=--a", "extraArgs", "got string, want", "given: string"),
    // Values out of range, or of the wrong form.
    (
        "replicaCount=-1",
        "replicaCount",
        "minimum: got -1, want 0",
        "Must be greater than or equal to 0",
    ),
    (
        "apiServer.port=65536",
        "port",
        "maximum: got 65,536, want 65,535",
        "Must be less than or equal to 65535",
    ),
    (
        "probe.mode=on",
        "mode",
        "'enforce', 'observe', 'off'",
        "\"enforce\", \"observe\", \"off\"",
    ),
    (
        "nodes.selector=a;b",
        "selector",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "apiServer.mode=node",
        "mode",
        "'auto', 'cluster', 'local'",
        "\"auto\", \"cluster\", \"local\"",
    ),
    (
        "image.pullPolicy=Sometimes",
        "pullPolicy",
        "'IfNotPresent', 'Always', 'Never'",
        "\"IfNotPresent\", \"Always\", \"Never\"",
    ),
    (
        "podAntiAffinityPreset=medium",
        "podAntiAffinityPreset",
        "'soft', 'hard', 'none'",
        "\"soft\", \"hard\", \"none\"",
    ),
    (
        "vip.distribution=k0s",
        "distribution",
        "'rke2', 'k3s', 'kubeadm'",
        "\"rke2\", \"k3s\", \"kubeadm\"",
    ),
    (
        "logFormat=xml",
        "logFormat",
        "'text', 'json'",
        "\"text\", \"json\"",
    ),
    (
        "leaderElection.retryPeriod=fast",
        "retryPeriod",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "managedEndpoint.name=Vip",
        "name",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "image.digest=sha256:00",
        "digest",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "image.tag=a b",
        "tag",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "extraArgs[0]=verbose",
        "extraArgs",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "podDisruptionBudget.maxUnavailable=one",
        "maxUnavailable",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "nameOverride=a b",
        "nameOverride",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "priorityClassName=Critical",
        "priorityClassName",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "logLevel=inof",
        "logLevel",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "vip.loadBalancerIP=vip",
        "loadBalancerIP",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "leaderElection.renewDeadline=0s",
        "renewDeadline",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "leaderElection.retryPeriod=0.0ms",
        "retryPeriod",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "leaderElection.id=a..b",
        "id",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "leaderElection.id=a.-b",
        "id",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "serviceAccount.name=a..b",
        "name",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "podDisruptionBudget.minAvailable=101%",
        "minAvailable",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "podDisruptionBudget.maxUnavailable=200%",
        "maxUnavailable",
        "does not match pattern",
        "Does not match pattern",
    ),
    (
        "updateStrategy.rollingUpdate.maxUnavailable=101%",
        "maxUnavailable",
        "does not match pattern",
        "Does not match pattern",
    ),
    // Combinations of two values.
    (
        "leaderElection.leaseDuration=4s",
        "leaseDuration",
        "leaseDuration (4s) must be longer than leaderElection.renewDeadline (4s)",
        "",
    ),
    (
        "leaderElection.leaseDuration=5s,leaderElection.renewDeadline=1m",
        "leaseDuration",
        "leaseDuration (5s) must be longer than leaderElection.renewDeadline (1m)",
        "",
    ),
    (
        "leaderElection.retryPeriod=3334ms",
        "renewDeadline",
        "renewDeadline (4s) must be longer than 1.2 times leaderElection.retryPeriod (3334ms)",
        "",
    ),
];

/// Rule: chart.refused
#[test]
fn an_invalid_value_is_named_in_the_error() {
    for helm in helms() {
        for (set, key, four, three) in INVALID {
            let error = helm.refusal(&["--set", set]);
            let expected = if helm.major >= 4 || three.is_empty() {
                four
            } else {
                three
            };
            // Helm 3.18.1 and later use the same words as Helm 4.
            let has_words = error.contains(expected) || error.contains(four);
            assert!(
                error.contains("endpoint-copier-operator") && error.contains(key) && has_words,
                "{set}: {error}"
            );
        }
    }
}

/// Rule: chart.refused
#[test]
fn a_valid_value_is_accepted() {
    for helm in helms() {
        for set in [
            "enabled=true",
            "global.cattle.clusterId=local",
            "podDisruptionBudget.maxUnavailable=34%",
            "podDisruptionBudget.minAvailable=100%",
            "leaderElection.id=my-lease.example.com",
            "leaderElection.leaseDuration=1m,leaderElection.retryPeriod=1.5s",
            "leaderElection.leaseDuration=1m0s,leaderElection.renewDeadline=59.9s,leaderElection.retryPeriod=49s",
            "leaderElection.leaseDuration=2s,leaderElection.renewDeadline=1s,leaderElection.retryPeriod=833ms",
            "logLevel=off",
            "probe.mode=off,probe.period=2s,probe.timeout=100ms",
            "probe.mode=observe,probe.period=0.5s,probe.timeout=1.5s",
            "nodes.enabled=false,nodes.selector=",
            "vip.create=true,vip.externalTrafficPolicy=Local",
            "nodes.selector=node-role.kubernetes.io/master=true\\,zone in (a\\,b)",
            "logLevel=INFO",
            "logLevel=WARN\\,kube=DEBUG",
            "logLevel=info\\,kube=debug",
            "apiServer.host=2001:db8::1",
            "vip.loadBalancerIP=2001:db8::1,vip.loadBalancerSourceRanges[0]=2001:db8::/32",
            "image.repository=localhost:5000/a/b__c,image.registry=registry.example.com:5000/proxy/",
            "podSecurityContext.supplementalGroups[0]=1,securityContext.appArmorProfile.type=RuntimeDefault",
            "managedEndpoint.name=",
            "imagePullSecrets[0]=a,imagePullSecrets[1].name=b",
            "podSecurityContext.fsGroup=1000650000,securityContext.privileged=false",
            "autoscaling.minReplicas=2,autoscaling.targetMemoryUtilizationPercentage=80",
            "vip.ports[0].port=443",
            "extraArgs[0]=-v",
        ] {
            helm.render(&["--set", set]);
        }
    }
}

#[test]
fn large_numbers_are_rendered_as_integers() {
    for helm in helms() {
        let rendered = helm.render(&["--set", "podSecurityContext.runAsUser=1000650000"]);
        let pod = &crate::helm::find(&rendered, "Deployment", "")["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsUser"], 1_000_650_000);
    }
}
