//! The rules by which load balancers choose the nodes that announce an address. The test applies them to the copies.

use std::collections::BTreeSet;

use super::*;

/// The nodes that have a healthy endpoint of a slice. An endpoint is healthy if it is ready or serving.
fn healthy_nodes(slice: &EndpointSlice) -> BTreeSet<String> {
    let endpoints = slice.endpoints.iter().flatten();
    let healthy = endpoints.filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref().unwrap();
        conditions.ready == Some(true) || conditions.serving == Some(true)
    });
    healthy
        .filter_map(|endpoint| endpoint.node_name.as_deref().map(str::to_owned))
        .collect()
}

/// MetalLB: a node announces if any slice of the Service has a healthy endpoint on it.
fn metallb(slices: &[&EndpointSlice]) -> BTreeSet<String> {
    slices.iter().flat_map(|slice| healthy_nodes(slice)).collect()
}

/// `PureLB`: a node announces if each slice of the Service has a healthy endpoint on it.
fn purelb(slices: &[&EndpointSlice]) -> BTreeSet<String> {
    let all = metallb(slices).into_iter();
    all.filter(|node| slices.iter().all(|slice| healthy_nodes(slice).contains(node)))
        .collect()
}

/// The nodes that each rule chooses, for the whole Service and for each family.
fn announced(world: &World) -> Vec<BTreeSet<String>> {
    let all = world.copies("vip");
    let of = |family: Family| copies(world, family);
    let mut chosen = vec![metallb(&all), purelb(&all)];
    for family in Family::ALL {
        chosen.extend([metallb(&of(family)), purelb(&of(family))]);
    }
    chosen
}

fn assert_announced(world: &World, nodes: &[&str]) {
    let expected: BTreeSet<_> = nodes.iter().map(|&name| name.to_owned()).collect();
    for (number, chosen) in announced(world).into_iter().enumerate() {
        assert_eq!(chosen, expected, "case {number}");
    }
}

/// Verdicts that the server with this number is down in both families, while the other servers answer.
fn down(number: usize) -> Verdicts {
    let mut report = Report::default();
    report.leadership.may_take_out = true;
    for addresses in [V4, V6] {
        for (at, address) in addresses.iter().enumerate() {
            let is_down = at == number;
            let facts = TargetFacts {
                phase: if is_down { Phase::Down } else { Phase::Well },
                is_known: true,
                answers: !is_down,
                is_recent: !is_down,
                had_time: true,
                contrasts: addresses.iter().map(|address| address.parse().unwrap()).collect(),
                had_time_to_object: true,
                ..TargetFacts::default()
            };
            report
                .targets
                .insert(Target::new(address.parse().unwrap(), 6443), facts);
        }
    }
    Verdicts::Judged(Judged {
        report: Arc::new(report),
        started: Timestamp::UNIX_EPOCH,
        enforced: true,
    })
}

/// Rule: 8.announced
#[test]
fn exactly_the_nodes_with_a_healthy_server_announce_the_vip() {
    let mut world = world();
    world.put_service(dual().edit(|it| it.spec_mut().external_traffic_policy = Some("Local".to_owned())));
    world.settle("vip");
    assert_announced(&world, &["a", "b", "c"]);
    // Probes detect the fault first. Later, the source removes the server.
    world.probes = down(1);
    world.settle("vip");
    assert_announced(&world, &["a", "c"]);
    list(&mut world, &[V4[0], V4[2]]);
    world.settle("vip");
    assert_announced(&world, &["a", "c"]);
    // The server is healthy again: the source lists it, and no probes keep it out.
    world.probes = Verdicts::Off;
    list(&mut world, &V4);
    world.settle("vip");
    assert_announced(&world, &["a", "b", "c"]);
}
