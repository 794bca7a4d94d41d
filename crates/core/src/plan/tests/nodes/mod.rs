//! Tests of the form: given these Nodes, the copies of the API source have these addresses, names and hints.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::model::{
    EndpointSlice, Family, Finding, KnownNodes, Node, Nodes, NodesUnknown, Reason, Service, ServiceKey,
    SliceKey, annotation, annotation_of, copy_name, label, label_of, provenance,
};
use crate::plan::{Judged, Verdicts};
use crate::testing::world::{World, Write};
use crate::testing::{Build as _, BuildService as _, BuildSlice as _, node, service, slice};
use crate::verdicts::{Phase, Report, Target, TargetFacts};

mod announced;
mod entrance;
mod laws;
mod topology;
mod unknown;

const V4: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const V6: [&str; 3] = ["2001:db8::1", "2001:db8::2", "2001:db8::3"];

/// Node `a`, `b` or `c`, with an address of each family.
fn server(number: usize) -> Node {
    node(["a", "b", "c"][number])
        .internal(V4[number])
        .internal(V6[number])
}

fn servers() -> Vec<Node> {
    (0..3).map(server).collect()
}

fn dual() -> Service {
    service("vip").families(&["IPv4", "IPv6"])
}

fn source_key() -> SliceKey {
    SliceKey::new("default", "kubernetes")
}

/// `vip`, which wants both families, and three API servers that the source lists in IPv4.
fn world() -> World {
    World::new()
        .service(dual())
        .slice(slice("kubernetes").endpoints(V4))
        .nodes(servers())
}

/// The copies of one family.
fn copies(world: &World, family: Family) -> Vec<&EndpointSlice> {
    let mut copies = world.copies("vip");
    copies.retain(|copy| copy.address_type == family.as_str());
    copies
}

/// The endpoint addresses in the copies of one family, sorted. The address of an endpoint that is not ready is in
/// parentheses.
fn shown(world: &World, family: Family) -> Vec<String> {
    let endpoints = copies(world, family)
        .into_iter()
        .flat_map(|copy| copy.endpoints.iter().flatten());
    let mut shown: Vec<_> = endpoints
        .map(|endpoint| {
            let address = &endpoint.addresses[0];
            let ready = endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready);
            if ready == Some(true) {
                address.clone()
            } else {
                format!("({address})")
            }
        })
        .collect();
    shown.sort();
    shown
}

fn shown6(world: &World) -> Vec<String> {
    shown(world, Family::V6)
}

fn note(world: &World, reason: Reason) -> Option<String> {
    let found = world
        .findings("vip")
        .into_iter()
        .find(|finding| finding.reason == reason);
    found.map(|finding| finding.note)
}

fn incomplete(world: &World) -> Option<String> {
    note(world, Reason::FamilyIncomplete)
}

/// Sets the addresses that the source lists.
fn list(world: &mut World, addresses: &[&str]) {
    world.edit(&source_key(), |slice| {
        *slice = slice.clone().endpoints(addresses.iter().copied());
    });
}

/// The `readable` Nodes, plus a Node that cannot be decoded for each name in `unreadable`.
fn known_nodes(readable: impl IntoIterator<Item = Node>, unreadable: &[&str]) -> KnownNodes {
    let mut nodes = Nodes::default();
    for node in readable {
        nodes.insert(node);
    }
    for name in unreadable {
        nodes.insert_unreadable(name);
    }
    KnownNodes::Known(Arc::new(nodes))
}

/// Rule: 8.second-family
#[test]
fn a_family_the_source_lacks_gets_a_copy_of_each_slice() {
    let world = world()
        .slice(slice("kubernetes-more").endpoints([V4[2]]))
        .settled("vip");
    let found = copies(&world, Family::V6);
    assert_eq!(found.len(), 2);
    assert_eq!(
        shown6(&world),
        ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::3"]
    );
    let copy = found
        .iter()
        .find(|copy| copy.metadata.name.as_deref() == Some("vip-v6iiq4k2dw"));
    let copy = copy.expect("a copy whose name has the family in its hash");
    assert_eq!(label_of(&copy.metadata, label::SOURCE), Some("kubernetes"));
    for (key, value) in [
        (provenance::NAMESPACE, "default"),
        (provenance::SLICE, "kubernetes"),
        (provenance::UID, "uid-kubernetes"),
        (provenance::RESOURCE_VERSION, "100"),
    ] {
        assert_eq!(annotation_of(&copy.metadata, key), Some(value), "{key}");
    }
    assert_eq!(copy.ports, copies(&world, Family::V4)[0].ports);
    assert_eq!(world.reasons("vip"), []);
}

/// Rule: 8.second-family
#[test]
fn service_with_only_the_other_family_is_filled() {
    let six = World::new()
        .service(service("vip").families(&["IPv6"]))
        .slice(slice("kubernetes").endpoints(V4))
        .nodes(servers())
        .settled("vip");
    assert_eq!(
        (shown6(&six), six.copies("vip").len()),
        (V6.map(str::to_owned).to_vec(), 1)
    );

    let four = World::new()
        .service(service("vip"))
        .slice(
            slice("kubernetes")
                .family("IPv6")
                .endpoints(["2001:0DB8:0::1", "::ffff:192.0.2.9"]),
        )
        .nodes(servers())
        .settled("vip");
    assert_eq!(shown(&four, Family::V4), [V4[0]]);
}

/// Rule: 8.api-source-only
#[test]
fn copies_of_another_source_take_nothing_from_nodes() {
    let local = |service: Service| {
        service.edit(|it| it.spec_mut().external_traffic_policy = Some("Local".to_owned()))
    };
    let world = World::new()
        .service(local(dual().source("web", "app").edit(|it| {
            it.spec_mut().ip_family_policy = Some("RequireDualStack".to_owned());
        })))
        .slice(slice("app-1").of("app").namespace("web").endpoints(V4))
        .nodes(servers())
        .settled("vip");
    assert_eq!((shown6(&world), world.copies("vip").len()), (vec![], 1));
    assert!(
        world
            .copy("vip")
            .endpoints
            .iter()
            .flatten()
            .all(|endpoint| endpoint.node_name.is_none())
    );
    assert_eq!(
        world.reasons("vip"),
        [Reason::FamilyMissing, Reason::NodeNameMissing]
    );
}

/// Rule: 8.source-first
#[test]
fn copies_of_the_source_itself_replace_those_from_nodes() {
    let own = slice("kubernetes-6")
        .family("IPv6")
        .endpoints(["2001:db8::a", "2001:db8::b"]);
    let mut world = world().settled("vip");
    let key = world.put(own);
    let writes = world.settle("vip");
    assert!(
        matches!(writes[..], [Write::Create(_), Write::Delete(_)]),
        "{writes:?}"
    );
    assert_eq!(shown6(&world), ["2001:db8::a", "2001:db8::b"]);

    world.slices.remove(&key);
    let writes = world.settle("vip");
    assert!(
        matches!(writes[..], [Write::Create(_), Write::Delete(_)]),
        "{writes:?}"
    );
    assert_eq!(shown6(&world), V6);
}

/// Rule: 8.source-first
#[test]
fn copies_of_the_source_are_held_until_nodes_give_addresses() {
    let own = || slice("kubernetes-6").family("IPv6").endpoints(V6);
    let mut world = world().slice(own()).nodes([]).settled("vip");
    world.slices.remove(&SliceKey::of(&own().metadata));
    assert_eq!(world.settle("vip"), []);
    assert_eq!(
        world.reasons("vip"),
        [Reason::FamilyIncomplete, Reason::SourceEmptyHeld]
    );
    world.list_nodes([server(1)]);
    world.settle("vip");
    assert_eq!(
        (shown6(&world), copies(&world, Family::V6).len()),
        (vec![V6[1].to_owned()], 1)
    );
}

/// Rule: 2.empty-beside-others
#[test]
fn empty_copy_is_deleted_once_nodes_provide_endpoints() {
    let own = || slice("kubernetes-6").family("IPv6").endpoints(V6);
    let mut world = world().slice(own()).settled("vip");
    world.put(own().endpoints([]));
    let copy = |source: &EndpointSlice| SliceKey::new("default", copy_name("vip", source));
    assert_eq!(
        world.settle("vip"),
        [
            Write::Create(copy(&slice("kubernetes").family("IPv6"))),
            Write::Delete(copy(&own())),
        ]
    );
}

/// Rule: 2.empty-beside-others
#[test]
fn empty_copy_from_nodes_is_deleted_if_another_has_endpoints() {
    let mut world = world()
        .slice(slice("kubernetes-more").endpoints([V4[2]]))
        .settled("vip");
    assert_eq!(copies(&world, Family::V6).len(), 2);
    world.put(slice("kubernetes-more"));
    // Both copies of the emptied slice are deleted: the one with its IPv4 addresses, and the one with IPv6 addresses
    // from Nodes.
    let writes = world.settle("vip");
    assert!(
        matches!(writes[..], [Write::Delete(_), Write::Delete(_)]),
        "{writes:?}"
    );
}

/// Rule: 8.held
#[test]
fn both_families_are_held_or_emptied_together() {
    for (when_empty, expected) in [("hold", 3), ("follow", 0)] {
        let mut world = world();
        world.put_service(dual().annotate(annotation::WHEN_SOURCE_EMPTY, when_empty));
        world.settle("vip");
        list(&mut world, &[]);
        world.settle("vip");
        for family in Family::ALL {
            assert_eq!(
                (shown(&world, family).len(), copies(&world, family).len()),
                (expected, 1),
                "{when_empty}"
            );
        }
        // While the source is empty, Nodes do not matter.
        world.list_nodes([]);
        world.settle("vip");
        assert_eq!(shown6(&world).len(), expected, "{when_empty}");
        world.list_nodes(servers());
        list(&mut world, &V4[1..]);
        world.settle("vip");
        assert_eq!(shown6(&world), V6[1..], "{when_empty}");
    }
}

/// Rule: 8.held
#[test]
fn deleted_copy_from_nodes_is_not_recreated_during_a_hold() {
    let mut world = world().settled("vip");
    list(&mut world, &[]);
    world.settle("vip");
    let key = SliceKey::of(&copies(&world, Family::V6)[0].metadata);
    world.slices.remove(&key);
    assert_eq!(world.settle("vip"), []);
    list(&mut world, &V4);
    assert_eq!(world.settle("vip"), [Write::Create(key)]);
}

/// Rule: 8.held, 2.no-port-no-copy
#[test]
fn second_family_without_a_known_port_is_deleted_too() {
    let unknown = |service: Service| service.no_ports().port("https", "nobody");
    let mut both = world().settled("vip");
    both.put_service(unknown(dual()));
    let writes = both.settle("vip");
    assert!(
        matches!(writes[..], [Write::Delete(_), Write::Delete(_)]),
        "{writes:?}"
    );
    assert_eq!(both.reasons("vip"), [Reason::PortUnresolved]);

    let mut six = world();
    six.put_service(unknown(service("vip").families(&["IPv6"])));
    assert_eq!(six.settle("vip"), []);
    assert_eq!(six.reasons("vip"), [Reason::PortUnresolved]);
}

/// Rule: 8.held, 2.empty-ports
#[test]
fn second_family_keeps_its_ports_when_the_slice_loses_them() {
    for (when_empty, expected, writes) in [("hold", 3, 0), ("follow", 0, 2)] {
        let named = dual().no_ports().port("https", "https");
        let mut world = world();
        world.put_service(named.annotate(annotation::WHEN_SOURCE_EMPTY, when_empty));
        world.settle("vip");
        let ports = copies(&world, Family::V6)[0].ports.clone();
        world.edit(&source_key(), |slice| {
            *slice = slice.clone().endpoints([]).ports(&[]);
        });
        assert_eq!(world.settle("vip").len(), writes, "{when_empty}");
        for family in Family::ALL {
            assert_eq!(shown(&world, family).len(), expected, "{when_empty}");
            assert_eq!(copies(&world, family)[0].ports, ports, "{when_empty}");
        }
        let reasons = world.reasons("vip");
        assert!(
            !reasons.contains(&Reason::PortUnresolved),
            "{when_empty}: {reasons:?}"
        );
    }
}

/// Rule: 8.left-out, 8.several-nodes
#[test]
fn uncertain_address_is_left_out_and_reported() {
    for (what, nodes, expected, words) in [
        (
            "gone",
            vec![server(1), server(2)],
            &V6[1..],
            "192.0.2.1 (no Node has this address)",
        ),
        (
            "two Nodes",
            vec![server(0), server(1), server(2), node("x").internal(V4[0])],
            &V6[1..],
            "192.0.2.1 (Nodes a, x have this address)",
        ),
        (
            "no address",
            vec![node("a").internal(V4[0]), server(1), server(2)],
            &V6[1..],
            "192.0.2.1 (Node a has no usable InternalIP of this family)",
        ),
        ("all Nodes are known", servers(), &V6[..], ""),
    ] {
        let mut world = world().settled("vip");
        world.list_nodes(nodes);
        world.settle("vip");
        assert_eq!(shown6(&world), expected, "{what}");
        let note = incomplete(&world).unwrap_or_default();
        assert!(
            note.contains(words) && note.is_empty() == words.is_empty(),
            "{what}: {note}"
        );
        assert_eq!(shown(&world, Family::V4), V4, "{what}");
    }
}

/// Rule: 8.never-last
#[test]
fn doubt_about_nodes_never_removes_the_last_endpoint() {
    let mut world = world().settled("vip");
    world.list_nodes([]);
    world.settle("vip");
    assert_eq!(shown6(&world), [V6[0]]);
    // An address that is certain takes the place of the one that was kept.
    world.list_nodes([server(2)]);
    world.settle("vip");
    assert_eq!(shown6(&world), [V6[2]]);
    // A server that has left the source is removed from the family, even if it is the last one.
    list(&mut world, &V4[..2]);
    world.settle("vip");
    assert_eq!(shown6(&world), Vec::<String>::new());
    assert_eq!(copies(&world, Family::V6).len(), 1, "not emptied in place");
}

/// Rule: 8.never-vip
#[test]
fn vip_on_a_node_is_never_an_endpoint() {
    let with_vip =
        |service: Service| service.edit(|it| it.spec_mut().external_ips = Some(vec![V6[0].to_owned()]));
    let mut one = world()
        .nodes([node("a").internal(V4[0]).internal(V6[0])])
        .settled("vip");
    assert_eq!(shown6(&one), [V6[0]]);
    one.put_service(with_vip(dual()));
    one.settle("vip");
    assert_eq!(shown6(&one), Vec::<String>::new());
    one.list_nodes([node("a").internal(V4[0]).internal(V6[0]).internal(V6[1])]);
    one.settle("vip");
    assert_eq!(shown6(&one), [V6[1]]);

    // The VIP is not kept as the last endpoint either.
    let mut world = world().settled("vip");
    world.put_service(with_vip(dual()));
    world.list_nodes([]);
    world.settle("vip");
    assert_eq!(shown6(&world), [V6[1]]);
}

/// Rule: 8.address-kept
#[test]
fn node_addresses_in_another_order_change_nothing() {
    let both = |first: &str, second: &str| node("a").internal(first).internal(V4[0]).internal(second);
    let mut world = world().nodes([both(V6[0], V6[1])]).settled("vip");
    assert_eq!(shown6(&world), [V6[0]]);
    world.list_nodes([both(V6[1], V6[0])]);
    assert_eq!(world.settle("vip"), []);
    world.list_nodes([both(V6[1], V6[2])]);
    world.settle("vip");
    assert_eq!(shown6(&world), [V6[1]]);
}

/// Rule: 8.leaves-both
#[test]
fn server_that_leaves_the_source_leaves_both_copies_in_one_plan() {
    let mut world = world().settled("vip");
    list(&mut world, &V4[..2]);
    let writes = world.settle("vip");
    assert!(
        matches!(writes[..], [Write::Update(_), Write::Update(_)]),
        "{writes:?}"
    );
    assert_eq!(
        (shown(&world, Family::V4), shown6(&world)),
        (
            V4[..2].iter().map(ToString::to_string).collect(),
            V6[..2].iter().map(ToString::to_string).collect(),
        )
    );
}

/// Rule: 8.conditions
#[test]
fn server_has_the_same_conditions_in_both_families() {
    let mut world = world();
    world.edit(&source_key(), |slice| {
        let conditions = slice.endpoints.as_mut().unwrap()[0]
            .conditions
            .get_or_insert_default();
        (conditions.ready, conditions.serving, conditions.terminating) =
            (Some(false), Some(true), Some(true));
    });
    world.settle("vip");
    for family in Family::ALL {
        let copy = copies(&world, family)[0];
        let conditions: Vec<_> = copy
            .endpoints
            .iter()
            .flatten()
            .map(|it| it.conditions.clone().unwrap().terminating)
            .collect();
        assert_eq!(conditions, [Some(true), Some(false), Some(false)], "{family}");
    }
}

/// Rule: 8.conditions, 8.never-last
#[test]
fn endpoint_that_is_not_ready_is_not_kept_as_the_last() {
    let mut world = world().settled("vip");
    world.edit(&source_key(), |slice| {
        let conditions = slice.endpoints.as_mut().unwrap()[0]
            .conditions
            .get_or_insert_default();
        (conditions.ready, conditions.terminating) = (Some(false), Some(true));
    });
    world.list_nodes([server(0)]);
    world.settle("vip");
    assert_eq!(shown6(&world), ["(2001:db8::1)", V6[1]]);
}

#[test]
fn two_addresses_of_one_node_are_one_endpoint() {
    let one = node("a").internal(V4[0]).internal(V4[1]).internal(V6[0]);
    let mut world = world().nodes([one, server(2)]);
    world.edit(&source_key(), |slice| {
        let conditions = slice.endpoints.as_mut().unwrap()[0]
            .conditions
            .get_or_insert_default();
        conditions.ready = Some(false);
    });
    world.settle("vip");
    assert_eq!(shown6(&world), [V6[0], V6[2]]);
}

/// Rule: 2.ours, 3.repair
#[test]
fn copy_from_nodes_is_repaired_and_deleted_like_any_other() {
    let mut world = world().settled("vip");
    let key = SliceKey::of(&copies(&world, Family::V6)[0].metadata);
    world.edit(&key, |copy| {
        *copy = copy.clone().endpoints([V6[0], "2001:db8::bad"]);
    });
    assert_eq!(world.settle("vip"), [Write::Update(key.clone())]);
    assert_eq!(shown6(&world), V6);
    world.put_service(service("vip"));
    assert_eq!(world.settle("vip"), [Write::Delete(key)]);
}
