//! RBAC is exactly sufficient: with only the rendered rules, nothing is refused, and only the named rules are unused.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use harness::{Cluster, Platform, Rights, objects, rules, until};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};
use testbed::Rule;

use crate::PROGRAM;
use crate::helm::{NAMESPACE, find, helm};
use crate::pod::{Node, Pod, list_api_servers};

/// The user name of the operator.
const USER: &str = "system:serviceaccount:copier:endpoint-copier-operator";

/// Permissions that the operator has and does not use in these tests, and the reasons for them.
const UNUSED_PERMISSIONS: [(&str, &str); 6] = [
    (
        "gateway.networking.k8s.io referencegrants list",
        "only for a Service whose source is in another namespace",
    ),
    ("gateway.networking.k8s.io referencegrants watch", "likewise"),
    (
        "events.k8s.io events patch",
        "kube's recorder patches an Event that it repeats; here each Event is new",
    ),
    (" nodes get", "for debugging; the operator never sends it"),
    (
        "coordination.k8s.io leases get f668ae63.endpoint-copier-operator-probes in copier",
        "the leader sends a GET only if its watch is silent",
    ),
    (
        "coordination.k8s.io leases patch f668ae63.endpoint-copier-operator-probes in copier",
        "no replica writes while no API server is suspected",
    ),
];

/// Permissions for an upgrade from the Go operator: those that its Pods need until they are replaced, and those for the
/// objects that they leave behind.
const GO_OPERATOR_PERMISSIONS: [(&str, &str); 10] = [
    (
        " endpoints get",
        "this operator reads the Endpoints that 0.2 left",
    ),
    (
        " endpoints delete",
        "this operator deletes the Endpoints that 0.2 left",
    ),
    (
        "discovery.k8s.io endpointslices patch",
        "0.3.0 writes its slice with server-side apply",
    ),
    (" endpoints list", "0.2 watches Endpoints"),
    (" endpoints watch", "0.2 watches Endpoints"),
    (
        " endpoints create",
        "0.2 writes Endpoints; an update of missing ones creates them",
    ),
    (" endpoints update", "0.2 writes Endpoints"),
    (
        "coordination.k8s.io leases update f668ae63.endpoint-copier-operator in copier",
        "client-go renews with update",
    ),
    (
        " events create in copier",
        "client-go reports the election in core Events",
    ),
    (" events patch in copier", "client-go patches a repeated Event"),
];

/// A rule as `<group> <resource> <verb> <name> in <namespace>`.
fn text(rule: &Rule) -> String {
    let Rule {
        api_groups,
        resources,
        verbs,
        resource_names,
        namespaces,
        non_resource_urls: _,
    } = rule;
    let mut words = vec![api_groups.join(","), resources.join(","), verbs.join(",")];
    words.extend(resource_names.iter().cloned());
    words.extend(namespaces.iter().map(|namespace| format!("in {namespace}")));
    words.join(" ")
}

fn named(list: &[(&str, &str)]) -> BTreeSet<String> {
    list.iter().map(|(right, _)| (*right).to_owned()).collect()
}

/// Waits until a permission has been used this many times. Does not wait on a real API server, which does not report
/// the use.
async fn until_used(cluster: &Cluster, right: &str, times: usize) {
    let Some((store, _)) = cluster.testbed() else {
        return;
    };
    until(&format!("{right} is used"), async || {
        let used = store.rbac_report(USER).used;
        used.iter()
            .any(|(rule, count)| text(rule) == right && *count >= times)
    })
    .await;
}

/// Creates the `Endpoints` that version 0.2 of the Go operator leaves behind.
pub async fn leave_endpoints(cluster: &Cluster) {
    cluster
        .create::<Endpoints>(json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "kubernetes-vip", "namespace": "default", "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpoint-copier-operator",
            }},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"name": "https", "port": 6443}]}],
        }))
        .await;
}

/// Changes objects so that the operator sends each kind of request for Services, copies, sources and Events.
pub async fn cause_requests(cluster: &Cluster) {
    let addresses = ["192.0.2.1", "192.0.2.2"];
    let vip = |annotations: Value| json!({"metadata": {"annotations": annotations}});
    // The operator creates copies.
    cluster
        .until_addresses("default", "kubernetes-vip", &addresses)
        .await;
    // A changed source causes an update.
    list_api_servers(cluster, &addresses[..1]).await;
    cluster
        .until_addresses("default", "kubernetes-vip", &addresses[..1])
        .await;
    // A copy that differs and claims a newer version of its source causes a GET of that source.
    let copy = cluster.slices_of("default", "kubernetes-vip").await.remove(0);
    let name = copy.metadata.name.expect("a name");
    let mut claim = vip(json!({"endpoint-copier/source-resource-version": "999999999999"}));
    claim["endpoints"] = json!([{"addresses": ["192.0.2.3"], "conditions": {"ready": true}}]);
    cluster.patch::<EndpointSlice>("default", &name, claim).await;
    cluster
        .until_addresses("default", "kubernetes-vip", &addresses[..1])
        .await;
    until_used(cluster, "discovery.k8s.io endpointslices get", 1).await;
    // An invalid annotation causes an Event.
    let wrong = json!({"endpoint-copier/enabled": "yes"});
    cluster
        .patch::<Service>("default", "kubernetes-vip", vip(wrong))
        .await;
    until("an Event reports the annotation", async || {
        let events = cluster.list::<Event>("default").await;
        events
            .iter()
            .any(|event| event.reason.as_deref() == Some("InvalidAnnotation"))
    })
    .await;
    // If a Service is no longer managed, the operator reads it once more, and then deletes its copies.
    let no = json!({"endpoint-copier/enabled": "false"});
    cluster
        .patch::<Service>("default", "kubernetes-vip", vip(no))
        .await;
    cluster.until_addresses("default", "kubernetes-vip", &[]).await;
}

/// Rule: chart.rights
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rendered_rules_suffice_and_only_the_listed_are_unused() {
    let Some(helm) = helm() else { return };
    let rendered = helm.render(&["--set", "serviceConditions.enabled=true"]);
    let cluster = Cluster::start(Platform::Testbed, PROGRAM, 1).await;
    list_api_servers(&cluster, &["192.0.2.1", "192.0.2.2"]).await;
    cluster.namespace(NAMESPACE).await;
    let mut vip = objects::vip();
    vip["spec"]["externalTrafficPolicy"] = json!("Local");
    cluster.create::<Service>(vip).await;
    let (store, _) = cluster.testbed().expect("the testbed");
    store.restrict(USER, rules(&rendered));
    let kubeconfig = cluster.kubeconfig_with(0, Some(&store.token_of(USER)));
    let node = Node {
        kubeconfig: &kubeconfig,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let pod = Pod::start(&cluster, find(&rendered, "Deployment", ""), "copier-0", &node);
    until_used(&cluster, " nodes watch", 1).await;
    cause_requests(&cluster).await;
    until_used(&cluster, " services/status patch", 1).await;
    // The Lease is renewed at least once.
    until_used(
        &cluster,
        "coordination.k8s.io leases patch f668ae63.endpoint-copier-operator in copier",
        2,
    )
    .await;

    let report = store.rbac_report(USER);
    assert!(report.refused.is_empty(), "{:#?}", report.refused);
    assert_eq!(pod.refusals().await, Vec::<String>::new());
    let unused = report.used.iter().filter(|(_, count)| *count == 0);
    let unused: BTreeSet<_> = unused.map(|(rule, _)| text(rule)).collect();
    assert_eq!(unused, named(&UNUSED_PERMISSIONS));
}

/// Rule: chart.rights
#[test]
fn optional_permissions_are_exactly_those_that_are_listed() {
    let Some(helm) = helm() else { return };
    let rights = |set: &str| -> BTreeSet<String> {
        let rules = rules(&helm.render(&["--set", set]));
        let texts: BTreeSet<_> = rules.iter().map(text).collect();
        assert_eq!(texts.len(), rules.len(), "a permission is granted twice");
        texts
    };
    let (with, without) = (rights("rbac.goOperator=true"), rights("replicaCount=2"));
    let more: BTreeSet<_> = with.difference(&without).cloned().collect();
    assert_eq!(more, named(&GO_OPERATOR_PERMISSIONS));
    let conditions = rights("serviceConditions.enabled=true");
    let more: Vec<_> = conditions.difference(&without).collect();
    assert_eq!(more, [" services/status patch"]);
    let openshift = rights("rbac.endpointSlicesRestricted=true");
    let more: Vec<_> = openshift.difference(&without).collect();
    assert_eq!(more, ["discovery.k8s.io endpointslices/restricted create"]);
    let secure = rights("metrics.secure.enabled=true");
    let more: Vec<_> = secure.difference(&without).collect();
    let reviews = [
        "authentication.k8s.io tokenreviews create",
        "authorization.k8s.io subjectaccessreviews create",
    ];
    assert_eq!(more, reviews);
    assert!(rights("rbac.create=false,rbac.namespaces={blue}").is_empty());
}

/// Rule: chart.namespaces
#[test]
fn writes_are_limited_to_the_listed_namespaces() {
    let Some(helm) = helm() else { return };
    let all = "rbac.goOperator=true,rbac.endpointSlicesRestricted=true,serviceConditions.enabled=true";
    let limited = format!("{all},rbac.namespaces={{blue,red,blue}}");
    let by_verb = |set: &str| -> (BTreeSet<String>, BTreeSet<String>) {
        let rules = rules(&helm.render(&["--set", set]));
        let rules = rules
            .iter()
            .filter(|rule| !rule.namespaces.contains(&NAMESPACE.to_owned()));
        let is_read = |text: &String| {
            let is_go = [" endpoints get"].iter().any(|right| text.starts_with(right));
            !is_go && [" get", " list", " watch"].iter().any(|verb| text.contains(verb))
        };
        rules.map(text).partition(is_read)
    };
    let (reads, writes) = by_verb(all);
    let (still_reads, limited) = by_verb(&limited);
    assert_eq!(still_reads, reads, "reads are not cluster-wide anymore");
    let expected = writes
        .iter()
        .flat_map(|right| ["blue", "red"].map(|namespace| format!("{right} in {namespace}")));
    assert_eq!(limited, expected.collect());
    assert!(writes.len() > 8, "{writes:?}");
    assert!(
        limited
            .iter()
            .any(|right| right == "discovery.k8s.io endpointslices create in blue")
    );
}

/// Rule: chart.namespaces
#[test]
fn roles_of_namespaces_are_bound_to_the_service_account() {
    let Some(helm) = helm() else { return };
    let rendered = helm.render(&["--set", "rbac.namespaces={blue}"]);
    let binding = find(&rendered, "RoleBinding", "-copies");
    let role = find(&rendered, "Role", "-copies");
    assert_eq!(role["metadata"]["namespace"], "blue");
    assert_eq!(binding["metadata"]["namespace"], "blue");
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["roleRef"]["kind"], "Role");
    let of_cluster = find(&rendered, "ClusterRoleBinding", "");
    assert_eq!(binding["subjects"], of_cluster["subjects"]);
}

/// `make docs` writes these files.
/// Rule: chart.rights
#[test]
fn harness_rights_are_up_to_date() {
    let Some(helm) = helm() else { return };
    for rights in Rights::ALL {
        let set = ["--namespace", Rights::NAMESPACE, "--set", rights.values()];
        let rendered = Rights::rendered(&helm.render(&set));
        let path = format!(
            "{}/crates/testing/harness/rights/{}",
            env!("CARGO_MANIFEST_DIR"),
            rights.file()
        );
        if std::env::var("BLESS").as_deref() == Ok("1") {
            std::fs::write(&path, rendered).expect("written");
        } else {
            let found = std::fs::read_to_string(&path).expect("a file");
            assert_eq!(found, rendered, "{path} is out of date, run make docs");
        }
    }
}

/// Rule: chart.rights
#[test]
fn probes_have_permissions_unless_they_are_off() {
    let Some(helm) = helm() else { return };
    for (set, has) in [
        ("probe.mode=enforce", true),
        ("probe.mode=observe", true),
        ("probe.mode=off", false),
    ] {
        let rendered = helm.render(&["--set", set, "--set", "leaderElection.id=my.lease"]);
        let role = &find(&rendered, "ClusterRole", "")["rules"];
        let mut rules = role.as_array().expect("rules").iter();
        let readyz = json!({"nonResourceURLs": ["/readyz"], "verbs": ["get"]});
        assert_eq!(rules.any(|rule| *rule == readyz), has, "{set}");
        let leases: Vec<_> = self::rules(&rendered).iter().map(text).collect();
        for verb in ["get", "list", "watch", "patch"] {
            let right = format!("coordination.k8s.io leases {verb} my.lease-probes in {NAMESPACE}");
            assert_eq!(leases.contains(&right), has, "{set}: {leases:#?}");
        }
    }
}

/// Rule: chart.rights
#[test]
fn permission_to_read_nodes_depends_on_nodes_enabled() {
    let Some(helm) = helm() else { return };
    for (set, has) in [("nodes.enabled=true", true), ("nodes.enabled=false", false)] {
        let rights: BTreeSet<_> = rules(&helm.render(&["--set", set])).iter().map(text).collect();
        for verb in ["get", "list", "watch"] {
            assert_eq!(rights.contains(&format!(" nodes {verb}")), has, "{set}: {verb}");
        }
    }
}

#[test]
fn no_rule_has_a_wildcard() {
    let Some(helm) = helm() else { return };
    for rule in rules(&helm.render(&["--set", "rbac.endpointSlicesRestricted=true"])) {
        assert!(!text(&rule).contains('*'), "{}", text(&rule));
    }
}
