//! Common mistakes: the error says what to write instead, and does not show a pattern.

use crate::helm::helms;

/// Values with a common mistake, and the errors.
const SLIPS: &[(&str, &str)] = &[
    (
        "leaderElection.leaseDuration=15",
        "leaderElection.leaseDuration is 15: a duration has a unit, write 15s",
    ),
    (
        "leaderElection.renewDeadline=4",
        "leaderElection.renewDeadline is 4: a duration has a unit, write 4s",
    ),
    (
        "leaderElection.retryPeriod=0",
        "leaderElection.retryPeriod is 0: ",
    ),
    (
        "metrics.serviceMonitor.interval=30",
        "metrics.serviceMonitor.interval is 30: a duration has a unit, write 30s",
    ),
    (
        "metrics.serviceMonitor.scrapeTimeout=5",
        "metrics.serviceMonitor.scrapeTimeout is 5: a duration has a unit, write 5s",
    ),
    (
        "leaderElection.leaseDuration=61s",
        "leaderElection.leaseDuration is 61s: it must be a whole number of seconds between 2s and 60s",
    ),
    (
        "leaderElection.leaseDuration=1500ms",
        "leaderElection.leaseDuration is 1500ms: it must be a whole number of seconds between 2s and 60s",
    ),
    ("leaderElection.leaseDuration=1s", "between 2s and 60s"),
    (
        "global.imageRegistry=https://registry.example.com",
        "global.imageRegistry is https://registry.example.com: write it without https://",
    ),
    (
        "image.registry=oci://registry.example.com:5000/a",
        "image.registry is oci://registry.example.com:5000/a: write it without oci://",
    ),
    (
        "image.repository=https://registry.example.com/copier",
        "image.repository is https://registry.example.com/copier: write it without https://",
    ),
    (
        "image.repository=registry.example.com/copier:v1",
        "image.repository is registry.example.com/copier:v1: write it without :v1, which is image.tag",
    ),
    (
        "image.repository=registry.example.com:5000/copier@sha256:0a",
        "write it without @sha256:0a, which is image.digest",
    ),
    (
        "apiServer.host=https://192.0.2.1",
        "apiServer.host is https://192.0.2.1: write it without https://",
    ),
    (
        "probe.period=499ms",
        "probe.period is 499ms: it must be between 500ms and 2s",
    ),
    (
        "probe.period=2001ms",
        "probe.period is 2001ms: it must be between 500ms and 2s",
    ),
    (
        "probe.timeout=99ms",
        "probe.timeout is 99ms: it must be between 100ms and 2s",
    ),
    (
        "probe.timeout=3s",
        "probe.timeout is 3s: it must be between 100ms and 2s",
    ),
    (
        "probe.timeout=2",
        "probe.timeout is 2: a duration has a unit, write 2s",
    ),
    (
        "apiServer.host=192.0.2.1:6443",
        "apiServer.host is 192.0.2.1:6443: write an address or a name without its port, which is apiServer.port",
    ),
    ("apiServer.host=api.example.com:6443", "which is apiServer.port"),
    ("apiServer.host=192.0.2.256", "that is not an IP address"),
    (
        "vip.loadBalancerIP=192.0.2.100/32",
        "vip.loadBalancerIP is 192.0.2.100/32: write the address without /32",
    ),
    (
        "vip.loadBalancerSourceRanges[0]=192.0.2.0",
        "vip.loadBalancerSourceRanges has 192.0.2.0: write 192.0.2.0/32 for this one address",
    ),
    (
        "vip.loadBalancerSourceRanges[0]=2001:db8::1",
        "write 2001:db8::1/128 for this one address",
    ),
    (
        "vip.loadBalancerSourceRanges[0]=192.0.2.0/33",
        "vip.loadBalancerSourceRanges has 192.0.2.0/33: the longest prefix is /32",
    ),
    (
        "vip.loadBalancerSourceRanges[0]=2001:db8::/129",
        "the longest prefix is /128",
    ),
    (
        "vip.loadBalancerSourceRanges[0]=192.0.2/24",
        "vip.loadBalancerSourceRanges has 192.0.2/24: 192.0.2 is not an IP address",
    ),
];

#[test]
fn a_common_mistake_is_refused_with_the_fix() {
    for helm in helms() {
        for (set, words) in SLIPS {
            let error = helm.refusal(&["--set", set]);
            assert!(error.contains(words), "{set}: {error}");
            assert!(!error.contains("pattern"), "{set}: {error}");
        }
    }
}

#[test]
fn an_address_is_distinguished_from_similar_text() {
    for helm in helms() {
        for good in [
            "192.0.2.100",
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "2001:db8::",
            "2001:DB8::1",
            "1:2:3:4:5:6:7:8",
            "1::8",
            "1:2:3:4:5:6:7::",
            "::ffff:192.0.2.1",
            "1:2:3:4:5:6:192.0.2.1",
        ] {
            helm.render(&["--set", &format!("vip.create=true,vip.loadBalancerIP={good}")]);
        }
        for bad in [
            "192.0.2.300",
            "192.0.2",
            "192.0.2.1.1",
            "192.0.02.1",
            "1:2:3:4:5:6:7",
            "1:2:3:4:5:6:7:8:9",
            "1::2::3",
            ":::",
            "1:",
            ":1",
            "12345::",
            "1:2:3:4:5:6:7:8::",
            "::192.0.2.300",
            "1:2:3:4:5:6:7:192.0.2.1",
        ] {
            let error = helm.refusal(&["--set", &format!("vip.loadBalancerIP={bad}")]);
            let expected = format!("vip.loadBalancerIP is {bad}: that is not an IP address");
            assert!(error.contains(&expected), "{bad}: {error}");
        }
    }
}
