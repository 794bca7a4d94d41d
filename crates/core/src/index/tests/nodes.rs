//! Services that need Nodes, and the Services that a change to a Node affects.

use super::*;
use crate::model::{KnownNodes, NodesUnknown, Unreadable};
use crate::testing::node;

/// An index with three Services: `vip` copies the API source in IPv4, `dual` copies it in both families, and `app`
/// copies another source.
fn with_sources() -> Index {
    let mut index = filled();
    index.apply_service(&service("dual").families(&["IPv4", "IPv6"]));
    index.apply_service(&service("app").source("web", "app").families(&["IPv4", "IPv6"]));
    index.apply_slice(
        &named(&["kubernetes", "vip"]),
        slice("kubernetes").endpoints(["192.0.2.1"]),
    );
    index
}

fn listed(names: &[&str]) -> HashSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn names(index: &Index) -> Vec<String> {
    match index.known_nodes() {
        KnownNodes::Known(nodes) => nodes.names().map(ToString::to_string).collect(),
        KnownNodes::Unknown(why) => vec![format!("{why:?}")],
    }
}

/// Rule: 8.watched-when-needed
#[test]
fn nodes_are_needed_for_a_missing_family_or_for_node_names() {
    let local = |service: Service| {
        service.edit(|it| it.spec_mut().external_traffic_policy = Some("Local".to_owned()))
    };
    let inner = |service: Service| {
        service.edit(|it| it.spec_mut().internal_traffic_policy = Some("Local".to_owned()))
    };
    let close = |service: Service| {
        service.edit(|it| it.spec_mut().traffic_distribution = Some("PreferClose".to_owned()))
    };
    let v4 = slice("kubernetes").endpoints(["192.0.2.1"]);
    let v6 = slice("six").family("IPv6").endpoints(["2001:db8::1"]);
    let vip = || service("vip");
    let dual = || vip().families(&["IPv6", "IPv4"]);
    for (what, service, source, expected) in [
        ("single-stack", vip(), vec![&v4], false),
        ("dual-stack", dual(), vec![&v4], true),
        ("the other family", vip().families(&["IPv6"]), vec![&v4], true),
        ("dual-stack source", dual(), vec![&v4, &v6], false),
        ("external Local", local(vip()), vec![&v4], true),
        ("internal Local", inner(vip()), vec![&v4], true),
        ("distribution", close(vip()), vec![&v4], true),
        (
            "another source",
            local(dual()).source("web", "app"),
            vec![&v4],
            false,
        ),
        ("dual-stack and an empty source", dual(), vec![], true),
        ("single-stack and an empty source", vip(), vec![], false),
    ] {
        let mut index = filled();
        index.apply_service(&service.version(200));
        for slice in source {
            index.apply_slice(&named(&["kubernetes", "vip"]), slice.clone());
        }
        assert_eq!(index.needs_nodes(), expected, "{what}");
    }
    assert!(!Index::new(defaults()).needs_nodes());
}

/// Rule: 8.heartbeat
#[test]
fn relevant_node_changes_mark_only_services_that_need_nodes() {
    let mut index = with_sources();
    let a = || node("a").internal("192.0.2.1");
    assert_eq!(index.apply_node(a()), Dirty::new(), "the list is not complete");
    assert_eq!(index.nodes_listed(&listed(&["a"])), keys(&["dual"]));
    assert_eq!(index.apply_node(a()), Dirty::new(), "a heartbeat");
    assert_eq!(index.nodes_listed(&listed(&["a"])), Dirty::new(), "listed again");
    assert_eq!(index.apply_node(a().zone("north")), keys(&["dual"]));
    assert_eq!(index.apply_unreadable_node("a"), keys(&["dual"]));
    assert_eq!(index.apply_unreadable_node("a"), Dirty::new());
    assert_eq!(index.apply_node(a()), keys(&["dual"]));
    assert_eq!(index.delete_node("a"), keys(&["dual"]));
    assert_eq!(index.delete_node("a"), Dirty::new());
}

/// Rule: 8.unknown-nodes
#[test]
fn nodes_are_unknown_until_listed_and_while_lists_fail() {
    let mut index = with_sources();
    assert_eq!(names(&index), ["NotListed"]);
    index.apply_node(node("a"));
    index.apply_unreadable_node("u");
    assert_eq!(names(&index), ["NotListed"]);
    index.nodes_listed(&listed(&["a", "u"]));
    assert_eq!(names(&index), ["a", "u"]);
    assert_eq!(index.nodes_unknown(NodesUnknown::Forbidden), keys(&["dual"]));
    assert_eq!(index.nodes_unknown(NodesUnknown::Forbidden), Dirty::new());
    assert_eq!(index.apply_node(node("b")), Dirty::new());
    assert_eq!(names(&index), ["Forbidden"]);
    assert_eq!(index.nodes_listed(&listed(&["b"])), keys(&["dual"]));
    assert_eq!(names(&index), ["b"]);
    index.forget_nodes();
    assert_eq!(names(&index), ["NotListed"]);
    assert_eq!(index.nodes_listed(&HashSet::new()), keys(&["dual"]));
    assert_eq!(names(&index), Vec::<String>::new());
}

#[test]
fn an_undecodable_source_slice_shows_no_missing_family() {
    let mut index = filled();
    let unreadable = Unreadable {
        metadata: slice("kubernetes").metadata,
        condition: None,
        error: String::new(),
    };
    index.apply_unreadable_slice(&named(&["kubernetes", "vip"]), &unreadable);
    assert!(!index.needs_nodes(), "a single-stack Service");
}
