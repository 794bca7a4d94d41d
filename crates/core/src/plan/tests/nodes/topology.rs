//! Node names, zones and hints of endpoints.

use super::*;
use crate::model::Endpoint;

fn local(service: Service) -> Service {
    service.edit(|it| it.spec_mut().external_traffic_policy = Some("Local".to_owned()))
}

fn distribution(service: Service, value: &str) -> Service {
    service.edit(|it| it.spec_mut().traffic_distribution = Some(value.to_owned()))
}

fn zoned() -> Vec<Node> {
    let zones = ["north", "north", "south"];
    (0..3).map(|number| server(number).zone(zones[number])).collect()
}

fn with(service: Service, nodes: Vec<Node>) -> World {
    let mut world = world().nodes(nodes);
    world.put_service(service);
    world.settled("vip")
}

/// `<node>/<zone>/<hints>` of each endpoint of a family, by address.
fn topology(world: &World, family: Family) -> Vec<String> {
    let copies = copies(world, family);
    let mut endpoints: Vec<&Endpoint> = copies
        .into_iter()
        .flat_map(|copy| copy.endpoints.iter().flatten())
        .collect();
    endpoints.sort_by_key(|endpoint| endpoint.addresses.clone());
    let text = |endpoint: &&Endpoint| {
        let hints = endpoint.hints.as_deref();
        let zones = hints
            .iter()
            .flat_map(|hints| hints.for_zones.iter().flatten())
            .map(|zone| format!("zone {}", zone.name));
        let nodes = hints
            .iter()
            .flat_map(|hints| hints.for_nodes.iter().flatten())
            .map(|node| format!("node {}", node.name));
        let hints: Vec<_> = zones.chain(nodes).collect();
        let (name, zone) = (endpoint.node_name.as_deref(), endpoint.zone.as_deref());
        format!(
            "{}/{}/{}",
            name.unwrap_or("-"),
            zone.unwrap_or("-"),
            hints.join(",")
        )
    };
    endpoints.iter().map(text).collect()
}

/// Rule: 8.names-filled
#[test]
fn node_names_and_zones_are_filled_in_if_a_service_needs_them() {
    let inner = |service: Service| {
        service.edit(|it| it.spec_mut().internal_traffic_policy = Some("Local".to_owned()))
    };
    for (what, service, expected) in [
        ("no request", dual(), ["-/-/", "-/-/", "-/-/"]),
        (
            "external Local",
            local(dual()),
            ["a/north/", "b/north/", "c/south/"],
        ),
        (
            "internal Local",
            inner(dual()),
            ["a/north/", "b/north/", "c/south/"],
        ),
        (
            "an unknown distribution",
            distribution(dual(), "Later"),
            ["a/north/", "b/north/", "c/south/"],
        ),
    ] {
        let world = with(service, zoned());
        for family in Family::ALL {
            assert_eq!(topology(&world, family), expected, "{what}");
        }
        assert_eq!(world.reasons("vip"), [], "{what}");
    }
    let single = with(local(service("vip")), zoned());
    assert_eq!(
        topology(&single, Family::V4),
        ["a/north/", "b/north/", "c/south/"]
    );
}

/// Rule: 8.hints
#[test]
fn hints_follow_the_distribution() {
    let zones = ["a/north/zone north", "b/north/zone north", "c/south/zone south"];
    for (value, expected) in [
        ("PreferClose", zones),
        ("PreferSameZone", zones),
        (
            "PreferSameNode",
            ["a/north/node a", "b/north/node b", "c/south/node c"],
        ),
    ] {
        let world = with(distribution(dual(), value), zoned());
        for family in Family::ALL {
            assert_eq!(topology(&world, family), expected, "{value}");
        }
    }
}

/// Rule: 8.hints-all-or-none
#[test]
fn endpoints_of_a_family_have_no_hints_if_one_cannot_have_any() {
    let mut nodes = zoned();
    nodes[2] = server(2);
    let world = with(distribution(dual(), "PreferClose"), nodes);
    assert_eq!(topology(&world, Family::V6), ["a/north/", "b/north/", "c/-/"]);
    let gone = with(distribution(dual(), "PreferSameNode"), zoned().split_off(1));
    assert_eq!(topology(&gone, Family::V4), ["-/-/", "b/north/", "c/south/"]);
    assert_eq!(topology(&gone, Family::V6), ["b/north/node b", "c/south/node c"]);
}

/// Rule: 8.hints-all-or-none
#[test]
fn copy_whose_name_is_taken_does_not_remove_hints() {
    let mut nodes = zoned();
    nodes[2] = server(2);
    let more = slice("kubernetes-more").endpoints([V4[2]]);
    let world = World::new()
        .service(distribution(service("vip"), "PreferClose"))
        .slice(slice("kubernetes").endpoints([V4[0], V4[1]]))
        .slice(slice(&copy_name("vip", &more)).of("vip"))
        .slice(more)
        .nodes(nodes)
        .settled("vip");
    assert_eq!(
        topology(&world, Family::V4),
        ["a/north/zone north", "b/north/zone north"]
    );
}

/// Rule: 8.never-guessed
#[test]
fn topology_of_the_source_is_kept_and_nothing_is_guessed() {
    let mut world = with(distribution(local(dual()), "PreferSameNode"), zoned());
    world.edit(&source_key(), |slice| {
        let endpoints = slice.endpoints.as_mut().unwrap();
        endpoints[0].node_name = Some("other".into());
        endpoints[1].zone = Some("east".into());
    });
    world.settle("vip");
    assert_eq!(
        topology(&world, Family::V4),
        ["other/-/node other", "b/east/node b", "c/south/node c"]
    );
    // Two Nodes have the same address.
    world.list_nodes(zoned().into_iter().chain([node("x").internal(V4[2])]));
    world.settle("vip");
    assert_eq!(topology(&world, Family::V4), ["other/-/", "b/east/", "-/-/"]);
}

/// Rule: 8.hints
#[test]
fn hints_of_the_source_itself_are_copied() {
    let mut world = with(distribution(dual(), "PreferClose"), zoned());
    world.edit(&source_key(), |slice| {
        let hint = serde_json::from_str(r#"{"forZones": [{"name": "west"}]}"#).unwrap();
        slice.endpoints.as_mut().unwrap()[0].hints = Some(Box::new(hint));
    });
    world.settle("vip");
    assert_eq!(
        topology(&world, Family::V4),
        ["a/north/zone west", "b/north/", "c/south/"]
    );
}

/// Rule: 3.node-name-missing
#[test]
fn endpoint_without_a_node_is_reported_with_the_reason() {
    for (what, nodes, words) in [
        (
            "gone",
            known_nodes(servers().split_off(1), &[]),
            "192.0.2.1 (no Node has this address)",
        ),
        (
            "two",
            known_nodes(servers().into_iter().chain([node("x").internal(V4[0])]), &[]),
            "192.0.2.1 (Nodes a, x have this address)",
        ),
        (
            "unreadable",
            known_nodes(servers().split_off(1), &["a"]),
            "192.0.2.1 (may belong to a Node that cannot be decoded: a)",
        ),
    ] {
        let mut world = World::new()
            .service(local(service("vip")))
            .slice(slice("kubernetes").endpoints(V4));
        world.nodes = nodes;
        world.settle("vip");
        assert_eq!(world.reasons("vip"), [Reason::NodeNameMissing], "{what}");
        let note = note(&world, Reason::NodeNameMissing).unwrap();
        assert!(note.contains(words), "{what}: {note}");
    }
}
