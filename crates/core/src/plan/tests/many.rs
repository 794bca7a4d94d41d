//! Plans and updates of the index for thousands of slices, ports or names. Their time must not grow quadratically,
//! because all users' syncs share a thread with the renewals of the Lease.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::index::{Index, Scope};
use crate::model::ports::{LeftOut, ports};
use crate::model::{
    CrossNamespace, EndpointSlice, PermittedPorts, ReferenceGrant, Service, SliceKey, annotation,
};
use crate::testing::world::World;
use crate::testing::{
    Build as _, BuildService as _, BuildSlice as _, node, plain_service, service, slice, slice_port,
};

const MANY: usize = 10_000;

/// The time limit of each test. A test takes a few seconds, even on a busy machine, and a minute or more if the time is
/// quadratic in [`MANY`].
const LIMIT: Duration = Duration::from_secs(15);

/// Does something, and checks that it took less than [`LIMIT`].
#[expect(
    clippy::disallowed_types,
    reason = "the test needs a clock, and the core has none"
)]
fn quickly<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let began = std::time::Instant::now();
    let result = work();
    let took = began.elapsed();
    assert!(took < LIMIT, "{what} took {took:?}");
    result
}

/// The address of the endpoint with this number.
fn address(number: usize) -> String {
    format!("10.{}.{}.{}", number / 65_536, number / 256 % 256, number % 256)
}

/// Slices of a Service with one endpoint each.
fn slices_of(source: &str, word: &str) -> impl Iterator<Item = EndpointSlice> {
    (0..MANY).map(move |number| {
        let address = address(number);
        let slice = slice(&format!("{source}-{word}{number}")).of(source);
        slice.endpoints([address.as_str()])
    })
}

fn with_slices(mut world: World, slices: impl IntoIterator<Item = EndpointSlice>) -> World {
    for slice in slices {
        world.put(slice);
    }
    world
}

fn managed_vip() -> Service {
    service("vip").source("default", "app")
}

/// A world in which `vip` has copies of all slices of `app`.
fn copied() -> World {
    let world = with_slices(World::new().service(managed_vip()), slices_of("app", "a"));
    applied(world)
}

fn applied(mut world: World) -> World {
    world.apply(world.plan("vip"));
    world
}

/// Rule: survive.many
#[test]
fn a_port_of_a_service_with_many_copies_changes_quickly() {
    quickly("the plan", || {
        let world = copied().service(managed_vip().number("more", 8443));
        assert_eq!(world.plan("vip").updates.len(), MANY);
    });
}

/// Rule: survive.many
#[test]
fn many_slices_are_replaced_quickly() {
    quickly("the plan", || {
        let mut world = copied();
        world.slices.retain(|_, slice| slice.is_labeled_as_copy());
        let plan = with_slices(world, slices_of("app", "b")).plan("vip");
        assert_eq!((plan.creates.len(), plan.deletes.len()), (MANY, MANY));
    });
}

/// Rule: survive.many
#[test]
fn consent_for_many_copies_ends_quickly() {
    quickly("the plan", || {
        let mut world = World::new().service(service("vip").source("web", "app"));
        world = with_slices(world, slices_of("app", "a").map(|slice| slice.namespace("web")));
        let mut world = applied(world);
        world.defaults.consent.cross_namespace = CrossNamespace::Deny;
        assert_eq!(world.plan("vip").withdrawn.len(), MANY);
    });
}

/// Rule: survive.many
#[test]
fn many_grants_are_read_quickly() {
    let grant = |number: usize| -> ReferenceGrant {
        // Only the last grant allows this source.
        let to = if number + 1 == MANY { "app" } else { "other" };
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "web", "name": format!("grant-{number:05}")},
            "spec": {
                "from": [{"group": "", "kind": "Service", "namespace": "default"}],
                "to": [{"group": "", "kind": "Service", "name": to}],
            },
        }))
        .unwrap()
    };
    quickly("the plan", || {
        let mut world = World::new().service(service("vip").source("web", "app"));
        world.defaults.consent.cross_namespace = CrossNamespace::Consent;
        world.grants = (0..MANY).map(grant).collect();
        world = with_slices(world, slices_of("app", "a").map(|slice| slice.namespace("web")));
        assert!(applied(world).plan("vip").is_done());
    });
}

/// Rule: survive.many
#[test]
fn copies_of_many_empty_slices_are_held_quickly() {
    quickly("the plan", || {
        let holding = managed_vip().annotate(annotation::WHEN_SOURCE_EMPTY, "hold");
        let emptied = slices_of("app", "a").map(|slice| slice.endpoints([]));
        let world = with_slices(copied().service(holding.port("named", "https")), emptied);
        let plan = world.plan("vip");
        assert!(plan.updates.len() == MANY && plan.updates.iter().all(|copy| !copy.is_empty()));
    });
}

/// Rule: survive.many
#[test]
fn many_slices_with_the_services_address_are_found_quickly() {
    quickly("the plan", || {
        let own = slices_of("app", "a").map(|slice| slice.endpoints(["10.96.0.10"]));
        let world = with_slices(World::new().service(managed_vip()), own);
        assert_eq!(world.plan("vip").creates.len(), MANY);
    });
}

/// Rule: survive.many
#[test]
fn many_slices_with_the_names_of_copies_are_reported_quickly() {
    quickly("the plan", || {
        let mut world = copied();
        for slice in world
            .slices
            .values_mut()
            .filter(|slice| slice.is_labeled_as_copy())
        {
            slice.metadata.owner_references = Some(vec![crate::testing::owner("other")]);
        }
        assert_eq!(world.plan("vip").findings.len(), MANY);
    });
}

/// Rule: survive.many
#[test]
fn many_slices_of_the_api_source_get_a_second_family_quickly() {
    quickly("the plan", || {
        let vip = service("vip").families(&["IPv4", "IPv6"]).edit(|service| {
            service.spec.get_or_insert_default().external_traffic_policy = Some("Local".to_owned());
        });
        let nodes = (0..MANY).map(|number| {
            let node = node(&format!("node-{number}")).internal(&address(number));
            node.internal(&format!("2001:db8::{number:x}"))
        });
        let world = World::new().service(vip).nodes(nodes);
        let world = applied(with_slices(world, slices_of("kubernetes", "a")));
        assert_eq!(world.copies("vip").len(), 2 * MANY);
        assert!(world.plan("vip").is_done());
    });
}

/// Rule: survive.many
#[test]
fn many_named_ports_are_resolved_quickly() {
    let count = 4 * MANY;
    let numbers = || 1..=i32::try_from(count).unwrap();
    let known: Vec<_> = numbers()
        .map(|number| slice_port(&format!("p{number}"), number))
        .collect();
    let service = numbers().fold(service("vip").no_ports(), |service, number| {
        let name = format!("p{number}");
        service.port(&name, &name)
    });
    let wanted = service.spec.and_then(|spec| spec.ports).unwrap();
    // In another namespace, each port must also be a port of the source.
    for permitted in [PermittedPorts::Any, PermittedPorts::OfSlice([].into())] {
        quickly("the ports", || {
            let ports = ports(
                &wanted,
                &known,
                permitted.for_slice(&known),
                &mut LeftOut::default(),
            );
            assert_eq!(ports.as_ref().map(Vec::len), Some(count));
        });
    }
}

/// Rule: survive.many
#[test]
fn many_sources_allow_namespaces_quickly() {
    let world = with_slices(
        World::new(),
        (0..MANY).map(|number| {
            let copy = slice(&format!("copy-{number}")).copied("vip", "app-a");
            copy.annotate(crate::model::provenance::NAMESPACE, "elsewhere")
        }),
    );
    quickly("a list of Services", || {
        let mut index = world.index();
        for number in 0..MANY {
            let allowing = plain_service(&format!("app-{number}")).annotate(annotation::ALLOW_FROM, "a");
            assert!(index.apply_service(&allowing).is_empty());
        }
    });
}

/// Rule: survive.many
#[test]
fn many_forged_copies_of_a_service_are_listed_quickly() {
    quickly("a list of copies", || {
        let mut index = Index::new(crate::testing::defaults());
        index.apply_service(&managed_vip());
        for number in 0..MANY {
            let forged = slice(&format!("forged-{number}"))
                .copied("other", "app-a")
                .of("vip");
            index.list_slice(&Scope::Copies, forged);
        }
        assert!(index.slice(&SliceKey::new("default", "forged-0")).is_some());
    });
}

#[test]
fn many_watched_names_are_retained_quickly() {
    let mut index = Index::new(crate::testing::defaults());
    let names: Arc<BTreeSet<_>> = Arc::new((0..MANY).map(|number| format!("app-{number}")).collect());
    index.slices_listed(&Scope::Named(names.clone()), &HashSet::new());
    // An equal set is compared name by name.
    let shards = [Arc::new((*names).clone())].into();
    quickly("50 ends of watches", || {
        for _ in 0..50 {
            index.retain_names(&shards);
        }
    });
}
