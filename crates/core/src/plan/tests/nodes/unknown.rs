//! Copies keep the data that they have from Nodes while some or all Nodes are unknown.

use super::*;

/// `vip` with both families, which asks for node names, zones and hints.
fn dual_with_topology() -> Service {
    dual().edit(|it| {
        let spec = it.spec_mut();
        spec.external_traffic_policy = Some("Local".to_owned());
        spec.traffic_distribution = Some("PreferClose".to_owned());
    })
}

fn settled() -> World {
    let mut world = world().nodes(servers().into_iter().map(|node| node.zone("north")));
    world.put_service(dual_with_topology());
    world.settled("vip")
}

/// Rule: 8.unknown-nodes
#[test]
fn copies_keep_what_they_have_from_unknown_nodes() {
    use NodesUnknown::{Failing, Forbidden, NotListed};
    for why in [NotListed, Forbidden, Failing] {
        let mut world = settled();
        world.nodes = KnownNodes::Unknown(why);
        assert_eq!(world.settle("vip"), [], "{why:?}");
        // Copies still follow the source.
        list(&mut world, &V4[..2]);
        world.settle("vip");
        assert_eq!(shown6(&world), V6, "{why:?}");
        let first = copies(&world, Family::V4)[0].endpoints.clone().unwrap();
        assert_eq!(
            first.iter().map(|it| it.node_name.as_deref()).collect::<Vec<_>>(),
            [Some("a"), Some("b")]
        );
        assert!(first.iter().all(|it| it.zone.is_some() && it.hints.is_some()));
    }
}

/// Rule: 8.unknown-nodes
#[test]
fn a_restart_of_all_replicas_does_not_empty_the_second_family() {
    let mut world = settled();
    world.nodes = KnownNodes::default();
    assert_eq!(world.settle("vip"), []);
    world.list_nodes(servers().into_iter().map(|node| node.zone("north")));
    assert_eq!(world.settle("vip"), []);
}

/// Rule: 8.rights
#[test]
fn findings_say_when_nodes_cannot_be_listed() {
    for (why, words) in [
        (NodesUnknown::NotListed, None),
        (NodesUnknown::Forbidden, Some("is not allowed to list Nodes")),
        (NodesUnknown::Failing, Some("Nodes cannot be listed")),
    ] {
        let mut world = world();
        world.put_service(dual_with_topology());
        world.nodes = KnownNodes::Unknown(why);
        world.settle("vip");
        assert_eq!(
            (shown6(&world).len(), copies(&world, Family::V6).len()),
            (0, 0),
            "{why:?}"
        );
        for reason in [Reason::FamilyIncomplete, Reason::NodeNameMissing] {
            let note = note(&world, reason);
            assert_eq!(note.is_some(), words.is_some(), "{why:?}: {note:?}");
            assert!(
                note.unwrap_or_default().contains(words.unwrap_or_default()),
                "{why:?}"
            );
        }
    }
}

/// Rule: 8.unreadable-node
#[test]
fn a_node_that_cannot_be_decoded_changes_nothing() {
    let mut world = settled();
    let zoned = |number: usize| server(number).zone("north");
    world.nodes = known_nodes([zoned(1), zoned(2)], &["a"]);
    assert_eq!(world.settle("vip"), []);
    assert_eq!(world.reasons("vip"), []);
    // Copies still follow the other Nodes: b is deleted, and a is still unknown.
    world.nodes = known_nodes([zoned(2)], &["a"]);
    world.settle("vip");
    assert_eq!(
        shown6(&world),
        V6,
        "an address that might belong to Node a was removed"
    );
    list(&mut world, &V4[1..]);
    world.nodes = known_nodes([zoned(1), zoned(2)], &["a"]);
    world.settle("vip");
    assert_eq!(
        shown6(&world),
        V6[1..],
        "the Nodes of all listed servers are known"
    );
}

/// Rule: 8.unreadable-node
#[test]
fn server_whose_node_cannot_be_decoded_is_reported() {
    let mut world = world();
    world.nodes = known_nodes([server(1), server(2)], &["a"]);
    world.settle("vip");
    assert_eq!(shown6(&world), V6[1..]);
    let note = incomplete(&world).unwrap();
    assert!(
        note.contains("192.0.2.1 (may belong to a Node that cannot be decoded: a)"),
        "{note}"
    );
}
