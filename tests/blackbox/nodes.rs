//! Data that the API source lacks and the operator reads from Nodes: the second IP family, node names, and hints.

use std::time::Duration;

use harness::objects::{node, vip};
use harness::{Cluster, History, Operator, Platform, SHORT_LEASE, until};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use testbed::{Effect, Fault, Match, Rule};
use tokio::time::sleep;

use crate::events::events_on;
use crate::inspect::{ended, text};
use crate::on_both;

const VIP: &str = "kubernetes-vip";

/// Both addresses of each Node with an API server, in text order.
const BOTH: [&str; 6] = [
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.3",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8::3",
];

/// Long enough for an unwanted write or sync to happen.
const PAUSE: Duration = Duration::from_secs(2);

/// A replica that does not probe, because nothing listens on the addresses of these tests.
fn replica(cluster: &Cluster, name: &str, server: usize) -> Operator {
    let flags = [&SHORT_LEASE[..], &["--probe=off"]].concat();
    Operator::start_with(cluster, name, server, &flags)
}

/// Creates the three Nodes with API servers.
async fn create_nodes(cluster: &Cluster) {
    for (name, addresses) in ["a", "b", "c"].into_iter().zip([
        ["192.0.2.1", "2001:db8::1"],
        ["192.0.2.2", "2001:db8::2"],
        ["192.0.2.3", "2001:db8::3"],
    ]) {
        cluster.put_node(node(name, &addresses)).await;
    }
}

/// The VIP as Edge Image Builder writes it when two addresses are given.
fn dual_stack_vip() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": VIP, "namespace": "default", "labels": {"serviceType": "kubernetes-vip"}},
        "spec": {
            "type": "LoadBalancer",
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [
                {"name": "rke2-api", "port": 9345, "protocol": "TCP", "targetPort": 9345},
                {"name": "k8s-api", "port": 6443, "protocol": "TCP", "targetPort": 6443},
            ],
        },
    })
}

/// Creates Nodes and a VIP, and starts a replica. Waits until the copies list both addresses of each server.
async fn both_families(cluster: &Cluster) -> (Operator, Service) {
    create_nodes(cluster).await;
    let service = cluster.create::<Service>(dual_stack_vip()).await;
    let operator = replica(cluster, "one", 0);
    until_lists(cluster, &BOTH).await;
    (operator, service)
}

async fn until_lists(cluster: &Cluster, addresses: &[&str]) {
    cluster.until_addresses("default", VIP, addresses).await;
}

async fn copies(cluster: &Cluster) -> Vec<EndpointSlice> {
    cluster.slices_of("default", VIP).await
}

/// The addresses of the VIP in each state that the watch saw, from the first complete state to `last`. Earlier states
/// are incomplete, because the watch sees one slice at a time.
async fn shown_until(history: &History, last: &[&str]) -> Vec<Vec<String>> {
    let shown = history.up_to(last).await.into_iter();
    shown.skip_while(|shown| shown != &BOTH).collect()
}

/// Lists these API servers in the source.
async fn list_servers(cluster: &Cluster, addresses: &[&str]) {
    cluster
        .put::<EndpointSlice>(harness::objects::api_servers(addresses))
        .await;
}

/// Waits for an Event with this reason whose note contains these words.
async fn until_reported(cluster: &Cluster, service: &Service, reason: &str, words: &str) {
    until(&format!("{reason} with {words:?}"), async || {
        let events = events_on(cluster, service).await;
        events
            .iter()
            .any(|(_, other, note)| other == reason && note.contains(words))
    })
    .await;
}

/// An IPv6 slice of the API source, as a future dual-stack API server might write it.
fn second_source() -> Value {
    let mut slice = harness::objects::slice(
        "default",
        "kubernetes",
        "kubernetes-6",
        &["2001:db8::1", "2001:db8::9"],
    );
    slice["addressType"] = json!("IPv6");
    slice["ports"] = json!([{"name": "https", "port": 6443, "protocol": "TCP"}]);
    slice
}

on_both! {
    /// Rule: 8.leaves-both, 8.second-family
    async fn dual_stack_vip_lists_each_server_in_both_families(cluster: &mut Cluster) {
        let (operator, _) = both_families(cluster).await;
        for copy in copies(cluster).await {
            let count = copy.endpoints.iter().flatten().count();
            assert_eq!(count, 3, "{copy:#?}");
            let ports: Vec<_> = copy.ports.iter().flatten().map(|port| port.port).collect();
            assert_eq!(ports, [Some(9345), Some(6443)]);
        }
        // A server that leaves the source leaves both copies.
        list_servers(cluster, &["192.0.2.1", "192.0.2.3"]).await;
        until_lists(cluster, &["192.0.2.1", "192.0.2.3", "2001:db8::1", "2001:db8::3"]).await;
        list_servers(cluster, &["192.0.2.1", "192.0.2.2", "192.0.2.3"]).await;
        until_lists(cluster, &BOTH).await;
        until("the Service is in sync", async || operator.metric("endpoint_copier_services_in_sync").await == Some(1)).await;
    }

    /// Rule: 8.second-family
    async fn ipv6_vip_lists_the_ipv6_addresses_of_the_servers(cluster: &mut Cluster) {
        create_nodes(cluster).await;
        let mut vip = vip();
        vip["spec"]["ipFamilies"] = json!(["IPv6"]);
        cluster.create::<Service>(vip).await;
        let _operator = replica(cluster, "one", 0);
        until_lists(cluster, &BOTH[3..]).await;
    }

    /// Rule: 8.names-filled, 8.node-names
    async fn local_vip_names_the_node_of_each_endpoint(cluster: &mut Cluster) {
        create_nodes(cluster).await;
        let mut vip = dual_stack_vip();
        vip["spec"]["externalTrafficPolicy"] = json!("Local");
        cluster.create::<Service>(vip).await;
        let operator = replica(cluster, "one", 0);
        until_lists(cluster, &BOTH).await;
        cluster
            .until_slices("default", VIP, "each endpoint has its node", |slices| {
                let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
                let mut names: Vec<_> = endpoints
                    .map(|endpoint| {
                        let name = endpoint.node_name.clone().unwrap_or_default();
                        (endpoint.addresses[0].clone(), name, endpoint.zone.clone().unwrap_or_default())
                    })
                    .collect();
                names.sort();
                let expected = BOTH.iter().zip(["a", "b", "c", "a", "b", "c"]);
                let expected = expected.map(|(address, name)| ((*address).to_owned(), name.to_owned(), format!("zone-{name}")));
                names == expected.collect::<Vec<_>>()
            })
            .await;
        // A Service whose traffic policies are not `Local` needs no node names.
        let cluster_policy = json!({"spec": {"externalTrafficPolicy": "Cluster"}});
        cluster.patch::<Service>("default", VIP, cluster_policy).await;
        cluster
            .until_slices("default", VIP, "no endpoint has a node", |slices| {
                let mut endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
                endpoints.all(|endpoint| endpoint.node_name.is_none())
            })
            .await;
        assert!(!operator.log().contains("panicked"), "{}", operator.log());
    }

    /// Rule: 8.left-out
    async fn server_whose_node_is_removed_leaves_the_second_family(cluster: &mut Cluster) {
        let (_operator, service) = both_families(cluster).await;
        cluster.delete_node("b").await;
        until_lists(cluster, &["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::3"]).await;
        until_reported(cluster, &service, "FamilyIncomplete", "192.0.2.2").await;
        cluster.put_node(node("b", &["192.0.2.2", "2001:db8::2"])).await;
        until_lists(cluster, &BOTH).await;
    }

    /// Rule: 8.counterpart, 8.address-kept
    async fn changed_address_of_a_node_is_copied(cluster: &mut Cluster) {
        let (_operator, _) = both_families(cluster).await;
        cluster.put_node(node("c", &["192.0.2.3", "2001:db8::33"])).await;
        until_lists(cluster, &["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2", "2001:db8::33"]).await;
        // The address that the copy lists is kept, even if the Node lists another one first or uses another spelling.
        let before = copies(cluster).await;
        cluster.put_node(node("c", &["2001:db8::3", "192.0.2.3", "2001:0DB8:0::0033"])).await;
        sleep(PAUSE).await;
        assert_eq!(copies(cluster).await, before);
    }

    /// Rule: 8.several-nodes
    async fn server_on_two_nodes_is_left_out_and_reported(cluster: &mut Cluster) {
        let (_operator, service) = both_families(cluster).await;
        cluster.put_node(node("impostor", &["192.0.2.1", "2001:db8::bad"])).await;
        until_lists(cluster, &["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::2", "2001:db8::3"]).await;
        until_reported(cluster, &service, "FamilyIncomplete", "impostor").await;
        cluster.delete_node("impostor").await;
        until_lists(cluster, &BOTH).await;
    }

    /// Rule: 8.unknown-nodes
    async fn second_family_outlives_a_restart_of_all_replicas(cluster: &mut Cluster) {
        let (one, _) = both_families(cluster).await;
        let two = replica(cluster, "two", 1);
        two.until_ready().await;
        let before = copies(cluster).await;
        let history = cluster.watch_slices("default", VIP).await;
        drop((one, two));
        let _operators = [replica(cluster, "one", 0), replica(cluster, "two", 1)];
        list_servers(cluster, &["192.0.2.1", "192.0.2.2"]).await;
        let end = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"];
        for shown in shown_until(&history, &end).await {
            let is_there = |address: &&str| shown.iter().any(|shown| shown == address);
            assert!(end.iter().all(is_there), "{shown:?}");
        }
        let uids = |copies: &[EndpointSlice]| {
            let mut uids: Vec<_> = copies.iter().map(|copy| copy.metadata.uid.clone()).collect();
            uids.sort();
            uids
        };
        assert_eq!(uids(&copies(cluster).await), uids(&before), "the copies were replaced");
    }

    /// Rule: 8.source-first
    async fn source_that_becomes_dual_stack_replaces_the_second_family(cluster: &mut Cluster) {
        let (_operator, _) = both_families(cluster).await;
        let history = cluster.watch_slices("default", VIP).await;
        cluster.create::<EndpointSlice>(second_source()).await;
        let end = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::9"];
        for shown in shown_until(&history, &end).await {
            assert!(shown.iter().any(|address| address == "2001:db8::1"), "{shown:?}");
        }
        assert_eq!(copies(cluster).await.len(), 2);
        cluster.delete::<EndpointSlice>("default", "kubernetes-6").await;
        until_lists(cluster, &BOTH).await;
    }

    /// Rule: 8.heartbeat
    async fn heartbeat_of_a_node_causes_no_sync(cluster: &mut Cluster) {
        let (operator, _) = both_families(cluster).await;
        let syncs = "endpoint_copier_syncs_total{result=\"success\"}";
        until("the operator is idle", async || {
            let before = operator.metric(syncs).await;
            sleep(PAUSE).await;
            operator.metric(syncs).await == before
        })
        .await;
        let (synced, log, before) = (operator.metric(syncs).await, operator.log(), copies(cluster).await);
        for second in 10..40 {
            cluster.heartbeat("a", &format!("2026-01-01T00:00:{second}Z")).await;
        }
        sleep(PAUSE).await;
        assert_eq!(operator.metric(syncs).await, synced);
        assert_eq!(copies(cluster).await, before);
        assert_eq!(operator.log(), log);
        // The operator still watches the Nodes.
        cluster.delete_node("a").await;
        until_lists(cluster, &["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::2", "2001:db8::3"]).await;
    }
}

on_both! {
    /// Rule: 8.names-filled, 3.node-name-missing
    async fn local_vip_reports_a_server_whose_address_no_node_has(cluster: &mut Cluster) {
        create_nodes(cluster).await;
        list_servers(cluster, &["192.0.2.1", "192.0.2.9"]).await;
        let mut vip = vip();
        vip["spec"]["externalTrafficPolicy"] = json!("Local");
        let service = cluster.create::<Service>(vip).await;
        let _operator = replica(cluster, "one", 0);
        until_names(cluster, &[("192.0.2.1", "a"), ("192.0.2.9", "")]).await;
        until_reported(cluster, &service, "NodeNameMissing", "192.0.2.9 (no Node has this address)").await;
        cluster.put_node(node("d", &["192.0.2.9"])).await;
        until_names(cluster, &[("192.0.2.1", "a"), ("192.0.2.9", "d")]).await;
    }

    /// Rule: 8.names-filled, 8.node-names
    async fn internal_local_policy_names_nodes_too(cluster: &mut Cluster) {
        create_nodes(cluster).await;
        let mut vip = vip();
        vip["spec"]["internalTrafficPolicy"] = json!("Local");
        cluster.create::<Service>(vip).await;
        let _operator = replica(cluster, "one", 0);
        until_names(cluster, &[("192.0.2.1", "a"), ("192.0.2.2", "b"), ("192.0.2.3", "c")]).await;
    }

    /// Rule: 8.second-family, 8.names-filled
    async fn ipv6_source_fills_the_ipv4_family_from_nodes(cluster: &mut Cluster) {
        create_nodes(cluster).await;
        let mut slice = harness::objects::api_servers(&["2001:db8::1", "2001:db8::2"]);
        slice["addressType"] = json!("IPv6");
        cluster.delete::<EndpointSlice>("default", "kubernetes").await;
        cluster.put::<EndpointSlice>(slice).await;
        let mut vip = dual_stack_vip();
        vip["spec"]["externalTrafficPolicy"] = json!("Local");
        cluster.create::<Service>(vip).await;
        let _operator = replica(cluster, "one", 0);
        until_names(
            cluster,
            &[("192.0.2.1", "a"), ("192.0.2.2", "b"), ("2001:db8::1", "a"), ("2001:db8::2", "b")],
        )
        .await;
    }
}

/// Waits until the copies list exactly these addresses, each with this nodeName. An empty name means that there is no
/// nodeName.
async fn until_names(cluster: &Cluster, expected: &[(&str, &str)]) {
    let what = format!("{expected:?}");
    cluster
        .until_slices("default", VIP, &what, |slices| {
            let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
            let mut names: Vec<_> = endpoints
                .map(|endpoint| {
                    let name = endpoint.node_name.clone().unwrap_or_default();
                    (endpoint.addresses[0].clone(), name)
                })
                .collect();
            names.sort();
            let expected = expected.iter();
            names
                == expected
                    .map(|(address, name)| ((*address).to_owned(), (*name).to_owned()))
                    .collect::<Vec<_>>()
        })
        .await;
}

/// Rule: 8.hints
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vip_with_a_distribution_gets_hints_from_nodes() {
    let cluster = Cluster::start(Platform::Testbed, crate::PROGRAM, 1).await;
    create_nodes(&cluster).await;
    let mut vip = dual_stack_vip();
    vip["spec"]["trafficDistribution"] = json!("PreferClose");
    cluster.create::<Service>(vip).await;
    let _operator = replica(&cluster, "one", 0);
    let hints = async |expected: [&str; 3]| {
        cluster
            .until_slices("default", VIP, &format!("hints {expected:?}"), |slices| {
                let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
                let mut hints: Vec<_> = endpoints
                    .map(|endpoint| {
                        let hints = endpoint.hints.clone().unwrap_or_default();
                        let zones = hints.for_zones.into_iter().flatten().map(|zone| zone.name);
                        let nodes = hints.for_nodes.into_iter().flatten().map(|node| node.name);
                        zones.chain(nodes).collect::<String>()
                    })
                    .collect();
                hints.sort();
                hints == expected.iter().flat_map(|hint| [*hint; 2]).collect::<Vec<_>>()
            })
            .await;
    };
    hints(["zone-a", "zone-b", "zone-c"]).await;
    let same_node = json!({"spec": {"trafficDistribution": "PreferSameNode"}});
    cluster.patch::<Service>("default", VIP, same_node).await;
    hints(["a", "b", "c"]).await;
}

/// Starts a replica on the testbed. Its user has every permission except the one to read Nodes.
fn without_access_to_nodes(cluster: &Cluster) -> Operator {
    let (store, _) = cluster.testbed().expect("on the testbed");
    store.restrict("one", everything_but_nodes());
    replica(cluster, "one", 0)
}

fn everything_but_nodes() -> Vec<Rule> {
    vec![
        Rule::new(&[""], &["services", "endpoints", "events"], &["*"]),
        Rule::new(&["discovery.k8s.io"], &["*"], &["*"]),
        Rule::new(&["events.k8s.io"], &["*"], &["*"]),
        Rule::new(&["coordination.k8s.io"], &["*"], &["*"]),
    ]
}

/// Rule: 8.forbidden, 8.not-ready
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_without_access_to_nodes_copies_the_source() {
    let cluster = Cluster::start(Platform::Testbed, crate::PROGRAM, 1).await;
    create_nodes(&cluster).await;
    let operator = without_access_to_nodes(&cluster);
    let service = cluster.create::<Service>(dual_stack_vip()).await;
    until_lists(&cluster, &BOTH[..3]).await;
    until_reported(&cluster, &service, "FamilyIncomplete", "Nodes").await;
    operator.until_ready().await;
    assert!(operator.leads().await);
    let asked = || {
        let (store, _) = cluster.testbed().expect("on the testbed");
        let is_list = |request: &testbed::Request| request.is("list", "nodes");
        store.requests().matching(is_list).len()
    };
    let before = asked();
    sleep(PAUSE).await;
    assert_eq!(asked(), before, "Nodes were listed again within {PAUSE:?}");
}

/// Rule: 8.unknown-nodes
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_that_loses_access_to_nodes_keeps_second_family() {
    let cluster = Cluster::start(Platform::Testbed, crate::PROGRAM, 1).await;
    let (operator, service) = both_families(&cluster).await;
    drop(operator);
    let operator = without_access_to_nodes(&cluster);
    until_reported(&cluster, &service, "FamilyIncomplete", "Nodes").await;
    until_lists(&cluster, &BOTH).await;
    operator.until_ready().await;
    list_servers(&cluster, &["192.0.2.1", "192.0.2.2"]).await;
    cluster
        .until_slices("default", VIP, "the first family follows the source", |slices| {
            let first = slices.iter().filter(|slice| slice.address_type == "IPv4");
            first.flat_map(|slice| slice.endpoints.iter().flatten()).count() == 2
        })
        .await;
}

/// Rule: 8.forbidden
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_plan_work_without_access_to_nodes() {
    let cluster = Cluster::start(Platform::Testbed, crate::PROGRAM, 1).await;
    let (operator, _) = both_families(&cluster).await;
    drop(operator);
    let (store, _) = cluster.testbed().expect("on the testbed");
    store.restrict("reader", everything_but_nodes());
    let token = store.token_of("reader");
    for (word, token, wanted) in [
        ("status", None, "kubernetes-vip"),
        ("plan", None, "Nothing to write."),
        ("status", Some(token.as_str()), "FamilyIncomplete"),
        ("plan", Some(token.as_str()), "Nothing to write."),
    ] {
        let mut command = harness::command(crate::PROGRAM.as_ref());
        let kubeconfig = cluster.kubeconfig_with(0, token);
        command
            .arg(word)
            .arg(format!("--kubeconfig={}", kubeconfig.display()));
        let shown = text(&ended(command).await);
        assert!(shown.contains(wanted), "{word}: {shown}");
        assert_eq!(
            shown.contains("FamilyIncomplete"),
            wanted == "FamilyIncomplete",
            "{shown}"
        );
    }
}

on_both! {
    async fn plan_shows_the_second_family_from_nodes(cluster: &mut Cluster) {
        create_nodes(cluster).await;
        let mut vip = dual_stack_vip();
        vip["metadata"]["annotations"] = json!({"endpoint-copier/probe": "off"});
        cluster.create::<Service>(vip).await;
        let mut command = harness::command(crate::PROGRAM.as_ref());
        let kubeconfig = cluster.kubeconfig_with(0, None);
        command
            .arg("plan")
            .arg(format!("--kubeconfig={}", kubeconfig.display()));
        let shown = text(&ended(command).await);
        for address in BOTH {
            assert!(shown.contains(&format!("\n  + endpoint {address} ready")), "{address}: {shown}");
        }
    }
}

/// Rule: 8.unreadable-node
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_nodes_change_nothing_in_the_copies() {
    let cluster = Cluster::start(Platform::Testbed, crate::PROGRAM, 1).await;
    let (operator, _) = both_families(&cluster).await;
    drop(operator);
    let (_, server) = cluster.testbed().expect("on the testbed");
    let lists = Match::any().verb("list").resource("nodes");
    server
        .faults()
        .add(Fault::new(lists, Effect::Undecodable { labels: false }));
    let before = copies(&cluster).await;
    let operator = replica(&cluster, "two", 0);
    operator.until_leads().await;
    operator.until_logged("decoding a Node failed").await;
    sleep(PAUSE).await;
    assert_eq!(copies(&cluster).await, before);
    assert_eq!(
        operator.log().matches("decoding a Node").count(),
        1,
        "{}",
        operator.log()
    );
    // The operator uses Nodes that become readable again.
    cluster.put_node(node("c", &["192.0.2.3", "2001:db8::33"])).await;
    for node in ["a", "b"] {
        cluster.heartbeat(node, "2026-01-01T00:00:00Z").await;
    }
    until_lists(
        &cluster,
        &[
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.3",
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8::33",
        ],
    )
    .await;
}

/// Rule: 8.seen-well
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_that_never_answers_is_not_listed_but_reported() {
    let cluster = Cluster::start(Platform::Testbed, crate::PROGRAM, 1).await;
    create_nodes(&cluster).await;
    let service = cluster.create::<Service>(dual_stack_vip()).await;
    let _operator = Operator::start(&cluster, "one", 0);
    until_lists(&cluster, &BOTH[..3]).await;
    until_reported(&cluster, &service, "FamilyIncomplete", "2001:db8::1").await;
    until_lists(&cluster, &BOTH[..3]).await;
}

/// Rule: 8.selector
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_selector_ends_the_program_with_code_2() {
    let mut command = harness::command(crate::PROGRAM.as_ref());
    command
        .arg("--nodes-selector=role in (a")
        .stderr(std::process::Stdio::piped());
    let output = command.output().expect("the operator starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.lines().count() == 1 && error.contains("--nodes-selector"),
        "{error}"
    );
}
