use std::collections::BTreeMap;

use super::facts::{Installation, Installations, ServerAnswer, ServiceFacts};
use super::read::reviewed_namespaces;
use super::rights::{Rights, Uses, needed};
use super::*;
use crate::inspect::announced::Announced;
use crate::inspect::report::{Leader, ReadyCount, Row};
use endpoint_copier_core::model::{Finding, Reason};
use endpoint_copier_core::verdicts::{Failure, Target};

const NOW: &str = "2026-01-02T12:00:00Z";
const VIP: &str = "192.0.2.100";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

fn row() -> Row {
    let three = ReadyCount { ready: 3, total: 3 };
    Row {
        namespace: "default".to_owned(),
        name: "kubernetes-vip".to_owned(),
        managed: true,
        disabled: false,
        uid: String::new(),
        leftovers: 0,
        source: Some("default/kubernetes".to_owned()),
        families: vec!["IPv4"],
        source_endpoints: three,
        copy_endpoints: three,
        taken_out: [].into(),
        in_sync: true,
        since: None,
        findings: Vec::new(),
        changes: Vec::new(),
    }
}

const SERVERS: [&str; 6] = [
    "192.0.2.1:6443",
    "192.0.2.2:6443",
    "192.0.2.3:6443",
    "192.0.2.1:9345",
    "192.0.2.2:9345",
    "192.0.2.3:9345",
];

fn leader(namespace: &str, age: i64) -> Installation {
    let renewed = now() - k8s_openapi::jiff::SignedDuration::from_secs(age);
    let leader = Leader {
        namespace: namespace.to_owned(),
        holder: Some("pod-1_uuid".to_owned()),
        leads: true,
        since: None,
        renewed: Some(renewed),
        duration_seconds: Some(6),
        transitions: None,
    };
    Installation::of(leader, now())
}

/// Returns the facts about three RKE2 servers with a VIP, without any problem.
fn facts() -> Facts {
    let server = ServerAnswer {
        names: vec!["127.0.0.1".to_owned(), "kubernetes.default.svc".to_owned()],
        missing: [].into(),
        ahead: Some(0.0),
    };
    Facts {
        at: now(),
        services: vec![ServiceFacts {
            row: row(),
            announced: Announced {
                is_load_balancer: true,
                addresses: [VIP.parse().unwrap()].into(),
                ..Announced::default()
            },
            servers: SERVERS.map(target).into(),
            endpoint_nodes: ["a", "b"].map(str::to_owned).into(),
        }],
        nodes: Ok(["a", "b", "worker"].map(|name| (name.to_owned(), false)).into()),
        metallb: Ok(BTreeMap::new()),
        servers: SERVERS
            .map(|server_at| (target(server_at), Ok(server.clone())))
            .into(),
        installations: Installations {
            elect: true,
            seen: vec![leader("ops", 1)],
            hidden: None,
        },
        rights: Ok(Rights {
            who: "system:serviceaccount:ops:operator".to_owned(),
            missing: Vec::new(),
        }),
    }
}

fn find(facts: &mut Facts, reason: Reason) {
    let finding = Finding::new(reason, format!("note of {reason}"));
    facts.services[0].row.findings.push(finding);
}

fn exclude(facts: &mut Facts, names: &[&str]) {
    for (name, is_excluded) in facts.nodes.as_mut().unwrap() {
        *is_excluded = names.contains(&name.as_str());
    }
}

fn edit_server(facts: &mut Facts, at: &str, edit: impl FnOnce(&mut ServerAnswer)) {
    edit(facts.servers.get_mut(&target(at)).unwrap().as_mut().unwrap());
}

fn fail(facts: &mut Facts, at: &str, why: Failure) {
    facts.servers.insert(target(at), Err(why));
}

/// Returns the worst result of a check, with its detail, or `None` if the check has no result.
fn result(facts: &Facts, name: &str) -> Option<(CheckResult, String)> {
    let checks = Diagnosis::of(facts).checks.into_iter();
    let worst = |check: &Check| match check.result {
        CheckResult::Ok => 0,
        CheckResult::Unknown => 1,
        CheckResult::Warning => 2,
        CheckResult::Failed => 3,
    };
    let check = checks.filter(|check| check.name == name).max_by_key(worst)?;
    let needs_remedy = matches!(check.result, CheckResult::Warning | CheckResult::Failed);
    assert!(!needs_remedy || check.remedy.is_some(), "{check:?}");
    Some((check.result, check.detail))
}

/// The name of a check, an edit of the facts, and the expected result with a part of its detail.
type Case = (&'static str, fn(&mut Facts), Option<(CheckResult, &'static str)>);

fn assert_results(cases: &[Case]) {
    for (number, (name, edit, expected)) in cases.iter().enumerate() {
        let mut facts = facts();
        edit(&mut facts);
        let found = result(&facts, name);
        let case = format!("case {number} of {name}: {found:?}");
        match (&found, expected) {
            (None, None) => {}
            (Some((verdict, detail)), Some((expected, part))) => {
                assert_eq!(verdict, expected, "{case}");
                assert!(detail.contains(part), "{case}");
            }
            _ => panic!("{case}"),
        }
        // A failed check makes the diagnosis fail.
        let failed = found.is_some_and(|(verdict, _)| verdict == CheckResult::Failed);
        assert!(!failed || !Diagnosis::of(&facts).ok, "{case}");
    }
}

#[test]
fn healthy_vip_passes_all_checks() {
    let diagnosis = Diagnosis::of(&facts());
    assert!(diagnosis.ok);
    let wrong: Vec<_> = diagnosis
        .checks
        .iter()
        .filter(|check| check.result != CheckResult::Ok)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(diagnosis.checks.len(), 11);
}

#[test]
fn copies_and_their_findings_are_checked() {
    use CheckResult::{Failed, Ok, Warning};
    assert_results(&[
        ("copies", |_| {}, Some((Ok, "in sync with default/kubernetes"))),
        (
            "copies",
            |facts| {
                facts.services[0].row.in_sync = false;
            },
            Some((Failed, "not in sync")),
        ),
        (
            "copies",
            |facts| {
                facts.services[0].row.in_sync = false;
                find(facts, Reason::HasSelector);
            },
            Some((Failed, "HasSelector: note of HasSelector")),
        ),
        (
            "copies",
            |facts| find(facts, Reason::PortNotInSource),
            Some((Warning, "PortNotInSource: note of PortNotInSource")),
        ),
        // This finding has its own check.
        (
            "copies",
            |facts| find(facts, Reason::ForeignSlices),
            Some((Ok, "")),
        ),
        (
            "copies",
            |facts| facts.services[0].row.managed = false,
            Some((Warning, "is not managed, as far as this command knows")),
        ),
        (
            "copies",
            |facts| {
                facts.services[0].row.managed = false;
                facts.services[0].row.disabled = true;
            },
            Some((Warning, "what the Go operator left")),
        ),
        ("foreign-slices", |_| {}, Some((Ok, ""))),
        (
            "foreign-slices",
            |facts| find(facts, Reason::ForeignSlices),
            Some((Failed, "note of ForeignSlices")),
        ),
        (
            "foreign-slices",
            |facts| facts.services[0].row.source = None,
            None,
        ),
        ("services", |_| {}, None),
        (
            "services",
            |facts| facts.services.clear(),
            Some((Warning, "no Service is managed")),
        ),
    ]);
}

#[test]
fn ready_endpoints_are_checked() {
    use CheckResult::{Failed, Ok, Warning};
    assert_results(&[
        ("endpoints", |_| {}, Some((Ok, "3 of 3 are ready"))),
        (
            "endpoints",
            |facts| facts.services[0].row.copy_endpoints.ready = 2,
            Some((Ok, "2 of 3 are ready")),
        ),
        (
            "endpoints",
            |facts| facts.services[0].row.copy_endpoints.ready = 0,
            Some((Failed, "0 of 3 are ready")),
        ),
        (
            "endpoints",
            |facts| {
                facts.services[0].row.copy_endpoints = ReadyCount::default();
                facts.services[0].row.leftovers = 1;
            },
            Some((Warning, "the slice of the Go operator still serves the address")),
        ),
        (
            "endpoints",
            |facts| {
                facts.services[0].row.copy_endpoints.ready = 2;
                facts.services[0]
                    .row
                    .taken_out
                    .insert("192.0.2.3".parse().unwrap());
            },
            Some((Warning, "because they fail the probes: 192.0.2.3")),
        ),
    ]);
}

fn announced(facts: &mut Facts) -> &mut Announced {
    &mut facts.services[0].announced
}

#[test]
fn address_and_node_names_are_checked() {
    use CheckResult::{Failed, Ok};
    assert_results(&[
        ("address", |_| {}, Some((Ok, VIP))),
        (
            "address",
            |facts| announced(facts).addresses.clear(),
            Some((Failed, "no address")),
        ),
        ("address", |facts| *announced(facts) = Announced::default(), None),
        ("local-traffic", |_| {}, None),
        (
            "local-traffic",
            |facts| announced(facts).is_local = true,
            Some((Ok, "")),
        ),
        (
            "local-traffic",
            |facts| find(facts, Reason::NodeNameMissing),
            Some((Failed, "note of NodeNameMissing")),
        ),
    ]);
}

#[test]
fn nodes_that_may_announce_are_checked() {
    use CheckResult::{Failed, Ok, Unknown, Warning};
    assert_results(&[
        ("excluded-nodes", |_| {}, Some((Ok, "3 of 3 Nodes"))),
        (
            "excluded-nodes",
            |facts| exclude(facts, &["a", "b"]),
            Some((Ok, "1 of 3 Nodes")),
        ),
        (
            "excluded-nodes",
            |facts| exclude(facts, &["a", "b", "worker"]),
            Some((Failed, "all Nodes that may announce the address have the label")),
        ),
        // MetalLB may be configured to ignore the label.
        (
            "excluded-nodes",
            |facts| {
                exclude(facts, &["a", "b", "worker"]);
                let key = facts.services[0].row.key();
                facts.metallb = Result::Ok([(key, ["b".to_owned()].into())].into());
            },
            Some((Ok, "Node b announces the address")),
        ),
        (
            "excluded-nodes",
            |facts| {
                exclude(facts, &["a", "b", "worker"]);
                announced(facts).kube_vip_node = Some("a".to_owned());
            },
            Some((Ok, "Node a announces the address")),
        ),
        (
            "excluded-nodes",
            |facts| {
                exclude(facts, &["a", "b", "worker"]);
                announced(facts).kube_vip_node = Some("gone".to_owned());
            },
            Some((Failed, "all Nodes")),
        ),
        (
            "excluded-nodes",
            |facts| {
                exclude(facts, &["a", "b", "worker"]);
                facts.metallb = Err(super::Unknown("needs permission to list".to_owned()));
            },
            Some((Unknown, "anyway is unknown: needs permission to list")),
        ),
        (
            "excluded-nodes",
            |facts| facts.metallb = Err(super::Unknown("needs permission to list".to_owned())),
            Some((Ok, "3 of 3 Nodes")),
        ),
        (
            "excluded-nodes",
            |facts| {
                announced(facts).is_local = true;
                exclude(facts, &["a", "b"]);
            },
            Some((Failed, ": a, b")),
        ),
        (
            "excluded-nodes",
            |facts| {
                announced(facts).is_local = true;
                exclude(facts, &["a"]);
            },
            Some((Warning, ": a")),
        ),
        (
            "excluded-nodes",
            |facts| {
                announced(facts).is_local = true;
                facts.services[0].endpoint_nodes.clear();
            },
            None,
        ),
        (
            "excluded-nodes",
            |facts| announced(facts).is_load_balancer = false,
            None,
        ),
        (
            "excluded-nodes",
            |facts| facts.nodes = Err(super::Unknown("needs permission to list nodes".to_owned())),
            Some((Unknown, "needs permission to list nodes")),
        ),
    ]);
}

/// Many Services in one namespace do not hide the other namespaces.
#[test]
fn permissions_are_reviewed_in_20_namespaces() {
    let service = |namespace: String, name: String| {
        let mut service = facts().services.remove(0);
        (service.row.namespace, service.row.name) = (namespace, name);
        service
    };
    let many = (0..30).map(|number| service("a".to_owned(), format!("service-{number}")));
    let services: Vec<_> = many
        .chain((0..30).map(|number| service(format!("b-{number:02}"), "service".to_owned())))
        .collect();
    let reviewed = reviewed_namespaces(&services);
    assert_eq!(reviewed.len(), 20);
    assert!(
        reviewed.contains("a") && reviewed.contains("b-18"),
        "{reviewed:?}"
    );
}

#[test]
fn names_of_serving_certificates_are_checked() {
    use CheckResult::{Failed, Ok, Unknown, Warning};
    fn lacks(facts: &mut Facts, at: &str, name: &str) {
        edit_server(facts, at, |server| _ = server.missing.insert(name.to_owned()));
    }
    assert_results(&[
        ("tls-san", |_| {}, Some((Ok, "6 of 6 servers"))),
        (
            "tls-san",
            |facts| lacks(facts, "192.0.2.2:6443", VIP),
            Some((
                Failed,
                "of 192.0.2.2:6443 is not valid for 192.0.2.100, but for 127.0.0.1, kubernetes.default.svc",
            )),
        ),
        // Nodes join the cluster through this port.
        (
            "tls-san",
            |facts| lacks(facts, "192.0.2.3:9345", VIP),
            Some((Failed, "of 192.0.2.3:9345")),
        ),
        (
            "tls-san",
            |facts| {
                facts.services[0]
                    .announced
                    .host_names
                    .insert("api.example.com".to_owned());
                lacks(facts, "192.0.2.2:6443", "api.example.com");
            },
            Some((Warning, "not valid for api.example.com")),
        ),
        // Another Service has that address.
        (
            "tls-san",
            |facts| lacks(facts, "192.0.2.2:6443", "192.0.2.200"),
            Some((Ok, "")),
        ),
        (
            "tls-san",
            |facts| fail(facts, "192.0.2.1:6443", Failure::Refused),
            Some((Ok, "5 of 6")),
        ),
        (
            "tls-san",
            |facts| SERVERS.iter().for_each(|at| fail(facts, at, Failure::TimedOut)),
            Some((Unknown, "")),
        ),
        ("tls-san", |facts| facts.services[0].servers.clear(), None),
        (
            "tls-san",
            |facts| facts.services[0].announced.addresses.clear(),
            None,
        ),
    ]);
}

#[test]
fn missing_names_of_all_certificates_are_reported_together() {
    let mut facts = facts();
    let host_name = "api.example.com";
    facts.services[0]
        .announced
        .host_names
        .insert(host_name.to_owned());
    edit_server(&mut facts, "192.0.2.1:6443", |server| {
        server.missing.insert(host_name.to_owned());
        server.names.push(VIP.to_owned());
    });
    edit_server(&mut facts, "192.0.2.2:6443", |server| {
        server.missing.insert(VIP.to_owned());
    });
    // A missing host name alone would be only a warning. The names in the certificates differ, so none are shown.
    let detail =
        "the certificate of 192.0.2.1:6443, 192.0.2.2:6443 is not valid for 192.0.2.100, api.example.com";
    assert_eq!(
        result(&facts, "tls-san"),
        Some((CheckResult::Failed, detail.to_owned()))
    );
}

#[test]
fn reachability_is_checked_for_each_port() {
    use CheckResult::{Failed, Ok, Unknown};
    fn all(facts: &mut Facts, port: u16, why: &Failure) {
        for at in SERVERS.iter().filter(|at| target(at).port() == port) {
            fail(facts, at, why.clone());
        }
    }
    assert_results(&[
        (
            "reachability",
            |_| {},
            Some((Ok, "3 of 3 servers answer on port")),
        ),
        ("reachability", |facts| facts.servers.clear(), None),
        (
            "reachability",
            |facts| fail(facts, "192.0.2.3:6443", Failure::TimedOut),
            Some((
                Failed,
                "requests to 1 of 3 servers on port 6443 failed: 192.0.2.3:6443 (timed out)",
            )),
        ),
        (
            "reachability",
            |facts| all(facts, 9345, &Failure::Refused),
            Some((Failed, "requests to 3 of 3 servers on port 9345 failed")),
        ),
        (
            "reachability",
            |facts| all(facts, 9345, &Failure::TimedOut),
            Some((Failed, "9345")),
        ),
        // A laptop may be unable to reach these addresses.
        (
            "reachability",
            |facts| {
                all(facts, 6443, &Failure::TimedOut);
                all(facts, 9345, &Failure::TimedOut);
            },
            Some((Unknown, "timed out")),
        ),
        (
            "reachability",
            |facts| {
                all(facts, 6443, &Failure::Refused);
                all(facts, 9345, &Failure::TimedOut);
            },
            Some((Failed, "connection refused")),
        ),
        (
            "reachability",
            |facts| fail(facts, "192.0.2.1:6443", Failure::Status(500)),
            Some((Failed, "answered 500")),
        ),
    ]);
}

#[test]
fn installations_are_counted_by_their_leaders() {
    use CheckResult::{Failed, Ok, Unknown};
    fn hide(facts: &mut Facts) {
        facts.installations.hidden = Some(super::Unknown("needs permission to list leases".to_owned()));
    }
    fn expire(facts: &mut Facts) {
        facts.installations.seen[0].leader.leads = false;
    }
    assert_results(&[
        (
            "installations",
            |_| {},
            Some((Ok, "one, led by pod-1_uuid in namespace ops")),
        ),
        (
            "installations",
            |facts| facts.installations.seen.push(leader("fleet", 1)),
            Some((
                Failed,
                "in 2 namespaces, and undo each other's writes: pod-1_uuid in namespace ops",
            )),
        ),
        // The Lease of an installation that was uninstalled.
        (
            "installations",
            |facts| {
                facts.installations.seen.push(leader("fleet", 1));
                expire(facts);
            },
            Some((Ok, "namespace fleet")),
        ),
        (
            "installations",
            expire,
            Some((Failed, "the last one was pod-1_uuid")),
        ),
        (
            "installations",
            |facts| facts.installations.seen.clear(),
            Some((Failed, "no replica")),
        ),
        (
            "installations",
            hide,
            Some((Unknown, "pod-1_uuid in namespace ops leads; whether")),
        ),
        (
            "installations",
            |facts| {
                hide(facts);
                expire(facts);
            },
            Some((Unknown, "needs permission to list leases")),
        ),
        (
            "installations",
            |facts| {
                hide(facts);
                facts.installations.seen.push(leader("fleet", 1));
            },
            Some((Failed, "in 2 namespaces")),
        ),
        ("installations", |facts| facts.installations.elect = false, None),
    ]);
}

#[test]
fn rights_of_the_operator_are_checked() {
    use CheckResult::{Failed, Ok, Unknown, Warning};
    fn lack(facts: &mut Facts, verb: &str, resource: &str) {
        let all = needed(("ops", "lease"), &["blue"].into(), Uses::default());
        let lacking = all
            .into_iter()
            .filter(|right| right.to_string().starts_with(&format!("{verb} {resource}")));
        facts.rights.as_mut().unwrap().missing.extend(lacking);
    }
    assert_results(&[
        (
            "rights",
            |_| {},
            Some((Ok, "system:serviceaccount:ops:operator has all")),
        ),
        (
            "rights",
            |facts| {
                lack(facts, "create", "events");
                lack(facts, "create", "endpointslices");
            },
            Some((
                Failed,
                "is not allowed to create endpointslices.discovery.k8s.io in blue",
            )),
        ),
        (
            "rights",
            |facts| lack(facts, "create", "events"),
            Some((Warning, "is not allowed to create events.events.k8s.io in blue")),
        ),
        (
            "rights",
            |facts| facts.rights = Err(super::Unknown("needs permission to get pods in ops".to_owned())),
            Some((Unknown, "needs permission to get pods in ops")),
        ),
    ]);
}

#[test]
fn clocks_of_servers_leaders_and_this_machine_are_compared() {
    use CheckResult::{Failed, Ok, Warning};
    fn ours_ahead(facts: &mut Facts, by: f64) {
        for at in SERVERS {
            edit_server(facts, at, |server| server.ahead = Some(by));
        }
    }
    fn renewed(facts: &mut Facts, age: i64) {
        facts.installations.seen = vec![leader("ops", age)];
    }
    assert_results(&[
        (
            "clocks",
            |_| {},
            Some((Ok, "3 API servers differ by less than 10 s")),
        ),
        (
            "clocks",
            |facts| edit_server(facts, "192.0.2.2:6443", |server| server.ahead = Some(-42.0)),
            Some((Ok, "")),
        ),
        (
            "clocks",
            |facts| {
                for at in ["192.0.2.2:6443", "192.0.2.2:9345"] {
                    edit_server(facts, at, |server| server.ahead = Some(-42.0));
                }
            },
            Some((Failed, "the clock of 192.0.2.2 is 42 s ahead of that of 192.0.2.")),
        ),
        (
            "clocks",
            |facts| ours_ahead(facts, 60.0),
            Some((Warning, "this machine is 60 s ahead of")),
        ),
        (
            "clocks",
            |facts| ours_ahead(facts, -60.0),
            Some((Warning, "this machine is 60 s behind")),
        ),
        (
            "clocks",
            |facts| renewed(facts, -30),
            Some((Failed, "pod-1_uuid is 30 s ahead of")),
        ),
        ("clocks", |facts| renewed(facts, 10), Some((Ok, ""))),
        (
            "clocks",
            |facts| renewed(facts, 30),
            Some((Failed, "pod-1_uuid is 30 s behind")),
        ),
        ("clocks", |facts| facts.servers.clear(), None),
    ]);
}

/// Returns the facts about a cluster whose checks have all kinds of results.
fn troubled() -> Facts {
    let mut facts = facts();
    edit_server(&mut facts, "192.0.2.2:6443", |server| {
        server.missing.insert(VIP.to_owned());
    });
    fail(&mut facts, "192.0.2.3:9345", Failure::Refused);
    find(&mut facts, Reason::PortNotInSource);
    facts.rights = Err(Unknown(
        "needs permission to get pods in ops: 403 Forbidden: no".to_owned(),
    ));
    facts
}

#[test]
fn text_shows_each_check_with_its_remedy() {
    let text = text::text(&Diagnosis::of(&troubled()));
    assert!(
        text.starts_with("default/kubernetes-vip\n  warning  copies          PortNotInSource: "),
        "{text}"
    );
    for part in [
        "\n  ok       endpoints       3 of 3 are ready\n",
        "\n  FAILED   tls-san         the certificate of 192.0.2.2:6443 is not valid for 192.0.2.100, but for 127.0.0.1, kubernetes.default.svc\n           -> Add 192.0.2.100 to tls-san in ",
        "\n\nCluster\n",
        "\n  unknown  rights          needs permission to get pods in ops: 403 Forbidden: no\n",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(
        text.ends_with("\n\n7 ok, 1 warning, 2 failed, 1 unknown\n"),
        "{text}"
    );
}

#[test]
fn services_with_a_problem_come_first() {
    let mut facts = facts();
    for name in ["good", "bad"] {
        let mut row = row();
        row.name = name.to_owned();
        row.in_sync = name == "good";
        facts.services.push(ServiceFacts {
            row,
            announced: Announced::default(),
            servers: [].into(),
            endpoint_nodes: [].into(),
        });
    }
    let text = text::text(&Diagnosis::of(&facts));
    let sections: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("default/") || *line == "Cluster")
        .collect();
    assert_eq!(
        sections,
        ["default/bad", "default/kubernetes-vip", "default/good", "Cluster"]
    );
}

/// Scripts rely on this format, so it must be as documented.
#[test]
fn json_of_doctor_is_as_documented() {
    let documented = include_str!("../../../docs/reference/doctor.md");
    let json = json(&Diagnosis::of(&troubled())).unwrap();
    assert!(documented.contains(&format!("```json\n{json}```")), "{json}");
}

#[test]
fn every_check_is_documented() {
    let documented = include_str!("../../../docs/reference/doctor.md");
    let mut facts = facts();
    facts.services[0].announced.is_local = true;
    let mut names: std::collections::BTreeSet<_> =
        Diagnosis::of(&facts).checks.iter().map(|it| it.name).collect();
    names.insert("services");
    for name in names {
        assert!(documented.contains(&format!("| `{name}` |")), "{name}");
    }
}

/// A user who may write a Lease, a certificate or a Node cannot control the terminal of the user who runs the command.
#[test]
fn text_from_the_cluster_cannot_control_a_terminal() {
    let hostile = "x\n\u{1b}]0;y\u{7}\u{9b}31m";
    let mut facts = facts();
    facts.installations.seen[0].leader.holder = Some(hostile.to_owned());
    facts.services[0].announced.host_names.insert(hostile.to_owned());
    facts.services[0]
        .row
        .findings
        .push(Finding::new(Reason::WriteRefused, hostile));
    edit_server(&mut facts, "192.0.2.1:6443", |server| {
        server.names.push(hostile.to_owned());
        server.missing.insert(hostile.to_owned());
    });
    fail(&mut facts, "192.0.2.2:6443", Failure::Other(hostile.to_owned()));
    facts.nodes = Ok(BTreeMap::from([(hostile.to_owned(), true)]));
    facts.rights = Err(Unknown(hostile.to_owned()));
    let diagnosis = Diagnosis::of(&facts);
    let text = text::text(&diagnosis);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    let shown = diagnosis
        .checks
        .iter()
        .filter(|check| check.detail.contains('\u{1b}'));
    assert!(shown.count() >= 6);
}
