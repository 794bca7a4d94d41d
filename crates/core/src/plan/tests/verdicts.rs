//! Tests of the form: given this probe report, the copies have these conditions.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::index::Scope;
use crate::model::{
    EndpointSlice, Reason, ServiceKey, SliceKey, annotation, annotation_of, copy_name, provenance,
};
use crate::plan::{Judged, Verdicts, plan};
use crate::testing::facts::{down, well};
use crate::testing::world::World;
use crate::testing::{Build as _, BuildService as _, BuildSlice as _, service, slice};
use crate::verdicts::{Phase, Report, Target};

const ADDRESSES: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

fn target(address: &str, port: u16) -> Target {
    Target::new(address.parse().unwrap(), port)
}

/// A report in which the first `down_addresses` addresses are down on port 6443, and the others are well.
fn report(down_addresses: usize) -> Report {
    let mut report = Report::default();
    report.leadership.may_take_out = true;
    for (number, address) in ADDRESSES.iter().enumerate() {
        let facts = if number < down_addresses { down() } else { well() };
        report.targets.insert(target(address, 6443), facts);
    }
    report
}

fn judged(report: Report, enforced: bool) -> Verdicts {
    Verdicts::Judged(Judged {
        report: Arc::new(report),
        started: Timestamp::UNIX_EPOCH,
        enforced,
    })
}

fn probes(down: usize) -> Verdicts {
    judged(report(down), true)
}

/// `kubernetes-vip` with three API servers, settled before anything fails.
fn vip() -> World {
    World::new()
        .service(service("kubernetes-vip"))
        .slice(slice("kubernetes").endpoints(ADDRESSES))
        .settled("kubernetes-vip")
}

/// `kubernetes-vip`, whose source lists these endpoints as terminating.
fn vip_with_unready(numbers: &[usize]) -> World {
    let mut world = vip();
    world.edit(&SliceKey::new("default", "kubernetes"), |source| {
        let endpoints = source.endpoints.as_mut().unwrap();
        for &number in numbers {
            let conditions = endpoints[number].conditions.get_or_insert_default();
            (conditions.ready, conditions.serving, conditions.terminating) =
                (Some(false), Some(true), Some(true));
        }
    });
    world
}

/// The addresses of a copy with their three conditions as one letter each.
fn shown(copy: &EndpointSlice) -> Vec<String> {
    let letter = |name: char, is: Option<bool>| if is == Some(true) { name } else { '-' };
    let endpoints = copy.endpoints.iter().flatten();
    endpoints
        .map(|endpoint| {
            let conditions = endpoint.conditions.as_ref().unwrap();
            let letters = [
                letter('r', conditions.ready),
                letter('s', conditions.serving),
                letter('t', conditions.terminating),
            ];
            format!("{} {}", endpoint.addresses[0], letters.iter().collect::<String>())
        })
        .collect()
}

fn memory(copy: &EndpointSlice) -> Option<&str> {
    annotation_of(&copy.metadata, provenance::UNREACHABLE)
}

fn settled_with(mut world: World, probes: Verdicts) -> World {
    world.probes = probes;
    world.settled("kubernetes-vip")
}

/// Rule: 7.out
#[test]
fn an_unreachable_server_stays_in_the_copy_without_traffic() {
    let world = settled_with(vip(), probes(1));
    let copy = world.copy("kubernetes-vip");
    assert_eq!(shown(copy), ["192.0.2.1 ---", "192.0.2.2 rs-", "192.0.2.3 rs-"]);
    assert_eq!(memory(copy), Some("192.0.2.1"));
    assert_eq!(world.reasons("kubernetes-vip"), [Reason::EndpointUnreachable]);
    let note = &world.findings("kubernetes-vip")[0].note;
    assert!(
        note.starts_with(
            "192.0.2.1:6443 has been unreachable since 1970-01-01T00:00:10Z (readyz timed out 3 times)"
        ),
        "{note}"
    );
}

/// Rule: 7.memory
#[test]
fn server_that_answers_again_returns_and_its_record_ends() {
    let world = settled_with(settled_with(vip(), probes(1)), probes(0));
    let copy = world.copy("kubernetes-vip");
    assert_eq!(shown(copy), ["192.0.2.1 rs-", "192.0.2.2 rs-", "192.0.2.3 rs-"]);
    assert_eq!(memory(copy), None);
    assert!(world.findings("kubernetes-vip").is_empty());
}

/// Rule: 7.memory, 7.observe
#[test]
fn observing_probes_take_nothing_out_and_clear_memory() {
    for off in [Verdicts::Off, judged(report(1), false)] {
        for before in [vip(), settled_with(vip(), probes(1))] {
            let world = settled_with(before, off.clone());
            let copy = world.copy("kubernetes-vip");
            assert_eq!(
                shown(copy),
                ["192.0.2.1 rs-", "192.0.2.2 rs-", "192.0.2.3 rs-"],
                "{off:?}"
            );
            assert_eq!(memory(copy), None, "{off:?}");
        }
    }
    let observed = settled_with(vip(), judged(report(1), false));
    assert_eq!(
        observed.plan("kubernetes-vip").unreachable.len(),
        1,
        "the server is not reported"
    );
}

/// A leader may plan before the addresses in the copies are listed as targets.
/// Rule: 7.new-leader
#[test]
fn new_leader_without_targets_keeps_servers_out() {
    let mut world = settled_with(vip(), probes(1));
    let mut report = Report::default();
    report.leadership.is_new = true;
    world.probes = judged(report, true);
    let plan = world.plan("kubernetes-vip");
    assert!(plan.is_done(), "{plan:#?}");
    assert_eq!(plan.unreachable.len(), 1, "{plan:#?}");
}

/// Rule: 7.memory
#[test]
fn plan_that_is_only_shown_keeps_what_the_copy_records() {
    let mut world = settled_with(vip(), probes(1));
    world.probes = Verdicts::AsCopied;
    assert!(world.plan("kubernetes-vip").is_done());
    let key = SliceKey::of(&world.copy("kubernetes-vip").metadata);
    world.edit(&key, |copy| {
        let annotations = copy.metadata.annotations.as_mut().unwrap();
        annotations.insert(provenance::UNREACHABLE.into(), "192.0.2.2".into());
    });
    let world = settled_with(world, Verdicts::AsCopied);
    let copy = world.copy("kubernetes-vip");
    let all = ["192.0.2.1 rs-", "192.0.2.2 rs-", "192.0.2.3 rs-"];
    assert_eq!(
        shown(copy),
        all,
        "the endpoint that the annotation names is ready"
    );
}

/// Rule: 7.half
#[test]
fn endpoints_of_a_copy_that_cannot_be_written_do_not_count() {
    let rest = slice("kubernetes-2").endpoints([ADDRESSES[1], ADDRESSES[2]]);
    let taken = slice(&copy_name("kubernetes-vip", &rest)).of("kubernetes-vip");
    let world = World::new()
        .service(service("kubernetes-vip"))
        .slice(slice("kubernetes").endpoints([ADDRESSES[0]]))
        .slice(rest)
        .slice(taken)
        .settled("kubernetes-vip");
    let plan = plan(
        &world.snapshot(&ServiceKey::new("default", "kubernetes-vip")),
        &probes(1),
    );
    assert!(
        plan.unreachable.is_empty() && plan.updates.is_empty(),
        "{plan:#?}"
    );
}

/// The API server may refuse to create the missing copy.
/// Rule: 7.half
#[test]
fn no_server_is_taken_out_while_a_copy_is_missing() {
    let rest = slice("kubernetes-2").endpoints([ADDRESSES[1], ADDRESSES[2]]);
    let one = World::new()
        .service(service("kubernetes-vip"))
        .slice(slice("kubernetes").endpoints([ADDRESSES[0]]))
        .settled("kubernetes-vip")
        .slice(rest);
    let with_probes = |mut world: World| {
        world.probes = probes(1);
        world
    };
    let mut world = with_probes(one.clone());
    let first = world.plan("kubernetes-vip");
    assert_eq!((first.creates.len(), first.updates.len()), (1, 0), "{first:#?}");
    assert!(first.taken_out.is_empty(), "{first:#?}");
    world.apply(first);
    let next = world.plan("kubernetes-vip");
    assert_eq!(shown(&next.updates[0]), ["192.0.2.1 ---"]);

    // No copy is created for a Service that is being deleted.
    let deleting = with_probes(one.clone().service(service("kubernetes-vip").deleting()));
    let plan = deleting.plan("kubernetes-vip");
    assert!(plan.is_done(), "{plan:#?}");

    // A server that is out stays out while the copies of the others are created.
    let mut world = settled_with(one, Verdicts::Off);
    world.probes = probes(1);
    let mut world = world.settled("kubernetes-vip");
    let key = SliceKey::new("default", copy_name("kubernetes-vip", &slice("kubernetes-2")));
    world.slices.remove(&key).unwrap();
    let plan = world.plan("kubernetes-vip");
    assert_eq!((plan.creates.len(), plan.updates.len()), (1, 0), "{plan:#?}");
}

/// Rule: 7.half
#[test]
fn at_least_half_of_the_servers_keep_their_traffic() {
    let world = settled_with(vip(), probes(2));
    let ready = shown(world.copy("kubernetes-vip"));
    assert_eq!(
        ready.iter().filter(|endpoint| endpoint.ends_with("rs-")).count(),
        2,
        "{ready:?}"
    );
}

/// Rule: 7.source-not-ready
#[test]
fn unready_endpoint_of_the_source_is_copied_and_not_judged() {
    let world = vip_with_unready(&[0]);
    let world = settled_with(world, probes(1));
    let copy = world.copy("kubernetes-vip");
    assert_eq!(shown(copy), ["192.0.2.1 -st", "192.0.2.2 rs-", "192.0.2.3 rs-"]);
    assert_eq!(memory(copy), None);
}

/// Rule: 7.out
#[test]
fn server_unready_in_the_source_does_not_count_as_out() {
    // Two servers are ready, so one of them can be out. The server that is not ready is also down.
    let world = settled_with(vip_with_unready(&[0]), probes(2));
    let copy = world.copy("kubernetes-vip");
    assert_eq!(shown(copy), ["192.0.2.1 -st", "192.0.2.2 ---", "192.0.2.3 rs-"]);
    // The last ready server stays, although the others answer.
    let world = settled_with(vip_with_unready(&[1, 2]), probes(1));
    let copy = world.copy("kubernetes-vip");
    assert_eq!(shown(copy), ["192.0.2.1 rs-", "192.0.2.2 -st", "192.0.2.3 -st"]);
}

/// Rule: 7.source-not-ready
#[test]
fn terminating_endpoint_is_not_judged_even_if_ready() {
    let mut world = vip();
    world.edit(&SliceKey::new("default", "kubernetes"), |source| {
        let endpoint = &mut source.endpoints.as_mut().unwrap()[0];
        endpoint.conditions.get_or_insert_default().terminating = Some(true);
    });
    // Two servers count, so one of them can be out. The server that is terminating is also down.
    let world = settled_with(world, probes(2));
    let copy = world.copy("kubernetes-vip");
    assert_eq!(shown(copy), ["192.0.2.1 rst", "192.0.2.2 ---", "192.0.2.3 rs-"]);
}

/// Rule: 7.held
#[test]
fn a_held_copy_is_judged_as_the_source_was() {
    let mut world = settled_with(vip(), probes(1));
    world.put(slice("kubernetes"));
    let world = settled_with(world, probes(1));
    let copy = world.copy("kubernetes-vip");
    assert_eq!(shown(copy), ["192.0.2.1 ---", "192.0.2.2 rs-", "192.0.2.3 rs-"]);
    let world = settled_with(world, probes(0));
    let copy = world.copy("kubernetes-vip");
    assert_eq!(shown(copy), ["192.0.2.1 rs-", "192.0.2.2 rs-", "192.0.2.3 rs-"]);
}

/// Rule: 7.unreadable-slice
#[test]
fn the_copy_of_an_unreadable_slice_is_judged_as_before() {
    let world = settled_with(vip(), probes(1));
    let index = super::unreadable::restarted(&world, &slice("kubernetes"));
    let snapshot = index
        .snapshot(&ServiceKey::new("default", "kubernetes-vip"))
        .unwrap();
    assert!(plan(&snapshot, &probes(1)).is_done());
    for (verdicts, expected) in [
        (probes(0), ["192.0.2.1 rs-", "192.0.2.2 rs-", "192.0.2.3 rs-"]),
        (Verdicts::Off, ["192.0.2.1 rs-", "192.0.2.2 rs-", "192.0.2.3 rs-"]),
    ] {
        let plan = plan(&snapshot, &verdicts);
        assert!(plan.creates.is_empty() && plan.deletes.is_empty(), "{plan:#?}");
        assert_eq!(plan.updates.len(), 1, "{plan:#?}");
        assert_eq!(shown(&plan.updates[0]), expected);
        assert_eq!(memory(&plan.updates[0]), None);
    }
}

/// Rule: 7.memory
#[test]
fn copy_that_becomes_unreadable_remembers_nothing() {
    let world = vip().slice(slice("more").endpoints(ADDRESSES));
    let out = settled_with(world.settled("kubernetes-vip"), probes(1));
    let unreadable = out.copies("kubernetes-vip")[0].clone();
    // The server answers again, and both copies get it back.
    let mut index = settled_with(out, probes(0)).index();
    // In its last readable state, one of the copies still records the server as taken out.
    index.list_slice(&Scope::Copies, unreadable.clone());
    index.list_unreadable_slice(
        &Scope::Copies,
        &super::unreadable::unreadable(&unreadable.metadata),
    );
    let snapshot = index
        .snapshot(&ServiceKey::new("default", "kubernetes-vip"))
        .unwrap();
    let plan_with = |verdicts| plan(&snapshot, &verdicts);
    let idle = plan_with(probes(0));
    assert!(idle.is_done() && idle.returned.is_empty(), "{idle:#?}");
    // A single failure takes no server out, but it keeps out a server that was out before.
    let mut report = report(0);
    let failing = report.targets.get_mut(&target(ADDRESSES[0], 6443)).unwrap();
    (failing.phase, failing.answers, failing.failures) = (Phase::Failing, false, 1);
    let plan = plan_with(judged(report, true));
    assert!(plan.is_done(), "{plan:#?}");
}

/// Rule: 7.exempt
#[test]
fn service_with_probe_off_is_not_judged() {
    for (value, is_judged) in [("off", false), ("on", true), ("", true)] {
        let vip = service("kubernetes-vip").annotate(annotation::PROBE, value);
        let world = World::new()
            .service(vip)
            .slice(slice("kubernetes").endpoints(ADDRESSES))
            .settled("kubernetes-vip");
        let world = settled_with(world, probes(1));
        assert_eq!(
            memory(world.copy("kubernetes-vip")).is_some(),
            is_judged,
            "{value:?}"
        );
        let is_reported = world
            .reasons("kubernetes-vip")
            .contains(&Reason::InvalidAnnotation);
        assert_eq!(is_reported, value == "on", "{value:?}");
    }
}

/// Rule: 7.targets
#[test]
fn only_endpoints_of_the_api_source_are_judged() {
    let world = World::new()
        .service(service("vip").source("default", "web"))
        .slice(slice("web-1").of("web").endpoints(ADDRESSES))
        .settled("vip");
    let mut world = world;
    world.probes = probes(1);
    assert!(world.plan("vip").is_done());
}

/// Rule: 7.events
#[test]
fn other_users_do_not_learn_which_server_fails() {
    let mut tenant = service("vip").source("default", "kubernetes");
    tenant.metadata.namespace = Some("tenant".to_owned());
    let mut world = World::new()
        .service(tenant)
        .slice(slice("kubernetes").endpoints(ADDRESSES));
    world.probes = probes(1);
    let plan = world.plan_for(&crate::model::ServiceKey::new("tenant", "vip"));
    assert_eq!(plan.findings, []);
    assert_eq!(plan.unreachable.len(), 1);
}

/// Rule: 2.trigger-time
#[test]
fn copy_states_when_its_last_change_was_first_seen() {
    let trigger =
        |slice: &EndpointSlice| annotation_of(&slice.metadata, provenance::TRIGGER_TIME).map(str::to_owned);
    let key = crate::model::ServiceKey::new("default", "kubernetes-vip");
    let mut world = vip();
    world.edit(&SliceKey::new("default", "kubernetes"), |source| {
        source.endpoints.as_mut().unwrap().truncate(2);
    });
    let mut snapshot = world.snapshot(&key);
    snapshot.cause = Some("2026-01-01T00:00:00Z".to_owned());
    let changed = plan(&snapshot, &Verdicts::Off);
    assert_eq!(
        trigger(&changed.updates[0]).as_deref(),
        Some("2026-01-01T00:00:00Z")
    );
    world.apply(changed);
    let mut snapshot = world.snapshot(&key);
    snapshot.cause = Some("2026-01-01T00:00:09Z".to_owned());
    assert!(plan(&snapshot, &Verdicts::Off).is_done(), "only the cause is new");
    world.edit(&SliceKey::new("default", "kubernetes"), |source| {
        source.endpoints.as_mut().unwrap().truncate(1);
        let annotations = source.metadata.annotations.get_or_insert_default();
        annotations.insert(provenance::TRIGGER_TIME.into(), "2026-01-01T00:00:05Z".into());
    });
    let mut snapshot = world.snapshot(&key);
    snapshot.cause = Some("2026-01-01T00:00:06Z".to_owned());
    let own = plan(&snapshot, &Verdicts::Off);
    assert_eq!(
        trigger(&own.updates[0]).as_deref(),
        Some("2026-01-01T00:00:05Z"),
        "the source states a time"
    );
}
