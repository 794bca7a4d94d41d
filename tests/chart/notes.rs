//! The notes that Helm prints after an install or upgrade.

use crate::helm::helms;

#[test]
fn notes_mention_unusual_values() {
    // Helm 3 needs a cluster to show notes.
    for helm in helms().into_iter().filter(|helm| helm.major >= 4) {
        let defaults = helm.notes(&[]);
        assert!(
            defaults
                .contains("kubectl rollout status deployment/endpoint-copier-operator --namespace copier")
        );
        assert!(defaults.contains("default/kubernetes-vip"));
        assert!(!defaults.contains("NOTE:"), "{defaults}");
        for (set, expected) in [
            (
                "autoscaling.enabled=true,replicaCount=null",
                "autoscaling is accepted",
            ),
            ("resources.limits.cpu=100m", "a CPU limit of 100m"),
            ("replicaCount=1", "with 1 replica, none can take over"),
            (
                "leaderElection.namespace=elsewhere",
                "the Lease is in the namespace elsewhere",
            ),
            (
                "vip.create=true",
                "kubectl get service kubernetes-vip --namespace default",
            ),
            (
                "image.repository=registry.opensuse.org/isv/suse/edge/containers/images/endpoint-copier-operator,image.tag=v0.3.0",
                "The image is ghcr.io/endpoint-copier-operator/endpoint-copier-operator:0.4.0",
            ),
            (
                "image.tag=v0.3.0",
                "NOTE: image.tag v0.3.0 is a version of the Go operator",
            ),
            (
                "image.repository=registry.example.com/edge/copier",
                "must exist:\n  registry.example.com/edge/copier:0.4.0\n",
            ),
            (
                "vip.loadBalancerIP=192.0.2.1,vip.keep=false",
                "without vip.create, the chart creates no Service, so these values have no effect: vip.keep, vip.loadBalancerIP.",
            ),
            (
                "vip.allocateLoadBalancerNodePorts=false",
                "these values have no effect: vip.allocateLoadBalancerNodePorts.",
            ),
            (
                "podDisruptionBudget.minAvailable=2",
                "never ends: minAvailable is 2, replicaCount 2.",
            ),
            (
                "podDisruptionBudget.minAvailable=51%",
                "never ends: minAvailable is 51%",
            ),
            (
                "podDisruptionBudget.minAvailable=100%,replicaCount=null",
                "never ends: minAvailable is 100%.",
            ),
            (
                "podDisruptionBudget.maxUnavailable=0",
                "never ends: maxUnavailable is 0.",
            ),
            (
                "podDisruptionBudget.maxUnavailable=0%",
                "never ends: maxUnavailable is 0%.",
            ),
            ("image.tag=v0.3.0", "--reset-then-reuse-values --set image.tag=\n"),
        ] {
            let notes = helm.notes(&["--set", set]);
            assert!(notes.contains(expected), "{set}: {notes}");
            assert!(
                !notes.contains("  replicas") && !notes.contains("<nil>"),
                "{notes}"
            );
        }
    }
}

#[test]
fn notes_do_not_warn_about_usual_values() {
    for helm in helms().into_iter().filter(|helm| helm.major >= 4) {
        for set in [
            "vip.create=true,vip.loadBalancerIP=192.0.2.1,vip.keep=false",
            "vip.distribution=rke2,vip.keep=true",
            // A mirror of our image, specified in either way, and a tag that the user chose.
            "global.imageRegistry=registry.example.com",
            "image.repository=registry.example.com/endpoint-copier-operator/endpoint-copier-operator",
            "image.repository=registry.example.com/edge/copier,image.tag=1.0.0",
            "podDisruptionBudget.minAvailable=1",
            "podDisruptionBudget.minAvailable=50%",
            "podDisruptionBudget.minAvailable=3,replicaCount=null",
            "podDisruptionBudget.minAvailable=2,podDisruptionBudget.enabled=false",
            "podDisruptionBudget.maxUnavailable=1%",
        ] {
            let notes = helm.notes(&["--set", set]);
            assert!(!notes.contains("NOTE:"), "{set}: {notes}");
        }
    }
}
