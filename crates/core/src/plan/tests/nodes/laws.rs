//! Laws that hold for all Nodes, sources, Services and probe results.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::model::{NodeAddress, NodeAddressKind};
use crate::plan::plan;

const FOUR: [&str; 4] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];
const SIX: [&str; 5] = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", VIP];
const VIP: &str = "2001:db8::100";
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Change {
    Nodes(Vec<Node>, Vec<&'static str>),
    Unknown(NodesUnknown),
    Source(Vec<&'static str>),
    Service(bool, bool, Option<&'static str>),
    /// Probes of these addresses succeed.
    Well(Vec<&'static str>),
    NoProbes,
}

fn some_node() -> impl Strategy<Value = Node> {
    let address = (any::<bool>(), select([&FOUR[..], &SIX[..]].concat()));
    (select(NAMES.to_vec()), vec(address, 0..4), any::<bool>()).prop_map(|(name, addresses, zoned)| {
        let node = addresses
            .into_iter()
            .fold(node(name), |node, (internal, address)| {
                if internal {
                    node.internal(address)
                } else {
                    node.external(address)
                }
            });
        if zoned { node.zone("north") } else { node }
    })
}

fn change() -> impl Strategy<Value = Change> {
    use NodesUnknown::{Failing, Forbidden, NotListed};
    let distribution = select(vec![None, Some("PreferClose"), Some("PreferSameNode")]);
    prop_oneof![
        4 => (vec(some_node(), 0..6), subsequence(NAMES.to_vec(), 0..2)).prop_map(|(nodes, unreadable)| Change::Nodes(nodes, unreadable)),
        1 => select(vec![NotListed, Forbidden, Failing]).prop_map(Change::Unknown),
        3 => subsequence(FOUR.to_vec(), 0..=4).prop_map(Change::Source),
        2 => (any::<bool>(), any::<bool>(), distribution).prop_map(|(four, local, distribution)| Change::Service(four, local, distribution)),
        2 => subsequence(SIX.to_vec(), 0..=5).prop_map(Change::Well),
        1 => Just(Change::NoProbes),
    ]
}

fn some_service(four: bool, local: bool, distribution: Option<&str>) -> Service {
    let families: &[&str] = if four { &["IPv4", "IPv6"] } else { &["IPv6"] };
    service("vip").families(families).edit(|it| {
        let spec = it.spec_mut();
        spec.external_ips = Some(vec![VIP.to_owned()]);
        spec.external_traffic_policy = local.then(|| "Local".to_owned());
        spec.traffic_distribution = distribution.map(str::to_owned);
    })
}

fn well(addresses: &[&str]) -> Verdicts {
    let mut report = Report::default();
    for address in addresses {
        let facts = TargetFacts {
            phase: Phase::Well,
            ..TargetFacts::default()
        };
        report
            .targets
            .insert(Target::new(address.parse().unwrap(), 6443), facts);
    }
    Verdicts::Judged(Judged {
        report: Arc::new(report),
        started: Timestamp::UNIX_EPOCH,
        enforced: true,
    })
}

fn make(world: &mut World, change: &Change) {
    match change {
        Change::Nodes(nodes, names) => world.nodes = known_nodes(nodes.clone(), names),
        Change::Unknown(why) => world.nodes = KnownNodes::Unknown(*why),
        Change::Source(addresses) => list(world, addresses),
        Change::Service(four, local, distribution) => {
            world.put_service(some_service(*four, *local, *distribution));
        }
        Change::Well(addresses) => world.probes = well(addresses),
        Change::NoProbes => world.probes = Verdicts::Off,
    }
}

fn addresses(world: &World) -> BTreeSet<IpAddr> {
    let shown = copies(world, Family::V6).into_iter();
    let endpoints = shown.flat_map(|copy| copy.endpoints.iter().flatten());
    endpoints.filter_map(crate::model::Endpoint::address).collect()
}

fn start() -> World {
    World::new()
        .service(some_service(true, false, None))
        .slice(slice("kubernetes").endpoints(FOUR))
        .nodes(servers())
        .settled("vip")
}

/// These Nodes, with their addresses in reverse order.
fn reordered(nodes: &KnownNodes) -> KnownNodes {
    let KnownNodes::Known(nodes) = nodes else {
        return nodes.clone();
    };
    let turned = nodes.readable().map(|node| Node {
        addresses: node
            .addresses
            .iter()
            .rev()
            .copied()
            .collect::<Box<[NodeAddress]>>(),
        ..(**node).clone()
    });
    let names: Vec<_> = nodes.unreadable().map(AsRef::as_ref).collect();
    known_nodes(turned, &names)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rule: 8.certain, 8.never-vip, 8.never-last
    #[test]
    fn second_family_lists_only_certain_addresses(changes in vec(change(), 1..16)) {
        let mut world = start();
        for change in &changes {
            make(&mut world, change);
            let before = addresses(&world);
            let was_ready = !shown6(&world).iter().all(|address| address.starts_with('('));
            // This also checks that the next plan is empty.
            world.settle("vip");
            let after = addresses(&world);
            prop_assert!(!after.contains(&VIP.parse().unwrap()), "{change:?}: the VIP");
            let source = world.slices[&source_key()].clone();
            let listed: BTreeSet<IpAddr> = source.endpoints.iter().flatten().filter_map(crate::model::Endpoint::address).collect();
            let KnownNodes::Known(nodes) = world.nodes.clone() else {
                prop_assert_eq!(after, before, "{:?}: Nodes are unknown", change);
                continue;
            };
            if listed.is_empty() {
                prop_assert_eq!(after, before, "{:?}: the copies are held", change);
                continue;
            }
            // An address is certain if exactly one Node has the listed address, and this Node lists both as addresses
            // of the same kind.
            let is_certain = |address: &IpAddr| listed.iter().any(|listed| {
                let with: Vec<_> = nodes.with(*listed).collect();
                let kind = |node: &Node, address| NodeAddressKind::ALL.into_iter().find(|kind| node.addresses.contains(&NodeAddress { kind: *kind, address }));
                with.len() == 1 && kind(with[0], *listed).is_some_and(|kind| with[0].addresses.contains(&NodeAddress { kind, address: *address }))
            });
            for address in &after {
                let is_unclear = nodes.may_be_of_unreadable(*address) && before.contains(address);
                let is_last = after.len() == 1 && before.contains(address);
                prop_assert!(is_certain(address) || is_unclear || is_last, "{change:?}: {address} among {after:?}, before {before:?}");
            }
            // The family becomes empty only if its servers leave the source, or if its address is the VIP.
            let left = |address: &IpAddr| {
                let node = nodes.only_with(*address);
                node.is_some_and(|node| !node.addresses.iter().any(|known| listed.contains(&known.address)))
            };
            if after.is_empty() && was_ready {
                prop_assert!(before.iter().all(|address| left(address) || *address == VIP.parse::<IpAddr>().unwrap()), "{change:?}: {before:?} are gone");
            }
        }
    }

    /// Rule: 8.source-first
    #[test]
    fn one_plan_is_enough_whatever_source_and_nodes_do(
        steps in vec((change(), prop::option::of(subsequence(SIX.to_vec(), 0..=5))), 1..12),
    ) {
        let mut world = start();
        for (change, own) in &steps {
            make(&mut world, change);
            let six = slice("own").family("IPv6").endpoints(own.iter().flatten().copied());
            match own {
                Some(_) => _ = world.put(six),
                None => _ = world.slices.remove(&SliceKey::of(&six.metadata)),
            }
            // This also checks that the next plan is empty.
            world.settle("vip");
            let mut listed: BTreeSet<IpAddr> = own.iter().flatten().map(|address| address.parse().unwrap()).collect();
            if listed.len() > 1 {
                listed.remove(&VIP.parse().unwrap());
            }
            if !listed.is_empty() {
                prop_assert_eq!(addresses(&world), listed, "{:?}: the source itself lists the family", change);
            }
        }
    }

    /// Rule: 8.address-kept
    #[test]
    fn the_order_of_node_addresses_changes_nothing(changes in vec(change(), 1..10)) {
        let mut world = start();
        for change in &changes {
            // The order matters only for an address that has not entered a copy yet, because the first address of its
            // kind is chosen.
            if matches!(change, Change::Well(_)) {
                continue;
            }
            make(&mut world, change);
            world.settle("vip");
            world.nodes = reordered(&world.nodes);
            let writes = world.settle("vip");
            prop_assert_eq!(writes, [], "{:?}", change);
        }
    }

    /// Rule: 8.hints-all-or-none, 8.never-guessed
    #[test]
    fn names_are_those_of_nodes_and_hints_are_complete(changes in vec(change(), 1..10)) {
        let mut world = start();
        for change in &changes {
            make(&mut world, change);
            world.settle("vip");
            let KnownNodes::Known(nodes) = &world.nodes else { continue };
            if world.slices[&source_key()].is_empty() {
                continue;
            }
            for family in Family::ALL {
                let copies = copies(&world, family);
                let endpoints: Vec<_> = copies.into_iter().flat_map(|copy| copy.endpoints.iter().flatten()).collect();
                let hints = endpoints.iter().filter(|endpoint| endpoint.hints.is_some()).count();
                prop_assert!(hints == 0 || hints == endpoints.len(), "{hints} of {}", endpoints.len());
                for endpoint in endpoints.iter().filter(|endpoint| endpoint.node_name.is_some()) {
                    let address = endpoint.address().unwrap();
                    let name = nodes.only_with(address).map(|node| &*node.name);
                    prop_assert!(name == endpoint.node_name.as_deref() || nodes.may_be_of_unreadable(address), "{endpoint:?}");
                }
            }
        }
    }

    /// Rule: 8.single-stack
    #[test]
    fn plan_of_a_service_that_needs_no_nodes_ignores_them(
        nodes in vec(some_node(), 0..6),
        source in subsequence(FOUR.to_vec(), 1..=4),
    ) {
        let mut world = World::new().service(service("vip")).slice(slice("kubernetes").endpoints(source));
        let key = crate::model::ServiceKey::new("default", "vip");
        let without = plan(&world.snapshot(&key), &Verdicts::Off);
        world.nodes = known_nodes(nodes, &["u"]);
        prop_assert_eq!(without, plan(&world.snapshot(&key), &Verdicts::Off));
        prop_assert!(!world.index().needs_nodes());
    }
}
