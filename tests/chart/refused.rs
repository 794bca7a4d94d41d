//! The schema of the values: what it refuses, and how it says so.

use crate::helm::helms;

/// What Helm is given, the value that it is to name, and what is wrong with it, as Helm 4 and as Helm 3 say it.
const BAD: &[(&str, &str, &str, &str)] = &[
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
    // Wrong types.
    (
        "replicaCount=two",
        "replicaCount",
        "got string, want",
        "given: string",
    ),
    (
        "leaderElection.leaseDuration=15",
        "leaseDuration",
        "got number, want",
        "given: integer",
    ),
    (
        "podAnnotations.a=1",
        "podAnnotations",
        "got number, want string",
        "given: integer",
    ),
    ("vip=true", "vip", "got boolean, want", "given: boolean"),
    ("extraArgs=--a", "extraArgs", "got string, want", "given: string"),
    // Values that there are not.
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
        "leaderElection.renewDeadline=4",
        "renewDeadline",
        "got number",
        "given: integer",
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
];

#[test]
fn what_is_wrong_is_named() {
    for helm in helms() {
        for (set, key, four, three) in BAD {
            let said = helm.refusal(&["--set", set]);
            let says = if helm.major >= 4 { four } else { three };
            // Helm 3 from 3.18.1 on says it as Helm 4 does.
            let is_said = said.contains(says) || said.contains(four);
            assert!(
                said.contains("endpoint-copier-operator") && said.contains(key) && is_said,
                "{set}: {said}"
            );
        }
    }
}

#[test]
fn what_is_right_is_taken() {
    for helm in helms() {
        for set in [
            "enabled=true",
            "global.cattle.clusterId=local",
            "podDisruptionBudget.maxUnavailable=34%",
            "leaderElection.leaseDuration=1m,leaderElection.retryPeriod=1.5s",
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
fn large_numbers_stay_whole() {
    for helm in helms() {
        let rendered = helm.render(&["--set", "podSecurityContext.runAsUser=1000650000"]);
        let pod = &crate::helm::find(&rendered, "Deployment", "")["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsUser"], 1_000_650_000);
    }
}
