//! The watch of Nodes: when it runs, and the effects of its failures.

use serde_json::{Value, json};
use testbed::{Effect, Ending, Fault, Match, Request, Store};

use crate::harness::{
    CONTROL_PLANE, Operator, addresses, cluster, pass, put, seconds, service, slices_of, until, warnings,
};

const SERVERS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const BOTH: [&str; 4] = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"];

fn node(name: &str, addresses: [&str; 2]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {CONTROL_PLANE: ""}},
        "status": {"addresses": addresses.map(|address| json!({"type": "InternalIP", "address": address}))},
    })
}

/// Two API servers and their Nodes, and a Node that the operator does not select.
fn cluster_with_nodes() -> Store {
    let store = cluster(&SERVERS);
    put(&store, node("a", ["192.0.2.1", "2001:db8::1"]));
    put(&store, node("b", ["192.0.2.2", "2001:db8::2"]));
    let mut worker = node("worker", ["192.0.2.1", "2001:db8::3"]);
    worker["metadata"]["labels"] = json!({});
    put(&store, worker);
    store
}

fn dual_stack(name: &str) -> Value {
    let mut service = service(name);
    service["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    service["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    service
}

fn set_policy(store: &Store, policy: &str) {
    let patch = json!({"spec": {"ipFamilyPolicy": policy}});
    store
        .patch("services", "default", "vip", patch)
        .expect("a valid patch");
}

fn requests(store: &Store, verb: &str) -> usize {
    let wanted = |request: &Request| request.is(verb, "nodes");
    store.requests().matching(wanted).len()
}

/// Returns whether Nodes are watched. A running watch ends and begins again within a minute, with another request.
async fn is_watched(store: &Store) -> bool {
    let before = requests(store, "watch");
    pass(seconds(60)).await;
    requests(store, "watch") > before
}

/// Rule: 8.watched-when-needed
#[tokio::test(start_paused = true)]
async fn nodes_are_watched_only_while_a_service_needs_them() {
    let store = cluster_with_nodes();
    let operator = Operator::start(&store);
    put(&store, service("vip"));
    operator.until_addresses("vip", &SERVERS).await;
    assert!(!is_watched(&store).await && requests(&store, "list") == 0);
    set_policy(&store, "RequireDualStack");
    operator.until_addresses("vip", &BOTH).await;
    assert!(is_watched(&store).await);
    assert_eq!(requests(&store, "list"), 1);
    set_policy(&store, "SingleStack");
    operator.until_addresses("vip", &SERVERS).await;
    pass(seconds(60)).await;
    assert!(!is_watched(&store).await);
    let exposed = ["services", "copies", "sources", "nodes"].map(|resource| {
        let series = format!("endpoint_copier_watch_last_event_timestamp_seconds{{resource=\"{resource}\"}}");
        operator.page().contains(&series)
    });
    assert_eq!(exposed, [true, true, true, false]);
    // The operator has forgotten the Nodes.
    let lists = Match::any().verb("list").resource("nodes");
    operator.nodes.faults().add(Fault::new(lists, Effect::Hang));
    set_policy(&store, "RequireDualStack");
    pass(seconds(1)).await;
    assert_eq!(addresses(&store, "vip"), SERVERS);
    operator.nodes.faults().clear();
    operator.until_addresses("vip", &BOTH).await;
}

/// Rule: 8.watch-lingers
#[tokio::test(start_paused = true)]
async fn service_that_is_edited_back_and_forth_causes_one_list() {
    let store = cluster_with_nodes();
    let operator = Operator::start(&store);
    put(&store, dual_stack("vip"));
    operator.until_addresses("vip", &BOTH).await;
    for _ in 0..10 {
        set_policy(&store, "SingleStack");
        operator.until_addresses("vip", &SERVERS).await;
        pass(seconds(5)).await;
        set_policy(&store, "RequireDualStack");
        operator.until_addresses("vip", &BOTH).await;
    }
    assert_eq!(requests(&store, "list"), 1);
}

/// Rule: 8.forbidden
#[tokio::test(start_paused = true)]
async fn forbidden_list_is_repeated_each_minute_until_it_is_allowed() {
    let store = cluster_with_nodes();
    let operator = Operator::start(&store);
    let nodes = Match::any().resource("nodes");
    operator.nodes.faults().add(Fault::status(nodes, 403));
    put(&store, dual_stack("vip"));
    operator.until_addresses("vip", &SERVERS).await;
    until(&store, "it is reported", |store| {
        warnings(store, "vip").contains(&"FamilyIncomplete".to_owned())
    })
    .await;
    let before = requests(&store, "list");
    pass(seconds(600)).await;
    let lists = requests(&store, "list") - before;
    assert!((8..=10).contains(&lists), "{lists}");
    operator.nodes.faults().clear();
    let took = operator.until_addresses("vip", &BOTH).await;
    assert!(took <= seconds(61), "{took:?}");
}

/// Rule: 8.unknown-nodes
#[tokio::test(start_paused = true)]
async fn failing_list_of_nodes_is_not_reported_for_25_seconds() {
    let store = cluster_with_nodes();
    let operator = Operator::start(&store);
    let lists = || Match::any().verb("list").resource("nodes");
    operator.nodes.faults().add(Fault::status(lists(), 500));
    put(&store, dual_stack("vip"));
    operator.until_addresses("vip", &SERVERS).await;
    pass(seconds(25)).await;
    assert_eq!(warnings(&store, "vip"), [""; 0]);
    pass(seconds(15)).await;
    assert!(warnings(&store, "vip").contains(&"FamilyIncomplete".to_owned()));
    operator.nodes.faults().clear();
    let took = operator.until_addresses("vip", &BOTH).await;
    assert!(took <= seconds(2), "{took:?}");
}

/// Rule: 8.unknown-nodes
#[tokio::test(start_paused = true)]
async fn broken_watch_of_nodes_removes_no_endpoint() {
    let store = cluster_with_nodes();
    let operator = Operator::start(&store);
    put(&store, dual_stack("vip"));
    operator.until_addresses("vip", &BOTH).await;
    for code in [500, 403, 410] {
        let before = slices_of(&store, "vip");
        let watches = Match::any().verb("watch").resource("nodes");
        operator.nodes.faults().add(Fault::status(watches, code));
        pass(seconds(180)).await;
        assert_eq!(slices_of(&store, "vip"), before, "{code}");
        assert_eq!(warnings(&store, "vip"), [""; 0], "{code}");
        // A server that is removed from the source is still removed from both families.
        put(&store, testbed::builders::kubernetes_slice(&SERVERS[..1]));
        operator
            .until_addresses("vip", &["192.0.2.1", "2001:db8::1"])
            .await;
        put(&store, testbed::builders::kubernetes_slice(&SERVERS));
        operator.until_addresses("vip", &BOTH).await;
        operator.nodes.faults().clear();
    }
    pass(seconds(120)).await;
    store.delete("nodes", "", "b").expect("a Node");
    operator
        .until_addresses("vip", &["192.0.2.1", "192.0.2.2", "2001:db8::1"])
        .await;
    assert_eq!(addresses(&store, "kubernetes"), SERVERS);
}

/// Rule: 8.unknown-nodes
#[tokio::test(start_paused = true)]
async fn recreated_node_keeps_its_address_during_a_long_list() {
    let store = cluster_with_nodes();
    // More Nodes than one page holds. The page with the new Node comes first.
    for number in 0..20 {
        let addresses = [format!("198.51.100.{number}"), format!("2001:db8::f:{number}")];
        put(
            &store,
            node(
                &format!("other-{number:02}"),
                addresses.each_ref().map(String::as_str),
            ),
        );
    }
    let operator = Operator::start(&store);
    put(&store, dual_stack("vip"));
    operator.until_addresses("vip", &BOTH).await;
    let (before, lists) = (slices_of(&store, "vip"), requests(&store, "list"));
    let of_nodes = |verb| Match::any().verb(verb).resource("nodes");
    let faults = operator.nodes.faults();
    faults.add(Fault::new(of_nodes("list"), Effect::Latency(seconds(3))));
    faults.add(Fault::status(of_nodes("watch"), 410).times(1));
    faults.end_watches(of_nodes("watch"), Ending::Abrupt);
    store.delete("nodes", "", "a").expect("a Node");
    put(&store, node("a-new", ["192.0.2.1", "2001:db8::1"]));
    pass(seconds(60)).await;
    assert!(requests(&store, "list") >= lists + 2, "no list of two pages");
    assert_eq!(slices_of(&store, "vip"), before);
    store.delete("nodes", "", "a-new").expect("a Node");
    operator
        .until_addresses("vip", &["192.0.2.1", "192.0.2.2", "2001:db8::2"])
        .await;
}
